"""A whole constitution as one principle: for judges that are to weigh everything at once."""

from __future__ import annotations

from selfalign.constitution.model import Constitution, Principle
from selfalign.records import WHOLE, Prompt


def whole(constitution: Constitution, prompt: Prompt) -> Principle | None:
    """All principles that apply to a prompt in the words of one; None where none applies.

    Hard constraints come first, then tier after tier, and the words say so. Weights have no words: a principle of
    weight 0 is left out, the others count as the judge will have it.
    """
    said = [p for p in constitution.applicable(prompt) if _is_constraint(p) or p.weight > 0]
    if not said:
        return None
    ranked = sorted(said, key=_rank)  # stable: in the order of the file within a tier
    conflict = " Where they conflict, one that is named earlier comes first." if len(set(map(_rank, said))) > 1 else ""
    listed = "\n".join(f"{number}. {principle.norm()}" for number, principle in enumerate(ranked, start=1))
    text = f"Judge by all of these principles together.{conflict}\n{listed}"
    return Principle(id=WHOLE, title="The whole constitution", text=text, compare=text)


def by_id(constitution: Constitution) -> dict[str, Principle]:
    """The principles that a judgment may name: those of the file, and the whole of them."""
    together = Principle(id=WHOLE, title="The whole constitution", text="The response follows the constitution.")
    return {WHOLE: together, **{principle.id: principle for principle in constitution.principles}}


def _is_constraint(principle: Principle) -> bool:
    return principle.kind == "hard_constraint"


def _rank(principle: Principle) -> tuple[bool, int]:
    return not _is_constraint(principle), 0 if _is_constraint(principle) else principle.tier
