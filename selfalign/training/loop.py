"""The training loop: optimizer steps over micro-batches, one device sync each, exact resume, a hard stop on NaN."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from selfalign.config import Train
from selfalign.records import derived_seed
from selfalign.store import atomic_write
from selfalign.training.batches import Batch
from selfalign.training.checkpoint import Checkpoints, Progress, trainable

METRICS_FILE = "metrics.jsonl"

Item = TypeVar("Item")


class NonFiniteStep(RuntimeError):
    """Loss or gradient norm is NaN or infinite. The step was not made: weights and moments are as before it."""


class Stopped(Exception):
    """Training was asked to stop, and its state is saved."""


@dataclass(frozen=True)
class MicroBatch:
    """A batch of one forward pass. One that does not count keeps processes in step and adds nothing."""

    batch: Batch
    counts: bool = True


class Task(Protocol):
    """What is trained: the loop knows steps, a task knows what a step means."""

    total_steps: int
    metric_names: tuple[str, ...]  # of the sums that `loss` returns

    def micro_batches(self, step: int) -> Iterable[MicroBatch]:
        """This process's share of optimizer step `step`."""

    def resume(self, metrics: Sequence[dict[str, float]]) -> None:
        """Take up what the steps made so far have left behind; called once, with their metrics, before the first."""

    def loss(self, model: nn.Module, micro: MicroBatch, step: int) -> tuple[Tensor, Tensor]:
        """This micro-batch's part of the step's loss, and its sums for the metrics."""

    def metrics(self, step: int, sums: dict[str, float]) -> dict[str, float]:
        """The step's metrics, from sums over all processes. May raise to stop before the step is made."""

    def num_tokens(self, step: int) -> int:
        """Tokens read in optimizer step `step`, over all processes."""

    def skips(self, step: int) -> bool:
        """Whether step `step` is not made."""

    def resumable_at(self, step: int) -> bool:
        """Whether training can go on from a checkpoint made before step `step`."""


def learning_rate(step: int, total: int, settings: Train) -> float:
    """Learning rate of optimizer step `step` (from 0): linear warmup, then constant, linear or cosine down to 0."""
    warmup = math.ceil(settings.warmup_ratio * total)
    if step < warmup:
        return settings.learning_rate * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, total - warmup)
    if settings.schedule == "constant":
        return settings.learning_rate
    if settings.schedule == "linear":
        return settings.learning_rate * (1.0 - done)
    return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))


def make_optimizer(model: nn.Module, settings: Train) -> torch.optim.AdamW:
    """Fused AdamW (Loshchilov & Hutter 2019); biases and norms, being vectors, do not decay.

    PPO's epsilon is 1e-5, as in OpenAI's code (Huang et al. 2024, arXiv:2403.17031).
    """
    epsilon = 1e-5 if settings.algorithm == "ppo" else 1e-8
    parameters = trainable(model).values()
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.999), eps=epsilon, fused=True)


