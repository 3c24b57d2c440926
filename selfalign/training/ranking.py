"""Losses of whole rankings: DPO over k answers, best first, under the Plackett-Luce model."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from selfalign.training.loop import MicroBatch
from selfalign.training.losses import plackett_luce_loss
from selfalign.training.task import GroupTask


class RankingTask(GroupTask):
    """A step's loss is the mean over its rankings of weight x loss; "chosen" is the best answer, "rejected" the last.

    `rewards/accuracies` is the share of neighbours in a ranking whose rewards are in its order.
    """

    def loss(self, model: nn.Module, micro: MicroBatch, step: int) -> tuple[Tensor, Tensor]:
        batch, scale = micro.batch, float(micro.counts) / len(self.indexes(step))
        with self.setup.accelerator.autocast():
            token_logps = model(batch)
        logps, log_ratio = self.logps(token_logps, batch)
        losses = plackett_luce_loss(log_ratio, batch.sizes, self.settings.beta)
        loss = (batch.weight * losses).sum() * scale
        with torch.no_grad():
            last = batch.sizes.cumsum(0) - 1
            first, reward = last - batch.sizes + 1, self.settings.beta * log_ratio
            ordered = in_order(reward, batch.sizes)
            chosen, rejected = reward[first], reward[last]
            columns = [chosen, rejected, ordered, chosen - rejected, logps[first], logps[last]]
            return loss, torch.cat([loss.detach().reshape(1), torch.stack(columns).sum(1) * scale])

    def expected_start(self, indexes: np.ndarray, sums: dict[str, float]) -> tuple[float, float]:
        """log k! for a ranking of k."""
        sizes, weights = self.setup.groups.sizes[indexes], self.setup.groups.weights[indexes]
        each = np.array([math.lgamma(size + 1) for size in sizes])
        return float((each * weights).mean()), float(weights.mean())


def in_order(reward_S: Tensor, sizes_B: Tensor) -> Tensor:
    """The share of each ranking's neighbours of which the first has the larger reward. [B]"""
    groups = torch.repeat_interleave(torch.arange(len(sizes_B), device=sizes_B.device), sizes_B)
    inside = groups[1:] == groups[:-1]
    right = (inside & (reward_S[:-1] > reward_S[1:])).float()
    return torch.zeros(len(sizes_B), device=reward_S.device).index_add(0, groups[1:], right) / (sizes_B - 1)
