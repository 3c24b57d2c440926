"""Where a stage runs on one machine: the inference worker, kept alive, and a trainer process for each round."""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from selfalign.config import Campaign, Judge
from selfalign.engines import trainer_environment, worker_environment
from selfalign.engines.base import (
    Choice,
    ChoiceRequest,
    Engine,
    EngineError,
    GenerateRequest,
    Generation,
    Rewarded,
    Sampling,
    Score,
    ScoreRequest,
)
from selfalign.engines.hardware import has_gpu
from selfalign.launch import wire
from selfalign.launch.worker import Start, Use
from selfalign.steps import Answer
from selfalign.training.job import TrainJob, write_job

WINDOW = 4096  # requests sent and not yet answered: more than an engine keeps in flight, so that it never starves
CHUNK = 64
WORKER = (sys.executable, "-m", "selfalign.launch.worker")

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1

Emit = Callable[..., None]


class WorkerDied(RuntimeError):
    """A worker process ended on its own. What is recorded stays; running the same command again goes on."""


class LocalWorkers:
    """The processes of one campaign on this machine. Use as a context manager: leaving it ends them all."""

    def __init__(self, campaign: Campaign, run_path: Path) -> None:
        self.campaign = campaign
        self.logs = run_path / "logs"
        self._worker: RemoteWorker | None = None
        self._trainer: subprocess.Popen[str] | None = None

    def __enter__(self) -> LocalWorkers:
        self.logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self.close() if error is None else self.kill()

    def engine(self, model: str, *, trust_remote_code: bool = False) -> RemoteWorker:
        """The inference worker with `model` in place."""
        if self._worker is None:
            self._worker = RemoteWorker(Start(settings=self.campaign.engine), self.logs / "inference.log")
        self._worker.use(Use(model, trust_remote_code))
        return self._worker

    def api(self, judge: Judge) -> Engine:
        """A judge behind an API; it needs no process of its own."""
        from selfalign.engines.openai import OpenAIEngine  # its client takes a second to import

        return OpenAIEngine(judge)

    def train(self, job: TrainJob, emit: Emit, answer: Answer | None = None) -> None:
        """Run the trainer to its end, passing its progress on, and the rollouts that it asks for back.

        Raises WorkerDied with the last lines of its log, and what `answer` raises.
        """
        if self._worker is not None:
            self._worker.sleep()
        job_path = self.logs / f"train-{job.round:03d}.json"
        write_job(job, job_path)
        log_path = self.logs / f"train-{job.round:03d}.log"
        with log_path.open("ab") as log:
            self._trainer = _spawn(
                trainer_command(job, job_path),
                stdin=subprocess.PIPE if answer else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **trainer_environment()},
            )
            try:
                for line in self._trainer.stdout:
                    wanted = _relay(line, emit, log)
                    if wanted is not None and answer is not None:
                        self._reply(answer(**wanted))
            finally:
                if self._trainer.stdin is not None:
                    self._trainer.stdin.close()  # a trainer that waits for rollouts ends; what it has is saved
            status = self._trainer.wait()
        self._trainer = None
        if status != 0:
            raise WorkerDied(f"the trainer of round {job.round} ended with status {status}\n{tail(log_path)}")

    def _reply(self, answer: dict[str, Any]) -> None:
        if self._worker is not None:
            self._worker.sleep()
        with suppress(BrokenPipeError):  # it has ended; its status tells why
            self._trainer.stdin.write(msgspec.json.encode(answer).decode() + "\n")
            self._trainer.stdin.flush()

    def stop_training(self) -> None:
        """Ask the trainer, where one runs, to write a checkpoint and end."""
        if self._trainer is not None:
            self._trainer.send_signal(signal.SIGTERM)

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()

    def kill(self) -> None:
        for process in (self._trainer, self._worker and self._worker.process):
            if process is not None:
                _kill_group(process)


