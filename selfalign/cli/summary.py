"""The table of rounds that ends a run and begins a look at one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.text import Text

from selfalign.records import Report
from selfalign.stages import report as reports
from selfalign.stages.report.content import round_cells
from selfalign.store import Run

COLUMNS = ("round", "gate", "pairs", "swap", "win vs previous", "win vs base", "KL", "length", "time", "path")
RIGHT = ("round", "pairs", "swap", "KL", "length", "time")


def rows(run: Run) -> list[tuple[Any, ...]]:
    """A row for each evaluated round, with the folder of its policy."""
    from selfalign.cli.output import clock

    table = []
    for report in reports.read(run):
        cells = round_cells(report)
        gate = Text(cells[1], style="green" if report.gate.accepted else "bold red")
        time = clock(sum(report.seconds.values()))
        table.append((cells[0], gate, *cells[2:-1], time, str(policy_folder(run, report))))
    return table


def last_accepted(run: Run) -> str | None:
    """The folder of the last accepted policy, or None."""
    accepted = [report for report in reports.read(run) if report.gate.accepted]
    return str(policy_folder(run, accepted[-1])) if accepted else None


def policy_folder(run: Run, report: Report) -> Any:
    return run.path / reports.folder(report.round) / "policy"


def series(found: Sequence[Report]) -> dict[str, list[float | None]]:
    """The figures that are compared between runs, by round."""

    def win(report: Report, name: str) -> float | None:
        return rate.rate if (rate := report.win_rates.get(name)) else None

    def swap(report: Report) -> float | None:
        return health.swap_consistency if (health := report.judges.get("labelling")) else None

    return {
        "win rate vs base": [win(report, "base") for report in found],
        "win rate vs previous": [win(report, "previous") for report in found],
        "KL to base": [report.kl.mean if report.kl else None for report in found],
        "length ratio": [report.length_ratio for report in found],
        "swap consistency": [swap(report) for report in found],
        "pairs": [float(report.num_pairs) for report in found],
        "seconds": [sum(report.seconds.values()) for report in found],
    }
