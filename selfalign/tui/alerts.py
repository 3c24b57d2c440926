"""What of a campaign needs a person's attention, in words. Pure: from what was read to sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from selfalign.progress import Progress
from selfalign.records import Report
from selfalign.units import duration

SWAP_FALL, SWAP_LEAST = 0.05, 0.7
LONGER_MOST = 0.65
LENGTH_CREEP = 1.3
INVALID_MOST = 0.05


def alerts(progress: Progress, reports: Sequence[Report], state: str, command: str, now: float) -> list[str]:
    """All there is, what matters most first. `command` is what takes the run up again."""
    found = list(_of_state(progress, state, command, now))
    found += [f"warning: {message}" for message in progress.warnings[-3:]]
    if reports:
        found += _of_round(reports[-1], reports[-2] if len(reports) > 1 else None)
    found += [
        f"round {number}: the reward model is not one to follow"
        for number, event in progress.reward_models.items()
        if event.get("go") is False
    ]
    return found


def _of_state(progress: Progress, state: str, command: str, now: float) -> Iterator[str]:
    silent = duration(now - progress.last_time) if progress.last_time else "long"
    if state == "stalled":
        yield f"stalled: its process lives, but nothing has happened for {silent}; see its logs (8)"
    elif state == "dead":
        yield f"dead: its process ended without a word; to go on: {command}"
    elif state == "failed":
        yield f"failed: {progress.failure or 'see its logs (8)'}; to go on: {command}"
    elif state == "interrupted":
        yield f"interrupted, its state saved; to go on: {command}"
    elif state == "stopped as asked":
        yield f"stopped after round {progress.round}, as asked; to go on: {command}"


def _of_round(report: Report, before: Report | None) -> Iterator[str]:
    where = f"round {report.round}"
    for name, health in report.judges.items():
        swap, earlier = health.swap_consistency, before.judges.get(name) if before is not None else None
        fell = earlier is not None and earlier.swap_consistency is not None and swap is not None
        if fell and earlier.swap_consistency - swap > SWAP_FALL:
            yield f"{where}: the {name} judge's swap consistency fell from {earlier.swap_consistency:.0%} to {swap:.0%}"
        elif swap is not None and swap < SWAP_LEAST:
            yield f"{where}: the {name} judge agrees with itself in only {swap:.0%} of the pairs shown both ways"
        if health.invalid > INVALID_MOST:
            yield f"{where}: {health.invalid:.0%} of the {name} judge's verdicts could not be read"
        if health.longer_preferred is not None and health.longer_preferred > LONGER_MOST:
            yield f"{where}: the {name} judge prefers the longer answer in {health.longer_preferred:.0%} of the pairs"
    if report.length_ratio is not None and report.length_ratio > LENGTH_CREEP:
        yield f"{where}: answers are {report.length_ratio:.2f} times as long as the base policy's"
    win = report.win_rates.get("previous")
    if win is not None and win.high < 0.5:
        yield f"{where}: worse than the policy before it (win rate {win.rate:.2f}, {win.low:.2f} to {win.high:.2f})"