@dataclass
class Loop:
    """One model on its way through a task. `should_stop` is read once a step."""

    accelerator: Accelerator
    model: nn.Module  # wrapped by the accelerator
    optimizer: Any
    task: Task
    settings: Train
    seed: int
    checkpoints: Checkpoints
    log: MetricsLog
    should_stop: Callable[[], bool] = lambda: False
    section: str = "train"  # where `settings` stand in a campaign

    def run(self) -> Progress:
        """Train from the newest checkpoint, or from the start, to the end.

        Raises NonFiniteStep, Stopped (after saving a checkpoint), CheckpointError.
        """
        progress = self.checkpoints.load(self.accelerator, self.model, self.optimizer)
        if self.accelerator.is_main_process:
            self.log.rewind(progress.step)
        self.accelerator.wait_for_everyone()
        self.task.resume(self.log.read())
        stop = False
        for step in range(progress.step, self.task.total_steps):
            skipped = self.task.skips(step)
            stop = stop if skipped else self._step(step, progress)
            progress = Progress(step + 1, progress.num_tokens + (0 if skipped else self.task.num_tokens(step)))
            every = self.settings.checkpoint_every
            due = (stop or (every and progress.step % every == 0)) and self.task.resumable_at(progress.step)
            if due and progress.step < self.task.total_steps:
                self.checkpoints.save(self.accelerator, self.model, self.optimizer, progress)
                if stop:
                    raise Stopped
        return progress

    def _step(self, step: int, before: Progress) -> bool:
        """Make one optimizer step; True where any process was asked to stop."""
        rate = learning_rate(step, self.task.total_steps, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(derived_seed("train step", self.seed, step, self.accelerator.process_index))
        sums = self._accumulate_gradients(step)
        grad_norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        values, norm, stop = self._sync(sums, grad_norm)
        if not all(map(math.isfinite, (norm, *values.values()))):
            self.optimizer.zero_grad(set_to_none=True)
            raise NonFiniteStep(self._non_finite(step, norm, values))
        metrics = self.task.metrics(step, values)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        num_tokens = before.num_tokens + self.task.num_tokens(step)
        metrics |= {"grad_norm": norm, "learning_rate": rate, "num_tokens": num_tokens}
        if self.accelerator.is_main_process:
            self.log.write(step + 1, self.task.total_steps, metrics)
        return stop

    def _accumulate_gradients(self, step: int) -> Tensor:
        """Forward and backward over this process's micro-batches; gradients meet those of others at the last one."""
        total: Tensor | None = None
        for micro, last in with_last(self.task.micro_batches(step)):
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                loss, sums = self.task.loss(self.model, micro, step)
                self.accelerator.backward(loss * self.accelerator.num_processes)  # processes average their gradients
            total = sums if total is None else total + sums
        return total

    def _sync(self, sums: Tensor, grad_norm: Tensor | float) -> tuple[dict[str, float], float, bool]:
        """The step's only wait for the device. Every process gets the same numbers, and so decides alike."""
        norm = torch.as_tensor(grad_norm, dtype=sums.dtype, device=sums.device)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        own = torch.cat([sums, norm.reshape(1), sums.new_tensor([float(self.should_stop())])])
        *values, norm_sum, stop = self.accelerator.reduce(own, "sum").tolist()
        names = self.task.metric_names
        return dict(zip(names, values, strict=True)), norm_sum / self.accelerator.num_processes, stop > 0

    def _non_finite(self, step: int, norm: float, values: dict[str, float]) -> str:
        named = {"grad_norm": norm, **values}
        bad = ", ".join(f"{name} {value}" for name, value in named.items() if not math.isfinite(value))
        return (
            f"training step {step + 1} of {self.task.total_steps}: not finite: {bad}\n"
            "the step was not made; weights and optimizer are as they were before it, and nothing was saved\n"
            f"lower {self.section}.learning_rate, or set {self.section}.dtype to float32, "
            "and look at the pairs of this step"
        )


def with_last(items: Iterable[Item]) -> Iterator[tuple[Item, bool]]:
    """Each item, and whether it is the last. No more than two are held at a time: their masks may be large."""
    source = iter(items)
    item = next(source, None)
    while item is not None:
        following = next(source, None)
        yield item, following is None
        item = following


class MetricsLog:
    """Metrics of every step: a JSON line on stdout for the campaign, and one in metrics.jsonl beside the model."""

    def __init__(self, folder: Path, round: int) -> None:
        self.path, self.round = folder / METRICS_FILE, round

    def rewind(self, step: int) -> None:
        """Drop what was recorded after `step`: a resumed run writes those steps again."""
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.is_file() else []
        kept = [line for line in lines if line.endswith(b"\n") and msgspec.json.decode(line)["step"] <= step]
        atomic_write(self.path, b"".join(kept))

    def read(self) -> list[dict[str, float]]:
        """The metrics of the steps made so far."""
        return [msgspec.json.decode(line) for line in self.path.read_bytes().splitlines()]

    def write(self, step: int, total: int, metrics: dict[str, float]) -> None:
        with self.path.open("ab") as file:
            file.write(msgspec.json.encode({"step": step, **metrics}) + b"\n")
        emit("train_step", round=self.round, step=step, total=total, metrics=metrics)


def emit(event: str, **fields: Any) -> None:
    """Tell whoever started the trainer."""
    sys.stdout.write(msgspec.json.encode({"event": event, **fields}).decode() + "\n")
    sys.stdout.flush()
