"""`selfalign status` and `selfalign stop`: a look at a run from outside, and a polite word to its writer."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from selfalign.cli.display import LogDisplay
from selfalign.cli.errors import FAILED, CommandError
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
    if holder is None and state not in ("done", "stopped by a gate"):
        say(f"to go on:  selfalign run {opened.path}")
    return 0


def facts(opened: Run, progress: Progress, holder: Holder | None, state: str, now: float) -> dict[str, Any]:
    """What `status --json` prints."""
    stage = progress.current if progress.current is not None and not progress.current.finished else None
    alive = holder is not None
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
        "gates": [dict(gate) for gate in progress.gates.values()],
        "warnings": progress.warnings,
        "failure": progress.failure or None,
        "last_events": list(progress.recent),
    }


def stop(run: str, /, *, runs: Path = RUNS) -> int:
    """Ask the writer of a run to finish its shard, save and stop.

    Parameters
    ----------
    run
        A run: a name or a path.
    runs
        The folder of runs.
    """
    opened = find_run(run, runs)
    holder = opened.holder()
    if holder is None:
        say(f"{opened.path}: nothing is running")
        return 0
    if holder.host != socket.gethostname():
        raise CommandError(
            f"{opened.path} is being written on another machine",
            where=f"process {holder.pid} on {holder.host} since {holder.since}",
            fix=f"on {holder.host}: selfalign stop {opened.path}",
            code=FAILED,
        )
    if not _is_selfalign(holder.pid):
        raise CommandError(
            f"process {holder.pid} does not look like selfalign; it was not touched",
            where=str(opened.path),
            fix=f"see what it is: ps -p {holder.pid} -o args",
            code=FAILED,
        )
    os.kill(holder.pid, signal.SIGTERM)
    say(f"asked process {holder.pid} to stop; it finishes its shard first. See: selfalign status {opened.path}")
    return 0


def _is_selfalign(pid: int) -> bool:
    """Whether a process of this machine was started as selfalign, by its command line."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(b"selfalign" in word for word in words)
