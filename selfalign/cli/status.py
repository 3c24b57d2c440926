"""`selfalign status` and `selfalign stop`: a look at a run from outside, and a polite word to its writer."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Literal

from selfalign import control
from selfalign.cli.display import LogDisplay
from selfalign.cli.output import print_json, say
from selfalign.cli.targets import CAMPAIGN_FILE, RUNS, find_run
from selfalign.config import load
from selfalign.progress import Progress, works_of
from selfalign.store import Holder, Run


def status(run: str, /, *, json: bool = False, runs: Path = RUNS) -> int:
    """Show where a run stands: round, stage, progress, time left, and whether its writer is alive.

    Parameters
    ----------
    run
        A run: a name or a path.
    json
        Print JSON.
    runs
        The folder of runs.
    """
    opened, now = find_run(run, runs), time.time()
    progress = Progress.of(opened.events(), works_of(load(opened.path / CAMPAIGN_FILE).campaign))
    holder = opened.holder()
    state = progress.state_of(holder, now)
    if json:
        print_json(facts(opened, progress, holder, state, now))
        return 0
    from selfalign.cli.live import snapshot

    shown_at = now if holder is not None else progress.last_time or now
    snapshot(progress, opened.path.name, shown_at, sys.stdout, state)
    print()
    print(f"writer: process {holder.pid} on {holder.host} since {holder.since}" if holder else "writer: none")
    log = LogDisplay(sys.stdout)
    for event in progress.recent:
        log.handle(event)
    asked = opened.stop_asked()
    if holder is not None and asked is not None:
        say(f"it will stop after round {asked.round}, as asked; to take that back: {control.withdrawing(opened.path)}")
    if holder is None and state not in ("done", "stopped by a gate"):
        before = f"stopped after round {progress.round}, as asked; " if state == "stopped as asked" else ""
        say(f"{before}to go on:  selfalign run {opened.path}")
    return 0


def facts(opened: Run, progress: Progress, holder: Holder | None, state: str, now: float) -> dict[str, Any]:
    """What `status --json` prints."""
    stage = progress.current if progress.current is not None and not progress.current.finished else None
    alive, asked = holder is not None, opened.stop_asked()
    return {
        "run": opened.path.name,
        "path": str(opened.path),
        "state": state,
        "writer": {"pid": holder.pid, "host": holder.host, "since": holder.since} if holder else None,
        "round": progress.round,
        "rounds": progress.rounds,
        "stage": stage.name if stage else None,
        "done": stage.done if stage else None,
        "total": stage.total if stage else None,
        "unit": stage.unit if stage else None,
        "stage_seconds_left": stage.eta(now) if stage and alive else None,
        "campaign_seconds_left": progress.campaign_eta(now) if alive else None,
        "elapsed_seconds": progress.elapsed(now if alive else None),
        "stop_after_round": asked.round if alive and asked is not None else None,
        "gates": [dict(gate) for gate in progress.gates.values()],
        "warnings": progress.warnings,
        "failure": progress.failure or None,
        "last_events": list(progress.recent),
    }


def stop(run: str, /, *, after: Literal["shard", "round"] = "shard", withdraw: bool = False, runs: Path = RUNS) -> int:
    """Ask the writer of a run to finish its shard, or its round, save and stop.

    Parameters
    ----------
    run
        A run: a name or a path.
    after
        What to finish first. A stop after the round can be asked for on any machine that sees the folder of the run.
    withdraw
        Take back a stop after the round that was asked for.
    runs
        The folder of runs.
    """
    opened = find_run(run, runs)
    asked = control.withdraw_stop if withdraw else getattr(control, f"stop_after_{after}")
    say(asked(opened))
    return 0
