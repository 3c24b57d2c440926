"""A scripted campaign and the places to let it die at: `python campaign_child.py FOLDER FIRST STRIDE`.

Each trial forks; the fork kills itself at its Nth durable operation, for N = FIRST, FIRST + STRIDE, and so on to the
end of the campaign. Then the campaign is run again, and its run folder must be that of one that was never killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pyarrow.parquet  # noqa: F401  imported before the forks, as it takes long

from selfalign.campaign import run_campaign
from selfalign.store import Run
from tests.crash_child import die_after
from tests.scripted import ScriptedWorkers, start, write_campaign

_BY_THE_CLOCK = ("seconds", "seconds_per_pair", "checksum")
NOT_COMPARED = {"events.jsonl", "run.lock", "lock.json", "written.json"}


def campaign(folder: Path, settings: Any) -> None:
    work = start(folder, settings, ScriptedWorkers())
    with work.run.lock():
        run_campaign(work)


def without_times(value: Any) -> Any:
    """JSON without what a clock decides: durations, and digests of documents that show them."""
    if isinstance(value, dict):
        return {name: without_times(item) for name, item in value.items() if name not in _BY_THE_CLOCK}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def tree(run: Path) -> dict[str, str]:
    """What a run holds, by file: its digest, durations left out. Pages that only show the rest are left out."""
    found = {}
    for path in sorted(run.rglob("*")):
        if path.is_file() and path.name not in NOT_COMPARED and path.suffix not in (".md", ".html"):
            data = path.read_bytes()
            if path.suffix == ".json":
                data = json.dumps(without_times(json.loads(data)), sort_keys=True).encode()
            found[str(path.relative_to(run))] = hashlib.sha256(data).hexdigest()
    return found


def dies(folder: Path, settings: Any, operations: int) -> bool:
    """Run the campaign in a fork that kills itself after so many durable operations; False if it ended before."""
    child = os.fork()
    if child == 0:
        die_after(operations)
        campaign(folder, settings)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    assert status == 0, f"after {operations} operations: status {status}"
    return False


def sweep(folder: Path, first: int, stride: int) -> int:
    settings = write_campaign(
        folder, rounds=1, prompts__per_round=4, generate__shard_prompts=2, evaluate__prompts=2, seed=5
    )
    campaign(folder, settings)
    clean, operations = tree(folder / "run"), first
    while True:
        shutil.rmtree(folder / "run")
        if not dies(folder, settings, operations):
            return operations
        campaign(folder, settings)
        now = tree(folder / "run")
        assert now == clean, f"killed after {operations}: {set(now.items()) ^ set(clean.items())}"
        assert Run.open(folder / "run").verify() == [], operations
        operations += stride


if __name__ == "__main__":
    print(sweep(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])), "places to die at")
