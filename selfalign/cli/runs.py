"""`selfalign runs`: the runs there are, and two of them side by side."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from cyclopts import App

from selfalign.cli.output import is_unicode, print_json, print_table, say, sparkline
from selfalign.cli.status import replay, state_of
from selfalign.cli.summary import series
from selfalign.cli.targets import RUNS, differences, find_run, run_names
from selfalign.config import load
from selfalign.stages import report as reports
from selfalign.stages.report.content import rate
from selfalign.store import Run

app = App(name="runs", help="List and compare runs.", help_format="plaintext", result_action="return_value")


@app.command
def ls(*, json: bool = False, runs: Path = RUNS) -> int:
    """List the runs: state, rounds, win rate of the last round, path.

    Parameters
    ----------
    json
        Print JSON.
    runs
        The folder of runs.
    """
    rows = [_facts(Run.open(runs / name)) for name in run_names(runs)]
    if json:
        print_json(rows)
        return 0
    if not rows:
        say(f"{runs} holds no runs yet.  next:  selfalign run pocket")
        return 0
    columns = ("run", "state", "rounds", "win rate vs base", "last event", "path")
    table = [
        (row["run"], row["state"], f"{row['evaluated']}/{row['rounds'] or '?'}", row["said"], row["age"], row["path"])
        for row in rows
    ]
    print_table(columns, table, right=("rounds",))
    return 0


@app.command
def compare(a: str, b: str, /, *, json: bool = False, runs: Path = RUNS) -> int:
    """Put two runs side by side: every figure by round, and the settings in which they differ.

    Parameters
    ----------
    a
        A run: a name or a path.
    b
        Another run.
    json
        Print JSON.
    runs
        The folder of runs.
    """
    pair = [find_run(name, runs) for name in (a, b)]
    figures = [series(reports.read(run)) for run in pair]
    changed = differences(*(load(run.path / "campaign.yaml") for run in pair))
    if json:
        settings = [{"name": name, "a": before, "b": after} for name, before, after, _ in changed]
        print_json({"a": str(pair[0].path), "b": str(pair[1].path), "figures": figures, "settings": settings})
        return 0
    unicode = is_unicode(sys.stdout)
    names = [run.path.name for run in pair]
    rounds = max((len(values) for one in figures for values in one.values()), default=0)
    table = []
    for figure in figures[0]:
        for name, one in zip(names, figures, strict=True):
            values = one[figure]
            shown = [_number(values[i]) if i < len(values) else "" for i in range(rounds)]
            table.append((figure if name is names[0] else "", name, *shown, sparkline(values, unicode=unicode)))
    columns = ("figure", "run", *(f"round {number}" for number in range(rounds)), "")
    print_table(columns, table, right=columns[2:-1])
    if changed:
        print_table(("setting", *names), [(name, before, after) for name, before, after, _ in changed])
    else:
        say("the settings are the same")
    return 0


def _facts(run: Run) -> dict[str, Any]:
    progress, _, pause = replay(run)
    found = reports.read(run)
    win = found[-1].win_rates.get("base") if found else None
    now = time.time()
    return {
        "run": run.path.name,
        "state": state_of(progress, run.holder(), pause, now),
        "rounds": progress.rounds,
        "evaluated": len(found),
        "accepted": sum(report.gate.accepted for report in found),
        "win_rate_vs_base": win,
        "said": rate(win),
        "last_event_time": progress.last_time,
        "age": time.strftime("%Y-%m-%d %H:%M", time.localtime(progress.last_time)) if progress.last_time else "–",
        "path": str(run.path),
    }


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}"
