"""The run folder: one writer, many readers, whole events, safe names, strict JSON, branches."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from selfalign import store
from selfalign.store import FileDamaged, Run, RunLocked, StepDamaged, StoreError, branch
from tests.crash_child import tree, work
from tests.store.helpers import flip

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}

HOLD = """
import sys
from selfalign.store import Run, RunLocked
try:
    with Run.open(sys.argv[1]).lock():
        print("held", flush=True)
        sys.stdin.read()
except RunLocked as error:
    print(error, flush=True)
    sys.exit(3)
"""


def hold(path: Path, script: str = HOLD) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, str(path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_of_many_writers_exactly_one_writes(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "name: x\n")
    racers = [hold(run.path) for _ in range(6)]
    words = [said(racer) for racer in racers]
    assert words.count("held\n") == 1
    winner = racers[words.index("held\n")]
    for racer, word in zip(racers, words, strict=True):
        if racer is not winner:
            assert f"process {winner.pid} on {socket.gethostname()} since 20" in word and racer.wait() == 3
    assert winner.communicate()[0] == "" and winner.returncode == 0


def test_a_second_writer_is_told_who_writes_and_readers_are_not_held_up(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "name: x\n")
    assert run.holder() is None
    holder = hold(run.path)
    assert said(holder) == "held\n"
    with pytest.raises(RunLocked, match=f"process {holder.pid} on"), run.lock():
        pass
    reader = Run.open(run.path)
    found = reader.holder()
    assert found is not None and (found.pid, found.host) == (holder.pid, socket.gethostname())
    assert reader.rounds() == [] and list(reader.events()) == [] and reader.verify() == []
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert reader.holder() is None and (run.path / "lock.json").exists()  # stale, and known to be
    with run.lock():
        assert run.holder() is not None
    assert not (run.path / "lock.json").exists()


def test_an_orphan_of_a_killed_writer_does_not_keep_the_lock(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "name: x\n")
    fork = HOLD.replace("sys.stdin.read()", "import os, time; os.fork() or time.sleep(60); sys.stdin.read()")
    holder = hold(run.path, fork)
    assert said(holder) == "held\n"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with run.lock():
        assert run.holder() is not None


def test_another_run_object_of_the_same_process_is_refused_too(run: Run) -> None:
    with pytest.raises(RunLocked), Run.open(run.path).lock():
        pass
    with run.lock():  # but the holder may hold it again
        run.emit("still_mine")
    run.emit("and_still")


def test_writing_needs_the_lock(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "name: x\n")
    for write in (
        lambda: run.emit("x"),
        lambda: run.step("rounds/000/prompts", inputs={}),
        lambda: run.write_json("a.json", 1),
    ):
        with pytest.raises(StoreError, match="needs the lock"):
            write()


def test_a_reader_never_sees_half_a_document(run: Run) -> None:
    run.write_json("state.json", {"n": 0, "pad": "x" * 5000})
    reader, stop, seen = Run.open(run.path), threading.Event(), []

    def watch() -> None:
        while not stop.is_set():
            seen.append(reader.read_json("state.json")["n"])

    thread = threading.Thread(target=watch)
    thread.start()
    for number in range(1, 150):
        run.write_json("state.json", {"n": number, "pad": "x" * 5000})
    stop.set()
    thread.join()
    assert seen == sorted(seen) and len(seen) > 1


# Events


def test_events_come_back_in_order(run: Run) -> None:
    run.emit("stage_started", round=0, stage="judge", text="a\nb\u2028\x1b[31m\ud800")
    run.emit("progress", done=1)
    first, second = run.events()
    assert first["event"] == "stage_started" and first["text"] == "a\nb\u2028\x1b[31m\ud800" and first["time"] > 1e9
    assert second["done"] == 1
    assert (run.path / "events.jsonl").read_bytes().isascii()


def test_a_torn_line_is_left_out_and_ended_by_the_next_writer(run: Run) -> None:
    run.emit("first")
    path = run.path / "events.jsonl"
    start = path.stat().st_size
    run.emit("second", text="long enough")
    whole = path.read_bytes()
    for end in range(start + 1, len(whole) - 1):
        path.write_bytes(whole[:end])
        assert [event["event"] for event in run.events()] == ["first"]
        run.emit("third")
        assert [event["event"] for event in run.events()] == ["first", "third"]
        assert path.read_bytes().startswith(whole[:end] + b"\n{")


def test_threads_do_not_mix_their_events(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:100]))  # as a file system may
    threads = [
        threading.Thread(target=lambda n=n: [run.emit("progress", n=n, i=i, pad="y" * 500) for i in range(100)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((event["n"], event["i"]) for event in run.events()) == [(n, i) for n in range(4) for i in range(100)]


# Names, links, JSON


@pytest.mark.parametrize(
    "name",
    ["../x", "rounds/../../x", "/etc/x", "rounds//x", "", "-rf", "rounds/-x", ".hidden", "a\nb", "a\0b", "a b",
     "x" * 101, "a/" * 9 + "a", "\u202ex", "rounds/000/", "C:\\x", "~", "caf\u00e9"],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(run: Run, name: str) -> None:
    before = sorted(run.path.parent.rglob("*"))
    calls: list[Callable[[], object]] = [
        lambda: run.step(name, inputs={}),
        lambda: run.view(name),
        lambda: run.write_text(name, "x"),
        lambda: run.read_text(name),
    ]
    for call in calls:
        with pytest.raises(StoreError, match="is not a name"):
            call()
    assert sorted(run.path.parent.rglob("*")) == before


def test_symbolic_links_are_refused_wherever_they_stand(run: Run, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.json").write_text("{}")
    (run.path / "rounds").symlink_to(outside)
    with pytest.raises(StoreError, match="symbolic link"):
        run.step("rounds/000/prompts", inputs={})
    (run.path / "rounds").unlink()
    step = run.step("rounds/000/policy", inputs={})
    (step.path / "model.safetensors").symlink_to(outside / "secret.json")
    with pytest.raises(StoreError, match=r"model\.safetensors is a link"):
        step.finish({})
    (run.path / "report.json").symlink_to(outside / "secret.json")
    with pytest.raises(StoreError, match="symbolic link"):
        run.write_text("report.json", "mine")
    assert [path.name for path in outside.iterdir()] == ["secret.json"]
    assert (outside / "secret.json").read_text() == "{}"


@pytest.mark.parametrize(
    "text",
    ['{"a": 1, "a": 2}', '{"a": NaN}', "[Infinity]", "[-Infinity]", "[1e999]", "[" * 100_000, "1" * 5_000, "{} {}",
     "", "\x00", b"\xff\xfe"],
)  # fmt: skip
def test_json_is_read_strictly(text: str | bytes) -> None:
    with pytest.raises(FileDamaged, match=r"verdict\.json"):
        store.parse_json(text, "verdict.json")


def test_what_json_cannot_hold_is_not_written(run: Run) -> None:
    for value in (float("nan"), {"x": float("inf")}, object(), {"f": print}):
        with pytest.raises(StoreError):
            run.write_json("report.json", value)
    assert not (run.path / "report.json").exists()


def test_files_are_not_group_writable_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        work(tmp_path / "run", rounds=1)
    finally:
        os.umask(before)
    ours = [path for path in (tmp_path / "run").rglob("*") if "policy" not in path.parts]
    assert len(ours) > 8 and not any(path.stat().st_mode & 0o022 for path in ours)


# Opening


def test_creating_twice_and_opening_nothing_are_refused(tmp_path: Path) -> None:
    Run.create(tmp_path / "run", "name: x\n")
    with pytest.raises(StoreError, match="is there already"):
        Run.create(tmp_path / "run", "name: y\n")
    with pytest.raises(StoreError, match="is not a run folder"):
        Run.open(tmp_path / "nothing")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match="is there already"):
        Run.create(tmp_path / "other", "name: x\n")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.txt"]


# Branches


def test_a_branch_goes_on_from_a_round_and_leaves_its_parent_alone(finished: Path) -> None:
    before = tree(finished)
    child = branch(Run.open(finished), 0, finished.with_name("branch"), "name: branch\n")
    assert child.rounds() == [0] and child.read_text("campaign.yaml") == "name: branch\n"
    parent = child.parent()
    assert parent is not None and parent["round"] == 0 and parent["parent"] == str(finished)
    assert child.verify() == []
    with child.lock():
        taken = child.step("rounds/000/prompts", inputs={"data": "other"}, config={"seed": 99})
        assert taken.done  # what came along is taken as it is
        assert not child.step("rounds/001/prompts", inputs={}, config={"seed": 99}).done
    shutil.rmtree(child.path / "rounds/001")
    work(child.path)
    ours = {name: digest for name, digest in tree(child.path).items() if name.startswith("rounds/")}
    assert ours == {name: digest for name, digest in before.items() if name.startswith("rounds/")}
    assert tree(finished) == before and child.verify() == []


def test_a_branch_of_what_is_missing_unfinished_or_damaged_is_refused(finished: Path) -> None:
    source, target = Run.open(finished), finished.with_name("branch")
    with pytest.raises(StoreError, match="has no round 7"):
        branch(source, 7, target)
    (finished / "rounds/001/policy/done.json").unlink()
    with pytest.raises(StoreError, match="rounds/001/policy is not finished"):
        branch(source, 1, target)
    flip(finished / "rounds/000/policy/model.safetensors", 3)
    with pytest.raises(StoreError, match=r"rounds/000/policy/model\.safetensors"):
        branch(source, 0, target)
    assert not target.exists()
    target.mkdir()
    with pytest.raises(StoreError, match="is there already"):
        branch(source, 0, target)


def test_a_damaged_branch_is_not_made_anew_with_other_settings(finished: Path) -> None:
    child = branch(Run.open(finished), 0, finished.with_name("branch"))
    path = child.path / "rounds/000/pairs/part-00000.parquet"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1])
    with child.lock(), pytest.raises(StepDamaged, match="branch from that run again"):
        child.step("rounds/000/pairs", inputs={})
    assert path.exists() and Run.open(finished).verify() == []
