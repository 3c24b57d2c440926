"""What of a campaign needs a person's attention, in words. Pure: from what was read to sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from selfalign.config import Campaign, in_round
from selfalign.progress import Progress
from selfalign.records import Report
from selfalign.text import one_line
from selfalign.units import duration
from selfalign.words import canaries_text

SWAP_FALL, SWAP_LEAST = 0.05, 0.7
LONGER_MOST = 0.65
LENGTH_CREEP = 1.3
INVALID_MOST = 0.05
SPIKE = 0.1  # a share of answers that grew by more than this between two rounds
FALL_NATS = 1.0  # a fall of the chosen answers' log-probability that is worth a word, as the trainer has it
FEWEST_STEPS = 10  # of a training, before its course tells anything
SPIKES = {"refusal": "refuse", "repetition": "repeat themselves", "truncated": "are cut off", "empty": "are empty"}


def alerts(
    progress: Progress,
    reports: Sequence[Report],
    state: str,
    command: str,
    now: float,
    campaign: Campaign | None = None,
) -> list[str]:
    """All there is, what matters most first. `command` is what takes the run up again."""
    found = list(_of_state(progress, state, command, now))
    found += [f"warning: {message}" for message in progress.warnings[-3:]]
    if progress.round is not None and progress.round not in {report.round for report in reports}:
        found += in_training(progress, progress.round, campaign)
    if reports:
        found += of_round(reports[-1], reports[-2] if len(reports) > 1 else None)
    found += [
        f"round {number}: {canaries_text(event)}"
        for number, event in progress.canaries.items()
        if event.get("go") is False
    ]
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


def in_training(progress: Progress, number: int, campaign: Campaign | None) -> list[str]:
    """Chosen answers that become less likely while the margin grows, in a round that is not evaluated yet."""
    names = ("rewards/chosen", "rewards/margins")
    history = progress.train_history.get(number, ())
    steps = [[step.get(name) for name in names] for step in history]
    steps = [step for step in steps if all(isinstance(value, int | float) for value in step)]
    told = any(warning.startswith(f"round {number}: chosen answers") for warning in progress.warnings)
    if len(steps) < FEWEST_STEPS or told:
        return []
    few = max(3, len(steps) // 10)
    chosen, margin = (fmean(step[place] for step in steps[-few:]) for place in (0, 1))
    grew = margin > max(0.0, fmean(step[1] for step in steps[:few]))
    nats = chosen / (in_round(campaign, number).train.beta if campaign is not None else 0.1)
    if not grew or nats > -FALL_NATS:
        return []
    return [f"round {number}: chosen answers become less likely ({nats:.1f} nats each) while the margin grows"]


def of_round(report: Report, before: Report | None) -> list[str]:
    """What an evaluated round and the one before it tell."""
    said = (*_of_judges(report, before), *_of_answers(report, before), *_of_wins(report))
    return [f"round {report.round}: {one}" for one in said]


def _of_judges(report: Report, before: Report | None) -> Iterator[str]:
    for name, health in report.judges.items():
        swap, earlier = health.swap_consistency, before.judges.get(name) if before is not None else None
        once = earlier.swap_consistency if earlier is not None else None
        who = f"the {one_line(name, 40)} judge"
        if once is not None and swap is not None and once - swap > SWAP_FALL:
            yield f"{who}'s swap consistency fell from {once:.0%} to {swap:.0%}"
        elif swap is not None and swap < SWAP_LEAST:
            yield f"{who} agrees with itself in only {swap:.0%} of the pairs shown both ways"
        if health.invalid > INVALID_MOST:
            yield f"{health.invalid:.0%} of {who}'s verdicts could not be read"
        if health.longer_preferred is not None and health.longer_preferred > LONGER_MOST:
            yield f"{who} prefers the longer answer in {health.longer_preferred:.0%} of the pairs"


def _of_answers(report: Report, before: Report | None) -> Iterator[str]:
    if report.length_ratio is not None and report.length_ratio > LENGTH_CREEP:
        yield f"answers are {report.length_ratio:.2f} times as long as the base policy's"
    old, new = report.behaviour.get("previous"), report.behaviour.get("policy")
    for name, words in SPIKES.items() if old is not None and new is not None else ():
        was, now = getattr(old, name), getattr(new, name)
        if now - was > SPIKE:
            yield f"{now:.0%} of its answers {words}, {was:.0%} of those of the policy before it"
    was, now = (duplicates(one) if one is not None else None for one in (before, report))
    if now is not None and now - (was or 0.0) > SPIKE:
        yield f"{now:.0%} of the samples are duplicates{f', {was:.0%} in the round before' if was is not None else ''}"


def _of_wins(report: Report) -> Iterator[str]:
    for name, whom in (("previous", "the policy before it"), ("base", "the base policy")):
        win = report.win_rates.get(name)
        if win is None or win.low > 0.5 or (name == "base" and win == report.win_rates.get("previous")):
            continue
        verdict = "worse than" if win.high < 0.5 else "not shown to be better than"
        yield f"{verdict} {whom}: win rate {win.rate:.2f}, 95% interval {win.low:.2f} to {win.high:.2f}"


def duplicates(report: Report) -> float | None:
    """The share of sampled answers that repeat another of the same prompt; None where none was counted."""
    sampled, found = report.candidates.get("candidates"), report.candidates.get("duplicate")
    return found / sampled if sampled and found is not None else None


def left_out(report: Report) -> float | None:
    """The share of what was judged that was not trained on."""
    out = sum(report.discarded.values())
    return out / (out + report.num_examples) if out + report.num_examples else None
