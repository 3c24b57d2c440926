"""What the pages say of a round's labelling judge: the canaries that it was put to."""

from __future__ import annotations

import msgspec

from selfalign.records import CanaryReport
from selfalign.stages.report.document import Block, Heading, Paragraph, Table
from selfalign.store import Run

CANARIES = "canaries.json"


def read_canaries(run: Run, number: int) -> CanaryReport | None:
    """How a round's judge took canaries; None where it met none."""
    name = f"rounds/{number:03d}/{CANARIES}"
    return msgspec.convert(run.read_json(name), CanaryReport) if (run.path / name).exists() else None


def blocks(run: Run, number: int) -> list[Block]:
    """The part of the section on judges that is about canaries; nothing where there were none."""
    found = read_canaries(run, number)
    return [canary_table(found)] if found is not None else []


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
