"""What stands before and after labelling, without a screen: who labels, what there is to label, what came of it."""

from __future__ import annotations

import getpass
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from selfalign.agreement import self_consistency
from selfalign.calibration import Agreement
from selfalign.config import Campaign, in_round
from selfalign.labels import MIN_LABELS, RANDOM, repeats, scored
from selfalign.people.compared import Comparison, Source, comparisons, human_agreement, labelled
from selfalign.people.labelling import pace
from selfalign.records import HumanAgreement, Label
from selfalign.store import Run
from selfalign.units import duration


def account() -> str:
    """The name of whoever is at this machine, fit for a file; empty where there is none."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        return ""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60]


def offered(run: Run, of: Source, rounds: Iterable[int], settings: Campaign) -> tuple[int, list[Comparison]] | None:
    """The last of these rounds in which there is anything to label, and its comparisons; None where there is none."""
    for number in sorted(rounds, reverse=True):
        pool = list(comparisons(run, number, of, in_round(settings, number)))
        if pool:
            return number, pool
    return None


@dataclass(frozen=True, slots=True)
class Habits:
    """Shares of what a labeller said: of their preferences those for the left and those for the longer answer, and of
    all they said those for neither. None where nothing could be counted; answers of one length count for no length.
    """

    left: float | None
    longer: float | None
    neither: float | None


def habits(about: Sequence[tuple[Label, Comparison]]) -> Habits:
    preferred = [(label, one) for label, one in about if label.preferred_id is not None]
    longer = [
        label.preferred_id == max(one.a, one.b, key=lambda answer: len(answer.text)).id
        for label, one in preferred
        if len(one.a.text) != len(one.b.text)
    ]
    left = [label.preferred_id == label.left_id for label, _ in preferred]
    return Habits(_share(left), _share(longer), _share([label.preferred_id is None for label, _ in about]))


def _share(found: Sequence[bool]) -> float | None:
    return sum(found) / len(found) if found else None


@dataclass(frozen=True, slots=True)
class Figures:
    """What a labeller may know: how many labels, how many seconds each (the median), how steady they are.

    How far the judges, by role, say the same, of all labels and of the fair sample alone, and their habits are there
    from `MIN_LABELS` labels on: earlier they say little, and would sway whoever goes on labelling.
    """

    num_labels: int
    seconds: float | None
    steady: Agreement | None
    judges: Mapping[str, HumanAgreement]
    fair: Mapping[str, HumanAgreement]
    habits: Habits | None


def figures(standing: Sequence[Label], about: Sequence[tuple[Label, Comparison]]) -> Figures:
    """The figures of labels; `about` are those of them that say something of a comparison, with it."""
    told = about if len(about) >= MIN_LABELS else ()
    return Figures(
        num_labels=len(scored(standing)),
        seconds=pace(standing),
        steady=self_consistency(*repeats(standing)),
        judges=human_agreement(told),
        fair=human_agreement([(label, one) for label, one in told if label.stratum == RANDOM]),
        habits=habits(told) if told else None,
    )


def final_figures(run: Run, standing: Sequence[Label], settings: Campaign) -> Figures:
    """The figures of all labels of a labeller, of whatever round they are."""
    enough = len(scored(standing)) >= MIN_LABELS
    return figures(standing, labelled(run, standing, settings) if enough else ())


def summary(found: Figures) -> Iterator[str]:
    """The figures in words, a line each."""
    yield f"{found.num_labels} labels" + (f", {duration(found.seconds)} each" if found.seconds else "")
    if found.steady is not None:
        yield f"of {found.steady.num_pairs} pairs shown twice you said the same of {found.steady.raw:.0%}"
    if found.habits is None:
        yield f"agreement with the judge is told from {MIN_LABELS} labels on"
        return
    for which, judges in (("", found.judges), ("of the random sample alone, ", found.fair)):
        for role, one in judges.items():
            same = f"the {role} judge says the same of {one.raw:.0%} of {one.num_pairs} pairs"
            yield f"{which}{same}: {kappa_words(one)}"
    yield from habit_words(found.habits)


def habit_words(found: Habits) -> Iterator[str]:
    """Habits in words."""
    if found.left is not None:
        yield f"of your preferences {found.left:.0%} are for the left answer; the sides are drawn by lot"
    if found.longer is not None:
        yield f"of two answers that differ in length you prefer the longer in {found.longer:.0%}"
    if found.neither is not None:
        yield f"you find neither better in {found.neither:.0%} of all"


def kappa_words(found: HumanAgreement) -> str:
    """Kappa with its interval, in words."""
    if found.kappa is None:
        return "no kappa, since chance alone makes them agree"
    return f"kappa {found.kappa:.2f} (95% interval {found.low:.2f} to {found.high:.2f})"
