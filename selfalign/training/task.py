"""What all algorithms share: which groups make a step, their log-ratios, the check of the first loss, and drift."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from statistics import fmean

import numpy as np
import torch
from torch import Tensor, nn

from selfalign.training.batches import Batch, num_steps, step_indexes
from selfalign.training.loop import MicroBatch
from selfalign.training.reference import answer_logps, check_start, is_own_reference
from selfalign.training.setup import Setup

DRIFT_NATS = 1.0  # a fall of the chosen answers' log-probability that is worth a word
METRICS = (
    "loss",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)


class GroupTask(ABC):
    """Steps of `batch_size` groups. `reference` is log pi_ref of every answer, [M]; None where nothing asks for it.

    Rewards are beta times log-ratios, or beta times log-probabilities where there is no reference.
    """

    metric_names: tuple[str, ...] = METRICS

    def __init__(self, setup: Setup, reference: Tensor | None) -> None:
        self.setup, self.settings = setup, setup.job.train
        self.referenced = reference is not None
        kept = reference if reference is not None else torch.zeros(setup.groups.num_answers)
        self.reference = kept.to(setup.accelerator.device)
        self.total_steps = num_steps(len(setup.groups), self.settings.batch_size, self.settings.epochs)
        self.history: list[dict[str, float]] = []

    @abstractmethod
    def loss(self, model: nn.Module, micro: MicroBatch, step: int) -> tuple[Tensor, Tensor]: ...

    def expected_start(self, indexes: np.ndarray, sums: dict[str, float]) -> tuple[float, float] | None:
        """What the first loss over these groups must be while the policy is its own reference, and their mean weight.

        None where it is not known.
        """
        return None

    def resume(self, metrics: Sequence[dict[str, float]]) -> None:
        self.history = list(metrics)

    def indexes(self, step: int) -> np.ndarray:
        return step_indexes(len(self.setup.groups), self.settings.batch_size, self.setup.job.seed, step)

    def micro_batches(self, step: int) -> Iterable[MicroBatch]:
        return self.setup.micro_batches(self.indexes(step))

    def num_tokens(self, step: int) -> int:
        return self.setup.groups.num_tokens(self.indexes(step))

    def skips(self, step: int) -> bool:
        return False

    def resumable_at(self, step: int) -> bool:
        return True

    def metrics(self, step: int, sums: dict[str, float]) -> dict[str, float]:
        """Raises WrongStart if the first loss is not that of a policy that is its own reference."""
        if step == 0 and self.referenced and is_own_reference(self.setup.job):
            expected = self.expected_start(self.indexes(0), sums)
            if expected is not None:
                check_start(sums["loss"] - self.free_part(sums), *expected, self.setup.dtype)
        self.history.append(sums)
        return sums

    def free_part(self, sums: dict[str, float]) -> float:
        """The part of the loss that has no reference, and so no known start."""
        return 0.0

    def logps(self, token_logps: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """log pi of each answer, and its log-ratio to the reference. Both [S]"""
        logps = answer_logps(token_logps, batch, self.settings.ld_alpha)
        return logps, logps - self.reference[batch.answers]

    def step_labels(self, step: int) -> np.ndarray:
        """The labels of all answers of a step."""
        return self.setup.groups.labels[self.setup.groups.answers_of(self.indexes(step))]

    def drift(self) -> str | None:
        """A warning where the last steps left the chosen answers less likely than before, though the margin grew.

        The failure that the NLL term of iterative RPO was made for (Pang et al. 2024).
        """
        last = self.history[-max(1, len(self.history) // 10) :]
        if not last or not self.referenced:
            return None
        chosen, margin = (fmean(step[f"rewards/{name}"] for step in last) for name in ("chosen", "margins"))
        nats = chosen / self.settings.beta
        if margin <= 0 or nats > -DRIFT_NATS:
            return None
        remedy = "add the likelihood of the chosen answer (train.loss: {sigmoid: 1, nll: 0.2}) or raise train.beta"
        return (
            f"round {self.setup.job.round}: chosen answers became less likely ({nats:.1f} nats each) while the margin "
            f"grew; if quality falls, {remedy if self.settings.algorithm == 'dpo' else 'raise train.beta'}"
        )
