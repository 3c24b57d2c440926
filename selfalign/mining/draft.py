"""The constitution that was mined, as a draft: a person is to read it, word it and set it to work."""

from __future__ import annotations

from selfalign.constitution import Constitution, Principle, Source
from selfalign.constitution.importing import slug, with_ids
from selfalign.mining import Mined, Rule
from selfalign.text import one_line

PAPER = "https://arxiv.org/abs/2406.06560"


def draft(mined: Mined, *, name: str, origin: str, model: str) -> str:
    """The YAML of a constitution of the rules that were taken, each a draft with its figures as its rationale.

    `origin` says what they were mined from. Its comments tell what they are worth together, and how to go on.
    """
    found = [_principle(rule, mined, origin) for rule in mined.taken]  # in the order in which they were taken
    rules = Constitution(name=slug(name) or "mined", version="0.1.0", principles=tuple(with_ids(found)))
    return "".join(f"# {one_line(line)}\n" for line in _head(mined, origin, model)) + rules.to_yaml()


def _principle(rule: Rule, mined: Mined, origin: str) -> Principle:
    return Principle(
        id="",
        status="draft",
        compare=rule.text,
        rationale=figures(rule, mined),
        source=Source(name=f"mined from {one_line(origin, 200)}", url=PAPER),
    )


def figures(rule: Rule, mined: Mined) -> str:
    """What a rule is worth, in words."""
    decides = f", right on {rule.when_decisive:.2f} of them" if rule.when_decisive is not None else ""
    same = f" Both orders agree on {rule.consistency:.2f}." if rule.consistency is not None else ""
    later = rule.together is not None and rule is not mined.taken[0]
    together = f" With the principles above it {rule.together.value:.2f}." if later else ""
    return (
        f"Proposed from {rule.support} of {mined.num_train} pairs, in {len(rule.wordings)} wordings. On "
        f"{mined.num_heldout} held-out pairs it sides with the preferred answer in {rule.alone.value:.2f} of cases "
        f"alone (95% interval {rule.alone.cautious.low:.2f} to {rule.alone.cautious.high:.2f}); it decides "
        f"{rule.coverage:.2f} of the pairs{decides}.{same}{together}"
    )


def _head(mined: Mined, origin: str, model: str) -> list[str]:
    together = f"{mined.together.value:.3f} (95% interval {mined.together.cautious})" if mined.together else "none"
    return [
        f"Mined from {one_line(origin, 200)} by {one_line(model, 200)}, as in Findeis et al. 2024 (arXiv:2406.06560).",
        f"Right on held-out pairs: {together}; always the side that mostly wins: {mined.majority:.3f}; "
        f"length alone: {mined.length.value:.3f}.",
        "What explains preferences need not be what is wanted of a policy. Read each principle, reword or drop it, and",
        "set its status to active; until one is active there is nothing to judge by.",
    ]
