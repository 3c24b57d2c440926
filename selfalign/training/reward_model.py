"""A reward model of pairs: a Bradley-Terry model with a scalar head on the answer's last token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from selfalign.config import RewardModel
from selfalign.records import derived_seed
from selfalign.training.dataset import GroupDataset, NothingToTrainOn, load_answers
from selfalign.training.job import HELDOUT_FILE, REWARDS_FILE, SPREADS_FILE, HeldOut, TrainJob, is_held_out
from selfalign.training.loop import MicroBatch
from selfalign.training.losses import sigmoid_loss
from selfalign.training.setup import Setup
from selfalign.training.task import GroupTask


class NonFiniteReward(RuntimeError):
    """A reward is NaN or infinite: nothing can be said of its answer."""


def reward_loss(chosen: Tensor, rejected: Tensor, p_chosen: Tensor, *, margin: float = 0.0) -> Tensor:
    """p L(r_w - r_l - m) + (1 - p) L(r_l - r_w - m), L(t) = -log sigmoid(t). [B]

    Bradley-Terry with soft labels; m = margin (2 p - 1), the margin of Llama 2 (Touvron et al. 2023, arXiv:2307.09288,
    eq. 2) for labels that are shares.
    """
    gap, apart = chosen - rejected, margin * (2.0 * p_chosen - 1.0).abs()
    return p_chosen * sigmoid_loss(gap - apart) + (1.0 - p_chosen) * sigmoid_loss(-gap - apart)


def centering_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """(r_w + r_l)^2, which keeps rewards about 0 (Eisenstein et al. 2023, arXiv:2312.09244). [B]"""
    return (chosen + rejected) ** 2


class RewardTask(GroupTask):
    """A step's loss is the mean over its pairs of weight x (`reward_loss` + centering x `centering_loss`).

    Metrics are of the rewards that are saved.
    """

    metric_names = (
        "loss", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "rewards/centering",
    )  # fmt: skip

    def loss(self, model: nn.Module, micro: MicroBatch, step: int) -> tuple[Tensor, Tensor]:
        with self.setup.accelerator.autocast():
            rewards = model(micro.batch)
        loss = self.preference_loss(rewards, rewards, micro, step)
        return loss, torch.cat([loss.detach().reshape(1), self.figures(rewards.detach(), micro, step)])

    def preference_loss(self, compared: Tensor, centred: Tensor, micro: MicroBatch, step: int) -> Tensor:
        """This micro-batch's part of the loss, by the rewards that are compared and those kept about 0. Both [S]"""
        settings, batch = self.setup.job.reward_model, micro.batch
        losses = reward_loss(*_sides(compared), batch.labels[::2], margin=settings.margin)
        losses = losses + settings.centering * centering_loss(*_sides(centred))
        return (batch.weight * losses).mean() * self.share(micro, step)

    def figures(self, rewards: Tensor, micro: MicroBatch, step: int) -> Tensor:
        chosen, rejected = _sides(rewards)
        right = (chosen > rejected).float() + 0.5 * (chosen == rejected).float()
        columns = [chosen, rejected, right, chosen - rejected, centering_loss(chosen, rejected)]
        return torch.stack(columns).mean(1) * self.share(micro, step)

    def share(self, micro: MicroBatch, step: int) -> float:
        """How much of the step's mean over pairs a micro-batch makes."""
        return float(micro.counts) * len(micro.batch.weight) / len(self.indexes(step))


def _sides(rewards: Tensor) -> tuple[Tensor, Tensor]:
    """Of the chosen answers and of the rejected ones. Both [S / 2]"""
    return rewards.view(-1, 2).unbind(1)


def hold_out(setup: Setup) -> tuple[Setup, GroupDataset]:
    """The setup on the pairs to train on, and the held-out pairs: those of a share of the prompts, drawn by seed.

    Raises NothingToTrainOn where one of the two is empty, or all of them are ties.
    """
    share, seed = setup.job.reward_model.holdout, setup.job.seed
    away = [is_held_out(prompt_of(key), share, seed) for key in setup.groups.keys]
    kept, held = (setup.groups.select(np.flatnonzero(np.array(away) == side)) for side in (False, True))
    if not len(kept) or not len(held):
        raise NothingToTrainOn(
            f"{len(setup.groups)} pairs are too few to train a reward model and to test it: {len(kept)} to train on, "
            f"{len(held)} held out. Draw more prompts, or set reward_model.holdout nearer to 0.5"
        )
    if (setup.groups.labels == 0.5).all():
        raise NothingToTrainOn(
            f"all {len(setup.groups)} pairs are ties (p_chosen 0.5), so that no answer is known to be better. "
            "Ask another judge, or raise pairs.min_margin, which leaves ties out"
        )
    return replace(setup, groups=kept.with_room_behind()), held


def prompt_of(key: str) -> str:
    """The id of a pair's prompt, by the pair's name."""
    return key.partition("/")[0]


