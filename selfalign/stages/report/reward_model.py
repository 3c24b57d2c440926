"""What the pages say of a round's reward model: how often it is right, how sure it may be, and the verdict."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from selfalign.records import BucketAccuracy, Interval, RewardReport
from selfalign.stages.report.document import Block, Figure, Heading, Paragraph, Table
from selfalign.stages.report.plots import reliability_chart, reliability_words
from selfalign.store import Run

FILE = "reward_report.json"
_CHART = "How sure, and how often right"


def read(run: Run, number: int) -> RewardReport | None:
    """What is known of a round's reward model; None where there is none."""
    name = f"rounds/{number:03d}/{FILE}"
    return msgspec.convert(run.read_json(name), RewardReport) if (run.path / name).exists() else None


def blocks(run: Run, number: int) -> list[Block]:
    """The section on a round's reward model; nothing where there is none."""
    found = read(run, number)
    return section(found) if found is not None else []


def stopped_page(found: RewardReport) -> list[Block]:
    """The page of a round that ended with its reward model."""
    said = f"Round {found.round} was stopped before its policy was trained: its reward model is not one to follow."
    return [Paragraph(said, "bad"), *section(found)]


def section(found: RewardReport) -> list[Block]:
    why, _, fix = found.reason.partition("\n")
    return [
        Heading("Reward model"),
        Paragraph(f"Verdict: {why}.", "good" if found.go else "bad"),
        *([Paragraph(f"What to do: {fix}.")] if fix else []),
        _figures(found),
        _buckets(found.by_label),
        Figure(reliability_chart(_CHART, found.bins), reliability_words(_CHART, found.bins)),
    ]


def _figures(found: RewardReport) -> Table:
    held = f"{_counted(found.num_pairs, 'pair')} of {_counted(found.num_prompts, 'prompt')}, held out"
    of = f"{held}; trained on {_counted(found.num_trained, 'pair')}"
    most = f"{found.agreement:.3f} of at most {found.agreement_most:.3f}"
    by_chance = f"{found.ece:.3f} ({found.ece_by_chance:.3f} by chance)"
    rows = (
        ("accuracy", _share(found.accuracy, found.interval)),
        ("accuracy of length alone", f"{found.baseline:.3f}"),
        *_gold(found),
        ("agreement with the judge's soft labels", most),
        ("calibration error (ECE)", by_chance),
        ("the same over the temperature", f"{found.ece_scaled:.3f}"),
        ("temperature", f"{found.temperature:.2f}"),
        ("Brier score", f"{found.brier:.3f}"),
    )
    return Table(("reward model", "value"), rows, of)


def _gold(found: RewardReport) -> Iterator[tuple[str, str]]:
    if (gold := found.gold) is not None:
        of = f"{_counted(gold.num_answers, 'answer')} to {_counted(gold.num_prompts, 'prompt')} held out"
        yield "gold answers above sampled ones", f"{_share(gold.share, gold.interval)}, {of}"


def _buckets(found: tuple[BucketAccuracy, ...]) -> Table:
    rows = tuple((_range(one), _share(one.accuracy, one.interval), f"{one.num_pairs:,}") for one in found)
    return Table(("soft label", "accuracy", "pairs"), rows, "Accuracy by how sure the judge was")


def _range(one: BucketAccuracy) -> str:
    low = f"{one.low:.1f}" if one.low is not None else ""
    high = f"{one.high:.1f}" if one.high is not None else ""
    return f"{low} to {high}" if low and high else f"under {high}" if high else f"{low} and more" if low else "any"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _share(value: float, interval: Interval) -> str:
    return f"{value:.3f} ({interval})"
