"""The run folder: what is promised of it after crashes, full disks, damage, second writers and changed settings."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from selfalign import store
from selfalign.records import Candidate, Message, Prompt
from selfalign.store import DiskFull, FileDamaged, Run, RunLocked, StepChanged, StepDamaged, StoreError, branch
from tests.crash_child import NOT_COMPARED, one_round, tree, work

CHILD = Path(__file__).with_name("crash_child.py")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(CHILD.parent.parent), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def fast_folder() -> Iterator[Path]:
    """A folder in memory where there is one: the sweeps sync thousands of times."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run.create(tmp_path / "run", "name: test\n")
    with run.lock():
        yield run


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    work(tmp_path / "finished")
    return tmp_path / "finished"


def prompts(number: int, label: str = "q") -> list[Prompt]:
    return [Prompt.make((Message("user", f"{label} {i}"),)) for i in range(number)]


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))


def child(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CHILD), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=250)


# Steps


def test_a_step_is_written_shard_by_shard_and_read_back(run: Run) -> None:
    step = run.step("rounds/000/prompts", inputs={"data": "d1"}, config={"seed": 3})
    assert step.pending(3) == [0, 1, 2] and not step.done
    step.write(2, prompts(1, "c"), {"kept": 1})
    step.write(0, prompts(2, "a"), {"kept": 2, "dropped": 4})
    assert step.pending(3) == [1]
    step.write(1, [])
    step.finish({"seconds": 1.5})
    again = Run.open(run.path).view("rounds/000/prompts")
    assert again is not None and again.done and again.digest == step.digest
    assert again.counts == {"kept": 3, "dropped": 4, "seconds": 1.5}
    assert list(again.shards(Prompt)) == [(0, prompts(2, "a")), (1, []), (2, prompts(1, "c"))]
    assert list(store.read_records(step.path, Prompt)) == [*prompts(2, "a"), *prompts(1, "c")]


def test_counts_survive_a_new_process(run: Run) -> None:
    run.step("rounds/000/prompts", inputs={}).write(0, prompts(1), {"kept": 1})
    step = run.step("rounds/000/prompts", inputs={})
    step.write(1, prompts(2), {"kept": 2})
    step.finish({})
    assert step.counts == {"kept": 3}