@torch.no_grad()
def rewards_of(setup: Setup, model: nn.Module, answers: GroupDataset) -> np.ndarray:
    """The reward of every answer, each process its share. [M] float32. Raises NonFiniteReward."""
    wide = replace(setup, groups=answers.with_room_behind())
    result = torch.zeros(answers.num_answers, dtype=torch.float32, device=setup.accelerator.device)
    for micro in wide.micro_batches(np.arange(len(answers))):
        with setup.accelerator.autocast():
            rewards = model(micro.batch)
        if micro.counts:
            result[micro.batch.answers] = rewards
    rewards = setup.accelerator.reduce(result, "sum")
    check_rewards(rewards)
    return rewards.cpu().numpy()


def check_rewards(rewards: Tensor) -> None:
    """Raises NonFiniteReward."""
    if wrong := int((~torch.isfinite(rewards)).sum()):
        raise NonFiniteReward(
            f"{wrong} of {rewards.numel()} rewards are not finite; nothing was saved. Lower "
            "reward_model.train.learning_rate, or set reward_model.train.dtype to float32"
        )


def held_out(setup: Setup, model: nn.Module, pairs: GroupDataset) -> HeldOut:
    """`pairs` by the model; the pairs that it was trained on are those of the setup."""
    rewards = rewards_of(setup, model, pairs).reshape(-1, 2)
    return HeldOut(
        prompt_ids=[prompt_of(key) for key in pairs.keys],
        chosen=rewards[:, 0].astype(float).tolist(),
        rejected=rewards[:, 1].astype(float).tolist(),
        p_chosen=pairs.labels[::2].tolist(),
        lengths=longer_by(pairs),
        trained_p_chosen=setup.groups.labels[::2].tolist(),
        trained_lengths=longer_by(setup.groups),
    )


def longer_by(pairs: GroupDataset) -> list[int]:
    """By how many tokens each pair's chosen answer is the longer one. [N]"""
    return (pairs.answer_lengths[::2] - pairs.answer_lengths[1::2]).tolist()


def reward_candidates(setup: Setup, model: nn.Module) -> dict[str, float]:
    """The reward of every candidate in the job's folders, by id."""
    answers, ids = load_answers(setup.job, setup.encoder)
    return dict(zip(ids, rewards_of(setup, model, answers).astype(float).tolist(), strict=True)) if ids else {}


@dataclass(frozen=True)
class Results:
    """What a reward model made of held-out pairs and of every candidate, and how far the members of an ensemble differ.

    `rewards` and `spreads` (none of a single model) are by candidate.
    """

    heldout: HeldOut
    rewards: dict[str, float]
    spreads: dict[str, float] = field(default_factory=dict)

    def files(self) -> list[tuple[str, bytes]]:
        files = [(HELDOUT_FILE, msgspec.json.encode(self.heldout)), (REWARDS_FILE, msgspec.json.encode(self.rewards))]
        return [*files, (SPREADS_FILE, msgspec.json.encode(self.spreads))] if self.spreads else files

    @staticmethod
    def read(folder: Path) -> Results:
        """Of a single model."""
        heldout = msgspec.json.decode((folder / HELDOUT_FILE).read_bytes(), type=HeldOut)
        return Results(heldout, msgspec.json.decode((folder / REWARDS_FILE).read_bytes()))


# Ensembles: the same pairs, other seeds.


def member(job: TrainJob, number: int) -> TrainJob:
    """The job of one member of an ensemble, in a folder of its own; seed decides on its head and the order of pairs."""
    folder = str(member_folder(Path(job.output_dir), number))
    alone = replace(job.reward_model, ensemble=1)
    return replace(job, reward_model=alone, seed=derived_seed("member", job.seed, number), output_dir=folder)


def member_folder(whole: Path, number: int) -> Path:
    return whole / f"member-{number}"


def heldout_mean(folder: Path) -> float:
    """The mean reward of a model's held-out answers: the constant by which it is free."""
    found = msgspec.json.decode((folder / HELDOUT_FILE).read_bytes(), type=HeldOut)
    return float(np.mean([*found.chosen, *found.rejected]))


def combine(rewards: Tensor, settings: RewardModel) -> Tensor:
    """Rewards of K members [K, M] as one [M]: their mean, the worst case, or mean - lambda x variance.

    Coste et al. 2023 (arXiv:2310.02743): mean optimization, WCO and UWO; the variance is that of the population.
    """
    if settings.combine == "min":
        return rewards.amin(0)
    penalty = settings.variance_weight * rewards.var(0, correction=0) if settings.combine == "mean-variance" else 0.0
    return rewards.mean(0) - penalty


def together(members: Sequence[Results], settings: RewardModel) -> Results:
    """What an ensemble says, each member being taken about its own mean on the held-out answers.

    A reward model is free by a constant, and members that differ by one do not disagree.
    """
    pairs, names = members[0].heldout, list(members[0].rewards)
    held = torch.tensor([[*one.heldout.chosen, *one.heldout.rejected] for one in members], dtype=torch.float64)
    answers = torch.tensor([[one.rewards[name] for name in names] for one in members], dtype=torch.float64)
    middle = held.mean(1, keepdim=True)
    chosen, rejected = combine(held - middle, settings).chunk(2)
    answers = answers - middle
    rewards, spreads = combine(answers, settings).tolist(), answers.std(0, correction=0).tolist()
    return Results(
        heldout=replace(pairs, chosen=chosen.tolist(), rejected=rejected.tolist()),
        rewards=dict(zip(names, rewards, strict=True)),
        spreads=dict(zip(names, spreads, strict=True)),
    )
