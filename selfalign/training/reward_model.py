"""A reward model of pairs: a Bradley-Terry model with a scalar head on the answer's last token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from selfalign.chat import encode_answer, encode_chat
from selfalign.records import digest
from selfalign.training.dataset import GroupDataset, NothingToTrainOn, load_answers
from selfalign.training.job import HELDOUT_FILE, REWARDS_FILE, HeldOut
from selfalign.training.loop import MicroBatch
from selfalign.training.losses import sigmoid_loss
from selfalign.training.setup import Setup, end_tokens
from selfalign.training.task import GroupTask


class NonFiniteReward(RuntimeError):
    """A reward is NaN or infinite: nothing can be said of its answer."""


def reward_loss(
    chosen: Tensor, rejected: Tensor, p_chosen: Tensor, *, margin: float = 0.0, centering: float = 0.0
) -> Tensor:
    """p L(r_w - r_l - m) + (1 - p) L(r_l - r_w - m) + eta (r_w + r_l)^2, L(t) = -log sigmoid(t). [B]

    Bradley-Terry with soft labels; m = margin (2 p - 1), the margin of Llama 2 (Touvron et al. 2023, arXiv:2307.09288,
    eq. 2) for labels that are shares; eta = `centering` keeps rewards about 0 (Eisenstein et al. 2023,
    arXiv:2312.09244).
    """
    gap, apart = chosen - rejected, margin * (2.0 * p_chosen - 1.0).abs()
    preferred = p_chosen * sigmoid_loss(gap - apart) + (1.0 - p_chosen) * sigmoid_loss(-gap - apart)
    return preferred + centering * (chosen + rejected) ** 2


class RewardTask(GroupTask):
    """A step's loss is the mean over its pairs of weight x `reward_loss`."""

    metric_names = (
        "loss", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "rewards/centering",
    )  # fmt: skip

    def loss(self, model: nn.Module, micro: MicroBatch, step: int) -> tuple[Tensor, Tensor]:
        batch, scale = micro.batch, float(micro.counts) / len(self.indexes(step))
        with self.setup.accelerator.autocast():
            chosen, rejected = model(batch).view(-1, 2).unbind(1)
        settings = self.setup.job.reward_model
        terms = {"margin": settings.margin, "centering": settings.centering}
        losses = reward_loss(chosen, rejected, batch.labels[::2], **terms)
        loss = (batch.weight * losses).sum() * scale
        with torch.no_grad():
            right = (chosen > rejected).float() + 0.5 * (chosen == rejected).float()
            columns = [chosen, rejected, right, chosen - rejected, (chosen + rejected) ** 2]
            return loss, torch.cat([loss.detach().reshape(1), torch.stack(columns).sum(1) * scale])


def hold_out(setup: Setup) -> tuple[Setup, GroupDataset]:
    """The setup on the pairs to train on, and the held-out pairs: those of a share of the prompts, drawn by seed.

    Raises NothingToTrainOn where one of the two is empty.
    """
    share, seed = setup.job.reward_model.holdout, setup.job.seed
    away = [int(digest("holdout", seed, prompt_of(key), size=4), 16) < share * 2**32 for key in setup.groups.keys]
    kept, held = (setup.groups.select(np.flatnonzero(np.array(away) == side)) for side in (False, True))
    if not len(kept) or not len(held):
        raise NothingToTrainOn(
            f"{len(setup.groups)} pairs are too few to train a reward model and to test it: {len(kept)} to train on, "
            f"{len(held)} held out. Draw more prompts, or set reward_model.holdout nearer to 0.5"
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
    rewards = setup.accelerator.reduce(result, "sum").cpu().numpy()
    if wrong := int((~np.isfinite(rewards)).sum()):
        raise NonFiniteReward(
            f"{wrong} of {len(rewards)} rewards are not finite; nothing was saved. Lower "
            "reward_model.train.learning_rate, or set reward_model.train.dtype to float32"
        )
    return rewards


def held_out(setup: Setup, model: nn.Module, pairs: GroupDataset) -> HeldOut:
    """`pairs` by the model; the pairs that it was trained on are those of the setup."""
    rewards = rewards_of(setup, model, pairs).reshape(-1, 2)
    return HeldOut(
        prompt_ids=[prompt_of(key) for key in pairs.keys],
        gaps=(rewards[:, 0] - rewards[:, 1]).astype(float).tolist(),
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
    tokenizer, ends = setup.tokenizer, end_tokens(setup.job.policy_path, setup.tokenizer)
    answers, ids = load_answers(
        setup.job,
        lambda messages: encode_chat(tokenizer, messages),
        lambda messages, text: encode_answer(tokenizer, messages, text, ends),
    )
    return dict(zip(ids, rewards_of(setup, model, answers).astype(float).tolist(), strict=True))


def encode_results(found: HeldOut, rewards: dict[str, float]) -> Sequence[tuple[str, bytes]]:
    """The files that tell what the model made of held-out pairs and of every candidate."""
    return [(HELDOUT_FILE, msgspec.json.encode(found)), (REWARDS_FILE, msgspec.json.encode(rewards))]
