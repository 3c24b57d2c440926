"""The table of rounds that ends a run and begins a look at one."""

from __future__ import annotations

import shutil
import sys
from typing import Any

from rich.text import Text

from selfalign.cli.output import print_table
from selfalign.records import Report, WinRate
from selfalign.stages import report as reports
from selfalign.stages.report.content import round_cells
from selfalign.store import Run
from selfalign.units import clock

COLUMNS = ("round", "gate", "examples", "swap", "win vs prev", "vs base", "KL", "length", "time", "policy")
RIGHT = COLUMNS[:1] + COLUMNS[2:-1]
WIDE = 100  # columns of a terminal that takes the last column too


def print_rounds(run: Run) -> None:
    """Print a row for each evaluated round. On a narrow terminal the policy's folder is left out, as it follows."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDE
    shown = len(COLUMNS) if width >= WIDE else len(COLUMNS) - 1
    table = [_row(report)[:shown] for report in reports.read(run)]
    print_table(COLUMNS[:shown], table, right=RIGHT, title=str(run.path))
    sys.stdout.flush()


def _row(report: Report) -> tuple[Any, ...]:
    cells = round_cells(report)
    gate = Text(cells[1], style="green" if report.gate.accepted else "bold red")
    wins = [win_text(report.win_rates.get(name)) for name in ("previous", "base")]
    time = clock(sum(report.seconds.values()))
    return (cells[0], gate, *cells[2:4], *wins, *cells[6:-1], time, f"{reports.folder(report.round)}/policy")


def win_text(win: WinRate | None) -> str:
    """A win rate with half the width of its interval: the table must fit a terminal."""
    return f"{win.rate:.2f} ±{(win.high - win.low) / 2:.2f}" if win else "–"


def last_accepted(run: Run) -> str | None:
    """The folder of the last accepted policy, or None."""
    accepted = [report for report in reports.read(run) if report.gate.accepted]
    return f"{run.path}/{reports.folder(accepted[-1].round)}/policy" if accepted else None
