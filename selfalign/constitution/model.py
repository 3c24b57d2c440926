"""The constitution: principles as data, and the words in which each is put to a judge."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from selfalign.constitution.editing import dump, in_blocks
from selfalign.records import Prompt, digest

SCHEMA = "selfalign.constitution/v1"
Status = Literal["draft", "active", "deprecated"]


@dataclass(frozen=True, kw_only=True)
class AppliesWhen:
    ask: str = ""
    prompt_tags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Level:
    """What one score of a rubric means."""

    score: int
    means: str


@dataclass(frozen=True, kw_only=True)
class Rubric:
    levels: tuple[Level, ...] = ()

    def words(self) -> str:
        """The levels, a line each."""
        return "\n".join(f"{level.score}: {level.means}" for level in self.levels)


@dataclass(frozen=True, kw_only=True)
class Example:
    """A response that keeps a principle beside one that breaks it, and, where given, what is to be said of the latter.

    `critique` is the worked critique of `worse` that leads to `better`.
    """

    prompt: str
    better: str
    worse: str
    critique: str = ""


@dataclass(frozen=True, kw_only=True)
class Source:
    name: str = ""
    license: str = ""
    url: str = ""


@dataclass(frozen=True, kw_only=True)
class Principle:
    """One norm with a stable id. At least one of `text`, `compare`, `critique` and `revise`, `rubric` is given.

    `yields_to` names principles that outrank this one wherever they decide, without a tier between them.
    """

    id: str
    title: str = ""
    status: Status = "active"
    replaced_by: str = ""
    kind: Literal["principle", "hard_constraint"] = "principle"
    tier: int = 1
    weight: float = 1.0
    yields_to: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    text: str = ""
    compare: str = ""
    critique: str = ""
    revise: str = ""
    rubric: Rubric = field(default_factory=Rubric)
    applies_when: AppliesWhen = field(default_factory=AppliesWhen)
    examples: tuple[Example, ...] = ()
    rationale: str = ""
    source: Source = field(default_factory=Source)

    @property
    def hash(self) -> str:
        """The hash of the words that a judge sees: an edit of a weight or a title re-judges nothing."""
        return digest("principle", self.comparison(), self.norm())

    @property
    def revision_hash(self) -> str:
        """The hash of the words by which an answer is criticised and rewritten, worked examples included."""
        examples = [(e.prompt, e.better, e.worse, e.critique) for e in self.examples]
        return digest("revision", self.critique_request(), self.revision_request(), examples)

    def comparison(self) -> str:
        """The words for a pairwise judgment: `compare`, or derived from the norm."""
        return self.compare or f"Choose the response that follows this principle better: {self.norm()}"

    def critique_request(self) -> str:
        """The words that ask what is wrong with an answer: `critique`, or derived from the norm."""
        return (
            self.critique or f"Point out where your response falls short when judged by this principle: {self.norm()}"
        )

    def revision_request(self) -> str:
        """The words that ask for a better answer: `revise`, or derived from the norm."""
        return self.revise or f"Rewrite your response so that it does well when judged by this principle: {self.norm()}"

    def norm(self) -> str:
        """The words for a pointwise judgment: `text`, or else the nearest words there are."""
        return self.text or self.compare or self.rubric.words() or self.critique or self.revise

    def applies_to(self, prompt: Prompt) -> bool:
        """Whether any of the prompt's tags is asked for; a principle that asks for none applies to all."""
        return not self.applies_when.prompt_tags or bool(set(self.applies_when.prompt_tags) & set(prompt.tags))


@dataclass(frozen=True, kw_only=True)
class Constitution:
    """Principles in the order of the file, those of extended constitutions first."""

    name: str
    version: str
    preamble: str = ""
    principles: tuple[Principle, ...]

    @property
    def active(self) -> tuple[Principle, ...]:
        return tuple(principle for principle in self.principles if principle.status == "active")

    @property
    def hash(self) -> str:
        """The hash of all that can change a label: the preamble, and each active principle but for its prose."""
        kept = [
            (p.id, p.hash, p.kind, p.tier, p.weight, p.applies_when.ask, p.applies_when.prompt_tags, *p.yields_to)
            for p in self.active
        ]
        return digest("constitution", self.preamble, kept)

    @property
    def revision_hash(self) -> str:
        """The hash of all that can change a revision: which principle is drawn, and its words and examples."""
        kept = [(p.id, p.revision_hash, p.weight, p.applies_when.prompt_tags) for p in self.active]
        return digest("constitution of revisions", kept)

    def applicable(self, prompt: Prompt) -> tuple[Principle, ...]:
        """The active principles that apply to a prompt."""
        return tuple(principle for principle in self.active if principle.applies_to(prompt))

    def sample(self, prompt: Prompt, seed: int) -> Principle | None:
        """Draw one applicable principle with probability in proportion to its weight; None where there is none.

        An exponential race (Efraimidis and Spirakis 2006): each principle draws a time from an exponential
        distribution of rate `weight`, and the earliest wins. As each time hangs on nothing but the seed, the prompt
        and the principle's id, a principle added later changes only the draws that it wins.
        """
        racing = [principle for principle in self.applicable(prompt) if principle.weight > 0]
        return min(racing, key=lambda principle: _arrival(principle, prompt, seed), default=None)

    def values(self) -> dict[str, Any]:
        """The whole constitution as plain values, with what it extends merged in and defaults left out."""
        values = {"schema": SCHEMA, "name": self.name, "version": self.version}
        if self.preamble:
            values["preamble"] = self.preamble
        values["principles"] = [_stated(principle) for principle in self.principles]
        return values

    def to_yaml(self) -> str:
        """The whole constitution as one file, with what it extends merged in. Loading it gives the same one."""
        return dump(in_blocks(self.values()))


def _arrival(principle: Principle, prompt: Prompt, seed: int) -> float:
    uniform = (int(digest("principle", seed, prompt.id, principle.id, size=8), 16) + 0.5) / 2.0**64
    return -math.log(uniform) / principle.weight


def _stated(value: Any) -> Any:
    """A dataclass as its fields that differ from their defaults, all the way down."""
    if isinstance(value, tuple):
        return [_stated(item) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    stated = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return {f.name: _stated(stated[f.name]) for f in dataclasses.fields(value) if stated[f.name] != _default(f)}


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
