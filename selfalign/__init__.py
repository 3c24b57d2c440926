"""selfalign improves a language model against a written constitution, round after round."""

__version__ = "0.1.0"
