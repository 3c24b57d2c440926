"""What is wrong with a principle, in words, and what to do about it.

A flag is raised only where the 95% interval lies wholly beyond its threshold, so chance alone raises few.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from selfalign.calibration import MIN_PROMPTS
from selfalign.constitution import Principle
from selfalign.principles.conflicts import Conflict
from selfalign.principles.figures import Estimate, Figures

FEWEST = MIN_PROMPTS  # cases below which nothing is flagged: an interval then spans some 35 points
UNDECIDED = 0.05  # prefers an answer in fewer comparisons than this: a label in twenty is not worth its questions
SAME = 0.9  # agrees with another in more than this: two judgments are paid for one opinion
OPPOSITE = 0.5  # contradicts another in more than this: together they teach less than either alone
LONGER = 0.7  # prefers the longer answer in more than this; people do so in about 64% (AlpacaEval's annotators)
INVALID = 0.05  # half of what judge.max_invalid lets pass by default
ORDER = 0.65  # agrees with itself when the answers change places in fewer than this; GPT-4 in 65% (Zheng et al. 2023)
OUTVOTED = 1 / 3  # gets what it prefers less often than this: labels go against it twice as often as with it
CHANCE = 0.5  # people, or gold answers, agree in fewer than this: the opposite would be a better judge
DRIFT = 0.1  # moved by more than this between the first round and the last, the intervals apart

_MOST_WORDS = 4  # flags of a principle that are told at once; the rest is for programs
_DRIFTING = {"longer": "preference for the longer answer", "chosen": "share of labels", "decisiveness": "decisiveness"}
_LENGTHENED = "read some of its pairs of both rounds: the policy may have learnt to please it by length"
_LEARNT = (
    "where the answers all keep it by now, its questions are paid for in vain: lower its weight, or narrow its scope"
)
_MOVED = "read some of its pairs of both rounds"


@dataclass(frozen=True, slots=True)
class Flag:
    """`figure` is the field of Figures that shows it, "" for none; `other` the other principle of a conflict."""

    kind: str
    principle: str
    figure: str
    words: str
    fix: str
    other: str = ""


def flags(
    principle: str,
    stated: Principle | None,
    over_all: Figures,
    by_round: Mapping[int, Figures],
    conflicts: Sequence[Conflict],
    reworded: Sequence[int],
) -> list[Flag]:
    """What is to be said of one principle; `stated` is how the constitution has it, None where it is not in there."""
    if not over_all.judgments:
        return [_never_asked(principle, stated)] if stated is not None and stated.status == "active" else []
    said = [*_alone(over_all), *_beside(principle, conflicts), *_drifts(by_round, reworded)]
    return [Flag(kind, principle, figure, words, fix, *other) for kind, figure, words, fix, *other in said]


Saying = tuple[str, ...]  # the fields of a Flag but for the principle


def _never_asked(principle: str, stated: Principle) -> Flag:
    tags = ", ".join(stated.applies_when.prompt_tags)
    if tags:
        fix = f"tag prompts with {tags}, widen applies_when.prompt_tags, or retire it (status: deprecated)"
    else:
        fix = "give it more weight, judge by all principles (judge.principles: all), or retire it (status: deprecated)"
    return Flag("never asked", principle, "", "was never put before the judge", fix)


def _alone(found: Figures) -> Iterator[Saying]:
    if _below(found.preferring, UNDECIDED):
        words = f"prefers an answer in {_percent(found.preferring)} of its comparisons: hardly ever"
        fix = "narrow it to prompts where it matters (applies_when.prompt_tags), sharpen its question, or retire it"
        yield "never decides", "decisiveness", words, fix
    if _above(found.longer, LONGER):
        words = f"prefers the longer answer in {_percent(found.longer)}: it may be measuring length"
        fix = "reword it so that more words alone do not win; pairs.length_balance works against it for all principles"
        yield "length", "longer", words, fix
    if _below(found.longer, 1 - LONGER):
        words = f"prefers the longer answer in {_percent(found.longer)}: it may be measuring brevity"
        yield "length", "longer", words, "leave it if brevity is what it asks for; else reword it"
    if _above(found.invalid, INVALID):
        words = f"{_percent(found.invalid)} of its judgments are invalid"
        yield "invalid", "invalid", words, "shorten its question, and see the judge's `raw` answers (pairs show)"
    if _below(found.swap_consistency, ORDER):
        words = f"gives the same verdict in both orders in only {_percent(found.swap_consistency)}"
        fix = "ask for one thing that can be seen in the answers; keep judge.both_orders on"
        yield "order", "swap_consistency", words, fix
    if _below(found.chosen, OUTVOTED):
        words = f"gets what it prefers in only {_percent(found.chosen)} of the labels: it is outvoted"
        yield "outvoted", "chosen", words, "raise its weight or its tier if it ought to count, or retire it"
    for figure, whom in (("people", "people"), ("gold", "gold answers")):
        if _below(getattr(found, figure), CHANCE):
            words = f"{whom} agree with it in only {_percent(getattr(found, figure))}: worse than a coin"
            yield figure, figure, words, "reword it: it is read otherwise than it is meant"


def _beside(principle: str, conflicts: Sequence[Conflict]) -> Iterator[Saying]:
    for found in conflicts:
        if principle not in (found.a, found.b) or found.n < FEWEST:
            continue
        other = found.b if principle == found.a else found.a
        if _above(found.agreement, SAME) and (found.kappa or 0.0) > 2 * SAME - 1:  # not by both saying nothing
            words = f"says the same as {other} in {_percent(found.agreement)}"
            yield "same", "", words, "retire one of the two, or give each what the other does not ask", other
        if _above(found.opposite, OPPOSITE):
            words = f"contradicts {other} in {_percent(found.opposite)}"
            yield "opposite", "", words, "say which outranks the other: tier, or yields_to", other


def _drifts(by_round: Mapping[int, Figures], reworded: Sequence[int]) -> Iterator[Saying]:
    for figure, what in _DRIFTING.items():
        course = [(number, getattr(one, figure)) for number, one in sorted(by_round.items())]
        course = [(number, found) for number, found in course if found is not None and found.n >= FEWEST]
        if len(course) < 2:
            continue
        (start, first), (end, last) = course[0], course[-1]
        apart = first.high < last.low or last.high < first.low
        if apart and abs(last.value - first.value) > DRIFT:
            words = f"its {what} went from {first.value:.0%} in round {start} to {last.value:.0%} in round {end}"
            edited = [number for number in reworded if start < number <= end]
            if edited:
                words += f"; it was reworded in round {edited[-1]}"
            yield "drift", figure, words, _on_drift(figure, last.value > first.value)


def _on_drift(figure: str, up: bool) -> str:
    if figure == "longer" and up:
        return _LENGTHENED
    return _LEARNT if figure == "decisiveness" and not up else _MOVED


def by_fix(flags: Iterable[Flag]) -> dict[str, list[Flag]]:
    """Flags by what is to be done, and of two that say the same of each other only the first."""
    found: dict[str, list[Flag]] = {}
    said: set[tuple[str, str, str]] = set()
    for flag in flags:
        if (flag.kind, flag.other, flag.principle) not in said:
            said.add((flag.kind, flag.principle, flag.other))
            found.setdefault(flag.fix, []).append(flag)
    return found


def worded(raised: Iterable[Flag]) -> dict[str, str]:
    """What flags say of each principle, by its id; of many the first few, and how many more there are."""
    said: dict[str, list[str]] = {}
    for flag in raised:
        said.setdefault(flag.principle, []).append(flag.words)
    return {
        principle: "; ".join(words if len(words) <= _MOST_WORDS else _cut(words)) for principle, words in said.items()
    }


def _cut(words: list[str]) -> list[str]:
    return [*words[:_MOST_WORDS], f"and {len(words) - _MOST_WORDS} more"]


def _above(share: Estimate | None, limit: float) -> bool:
    return share is not None and share.n >= FEWEST and share.low > limit


def _below(share: Estimate | None, limit: float) -> bool:
    return share is not None and share.n >= FEWEST and share.high < limit


def _percent(share: Estimate | None) -> str:
    return f"{share.value:.0%}" if share is not None else ""
