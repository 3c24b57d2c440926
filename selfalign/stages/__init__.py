"""The stages of a round: each a function from records to records."""


class StageError(RuntimeError):
    """A stage cannot go on: what, why and what to do next, in one message."""
