"""Two policies beside one another: what the report of each says, and what the differences come to."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from selfalign.calibration import wilson_interval
from selfalign.config import Campaign
from selfalign.constitution import Constitution, ConstitutionError, load
from selfalign.records import Behaviour, JudgeHealth, Report, WinRate
from selfalign.stages import report as reports
from selfalign.stages.report.comparison import settings_of
from selfalign.tui import shown
from selfalign.tui.answers import policy_name
from selfalign.tui.reading import UNREADABLE, Watched, why
from selfalign.tui.shown import Part
from selfalign.units import clock

NONE = "–"
Found = TypeVar("Found")


class Policy(NamedTuple):
    """One side of a comparison: the policy that a round of a run made, or its base policy where `round` is None."""

    path: Path
    round: int | None


@dataclass(frozen=True, slots=True)
class Figure:
    """A number with its 95% interval, where it has one, as it is shown."""

    value: float
    said: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Measure:
    """What a figure is called, and what a difference means: `words` for more and less, neither being better by itself.

    Where there are none, the better one is the nearer to `best`.
    """

    name: str
    words: tuple[str, str] | None = None
    best: float = math.inf
    digits: int = 2
    percent: bool = False


JUDGES = ("labelling", "evaluating")
MEASURES: Mapping[str, Measure] = {
    "base": Measure("win rate vs base"),
    "controlled": Measure("  at equal length"),
    "previous": Measure("win rate vs previous", ("a larger step", "a smaller step")),
    "gold": Measure("gold score", digits=3),
    "kl": Measure("KL to base, nats", ("further", "nearer")),
    "tokens": Measure("tokens per answer", ("longer", "shorter"), digits=1),
    "length": Measure("length over the base's", ("longer", "shorter")),
    "refusal": Measure("refusals", ("more", "fewer"), percent=True),
    **{
        f"{role} {name}": Measure(f"{role}: {name}", words, best, percent=True)
        for role in JUDGES
        for name, words, best in (
            ("swap", None, math.inf),
            ("first", None, 0.5),
            ("invalid", None, 0.0),
            ("ties", ("more", "fewer"), math.inf),
        )
    },
    "examples": Measure("trained on", ("more", "fewer"), digits=0),
    "seconds": Measure("time", ("longer", "shorter"), digits=0),
}


@dataclass(frozen=True, slots=True)
class Side:
    """All that is compared of one side. `problems` say what could not be read, and why.

    `report` is of the side's round, None where it was not evaluated, and for the base policy; `reports` are of all
    rounds, in order. `settings` are those of the round, `rules` is its constitution.
    """

    policy: Policy
    run: str
    report: Report | None
    reports: tuple[Report, ...]
    figures: Mapping[str, Figure]
    settings: Campaign | None
    rules: Constitution | None
    problems: tuple[str, ...]

    @property
    def name(self) -> str:
        return policy_name(self.policy.round)

    @property
    def rounds(self) -> tuple[int, ...]:
        return tuple(report.round for report in self.reports)


def side_of(watched: Watched, number: int | None) -> Side:
    """One side, as far as it can be read. What cannot is left out and told."""
    with watched.reading() as run:
        gone = run.state == "deleted"  # what was read of it before would pass for what is there
        found, problems = {} if gone else dict(run.reports), list(run.problems.values())
    settings = gold = rules = report = None
    if not gone:
        gold = _tried(problems, lambda: reports.gold(watched.run))
        settings = _tried(problems, lambda: settings_of(watched.run, number))
        rules = _tried(problems, lambda: load(_rules(watched.path, number))) if number is not None else None
    if number is not None:
        report = found.get(number)
    if number is not None and report is None and not problems:
        problems.append(f"{watched.name}: round {number} has not been evaluated, so there are no figures of it yet")
    return Side(
        Policy(watched.path, number), watched.name, report, tuple(found[one] for one in sorted(found)),
        dict(_figures(number, report, found, gold or {})), settings, rules, tuple(problems),
    )  # fmt: skip


def mark_of(policy: Policy) -> object:
    """What the files that a side is read from look like on disk: where that is as it was, so is the side."""
    names = ["campaign.yaml", "gold.json", "rounds"]
    names += (
        [str(_rules(Path(), policy.round)), f"{reports.folder(policy.round)}/report.json"]
        if policy.round is not None
        else []
    )
    return [_look(policy.path / name) for name in names]


def _look(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _rules(run: Path, number: int) -> Path:
    return run / reports.folder(number) / "constitution.yaml"


def _tried(problems: list[str], read: Callable[[], Found]) -> Found | None:
    try:
        return read()
    except ConstitutionError as error:
        problems.append(str(error).splitlines()[0])
    except UNREADABLE as error:
        problems.append(why(error))
    return None


def _figures(
    number: int | None, report: Report | None, found: Mapping[int, Report], gold: Mapping[str, Mapping[str, float]]
) -> Iterator[tuple[str, Figure]]:
    if report is not None:
        yield from _of_report(report, gold.get(f"round {number}", {}))
    elif number is None:
        described = next((one.behaviour["base"] for one in found.values() if "base" in one.behaviour), None)
        yield from _of_base(described, gold.get("base", {}))


def _of_base(described: Behaviour | None, gold: Mapping[str, float]) -> Iterator[tuple[str, Figure]]:
    """The base policy beats itself half the time, and is no distance from itself."""
    yield "base", Figure(0.5, "0.50 by itself", 0.5, 0.5)
    if "gold" in gold:
        yield "gold", Figure(gold["gold"], f"{gold['gold']:.3f}")
    yield "kl", Figure(0.0, "0 by itself", 0.0, 0.0)
    yield from _behaviour(described)
    yield "length", Figure(1.0, "×1 by itself")


def _of_report(report: Report, gold: Mapping[str, float]) -> Iterator[tuple[str, Figure]]:
    for name in ("base", "previous"):
        if (win := report.win_rates.get(name)) is not None:
            yield name, _win(win)
    if (win := report.win_rates.get("base")) is not None and win.length_controlled is not None:
        yield "controlled", Figure(win.length_controlled, f"{win.length_controlled:.2f}")
    if "gold" in gold:
        yield "gold", Figure(gold["gold"], f"{gold['gold']:.3f}")
    if (kl := report.kl) is not None:
        half = 1.96 * kl.standard_error
        yield "kl", Figure(kl.mean, f"{kl.mean + 0.0:.2f} ±{half:.2f}", kl.mean - half, kl.mean + half)
    yield from _behaviour(report.behaviour.get("policy"))
    if report.length_ratio is not None:
        yield "length", Figure(report.length_ratio, f"×{report.length_ratio:.2f}")
    for role, health in report.judges.items():
        yield from ((f"{role} {name}", figure) for name, figure in _health(health))
    yield "examples", Figure(report.num_examples, f"{report.num_examples:,} {report.examples}")
    yield "seconds", Figure(sum(report.seconds.values()), clock(sum(report.seconds.values())))


def _win(win: WinRate) -> Figure:
    return Figure(win.rate, f"{win.rate:.2f} ±{(win.high - win.low) / 2:.2f}", win.low, win.high)


def _behaviour(found: Behaviour | None) -> Iterator[tuple[str, Figure]]:
    if found is not None:
        yield "tokens", Figure(found.mean_tokens, f"{found.mean_tokens:.1f}")
        yield "refusal", _share(found.refusal, found.num_candidates)


def _health(health: JudgeHealth) -> Iterator[tuple[str, Figure]]:
    n = health.num_judgments
    shares = (
        ("swap", health.swap_consistency, health.num_swapped),
        ("first", health.first_preferred, n),
        ("invalid", health.invalid, n),
        ("ties", health.ties, n),
    )
    yield from ((name, _share(share, of)) for name, share, of in shares if share is not None)


def _share(share: float, n: int) -> Figure:
    low, high = wilson_interval(share * n, n) if n else (None, None)
    return Figure(share, f"{share:.0%}" if share in (0, 1) or 0.005 <= share <= 0.995 else f"{share:.2%}", low, high)


def difference(measure: Measure, left: Figure | None, right: Figure | None) -> Part:
    """What lies between two figures: a sign, by how much, and whether that is good, or no more than noise."""
    if left is None or right is None:
        return (NONE, shown.DIM)
    gap = right.value - left.value
    said = _gap(measure, gap).replace("-", "−")
    if not any(digit in said for digit in "123456789"):
        return ("= the same", shown.DIM)
    sign = f"{'▲' if gap > 0 else '▼'} {said}"
    if within_noise(left, right):
        return (f"{sign}  within noise", shown.DIM)
    if measure.words is not None:
        return (f"{sign}  {measure.words[gap < 0]}", shown.NOTE)
    if left.low is None or right.low is None:  # nobody can say whether this is more than chance
        return (f"{sign}  {'higher' if gap > 0 else 'lower'}", shown.NOTE)
    better = gap > 0 if measure.best == math.inf else abs(right.value - measure.best) < abs(left.value - measure.best)
    return (f"{sign}  better", shown.GOOD) if better else (f"{sign}  worse", shown.WARN)


def _gap(measure: Measure, gap: float) -> str:
    if measure.percent:
        return f"{100 * gap:+.1f} points"
    if measure is MEASURES["seconds"]:
        return f"{'+' if gap > 0 else '−'}{clock(abs(gap))}"
    return f"{gap:+,.{measure.digits}f}"


def within_noise(left: Figure, right: Figure) -> bool:
    """Whether the 95% intervals of two figures overlap; False where one has none."""
    if left.low is None or left.high is None or right.low is None or right.high is None:
        return False
    return left.low <= right.high and right.low <= left.high


def incomparable(left: Side, right: Side, shared: int, asked: Sequence[int]) -> Iterator[str]:
    """What keeps the figures of two sides from being compared. `asked`: how many prompts each answered."""
    one, other = left.report, right.report
    if left.settings and right.settings:
        judges = [_judge(side.settings) for side in (left, right) if side.settings]
        if judges[0] != judges[1]:
            yield f"judged by different judges ({judges[0]}, {judges[1]}): win rates do not compare"
        if left.settings.policy.model != right.settings.policy.model:
            yield "begun from different base policies: what is measured against the base does not compare"
    if one and other and (one.standard or one.constitution_hash) != (other.standard or other.constitution_hash):
        yield "judged by different constitutions: win rates do not compare"
    if all(asked) and shared < max(asked):
        yield f"{shared:,} of {max(asked):,} held-out prompts are in both: figures are of different prompts"


def _judge(settings: Campaign) -> str:
    return settings.evaluate.judge.model or settings.judge.model
