"""The run folder: atomic steps, shards, digests, the lock, events, resume, verify, branch.

    with Run.open(path).lock() as run:
        step = run.step("rounds/000/candidates", inputs={prompts.name: prompts.digest}, config=settings)
        for index in step.pending(total):
            step.write(index, rows)
        step.finish({"candidates": 512})

A crash at any instant leaves each file whole or absent; running the same code again goes on from the last shard.
"""

from selfalign.store.branch import branch
from selfalign.store.files import (
    PLAIN_NAMES,
    DiskFull,
    FileDamaged,
    Problem,
    RunLocked,
    StepChanged,
    StepDamaged,
    StoreError,
    append_line,
    atomic_write,
    fsync_file,
    fsync_folder,
    is_plain_name,
    parse_json,
    sha256_file,
)
from selfalign.store.run import Holder, Run, run_folders
from selfalign.store.step import Step, read_records

__all__ = [
    "PLAIN_NAMES", "DiskFull", "FileDamaged", "Holder", "Problem", "Run", "RunLocked", "Step", "StepChanged",
    "StepDamaged", "StoreError", "append_line", "atomic_write", "branch", "fsync_file", "fsync_folder",
    "is_plain_name", "parse_json", "read_records", "run_folders", "sha256_file",
]  # fmt: skip
