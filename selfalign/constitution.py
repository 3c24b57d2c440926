"""The constitution: principles as data, and the words in which each is put to a judge."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from selfalign.records import digest


@dataclass(frozen=True, kw_only=True)
class AppliesWhen:
    ask: str = ""
    prompt_tags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Principle:
    """One norm with a stable id. At least one of `text`, `compare`, `critique` and `revise`, `rubric` is given."""

    id: str
    title: str = ""
    status: Literal["draft", "active", "deprecated"] = "active"
    kind: Literal["principle", "hard_constraint"] = "principle"
    tier: int = 1
    weight: float = 1.0
    tags: tuple[str, ...] = ()
    text: str = ""
    compare: str = ""
    critique: str = ""
    revise: str = ""
    applies_when: AppliesWhen = field(default_factory=AppliesWhen)

    @property
    def hash(self) -> str:
        """The hash of the words that a judge sees: an edit of a weight or a title re-judges nothing."""
        return digest("principle", self.comparison(), self.norm())

    def comparison(self) -> str:
        """The words for a pairwise judgment: `compare`, or derived from the norm."""
        return self.compare or f"Choose the response that follows this principle better: {self.norm()}"

    def norm(self) -> str:
        """The words for a pointwise judgment: `text`, or else the comparison as it stands."""
        return self.text or self.compare or self.critique or self.revise
