"""Losses of answers one by one: KTO and BCO on desirable and undesirable ones, SPPO on win rates."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

import numpy as np
import torch
from torch import Tensor, nn

from selfalign.config import Train
from selfalign.objective import KTO_BALANCE
from selfalign.training.batches import Batch
from selfalign.training.dataset import GroupDataset, NothingToTrainOn
from selfalign.training.loop import MicroBatch
from selfalign.training.losses import bco_answer_loss, kto_answer_loss, sppo_loss
from selfalign.training.reference import Mismatch
from selfalign.training.setup import Setup
from selfalign.training.task import GroupTask


class AnswerTask(GroupTask):
    """A step's loss is the mean over its answers of weight x loss; "chosen" are those labelled 1/2 or more.

    Rewards and log-probabilities are means over the chosen answers of a step and over its rejected ones, 0 where it
    has none.
    """

    metric_names = (
        "loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected", "shift",
    )  # fmt: skip

    def __init__(self, setup: Setup, reference: Tensor, mismatch: Mismatch | None = None) -> None:
        super().__init__(setup, reference)
        self.mismatch = mismatch

    def loss(self, model: nn.Module, micro: MicroBatch, step: int) -> tuple[Tensor, Tensor]:
        """Sum of weight x loss over the micro-batch's answers, divided by the answers of the whole step."""
        batch, labels = micro.batch, self.step_labels(step)
        scale = float(micro.counts) / len(labels)
        with self.setup.accelerator.autocast():
            token_logps = model(batch)
        logps, log_ratio = self.logps(token_logps, batch)
        shift = self.shift(model, batch)
        weight = batch.weight.repeat_interleave(batch.sizes)
        loss = (weight * self.losses(log_ratio, batch.labels, shift)).sum() * scale
        return loss, self.sums(loss.detach(), logps, log_ratio, batch, labels, micro.counts, shift * len(logps) * scale)

    def losses(self, log_ratio_S: Tensor, labels_S: Tensor, shift: Tensor | float) -> Tensor:
        """[S]"""
        train, good = self.settings, labels_S >= 0.5
        if train.algorithm == "kto":
            weights = train.desirable_weight, train.undesirable_weight
            return kto_answer_loss(log_ratio_S, good, train.beta, shift, *weights)
        if train.algorithm == "bco":
            return bco_answer_loss(log_ratio_S, good, train.beta, shift)
        return sppo_loss(log_ratio_S, labels_S, train.beta)

    def shift(self, model: nn.Module, batch: Batch) -> Tensor | float:
        """KTO's z0; BCO's delta, the mean reward of all answers in the steps so far; 0 for SPPO."""
        if self.mismatch is not None:
            return self.mismatch.divergence(model, batch.indexes)
        if self.settings.algorithm != "bco" or not self.history:
            return 0.0
        return fmean(self._mean_reward(number, sums) for number, sums in enumerate(self.history))

    def _mean_reward(self, step: int, sums: Mapping[str, float]) -> float:
        share = float((self.step_labels(step) >= 0.5).mean())
        return share * sums["rewards/chosen"] + (1.0 - share) * sums["rewards/rejected"]

    def sums(
        self,
        loss: Tensor,
        logps: Tensor,
        log_ratio: Tensor,
        batch: Batch,
        labels: np.ndarray,
        counts: bool,
        shift: Tensor | float,
    ) -> Tensor:
        """This micro-batch's part of every metric, in the order of `metric_names`; stays on the device."""
        num_good = int((labels >= 0.5).sum())
        good = (batch.labels >= 0.5).float() * float(counts)
        bad = float(counts) - good
        with torch.no_grad():
            reward = self.settings.beta * log_ratio
            chosen, rejected = (
                torch.stack([(side * reward).sum(), (side * logps).sum()]) / max(1, number)
                for side, number in ((good, num_good), (bad, len(labels) - num_good))
            )
            margin = chosen[0] - rejected[0]
            part = torch.as_tensor(shift, dtype=loss.dtype, device=loss.device)
            return torch.stack([loss, chosen[0], rejected[0], margin, chosen[1], rejected[1], part])

    def expected_start(self, indexes: np.ndarray, sums: dict[str, float]) -> tuple[float, float]:
        """At u = 0 and no shift: KTO half its weights, BCO log 2, SPPO ((P - 1/2) / beta)^2."""
        groups = self.setup.groups
        labels = torch.from_numpy(groups.labels[groups.answers_of(indexes)])
        weight = torch.from_numpy(np.repeat(groups.weights[indexes], groups.sizes[indexes]))
        each = self.losses(torch.zeros_like(labels), labels, 0.0)
        return (weight * each).mean().item(), weight.mean().item()


def check_balance(groups: GroupDataset, train: Train) -> str | None:
    """A warning where desirable and undesirable answers do not weigh about the same, with the weight to set.

    KTO's authors keep lambda_D n_D / (lambda_U n_U) between 1 and 4/3 (Ethayarajh et al. 2024, section 4.2). Raises
    NothingToTrainOn where there are only desirable answers, or none: they could be told from nothing.
    """
    desirable = int((groups.labels >= 0.5).sum())
    undesirable = groups.num_answers - desirable
    if not desirable or not undesirable:
        kind = "desirable" if desirable else "undesirable"
        raise NothingToTrainOn(
            f"all {groups.num_answers} answers are {kind}: {train.algorithm} needs both kinds. "
            "Lower pairs.min_margin, or set pairs.desirable_above to a rating between them"
        )
    if train.algorithm != "kto":
        return None
    balance = train.desirable_weight * desirable / (train.undesirable_weight * undesirable)
    if KTO_BALANCE[0] <= round(balance, 6) <= KTO_BALANCE[1]:
        return None
    fitting = train.undesirable_weight * undesirable / desirable
    return (
        f"kto: {desirable} desirable and {undesirable} undesirable answers weigh {balance:.3g} to 1, not between 1 and "
        f"4/3; set train.desirable_weight between {fitting:.3g} and {fitting * 4 / 3:.3g}"
    )
