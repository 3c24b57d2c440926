"""`selfalign runs`: the runs there are, and some of them side by side."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from cyclopts import App

from selfalign.cli.compare import MARKS, print_comparison
from selfalign.cli.errors import USAGE, CommandError
from selfalign.cli.output import print_json, print_table, say
from selfalign.cli.targets import RUNS, find_run, run_names
from selfalign.progress import Progress
from selfalign.stages import report as reports
from selfalign.stages.report.comparison import figures, settings_that_differ
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
def compare(*names: str, json: bool = False, runs: Path = RUNS) -> int:
    """Put runs side by side, round by round: how good, how far from the base, how long; and the settings that differ.

    Parameters
    ----------
    names
        Two runs or more: names or paths.
    json
        Print JSON.
    runs
        The folder of runs.
    """
    if not 2 <= len(names) <= len(MARKS):
        raise CommandError(
            f"runs compare takes 2 to {len(MARKS)} runs, and got {len(names)}",
            fix="selfalign runs ls lists them; then, for one: selfalign report RUN",
            code=USAGE,
        )
    compared = [figures(find_run(name, runs)) for name in names]
    if json:
        differing = settings_that_differ([one.loaded.campaign for one in compared])
        changed = [{"name": name, "values": values} for name, values in differing]
        print_json({"runs": [one.facts() for one in compared], "settings": changed})
    else:
        print_comparison(compared)
    return 0


def _facts(run: Run) -> dict[str, Any]:
    progress = Progress.of(run.events())
    found = reports.read(run)
    win = found[-1].win_rates.get("base") if found else None
    now = time.time()
    return {
        "run": run.path.name,
        "state": progress.state_of(run.holder(), now),
        "rounds": progress.rounds,
        "evaluated": len(found),
        "accepted": sum(report.gate.accepted for report in found),
        "win_rate_vs_base": win,
        "said": rate(win),
        "last_event_time": progress.last_time,
        "age": time.strftime("%Y-%m-%d %H:%M", time.localtime(progress.last_time)) if progress.last_time else "–",
        "path": str(run.path),
    }