def test_the_manifest_lists_what_others_wrote_but_not_their_working_folder(run: Run) -> None:
    step = run.step("rounds/000/policy", inputs={})
    (step.path / "adapter").mkdir()
    (step.path / "checkpoint").mkdir()
    (step.path / "checkpoint" / "rng.bin").write_bytes(b"x")
    (step.path / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    (step.path / ".model.safetensors.tmp").write_bytes(b"stray")
    step.finish({})
    assert list(step.files) == ["adapter/adapter_model.safetensors"]
    manifest = json.loads((step.path / "done.json").read_text())
    assert manifest["files"]["adapter/adapter_model.safetensors"]["size"] == 7
    assert manifest["versions"]["python"].startswith("3.") and "pyarrow" in manifest["versions"]
    (step.path / "checkpoint" / "rng.bin").write_bytes(b"changed")
    assert Run.open(run.path).verify() == []


def test_a_missing_shard_keeps_a_step_open(run: Run) -> None:
    step = run.step("rounds/000/prompts", inputs={})
    step.write(1, prompts(1))
    with pytest.raises(StoreError, match="shard 0 of 2 is missing"):
        step.finish({})
    assert not (step.path / "done.json").exists()


def test_a_finished_step_takes_nothing_more_and_an_open_one_has_no_digest(run: Run) -> None:
    step = run.step("rounds/000/prompts", inputs={})
    with pytest.raises(StoreError, match="not finished"):
        _ = step.digest
    step.finish({})
    with pytest.raises(StoreError, match="finished"):
        step.write(0, prompts(1))
    with pytest.raises(StoreError, match="finished already"):
        step.finish({})


def test_the_digest_follows_inputs_configuration_and_contents_alone(tmp_path: Path) -> None:
    def digest(name: str, inputs: dict[str, str], config: object, rows: list[Prompt], counts: dict[str, int]) -> str:
        run = Run.create(tmp_path / name, "name: x\n")
        with run.lock():
            step = run.step("rounds/000/prompts", inputs=inputs, config=config)
            step.write(0, rows)
            step.finish(counts)
        return step.digest

    first = digest("a", {"i": "1"}, {"c": 1}, prompts(2), {"seconds": 1})
    assert digest("b", {"i": "1"}, {"c": 1}, prompts(2), {"seconds": 2}) == first
    others = [
        digest("c", {"i": "2"}, {"c": 1}, prompts(2), {}),
        digest("d", {"i": "1"}, {"c": 2}, prompts(2), {}),
        digest("e", {"i": "1"}, {"c": 1}, prompts(3), {}),
    ]
    assert len({first, *others}) == 4


# Changed settings


@pytest.mark.parametrize("done", [False, True])
def test_changed_inputs_and_configuration_are_refused_naming_both_sides(run: Run, done: bool) -> None:
    before = {"temperature": 1.0, "model": {"name": "a"}}
    step = run.step("rounds/002/candidates", inputs={"policy": "aaa", "prompts": "ppp"}, config=before)
    if done:
        step.finish({})
    state = tree(run.path)
    after = {"temperature": 0.7, "model": {"name": "a"}}
    with pytest.raises(StepChanged) as error:
        run.step("rounds/002/candidates", inputs={"policy": "bbb", "prompts": "ppp"}, config=after)
    message = str(error.value)
    assert "policy: was 'aaa', now 'bbb'" in message and "temperature: was 1.0, now 0.7" in message
    assert "ppp" not in message and "model" not in message
    assert f"selfalign branch {run.path} NEW_NAME --round 1" in message
    assert tree(run.path) == state
    assert run.step("rounds/002/candidates", inputs={"policy": "aaa", "prompts": "ppp"}, config=before).done is done


# Crashes


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


# Damage


def artifacts(root: Path) -> list[str]:
    return sorted(tree(root))


def test_a_flip_anywhere_in_a_small_file_is_named(finished: Path) -> None:
    run = Run.open(finished)
    for name in ("rounds/000/pairs/done.json", "rounds/000/pairs/step.json", "written.json", "rounds/000/report.json"):
        whole = (finished / name).read_bytes()
        for position in range(0, len(whole), 7):
            flip(finished / name, position)
            assert name in "\n".join(map(str, run.verify())), (name, position)
            (finished / name).write_bytes(whole)


def test_damage_to_any_artifact_is_named(finished: Path) -> None:
    run = Run.open(finished)
    for name in artifacts(finished):
        whole = (finished / name).read_bytes()
        for position in {0, len(whole) // 2, len(whole) - 1}:
            flip(finished / name, position)
            assert name in "\n".join(map(str, run.verify())), (name, position)
            (finished / name).write_bytes(whole)
        (finished / name).write_bytes(whole[:-2])
        assert name in "\n".join(map(str, run.verify())), (name, "truncated")
        (finished / name).unlink()
        if not name.endswith("done.json"):  # without it a step is unfinished, not damaged
            assert name in "\n".join(map(str, run.verify())), (name, "removed")
        (finished / name).write_bytes(whole)
    assert run.verify() == []


def test_a_damaged_step_is_set_aside_and_made_anew(finished: Path) -> None:
    clean = tree(finished)
    for name in [name for name in artifacts(finished) if len(Path(name).parts) > 3]:
        flip(finished / name, 1)
        with pytest.raises(StepDamaged) as error:
            work(finished)
        assert Path(name).name in str(error.value) and "quarantine" in str(error.value)
        assert "Run the same command again" in str(error.value)
        work(finished)
        assert tree(finished) == clean, name


def test_only_the_damaged_shard_is_made_again(finished: Path) -> None:
    folder = finished / "rounds/000/candidates"
    flip(folder / "part-00001.parquet", 40)
    run = Run.open(finished)
    with run.lock():
        with pytest.raises(StepDamaged):
            begin_candidates(run)
        step = begin_candidates(run)
        assert not step.done and step.pending(2) == [1]
    assert (finished / "quarantine/0001/rounds/000/candidates/part-00001.parquet").is_file()


def begin_candidates(run: Run) -> store.Step:
    prompts = run.view("rounds/000/prompts")
    assert prompts is not None
    return run.step("rounds/000/candidates", inputs={prompts.name: prompts.digest, "policy": "base"})


def test_a_damaged_shard_of_an_unfinished_step_is_seen(run: Run) -> None:
    step = run.step("rounds/000/prompts", inputs={})
    step.write(0, prompts(50))
    path = step.path / "part-00000.parquet"
    flip(path, path.stat().st_size // 3)
    assert [problem.path for problem in run.verify()] == ["rounds/000/prompts/part-00000.parquet"]
    with pytest.raises(StepDamaged, match="part-00000"):
        step.read(Prompt, 0)
    assert run.step("rounds/000/prompts", inputs={}).pending(1) == [0]


def test_a_reader_meets_damage_and_changes_nothing(finished: Path) -> None:
    flip(finished / "rounds/000/candidates/part-00000.parquet", 40)
    before = tree(finished)
    step = Run.open(finished).view("rounds/000/candidates")
    assert step is not None
    with pytest.raises(StepDamaged, match="part-00000"):
        step.read(Candidate, 0)
    with pytest.raises(FileDamaged, match="part-00000"):
        list(store.read_records(step.path, Candidate))
    assert tree(finished) == before


def test_a_whole_shard_in_the_place_of_another_is_refused(finished: Path) -> None:
    folder = finished / "rounds/000/candidates"
    shutil.copyfile(folder / "part-00000.parquet", folder / "part-00001.parquet")
    step = Run.open(finished).view("rounds/000/candidates")
    assert step is not None and len(step.read(Candidate, 0)) == 6
    with pytest.raises(StepDamaged, match=r"part-00001\.parquet: SHA-256 does not match"):
        step.read(Candidate, 1)


def test_a_foreign_file_in_a_finished_step_is_refused(finished: Path) -> None:
    (finished / "rounds/001/pairs/part-00002.parquet").write_bytes(b"poison")
    assert [problem.path for problem in Run.open(finished).verify()] == ["rounds/001/pairs/part-00002.parquet"]
    with pytest.raises(StepDamaged, match=r"part-00002\.parquet: not listed"):
        work(finished)


def test_a_document_changed_behind_the_runs_back_is_refused(run: Run) -> None:
    run.write_json("rounds/000/report.json", {"win_rate": 0.4})
    assert run.read_json("rounds/000/report.json") == {"win_rate": 0.4}
    run.write_json("rounds/000/report.json", {"win_rate": 0.5})
    assert run.read_json("rounds/000/report.json") == {"win_rate": 0.5}
    (run.path / "rounds/000/report.json").write_text('{"win_rate": 0.9}')
    with pytest.raises(StoreError, match=r"report\.json was changed"):
        run.read_json("rounds/000/report.json")


# Lineage


def test_a_step_of_another_round_in_the_place_of_one_is_named(finished: Path) -> None:
    shutil.rmtree(finished / "rounds/000/policy")
    shutil.copytree(finished / "rounds/001/policy", finished / "rounds/000/policy")
    problems = "\n".join(map(str, Run.open(finished).verify()))
    assert "rounds/000/policy/done.json: belongs to step 'rounds/001/policy'" in problems


def test_a_replayed_step_breaks_the_first_link_after_it(finished: Path, tmp_path: Path) -> None:
    other = Run.create(tmp_path / "other", "name: other\n")
    with other.lock():
        step = other.step("rounds/000/prompts", inputs={"data": "0" * 20}, config={"seed": 1})
        step.write(0, prompts(3, "other"))
        step.finish({})
    shutil.rmtree(finished / "rounds/000/prompts")
    shutil.copytree(step.path, finished / "rounds/000/prompts")
    problems = Run.open(finished).verify()
    assert [problem.path for problem in problems] == ["rounds/000/candidates"]
    assert "broken link: made from rounds/000/prompts" in problems[0].what


def test_a_missing_policy_breaks_the_link_whatever_its_input_is_called(finished: Path) -> None:
    shutil.rmtree(finished / "rounds/000/policy")
    problems = [str(problem) for problem in Run.open(finished).verify()]
    assert len(problems) == 1 and "rounds/001/candidates: broken link: made from policy" in problems[0]


# The lock

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


def test_threads_do_not_mix_their_events(run: Run) -> None:
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


def test_what_is_not_compared_is_what_holds_times(finished: Path) -> None:
    everything = {path.name for path in finished.iterdir() if path.is_file()}
    assert everything - NOT_COMPARED == {"campaign.yaml", "written.json"}
