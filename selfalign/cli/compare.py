"""Runs beside one another, round by round: how good, how far from the base, how long, trained on what."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from selfalign.cli.output import is_unicode, print_table, say
from selfalign.cli.scatter import ORIGIN, SEVERAL, scatter
from selfalign.cli.summary import win_text
from selfalign.settings import in_yaml
from selfalign.stages.report.comparison import RoundFigures, RunFigures, settings_that_differ
from selfalign.stages.report.content import NONE
from selfalign.text import one_line
from selfalign.units import clock

PIPE_WIDTH = 80  # of a plot that is not for a terminal
MARKS = "abcdefghijklmnpqrstuvwxyz"  # of runs; the base policy has the o
BASE = (0.0, 0.5)  # the base policy's distance from itself, and its win rate against itself


def print_comparison(compared: Sequence[RunFigures]) -> None:
    """Print the rounds of all runs, win rate against KL as a plot, and the settings that differ."""
    with_gold = any(one.base_gold is not None or any(r.gold is not None for r in one.rounds) for one in compared)
    columns = ("run", "round", "algorithm", "examples", "vs base", "KL", "length", "time", "gold")[
        : 9 if with_gold else 8
    ]
    rows = [row[: len(columns)] for mark, one in zip(MARKS, compared, strict=False) for row in _rows(mark, one)]
    print_table(columns, rows, right=("round", *columns[3:]))
    _print_plot(compared)
    if with_gold:
        say("gold: the gold score in gold.json")
    if changed := settings_that_differ([one.loaded.campaign for one in compared]):
        print()
        print_table(
            ("setting", *(one.run for one in compared)), [(name, *map(in_yaml, values)) for name, values in changed]
        )
    else:
        say("the settings are the same")


def _rows(mark: str, one: RunFigures) -> Iterator[tuple[Any, ...]]:
    """A line for each round of a run, after one for the base policy where its gold score is known."""
    rows = [_row(found) for found in one.rounds]
    if one.base_gold is not None or not rows:
        rows.insert(0, ("base", *[NONE] * 6, f"{one.base_gold:.3f}" if one.base_gold is not None else NONE))
    yield from ((f"{mark} {one.run}" if i == 0 else "", *row) for i, row in enumerate(rows))


def _row(found: RoundFigures) -> tuple[str, ...]:
    return (
        str(found.round) if found.accepted else f"rejected {found.round}",
        found.algorithm,
        f"{found.num_examples:,}",
        win_text(found.win_rate_vs_base),
        f"{found.kl.mean + 0.0:.2f}" if found.kl else NONE,
        f"×{found.length_ratio:.2f}" if found.length_ratio is not None else NONE,
        clock(found.seconds),
        f"{found.gold:.3f}" if found.gold is not None else NONE,
    )


def _print_plot(compared: Sequence[RunFigures]) -> None:
    """Win rate against the base by the distance from it: the further up for as little to the right, the better."""
    curves = {
        mark: [(r.kl.mean, r.win_rate_vs_base.rate) for r in one.rounds if r.kl and r.win_rate_vs_base]
        for mark, one in zip(MARKS, compared, strict=False)
    }
    if not any(curves.values()):
        return
    unicode = is_unicode(sys.stdout)
    width = min(shutil.get_terminal_size().columns, 100) if sys.stdout.isatty() else PIPE_WIDTH
    names = {"x_name": "KL to base, nats per response", "y_name": "win rate vs base"}
    legend = "   ".join(f"{mark} {one_line(one.run, 30)}" for mark, one in zip(MARKS, compared, strict=False))
    drawn = "\n".join(scatter(curves, BASE, width=width, unicode=unicode, **names))
    several = f"   {SEVERAL} several" if SEVERAL in drawn else ""
    print(f"\n{drawn}\n{ORIGIN} the base policy   {legend}{several}")
