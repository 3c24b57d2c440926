"""After kills, failed syncs and full disks: everything finished is there, and the same command goes on."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from selfalign.store import DiskFull, Run, StoreError
from tests.crash_child import one_round, tree, work

CHILD = Path(__file__).parents[1] / "crash_child.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}


def child(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CHILD), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=250)


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 5])  # 5: a write takes four operations
def test_kill_at_durable_operations(fast_folder: Path, every: int) -> None:
    result = child("sweep", fast_folder, every)
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(result.stdout) > 80  # so many places there are to die at


@pytest.mark.parametrize("seed", [1, 2])
def test_kills_at_random_places_up_to_four_times(fast_folder: Path, seed: int) -> None:
    result = child("random", fast_folder, seed)
    assert result.returncode == 0, result.stdout + result.stderr


def test_all_is_synced_before_the_name_that_vouches_for_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[tuple[int, int]] = set()
    renamed: list[Path] = []
    fsync, replace = os.fsync, os.replace

    def inode(path: Path | int | str) -> tuple[int, int]:
        return os.stat(path).st_dev, os.stat(path).st_ino

    def recording_fsync(descriptor: int) -> None:
        fsync(descriptor)
        synced.add(inode(descriptor))

    def checking_replace(source: Path, target: Path) -> None:
        assert inode(source) in synced, f"{target} was renamed before its contents were synced"
        assert not renamed or inode(renamed[-1].parent) in synced, f"the name of {renamed[-1]} was not synced"
        if target.name == "done.json":
            behind = [path for path in target.parent.rglob("*") if inode(path) not in synced]
            assert behind == [], f"done.json vouches for {behind}, which are not synced"
        replace(source, target)
        synced.discard(inode(target.parent))
        renamed.append(target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "replace", checking_replace)
    one_round(run, "rounds/000", "base")
    assert len(renamed) > 12 and inode(renamed[-1].parent) in synced


def test_events_are_synced_but_for_progress(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    run.emit("progress", done=1)
    assert synced == []
    run.emit("stage_done")
    assert len(synced) == 1


def test_a_failed_sync_commits_nothing(fast_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work(fast_folder / "clean", rounds=1)
    clean, syncs = tree(fast_folder / "clean"), os.fsync
    for number in range(1, 200):
        calls = iter(range(number))

        def fail_once(descriptor: int, calls: Iterator[int] = calls, last: int = number - 1) -> None:
            if next(calls, None) == last:
                raise OSError(errno.EIO, "Input/output error")
            syncs(descriptor)

        path = fast_folder / str(number)
        monkeypatch.setattr(os, "fsync", fail_once)
        try:
            work(path, rounds=1)
            return
        except StoreError as error:
            assert "Input/output error" in str(error)
        finally:
            monkeypatch.setattr(os, "fsync", syncs)
        work(path, rounds=1)
        assert tree(path) == clean and Run.open(path).verify() == []
        shutil.rmtree(path)
    raise AssertionError("never ran to the end")


def test_a_full_disk_is_named_and_loses_nothing(fast_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work(fast_folder / "clean", rounds=1)
    clean, write = tree(fast_folder / "clean"), os.write
    full = 0
    for room in range(0, 40_000, 700):
        left = room

        def write_while_room(descriptor: int, data: bytes) -> int:
            nonlocal left
            if left == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            written = write(descriptor, bytes(data)[:left])
            left -= written
            return written

        path = fast_folder / "full"
        monkeypatch.setattr(os, "write", write_while_room)
        try:
            work(path, rounds=1)
        except DiskFull as error:
            full += 1
            assert str(path) in str(error) and "run the same command again" in str(error)
        finally:
            monkeypatch.setattr(os, "write", write)
        work(path, rounds=1)
        assert tree(path) == clean and Run.open(path).verify() == []
        shutil.rmtree(path)
    assert full > 10


def test_a_really_full_disk(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=24k none {tmp_path} && exec {sys.executable} {CHILD} run {tmp_path}/run"
    probe = subprocess.run(["unshare", "-Urm", "true"], capture_output=True) if shutil.which("unshare") else None
    if probe is None or probe.returncode:
        pytest.skip("may not make a file system of its own here")
    result = subprocess.run(["unshare", "-Urm", "sh", "-c", mount], capture_output=True, text=True, env=ENVIRONMENT)
    assert "DiskFull" in result.stderr and "Nothing finished is lost" in result.stderr, result.stderr


def test_the_next_writer_removes_what_a_crash_left(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "name: x\n")
    strays = [run.path / ".campaign.yaml.tmp", run.path / "rounds" / "000" / ".report.json.tmp"]
    strays[1].parent.mkdir(parents=True)
    for stray in strays:
        stray.write_bytes(b"half")
    Run.open(run.path)
    assert all(stray.exists() for stray in strays)  # a reader touches nothing
    with run.lock():
        assert not any(stray.exists() for stray in strays)
