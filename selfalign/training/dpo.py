"""Direct preference optimization and its kin: losses of pairs of answers."""

from __future__ import annotations

from statistics import fmean

import numpy as np
import torch
from torch import Tensor, nn

from selfalign.objective import REFERENCE_FREE, loss_terms
from selfalign.training.batches import Batch
from selfalign.training.loop import MicroBatch
from selfalign.training.losses import PairLogps, aot_partners, on_policy_weights, pair_loss, value_at_reference
from selfalign.training.reference import Mismatch
from selfalign.training.setup import Setup
from selfalign.training.task import METRICS, GroupTask


def reward_weights(reward_gap: Tensor) -> Tensor:
    """2 sigmoid(r_w - r_l): 1 where a reward model cannot tell, 2 where it is sure, 0 where it is sure of the other."""
    return 2.0 * torch.sigmoid(reward_gap)


def gaps(values_2B: Tensor) -> Tensor:
    """What stands with the chosen answer less what stands with the rejected one, from values pair by pair. [B]"""
    return values_2B[::2] - values_2B[1::2]


class DpoTask(GroupTask):
    """A step's loss is the mean over its pairs of weight x loss."""

    def __init__(self, setup: Setup, reference: Tensor | None, mismatch: Mismatch | None = None) -> None:
        super().__init__(setup, reference)
        self.terms, self.mismatch = loss_terms(self.settings), mismatch
        self.metric_names = METRICS + (tuple(f"loss/{name}" for name in self.terms) if len(self.terms) > 1 else ())
        self.metric_names += ("wpo/weights",) if self.settings.wpo else ()
        self.matched: tuple[int, Tensor] | None = None  # a step, and what `match` found for it

    def loss(self, model: nn.Module, micro: MicroBatch, step: int) -> tuple[Tensor, Tensor]:
        """Sum of weight x loss over the micro-batch's pairs, divided by the pairs of the whole step."""
        batch, scale = micro.batch, float(micro.counts) / len(self.indexes(step))
        with self.setup.accelerator.autocast():
            found = model(batch, with_collision=True) if self.settings.wpo else (model(batch),)
        logps, _ = self.logps(found[0], batch)
        pairs, shift = PairLogps.of(logps, self.reference[batch.answers], batch.lengths), self.shift(model, batch)
        wpo = on_policy_weights(*found, batch.lengths) if self.settings.wpo else torch.ones_like(batch.weight)
        gap, partner = gaps(batch.rewards), self.partner(model, batch, step)
        given = {"shift": shift, "reward_gap": gap, "partner": partner}
        losses = {
            name: share * pair_loss(name, pairs, batch.labels[::2], self.settings, **given)
            for name, share in self.terms.items()
        }
        weight = batch.weight * wpo * (reward_weights(gap) if self.settings.reward_weight else 1.0)
        parts = {name: (weight * term).sum() * scale for name, term in losses.items()}
        loss = sum(parts.values())
        return loss, self.sums(loss.detach(), pairs, scale, parts, wpo)

    def shift(self, model: nn.Module, batch: Batch) -> Tensor | float:
        """What answers are compared with: KTO's z0, or BCO's delta, the mean reward over the steps so far."""
        if self.mismatch is not None:
            return self.mismatch.divergence(model, batch.indexes)
        if "bco" not in self.terms or not self.history:
            return 0.0
        return fmean(0.5 * (step["rewards/chosen"] + step["rewards/rejected"]) for step in self.history)

    def partner(self, model: nn.Module, batch: Batch, step: int) -> Tensor | None:
        """The reference margin that AOT compares each pair's margin with; None where the batch is the step. [B]

        The sort is over the whole step. Where it does not fit in one micro-batch, this costs a second forward pass.
        """
        if "aot" not in self.terms or len(batch.indexes) == len(self.indexes(step)):
            return None
        if self.matched is None or self.matched[0] != step:
            self.matched = step, self.match(model, step)
        return self.matched[1][batch.indexes]

    @torch.no_grad()
    def match(self, model: nn.Module, step: int) -> Tensor:
        """AOT's partners of a step's pairs, by group number, from the margins of all processes. [number of groups]"""
        accelerator, margins = self.setup.accelerator, gaps(torch.zeros_like(self.reference))
        for micro in self.micro_batches(step):
            with accelerator.autocast():
                logps, _ = self.logps(model(micro.batch), micro.batch)
            if micro.counts:
                margins[micro.batch.indexes] = gaps(logps)
        margins = accelerator.reduce(margins, "sum")
        indexes = torch.from_numpy(self.indexes(step)).to(margins.device)
        margins[indexes] = aot_partners(margins[indexes], gaps(self.reference)[indexes])
        return margins

    def sums(self, loss: Tensor, pairs: PairLogps, scale: float, parts: dict[str, Tensor], wpo: Tensor) -> Tensor:
        """This micro-batch's part of every metric, in the order of `metric_names`; stays on the device."""
        with torch.no_grad():
            chosen = self.settings.beta * pairs.chosen_log_ratio
            rejected = self.settings.beta * pairs.rejected_log_ratio
            columns = [chosen, rejected, (chosen > rejected).float(), chosen - rejected, pairs.chosen, pairs.rejected]
            columns += [wpo] if self.settings.wpo else []
            means = torch.stack(columns).sum(1) * scale
            own = [part.detach() for part in parts.values()] if len(parts) > 1 else []
            return torch.cat([loss.reshape(1), means[:6], *(part.reshape(1) for part in own), means[6:]])

    def expected_start(self, indexes: np.ndarray, sums: dict[str, float]) -> tuple[float, float]:
        """log 2 for "sigmoid", hard labels or soft."""
        groups, answers = self.setup.groups, self.setup.groups.answers_of(indexes)
        p_chosen, weight = torch.from_numpy(groups.labels[answers][::2]), torch.from_numpy(groups.weights[indexes])
        gap = gaps(torch.from_numpy(groups.rewards[answers]))
        weight = weight * reward_weights(gap) if self.settings.reward_weight else weight
        # WPO's is a mean: exact where pairs start at one loss, as all but EXO's and SPPO's do.
        wpo = sums.get("wpo/weights", 1.0)
        each = value_at_reference(self.settings, p_chosen, gap)
        return (each * weight).mean().item() * wpo, weight.mean().item() * wpo

    def free_part(self, sums: dict[str, float]) -> float:
        return sum(sums[f"loss/{name}"] for name in self.terms if name in REFERENCE_FREE)
