"""What the pages say of a round's labelling judge: its card, and the canaries that it was put to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from selfalign.records import CanaryReport, Interval, JudgeCard, LabelAgreement
from selfalign.stages.report.document import Block, Figure, Heading, Paragraph, Table
from selfalign.stages.report.plots import reliability_chart, reliability_words
from selfalign.store import Run

CANARIES, CARDS = "canaries.json", "judge_card.json"
NONE = "–"


def read_canaries(run: Run, number: int) -> CanaryReport | None:
    """How a round's judge took canaries; None where it met none."""
    name = f"rounds/{number:03d}/{CANARIES}"
    return msgspec.convert(run.read_json(name), CanaryReport) if (run.path / name).exists() else None


def read_cards(run: Run, number: int) -> list[JudgeCard]:
    """The cards of a round's judges as they were written; none where it was judged by none."""
    name = f"rounds/{number:03d}/{CARDS}"
    return msgspec.convert(run.read_json(name), list[JudgeCard]) if (run.path / name).exists() else []


def blocks(run: Run, number: int) -> list[Block]:
    """The part of the section on judges that is about cards and canaries; nothing where there are none."""
    canaries, cards = read_canaries(run, number), read_cards(run, number)
    tables: list[Block] = [card_table(cards)] if cards else []
    charts = [_chart(card.judge_id, card.agreement) for card in cards if card.agreement is not None]
    return [*tables, *charts, *([canary_table(canaries)] if canaries is not None else [])]


def stopped_page(found: CanaryReport) -> list[Block]:
    """The page of a round that ended with its canaries."""
    why, _, fix = (found.stopped or "").partition("\n")
    said = f"Round {found.round} was stopped before its policy was trained: its judge falls for canaries."
    return [
        Paragraph(said, "bad"),
        Heading("Canaries"),
        Paragraph(f"Verdict: {why}.", "bad"),
        Paragraph(f"What to do: {fix}."),
        canary_table(found),
    ]


def canary_table(found: CanaryReport) -> Table:
    """A row for each canary, and one for all of them."""
    rows = tuple((one.name, *canary_cells(one.rate, one.interval, one.num_comparisons)) for one in found.by_canary)
    whole = ("all", *canary_cells(found.rate, found.interval, found.num_comparisons))
    note = "Canaries, replies without content, that the judge prefers to the policy's own answers (ties count half)"
    return Table(("canary", "wins", "95% interval", "comparisons"), (*rows, whole), note)


def canary_cells(rate: float, interval: tuple[float, float], comparisons: int) -> tuple[str, str, str]:
    return f"{rate:.1%}", f"{interval[0]:.1%} to {interval[1]:.1%}", f"{comparisons:,}"


def card_table(cards: Sequence[JudgeCard]) -> Table:
    """Figures as rows, judges as columns."""
    columns = [dict(card_rows(card)) for card in cards]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = tuple((name, *(column.get(name, NONE) for column in columns)) for name in names)
    return Table(("judge card", *(card.judge_id for card in cards)), rows, "The labelling judge, by what it said")


def card_rows(card: JudgeCard) -> Iterator[tuple[str, str]]:
    """The figures of a card in words, one a row; those that are of the canaries and of the bins left out."""
    health = card.health
    yield "judgments", f"{health.num_judgments:,}"
    yield "pairs of answers", f"{card.num_pairs:,}"
    if card.agreement is not None:
        yield from _agreement_rows(card.agreement)
    yield from ((f"kappa with {name}", _figure(value)) for name, value in card.kappa_with.items())
    if card.kappa_with:
        yield "Krippendorff's alpha of the panel", _figure(card.panel_alpha)
    yield "swap consistency", share(health.swap_consistency)
    yield "first preferred", share(health.first_preferred)
    yield "longer preferred", share(health.longer_preferred)
    yield "retest difference", _figure(card.retest_difference)
    yield "retest noise", _figure(card.retest_noise)
    yield "ties", share(health.ties)
    yield "invalid", share(health.invalid)
    yield from ((f"invalid: {kind}", f"{count:,}") for kind, count in card.invalid_kinds.items())
    if card.canaries is not None:
        rate, interval, _ = canary_cells(card.canaries.rate, card.canaries.interval, card.canaries.num_comparisons)
        yield "canary wins", f"{rate} ({interval})"
    yield "tokens a pair", f"{card.tokens_per_pair:,.0f}" if card.tokens_per_pair is not None else NONE
    yield "seconds a pair", f"{card.seconds_per_pair:.3g}" if card.seconds_per_pair is not None else NONE
    if card.cost_per_pair is not None:
        yield "cost of a thousand pairs", f"{1000 * card.cost_per_pair:,.4g}"


def _agreement_rows(found: LabelAgreement) -> Iterator[tuple[str, str]]:
    yield "labelled pairs", f"{found.num_pairs:,} of {found.num_prompts:,} prompts"
    yield "accuracy", _with_interval(found.accuracy, found.interval)
    yield "Cohen's kappa", _with_interval(found.kappa, found.kappa_interval)
    yield "calibration error (ECE)", f"{found.ece:.3f} ({found.ece_by_chance:.3f} by chance)"
    yield "longer preferred among equals", share(found.longer_preferred)


def _chart(judge_id: str, found: LabelAgreement) -> Figure:
    title = f"How sure {judge_id} is, and how often right"
    return Figure(reliability_chart(title, found.bins), reliability_words(title, found.bins))


def share(value: float | None) -> str:
    return f"{value:.1%}" if value is not None else NONE


def _figure(value: float | None) -> str:
    return f"{value:.3f}" if value is not None else NONE


def _with_interval(value: float | None, interval: Interval | None) -> str:
    return NONE if value is None else f"{value:.3f} ({interval})" if interval is not None else f"{value:.3f}"
