"""The models of PPO, and what they say of rollouts before the first step: policy, critic, reference, reward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from selfalign.config import RewardModel
from selfalign.training.batches import Batch
from selfalign.training.job import TrainJob
from selfalign.training.model import RewardScorer, Scorer, ValueScorer, load_model, load_reward_model
from selfalign.training.reference import is_own_reference
from selfalign.training.reward_model import check_rewards, combine, heldout_mean, member_folder
from selfalign.training.rollouts import Rollouts
from selfalign.training.setup import Setup

Asked = Literal["policy", "reference"]


class ActorCritic(nn.Module):
    """The policy at the temperature of its rollouts, and a model of what is still to come, where one is asked for."""

    def __init__(self, actor: Scorer, critic: ValueScorer | None, temperature: float) -> None:
        super().__init__()
        self.actor, self.critic, self.temperature = actor, critic, temperature
        self._no_split_modules = actor._no_split_modules

    def forward(self, batch: Batch, asked: Asked = "policy") -> Tensor | tuple[Tensor, Tensor | None]:
        """Log-probabilities and values of the batch's targets, float32, both [N].

        "reference" are the log-probabilities of the policy without its adapter; all that is asked of the trained model
        goes through here, because its weights may be spread over processes.
        """
        if asked == "reference":
            with self.actor.without_adapter():
                return self.actor(batch, temperature=self.temperature)
        values = self.critic(batch) if self.critic is not None else None
        return self.actor(batch, temperature=self.temperature), values


class RewardScorers(nn.ModuleList):
    """Reward models that are models of their own."""

    def forward(self, batch: Batch) -> Tensor:
        """Rewards by each of K models, float32. [K, S]"""
        return torch.stack([model(batch) for model in self])


@dataclass(frozen=True)
class Measured:
    """What the models say of M answers with T tokens, at the weights that sampled them.

    `old` and `reference` are log-probabilities in nats at the temperature of sampling; `spread` is the population
    standard deviation of an ensemble's members, 0 of a single reward model.
    """

    old: Tensor  # [T]
    reference: Tensor  # [T]
    values: Tensor | None  # [T]
    rewards: Tensor  # [M]
    spread: Tensor  # [M]


@dataclass(frozen=True)
class Models:
    """All models of a job. `trained` is wrapped by the accelerator; `frozen` ones lie on the device only while read."""

    trained: nn.Module
    reference: Callable[[Batch], Tensor]  # [N]
    rewards: Callable[[Batch], Tensor]  # [K, S]: K members; reads answers with room behind them
    members: Members
    frozen: Sequence[nn.Module]

    @torch.no_grad()
    def measure(self, setup: Setup, rollouts: Rollouts) -> Measured:
        """One sweep over the rollouts, the setup's groups: all models read the same rows, each process its share.

        Raises NonFiniteReward.
        """
        accelerator, wide = setup.accelerator, replace(setup, groups=setup.groups.with_room_behind())
        tokens = torch.zeros(3, int(rollouts.places[-1]), device=accelerator.device)
        answers = torch.zeros(self.members.count, setup.groups.num_answers, device=accelerator.device)
        values = None
        with on_device(self.frozen, accelerator.device):
            for micro in wide.micro_batches(np.arange(len(setup.groups))):
                batch = micro.batch.without_room_behind()
                with accelerator.autocast():
                    old, values = self.trained(batch)
                    found = [old, self.reference(batch), *([] if values is None else [values])]
                    rewards = self.rewards(micro.batch)
                if micro.counts:
                    tokens[: len(found), rollouts.tokens_of(batch)] = torch.stack(found)
                    answers[:, batch.answers] = rewards
        tokens, answers = accelerator.reduce(tokens, "sum"), accelerator.reduce(answers, "sum")
        rewards, spread = self.members.combined(answers)
        return Measured(tokens[0], tokens[1], None if values is None else tokens[2], rewards, spread)


@dataclass(frozen=True)
class Members:
    """The reward models of a job: one, or an ensemble, each taken about its own mean on the held-out answers."""

    folders: list[Path]
    settings: RewardModel

    @staticmethod
    def of(job: TrainJob) -> Members:
        settings, folder = job.reward_model or RewardModel(), Path(job.reward_path)
        if settings.ensemble == 1:
            return Members([folder], settings)
        return Members([member_folder(folder, number) for number in range(settings.ensemble)], settings)

    @property
    def count(self) -> int:
        return len(self.folders)

    def combined(self, rewards: Tensor) -> tuple[Tensor, Tensor]:
        """What K members [K, M] say together, and how far they are apart. Both [M]. Raises NonFiniteReward."""
        check_rewards(rewards)
        if self.count == 1:
            return rewards[0], torch.zeros_like(rewards[0])
        middle = torch.tensor([heldout_mean(folder) for folder in self.folders], dtype=torch.float64)
        about = rewards.double() - middle.to(rewards.device)[:, None]
        return combine(about, self.settings).float(), about.std(0, correction=0).float()


@contextmanager
def on_device(models: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    for model in models:
        model.to(device)
    try:
        yield
    finally:
        for model in models:
            model.to("cpu")


def load_models(setup: Setup) -> Models:
    """The models of a job; its policy is the one of the setup, wrapped here."""
    job, members = setup.job, Members.of(setup.job)
    rewards = RewardScorers(RewardScorer(_classifier(setup, folder, setup.dtype)) for folder in members.folders)
    rewards.requires_grad_(False)
    critic = _critic(setup, members) if job.ppo.advantage == "gae" else None
    trained = setup.accelerator.prepare(ActorCritic(setup.scorer, critic, job.temperature))
    if job.adapter and is_own_reference(job):
        return Models(trained, partial(trained, asked="reference"), rewards, members, [rewards])
    reference = frozen_policy(setup)
    return Models(trained, partial(reference, temperature=job.temperature), rewards, members, [rewards, reference])


def _critic(setup: Setup, members: Members) -> ValueScorer:
    """It begins as a copy of the reward model (Huang et al. 2024), of an ensemble's first member."""
    return ValueScorer(_classifier(setup, members.folders[0], torch.float32)).to(setup.accelerator.device)


def _classifier(setup: Setup, folder: Path, dtype: torch.dtype) -> nn.Module:
    return load_reward_model(str(folder), dtype, None, trust_remote_code=setup.job.trust_remote_code)


def frozen_policy(setup: Setup) -> Scorer:
    """The reference as a model of its own: another one, or the policy before all its weights are trained."""
    path = setup.job.reference[0].path if setup.job.reference else setup.job.policy_path
    model = load_model(path, setup.dtype, trust_remote_code=setup.job.trust_remote_code)
    return Scorer(model).requires_grad_(False)
