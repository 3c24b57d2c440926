"""Do a stage durably: skip what is done, go on where a crash left off, tell how far it is, stop when asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from selfalign.config import Campaign, Judge, in_round
from selfalign.engines.base import Engine
from selfalign.store import Run, Step
from selfalign.training.job import TrainJob

Record = TypeVar("Record")
Shards = Generator[tuple[int, list[Any]], None, None]


Answer = Callable[..., dict[str, Any]]  # iteration, model, scores -> folders of records, the best iteration, a stop


class Interrupted(Exception):
    """Somebody asked the campaign to stop, and it has: everything finished is recorded."""


class StoppedAfterRound(Interrupted):
    """Somebody asked the campaign to stop at the end of a round, and there it is."""


class NoGo(Exception):
    """A round found that its policy had better not be trained: the campaign ends with the policy so far.

    The message is the reason, as a gate would give it.
    """


@dataclass
class StopRequest:
    """Set by a signal handler, read between shards."""

    requested: bool = False


class Workers(Protocol):
    """Where models run. `launch.local` has the processes of one machine; tests have a scripted engine."""

    def engine(self, model: str, *, trust_remote_code: bool = False) -> Engine:
        """The inference engine with `model` (a folder, or a name on the Hub) in place."""

    def api(self, judge: Judge) -> Engine:
        """A judge behind an API."""

    def train(self, job: TrainJob, emit: Callable[..., None], answer: Answer | None = None) -> None:
        """Run a training job to its end; `answer` has the rollouts that it asks for on the way.

        Raises RuntimeError with the trainer's last words when it fails.
        """


@dataclass(frozen=True)
class Work:
    """What every stage of a campaign needs at hand."""

    run: Run
    settings: Campaign
    workers: Workers
    stop: StopRequest = field(default_factory=StopRequest)

    def in_round(self, number: int) -> Work:
        """The same work under the settings of one round."""
        return replace(self, settings=in_round(self.settings, number))

    def check_stop(self) -> None:
        if self.stop.requested:
            raise Interrupted

    def check_stop_after(self, number: int) -> None:
        """Stop here, at the end of a round, if somebody asked for it and there are rounds to come.

        The event comes before the wish is taken away: a crash in between neither loses the stop nor repeats it.
        """
        asked = self.run.stop_asked()
        if asked is None or number < asked.round or number + 1 >= self.settings.num_rounds:
            return
        self.run.emit("stopped_after_round", round=number, asked=asked.id)
        self.run.withdraw_stop()
        raise StoppedAfterRound(f"stopped after round {number}, as asked")


def perform(
    work: Work,
    stage: str,
    name: str,
    process: Callable[[list[int]], Shards],
    *,
    num_shards: int | None = None,
    after: Sequence[Step] = (),
    inputs: Mapping[str, str] | None = None,
    config: Any = None,
    count: Callable[[int, list[Any]], Mapping[str, int]] | None = None,
    round: int | None = None,
    told: bool = True,
) -> Step:
    """Make sure that step `name` is done, and return it.

    `after` are the steps it is made from (by default it has as many shards as the first of them), `inputs` the digests
    of whatever else it is made from. `process` gets the indexes of the missing shards and yields each as it is ready.
    `count` tallies a shard's rows (default: how many); a tally is kept with its shard, so that totals survive a crash.
    Raises Interrupted, with the shard in hand written, when a stop was requested. What is part of another stage's work
    is not `told` as a stage of its own.
    """
    work.check_stop()
    where = {"round": round, "stage": stage, "step": name}
    work = work if told else replace(work, run=_Quiet(work.run))
    step = open_step(work, name, after, inputs or {}, config)
    if step.done:
        work.run.emit("stage_skipped", **where, counts=step.counts)
        return step
    total = after[0].num_shards if num_shards is None else num_shards
    pending = step.pending(total)
    work.run.emit("stage_started", **where, total=total, done=total - len(pending), unit="shards")
    started = time.monotonic()
    with closing(process(pending)) as results:
        for done, (index, rows) in enumerate(results, start=total - len(pending) + 1):
            step.write(index, rows, counts=count(index, rows) if count else {"rows": len(rows)})
            work.run.emit("progress", **where, done=done, total=total, unit="shards")
            work.check_stop()
    return seal(work, step, where, time.monotonic() - started)


class _Quiet:
    """A run that keeps steps and tells nobody."""

    def __init__(self, run: Run) -> None:
        self.step = run.step

    def emit(self, event: str, **fields: Any) -> None:
        pass


def perform_training(
    work: Work,
    number: int,
    name: str,
    *,
    after: Sequence[Step],
    inputs: Mapping[str, str],
    config: Any,
    job: Callable[[Path], TrainJob],
    stage: str = "train",
    answer: Answer | None = None,
) -> Step:
    """Make sure that a trained model of a round is there: a step whose files a trainer process writes."""
    work.check_stop()
    where = {"round": number, "stage": stage, "step": name}
    step = open_step(work, name, after, inputs, config)
    if step.done:
        work.run.emit("stage_skipped", **where, counts=step.counts)
        return step
    work.run.emit("stage_started", **where, total=None, done=0, unit="steps")
    started = time.monotonic()
    try:
        work.workers.train(job(step.path), partial(_emit_of_round, work.run, number), answer)
    except RuntimeError:
        work.check_stop()  # a trainer that was asked to stop ends early
        raise
    return seal(work, step, where, time.monotonic() - started)


def _emit_of_round(run: Run, number: int, event: str, **fields: Any) -> None:
    run.emit(event, **{"round": number, **fields})


def open_step(work: Work, name: str, after: Sequence[Step], inputs: Mapping[str, str], config: Any) -> Step:
    lineage = {earlier.name: earlier.digest for earlier in after}
    return work.run.step(name, inputs={**lineage, **inputs}, config=msgspec.to_builtins(config))


def seal(work: Work, step: Step, where: Mapping[str, Any], seconds: float) -> Step:
    """Finish a step and say so."""
    step.finish({"seconds": seconds})
    work.run.emit("stage_done", **where, seconds=seconds, counts=step.counts)
    return step


def nothing(missing: list[int]) -> Shards:
    """Empty shards: of a stage that a round has no use for."""
    yield from ((index, []) for index in missing)


def only(
    indexes: Iterable[int], step: Step, record_type: type[Record]
) -> Generator[tuple[int, list[Record]], None, None]:
    """The given shards of a finished step, read one at a time."""
    for index in indexes:
        yield index, step.read(record_type, index)


def records_of(step: Step, record_type: type[Record]) -> list[Record]:
    """All records of a finished step; for steps that are small, such as those on held-out prompts."""
    return [record for _, shard in step.shards(record_type) for record in shard]