class RemoteWorker:
    """The calls of the Engine protocol, spoken to the inference worker over its pipes."""

    def __init__(self, start: Start, log_path: Path, command: Sequence[str] = WORKER) -> None:
        self.log_path = log_path
        with log_path.open("ab") as log:
            self.process = _spawn(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **worker_environment(start.settings)},
            )
        self._call = 0
        self._held: Use | None = None
        self.dtype = ""
        self._frames: queue.SimpleQueue[wire.Frame | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        self._send("start", start)

    def use(self, wanted: Use) -> None:
        """Have the worker hold a model, unless it does already."""
        if wanted != self._held:
            self._held = None
            self.dtype = wire.decode(self._request("use", wanted), str)
            self._held = wanted

    def sleep(self) -> None:
        self._request("sleep")

    def check_labels(self, labels: Iterable[str]) -> None:
        self._request("check_labels", tuple(labels))

    def generate(self, requests: Iterable[GenerateRequest], sampling: Sampling) -> Iterator[Generation]:
        return self._stream("generate", requests, sampling)

    def choose(self, requests: Iterable[ChoiceRequest]) -> Iterator[Choice]:
        return self._stream("choose", requests)

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[Score]:
        return self._stream("score", requests)

    def reward(self, requests: Iterable[ScoreRequest]) -> Iterator[Rewarded]:
        return self._stream("reward", requests)

    def close(self) -> None:
        """End the worker: politely, then by force."""
        try:
            self._send("quit")
            self.process.wait(timeout=10)
        except (WorkerDied, subprocess.TimeoutExpired):
            _kill_group(self.process)

    def _request(self, op: str, body: Any = None) -> msgspec.Raw:
        self._call += 1
        self._send(op, body)
        return self._receive().body

    def _stream(self, op: str, requests: Iterable[Any], body: Any = None) -> Iterator[Any]:
        """Keep up to WINDOW requests with the worker and yield its answers; closing cancels what is in flight."""
        self._call += 1
        self._send(op, body)
        source = iter(requests)
        sent, finished = 0, False
        try:
            while True:
                while not finished and sent < WINDOW:
                    chunk = list(islice(source, CHUNK))
                    sent += len(chunk)
                    finished = not chunk
                    self._send("end" if finished else "requests", chunk)
                frame = self._receive()
                if frame.op == "done":
                    return
                results = wire.decode(frame.body, list[wire.RESULTS[op]])
                sent -= len(results)
                yield from results
        except GeneratorExit:
            self._cancel(finished)
            raise

    def _cancel(self, finished: bool) -> None:
        self._send("cancel")
        if not finished:
            self._send("end")
        while self._receive().op != "done":
            pass

    def _send(self, op: str, body: Any = None) -> None:
        try:
            wire.send(self.process.stdin, op, self._call, body)
        except OSError as error:
            raise self._died() from error

    def _receive(self) -> wire.Frame:
        """The next frame of the present call. Raises WorkerDied, or EngineError with the worker's own words."""
        while True:
            frame = self._frames.get()
            if frame is None:
                raise self._died()
            if frame.call == self._call:
                break
        if frame.op == "error":
            self._send("end")
            raise EngineError(wire.decode(frame.body, str))
        return frame

    def _read(self) -> None:
        while (frame := wire.receive(self.process.stdout)) is not None:
            self._frames.put(frame)
        self._frames.put(None)

    def _died(self) -> WorkerDied:
        self._frames.put(None)  # whoever asks next hears it too
        status = self.process.wait()
        return WorkerDied(f"the inference worker ended with status {status}\n{tail(self.log_path)}")


def trainer_command(job: TrainJob, job_path: Path) -> list[str]:
    """One process needs no launcher, whose start-up would be paid each round; several go through accelerate."""
    module = ["-m", "selfalign.training", str(job_path)]
    if job.train.num_processes == 1 and job.train.accelerate_config is None:
        return [sys.executable, *module]
    count = str(job.train.num_processes)
    if not has_gpu() and job.train.accelerate_config is None:  # without MPI, accelerate starts one process on a CPU
        launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", count]
    else:
        launcher = ["accelerate.commands.launch", "--num_processes", count]
    if job.train.accelerate_config is not None:
        launcher += ["--config_file", job.train.accelerate_config]
    return [sys.executable, "-m", *launcher, *module]


def tail(path: Path, lines: int = 20) -> str:
    """The last lines of a worker's log, with the name of the file."""
    with path.open(encoding="utf-8", errors="replace") as log:
        return f"last lines of {path}:\n" + "".join(deque(log, maxlen=lines)).rstrip()


def _relay(line: str, emit: Emit, log: Any) -> dict[str, Any] | None:
    """Pass a progress line on as an event; anything else that the trainer prints belongs to its log.

    What it asks for is returned.
    """
    try:
        event = msgspec.json.decode(line, type=dict[str, Any])
        name = event.pop("event")
    except (msgspec.DecodeError, KeyError):
        log.write(line.encode())
        return None
    if name == "rollouts_wanted":
        return event
    emit(name, **event)
    return None


def _spawn(command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Start a process in its own session, so that Ctrl-C reaches only us, and bound to our life."""
    return subprocess.Popen(command, start_new_session=True, preexec_fn=_die_with_parent, **options)


def _die_with_parent() -> None:
    """Linux: SIGKILL this process when its parent is gone."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _kill_group(process: subprocess.Popen[Any]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
