"""The inference worker as a real process, with a scripted engine inside."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import pytest

from selfalign.config import EngineSettings, Train
from selfalign.engines.base import ChoiceRequest, EngineError, GenerateRequest, Sampling, ScoreRequest
from selfalign.launch import local
from selfalign.launch.worker import Start, Use
from selfalign.records import Message
from selfalign.training.job import TrainJob

SCRIPT = Path(__file__).with_name("scripted_worker.py")


def request(text: str, number: int = 0) -> GenerateRequest:
    return GenerateRequest(f"r{number}", (Message("user", text),), number)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[local.RemoteWorker]:
    start = Start(settings=EngineSettings())
    remote = local.RemoteWorker(start, tmp_path / "inference.log", command=[sys.executable, str(SCRIPT)])
    yield remote
    remote.close()


def test_answers_every_request_once_and_reloads_in_place(worker: local.RemoteWorker) -> None:
    worker.use(Use("echo-1"))
    answers = list(worker.generate((request(f"q{i}", i) for i in range(10_000)), Sampling(max_tokens=9)))
    assert sorted(answer.id for answer in answers) == sorted(f"r{i}" for i in range(10_000))
    assert {answer.text for answer in answers} == {f"echo-1: q{i}" for i in range(10_000)}
    assert answers[0].num_prompt_tokens == 9
    worker.use(Use("echo-2"))
    assert [answer.text for answer in worker.generate([request("again")], Sampling())] == ["echo-2: again"]
    asked = ChoiceRequest("c", (Message("user", "?"),), ("A", "B"))
    assert [choice.probabilities for choice in worker.choose([asked])] == [(0.75, 0.25)]
    answer = ScoreRequest("s", (Message("user", "?"),), (4, 5))
    assert [rewarded.reward for rewarded in worker.reward([answer])] == [9.0]


def test_a_call_without_requests_ends(worker: local.RemoteWorker) -> None:
    worker.use(Use("echo"))
    assert list(worker.generate([], Sampling())) == []


def test_requests_are_pulled_as_they_are_answered(worker: local.RemoteWorker) -> None:
    """An endless stage runs in flat memory, and closing it drops what is in flight."""
    worker.use(Use("echo"))
    pulled = []
    endless = (pulled.append(i) or request("q", i) for i in count())
    answers = worker.generate(endless, Sampling())
    assert len(list(islice(answers, 20_000))) == 20_000
    assert len(pulled) <= 20_000 + local.WINDOW + local.CHUNK
    answers.close()
    assert [answer.text for answer in worker.generate([request("after")], Sampling())] == ["echo: after"]


def test_sleeping_reaches_the_engine(worker: local.RemoteWorker) -> None:
    worker.use(Use("echo"))
    worker.sleep()
    assert [answer.text for answer in worker.generate([request("q")], Sampling())] == ["echo slept: q"]


def test_one_engine_is_awake_at_a_time(worker: local.RemoteWorker) -> None:
    asked = ChoiceRequest("c", (Message("user", "?"),), ("A", "B"))
    for model in ("echo-1", "other-1", "echo-2", "other-2", "other-3"):
        worker.use(Use(model))
        assert [choice.raw for choice in worker.choose([asked])] == [model]


def test_an_engine_error_keeps_its_words_and_the_worker_lives(worker: local.RemoteWorker) -> None:
    worker.use(Use("echo"))
    requests = [request("q", 0), request("fail", 1), *(request("q", i) for i in range(2, 9000))]
    with pytest.raises(EngineError, match="the engine failed"):
        list(worker.generate(requests, Sampling()))
    with pytest.raises(EngineError, match="single token"):
        worker.check_labels(["A", "AB"])
    assert len(list(worker.generate([request("q", i) for i in range(100)], Sampling()))) == 100


def test_a_dead_worker_is_named_with_its_last_words(worker: local.RemoteWorker) -> None:
    worker.use(Use("echo"))
    with pytest.raises(local.WorkerDied, match=r"status 7(.|\n)*inference\.log"):
        list(worker.generate([request("die")], Sampling()))
    with pytest.raises(local.WorkerDied):
        worker.use(Use("another"))


def test_the_worker_ends_when_its_controller_is_gone(tmp_path: Path) -> None:
    """SIGKILL of the controller closes the pipe; the worker must not stay behind and hold the GPU."""
    start = Start(settings=EngineSettings())
    remote = local.RemoteWorker(start, tmp_path / "log", command=[sys.executable, str(SCRIPT)])
    remote.use(Use("echo"))
    remote.process.stdin.close()
    assert remote.process.wait(timeout=20) == 0


def test_no_listening_socket(worker: local.RemoteWorker) -> None:
    worker.use(Use("echo"))
    tables = [Path(f"/proc/{worker.process.pid}/net/{name}").read_text() for name in ("tcp", "tcp6")]
    listening = [line for table in tables for line in table.splitlines() if line.split()[3] == "0A"]
    inodes = {line.split()[9] for line in listening}
    links = [os.readlink(fd) for fd in Path(f"/proc/{worker.process.pid}/fd").iterdir()]
    assert not inodes & {link[8:-1] for link in links if link.startswith("socket:[")}


def job(**train: object) -> TrainJob:
    return TrainJob(
        policy_path="/no/such/model",
        prompts_dirs=(),
        candidates_dirs=(),
        examples_dirs=(),
        output_dir="",
        train=Train(**train),
    )


def test_several_processes_go_through_a_launcher_and_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "has_gpu", lambda: False)
    assert "run" not in " ".join(local.trainer_command(job(), Path("job.json")))
    two = local.trainer_command(job(num_processes=2), Path("job.json"))
    assert two[1:3] == ["-m", "torch.distributed.run"] and two[two.index("--nproc-per-node") + 1] == "2"
    configured = local.trainer_command(job(accelerate_config="fsdp.yaml"), Path("job.json"))
    assert "accelerate.commands.launch" in configured and "fsdp.yaml" in configured


def test_a_failing_trainer_is_named_with_its_last_words(tmp_path: Path) -> None:
    failing = pytest.raises(local.WorkerDied, match=r"status 1(.|\n)*train-000\.log")
    with failing, local.LocalWorkers(local.Campaign(), tmp_path) as workers:
        workers.train(job(), lambda event, **_: None)
