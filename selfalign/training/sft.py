"""Supervised fine-tuning: the likelihood of given answers, gold, revised, or the best of k (RAFT)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from selfalign.training.loop import MicroBatch
from selfalign.training.model import sequence_logps
from selfalign.training.task import GroupTask


class SftTask(GroupTask):
    """A step's loss is -log pi per token, the mean over all answer tokens of the step; prompts are not learned."""

    metric_names = ("loss", "logps/chosen")

    def loss(self, model: nn.Module, micro: MicroBatch, step: int) -> tuple[Tensor, Tensor]:
        batch, groups, indexes = micro.batch, self.setup.groups, self.indexes(step)
        with self.setup.accelerator.autocast():
            token_logps = model(batch)
        answers = groups.answers_of(indexes)
        loss = -token_logps.sum() * (float(micro.counts) / int(groups.answer_lengths[answers].sum()))
        logps = sequence_logps(token_logps.detach(), batch).sum() * (float(micro.counts) / len(answers))
        return loss, torch.stack([loss.detach(), logps])
