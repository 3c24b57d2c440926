"""A constitution for readers other than selfalign."""

from __future__ import annotations

from selfalign.constitution.model import Constitution


def to_text(constitution: Constitution) -> str:
    """The active principles as a numbered list in plain text, a line each, as other tools and prompts take them."""
    norms = (" ".join(principle.norm().split()) for principle in constitution.active)
    return "".join(f"{number}. {norm}\n" for number, norm in enumerate(norms, start=1))
