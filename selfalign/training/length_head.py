"""A second head of the reward model that takes what length explains, so that the first need not: ODIN.

Chen et al. 2024 (arXiv:2402.07319). The preference is learned by the sum of both heads; only the first is saved.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from selfalign.training.loop import MicroBatch
from selfalign.training.reward_model import RewardTask


def pearson(x: Tensor, y: Tensor) -> Tensor:
    """The correlation of x and y, both [M]; 0, with no gradient, where one of them is the same throughout. []"""
    x, y = x - x.mean(), y - y.mean()
    scale = x.norm() * y.norm()
    known = scale > 0
    return torch.where(known, (x * y).sum() / torch.where(known, scale, 1.0), 0.0)


def length_loss(rewards: Tensor, by_length: Tensor, lengths: Tensor) -> Tensor:
    """|rho(quality, length)| + 1 - rho(by length, length): one head is to know nothing of length, the other all. []

    The length loss of Chen et al. 2024 as in their code, without its third term, |rho(sum, length)|; over the answers
    of a step, all [M].
    """
    return pearson(rewards, lengths).abs() + 1.0 - pearson(by_length, lengths)


class LengthHeadTask(RewardTask):
    """The loss of a reward model's pairs on the sum of two heads, + lambda (`length_loss` + |cos| of the heads).

    The paper has a lambda for each, both 1 in its training script, which holds the heads at norm 1; here one lambda is
    enough, as both terms know no scale, and the heads are free to grow as one alone is. A correlation is of all answers
    of a step, not of a micro-batch: its gradient by each reward is found in a pass of its own, after which the parts
    add up to the whole.
    """

    metric_names = (*RewardTask.metric_names, "length/reward", "length/head", "length/cosine")
    known: tuple[int, Tensor, Tensor] | None = None  # of a step: its gradients, [2, num_answers], and correlations, [2]

    def loss(self, model: nn.Module, micro: MicroBatch, step: int) -> tuple[Tensor, Tensor]:
        gradients, correlations = self.of_step(model, step)
        with self.setup.accelerator.autocast():
            heads = model(micro.batch, both_heads=True)
        share = self.share(micro, step)
        slopes = gradients[:, micro.batch.answers] * float(micro.counts)
        drawn = (slopes * torch.stack([heads.rewards, heads.lengths])).sum()
        penalty = correlations[0].abs() + 1.0 - correlations[1]
        apart = drawn - drawn.detach() + penalty * share + heads.cosine.abs() * share
        weight = self.setup.job.reward_model.length_head
        loss = self.preference_loss(heads.rewards + heads.lengths, heads.rewards, micro, step) + weight * apart
        found = torch.cat([correlations, heads.cosine.detach().reshape(1)]) * share
        return loss, torch.cat([loss.detach().reshape(1), self.figures(heads.rewards.detach(), micro, step), found])

    def of_step(self, model: nn.Module, step: int) -> tuple[Tensor, Tensor]:
        """The gradient of `length_loss` by each answer's two rewards, and both correlations with length."""
        if self.known is None or self.known[0] != step:
            rewards = self.rewards_of(model, step)
            answers = self.setup.groups.answers_of(self.indexes(step))
            found = rewards[:, answers].requires_grad_()
            lengths = torch.from_numpy(self.setup.groups.answer_lengths[answers]).to(found)
            gradients = torch.zeros_like(rewards)
            (gradients[:, answers],) = torch.autograd.grad(length_loss(*found, lengths), found)
            correlations = torch.stack([pearson(head, lengths) for head in found.detach()])
            self.known = step, gradients, correlations
        return self.known[1:]

    @torch.no_grad()
    def rewards_of(self, model: nn.Module, step: int) -> Tensor:
        """What both heads make of the step's answers, from all processes; what is random will come again. [2, M]"""
        accelerator = self.setup.accelerator
        found = torch.zeros(2, self.setup.groups.num_answers, device=accelerator.device)
        devices = [accelerator.device] if accelerator.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            for micro in self.micro_batches(step):
                with accelerator.autocast():
                    heads = model(micro.batch, both_heads=True)
                if micro.counts:
                    found[:, micro.batch.answers] = torch.stack([heads.rewards, heads.lengths])
        return accelerator.reduce(found, "sum")
