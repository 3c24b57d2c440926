"""What an edit of a constitution means, principle by principle: told by ids, whatever became of the file's lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal

from selfalign.constitution.model import AppliesWhen, Constitution, Example, Principle, Rubric, Source

Kind = Literal["added", "retired", "reworded", "reweighted", "rescoped", "moved", "annotated"]

KINDS: dict[str, Kind] = {
    "text": "reworded", "compare": "reworded", "critique": "reworded", "revise": "reworded", "rubric": "reworded",
    "weight": "reweighted",
    "applies_when": "rescoped",
    "tier": "moved", "kind": "moved", "yields_to": "moved",
}  # fmt: skip
_ORDER = ("added", "retired", "reworded", "reweighted", "rescoped", "moved", "annotated")


@dataclass(frozen=True, kw_only=True)
class Change:
    """One field of one principle (of the constitution itself where `principle` is empty), before and after.

    A principle that appears or is activated is `added`, one that is taken away or no longer active is `retired`; their
    field is "status", and None stands for "not there".
    """

    kind: Kind
    principle: str
    field: str
    before: Any
    after: Any

    def state(self) -> str:
        """What became of a principle's status, in words."""
        if self.before is None or self.after is None:
            return "not in the file" if self.after is None else f"new, {self.after}"
        return f"status: {self.before} → {self.after}"


@dataclass(frozen=True, kw_only=True)
class Diff:
    """What changed. `judged_anew`: the principles of `after` whose stored verdicts no longer hold, or are missing."""

    before: str
    after: str
    changes: tuple[Change, ...]
    judged_anew: tuple[str, ...]


def diff(before: Constitution, after: Constitution) -> Diff:
    """Compare two constitutions by the ids of their principles. Their order in the files does not count."""
    old, new = ({p.id: p for p in rules.principles} for rules in (before, after))
    changes = [*_preamble(before, after)]
    for identity in {**old, **new}:
        changes += _principle(identity, old.get(identity), new.get(identity))
    return Diff(
        before=f"{before.name} {before.version}",
        after=f"{after.name} {after.version}",
        changes=tuple(sorted(changes, key=lambda change: _ORDER.index(change.kind))),
        judged_anew=tuple(_judged_anew(before, after)),
    )


def in_words(value: Any) -> str:
    """A value of a field of a principle as one text."""
    match value:
        case str():
            return value
        case Rubric():
            return value.words()
        case AppliesWhen():
            return "; ".join(
                filter(None, (value.ask, f"tags {', '.join(value.prompt_tags)}" * bool(value.prompt_tags)))
            )
        case Source():
            return ", ".join(filter(None, (value.name, value.license, value.url)))
        case Example():
            return " / ".join(filter(None, (value.prompt, value.better, value.worse, value.critique)))
        case tuple():
            return ", ".join(map(in_words, value))
        case _:
            return f"{value:g}" if isinstance(value, float) else str(value)


def _preamble(before: Constitution, after: Constitution) -> Iterator[Change]:
    if before.preamble != after.preamble:
        yield Change(kind="reworded", principle="", field="preamble", before=before.preamble, after=after.preamble)


def _principle(identity: str, old: Principle | None, new: Principle | None) -> Iterator[Change]:
    states = [p.status if p else None for p in (old, new)]
    if states[0] != states[1]:
        kind = "added" if states[1] == "active" else "retired" if states[0] == "active" else "annotated"
        yield Change(kind=kind, principle=identity, field="status", before=states[0], after=states[1])
    for field in fields(Principle) if old and new else ():
        values = [getattr(principle, field.name) for principle in (old, new)]
        if field.name != "status" and values[0] != values[1]:
            kind = KINDS.get(field.name, "annotated")
            yield Change(kind=kind, principle=identity, field=field.name, before=values[0], after=values[1])


def _judged_anew(before: Constitution, after: Constitution) -> Iterator[str]:
    known = {p.id: p.hash for p in before.active} if before.preamble == after.preamble else {}
    return (p.id for p in after.active if known.get(p.id) != p.hash)
