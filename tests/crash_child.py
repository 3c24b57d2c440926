"""A small campaign of two rounds, and ways to let it die: run as a script, it sweeps over every place to die at.

python crash_child.py sweep FOLDER EVERY     kill -9 at every durable operation (or every fifth), resume, compare
python crash_child.py random FOLDER SEED     up to four kills at random places in one run
python crash_child.py run FOLDER             run to the end
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from selfalign.records import Candidate, Pair, Prompt
from selfalign.records import Message as M
from selfalign.store import Run, StepDamaged
from selfalign.store import tables as _tables  # noqa: F401  imported before the forks, as it takes long

NOT_COMPARED = {"events.jsonl", "run.lock", "lock.json"}  # times and process ids
DURABLE = ("fsync", "replace", "rename", "unlink", "write")


def work(path: Path, rounds: int = 2) -> None:
    """Run the campaign from wherever it stands to its end."""
    run = Run.open(path) if (path / "campaign.yaml").exists() else Run.create(path, "name: crash\n")
    with run.lock():
        run.emit("campaign_started", rounds=rounds)
        policy = "base"
        for number in range(rounds):
            policy = one_round(run, f"rounds/{number:03d}", policy)
        run.emit("campaign_done")


def one_round(run: Run, place: str, policy: str) -> str:
    run.write_text(f"{place}/constitution.yaml", f"# {place}\n")
    prompts = run.step(f"{place}/prompts", inputs={"data": "0" * 20}, config={"seed": 1})
    questions = [[Prompt.make((M("user", f"{place} {shard} {i}"),)) for i in range(3)] for shard in range(2)]
    if not prompts.done:
        for index in prompts.pending(2):
            prompts.write(index, questions[index], {"prompts": 3})
        prompts.finish({})
    candidates = run.step(f"{place}/candidates", inputs={prompts.name: prompts.digest, "policy": policy}, config=None)
    if not candidates.done:
        for index in candidates.pending(2):
            candidates.write(index, [c for p in prompts.read(Prompt, index) for c in answers(p)], {"candidates": 6})
            run.emit("progress", done=index)
        candidates.finish({})
    pairs = run.step(f"{place}/pairs", inputs={candidates.name: candidates.digest})
    if not pairs.done:
        for index in pairs.pending(2):
            rows = candidates.read(Candidate, index) if index == 0 else []
            pairs.write(
                index, [Pair(a.prompt_id, a.id, b.id, 0.75, 0.5) for a, b in zip(rows[::2], rows[1::2], strict=True)]
            )
        pairs.finish({"pairs": 3})
    trained = run.step(f"{place}/policy", inputs={pairs.name: pairs.digest}, config={"beta": 0.1})
    if not trained.done:
        train(trained.path, place)
        trained.finish({"steps": 1})
    run.write_json(f"{place}/report.json", {"round": place, "win_rate": 0.6})
    return trained.digest


def answers(prompt: Prompt) -> list[Candidate]:
    ids = [Candidate.make_id(prompt.id, "base", i, 7) for i in range(2)]
    return [Candidate(ids[i], prompt.id, "base", i, 7, f"answer {i}\u2028", (i, 2, 3), "stop", -1.5) for i in range(2)]


def train(folder: Path, place: str) -> None:
    """Write as a trainer does: files of its own, in place, with a working folder that is gone at the end."""
    (folder / "adapter").mkdir(exist_ok=True)
    (folder / "checkpoint").mkdir(exist_ok=True)
    (folder / "checkpoint" / "state.bin").write_bytes(b"half")
    (folder / "model.safetensors").write_bytes(place.encode() * 1000)
    (folder / "adapter" / "config.json").write_text("{}")
    shutil.rmtree(folder / "checkpoint")


def tree(path: Path) -> dict[str, str]:
    """Digests of all files of a run that do not hold times."""
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name not in NOT_COMPARED and "quarantine" not in file.relative_to(path).parts
    }


def die_after(operations: int) -> None:
    """From now on, let this process kill itself after so many durable operations; a write dies half way."""
    left = itertools.count(operations, -1)

    def dying(name: str, original: Callable) -> Callable:
        def operate(*arguments, **options):
            last = next(left) == 1
            if last and name == "write":
                original(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return original(*arguments, **options)
            finally:
                if last:
                    os.kill(os.getpid(), signal.SIGKILL)

        return operate

    for name in DURABLE:
        setattr(os, name, dying(name, getattr(os, name)))


def survives(path: Path, operations: int, rounds: int = 2) -> bool:
    """Run the campaign in a fork that dies after so many operations; False if it died."""
    child = os.fork()
    if child == 0:
        die_after(operations)
        try:
            work(path, rounds)
        except StepDamaged as error:  # nothing a crash leaves may look like damage
            print(error, flush=True)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return False
    assert status == 0, f"after {operations} operations: status {status}"
    return True


def check(path: Path, clean: dict[str, str], label: str) -> None:
    assert tree(path) == clean, f"{label}: {set(tree(path).items()) ^ set(clean.items())}"
    assert Run.open(path).verify() == [], label
    names = [event["event"] for event in Run.open(path).events()]
    assert names[-1] == "campaign_done", f"{label}: {names}"


def sweep(folder: Path, every: int) -> int:
    """Kill a campaign of one round at its first durable operation, a fresh one at a later, and so on to the last."""
    work(folder / "clean", rounds=1)
    clean, path, operations = tree(folder / "clean"), folder / "killed", 1
    while not survives(path, operations, rounds=1):
        if (path / "campaign.yaml").exists():
            missing = [problem for problem in Run.open(path).verify() if "missing" not in problem.what]
            assert missing == [], f"{operations}: a reader sees {missing}"
        work(path, rounds=1)
        check(path, clean, f"killed after {operations}")
        shutil.rmtree(path)
        operations += every
    return operations


def random_kills(folder: Path, seed: int) -> None:
    work(folder / "clean")
    clean, chance = tree(folder / "clean"), random.Random(seed)
    for trial in range(6):
        path = folder / f"random-{trial}"
        for _ in range(4):
            survives(path, chance.randrange(1, 200))
        work(path)
        assert tree(path) == clean and Run.open(path).verify() == [], f"seed {seed} trial {trial}"


if __name__ == "__main__":
    command, where = sys.argv[1], Path(sys.argv[2])
    if command == "sweep":
        print(sweep(where, int(sys.argv[3])))
    elif command == "random":
        random_kills(where, int(sys.argv[3]))
    else:
        work(where)
