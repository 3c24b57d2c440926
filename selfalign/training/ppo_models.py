"""The models of PPO, and what they say of rollouts before the first step: policy, critic, reference, reward."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from selfalign.training.batches import Batch
from selfalign.training.model import RewardScorer, Scorer, ValueScorer, load_model, load_reward_model
from selfalign.training.reward_model import rewards_of
from selfalign.training.rollouts import Rollouts, score_tokens
from selfalign.training.setup import Setup


class ActorCritic(nn.Module):
    """The policy at the temperature of its rollouts, and a model of what is still to come, where one is asked for."""

    def __init__(self, actor: Scorer, critic: ValueScorer | None, temperature: float) -> None:
        super().__init__()
        self.actor, self.critic, self.temperature = actor, critic, temperature
        self._no_split_modules = actor._no_split_modules

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities and values of the batch's targets, float32. Both [N]"""
        values = self.critic(batch) if self.critic is not None else None
        return self.actor(batch, temperature=self.temperature), values


@dataclass(frozen=True)
class Measured:
    """What the models say of M answers with T tokens, at the weights that sampled them.

    `old` and `reference` are log-probabilities in nats at the temperature of sampling; `spread` is the members'
    population standard deviation, 0 of a single reward model.
    """

    old: Tensor  # [T]
    reference: Tensor  # [T]
    values: Tensor | None  # [T]
    rewards: Tensor  # [M]
    spread: Tensor  # [M]


@dataclass(frozen=True)
class Models:
    """All models of a job. `trained` is wrapped by the accelerator."""

    trained: nn.Module
    reference: ActorCritic | None  # None: the policy without its adapter
    reward: RewardScorer

    def measure(self, setup: Setup, rollouts: Rollouts) -> Measured:
        """`setup` is on the rollouts' groups. Raises NonFiniteReward."""
        old, values = score_tokens(setup, self.trained, rollouts)
        reference = self._reference(setup, rollouts)
        rewards = torch.from_numpy(rewards_of(setup, self.reward, setup.groups)).to(setup.accelerator.device)
        return Measured(old, reference, values, rewards, torch.zeros_like(rewards))

    def _reference(self, setup: Setup, rollouts: Rollouts) -> Tensor:
        if self.reference is not None:
            return score_tokens(setup, self.reference, rollouts)[0]
        with setup.scorer.without_adapter():
            return score_tokens(setup, self.trained, rollouts)[0]


def load_models(setup: Setup) -> Models:
    """The models of a job; its policy is the one of the setup, wrapped here."""
    job = setup.job
    reward, critic = reward_models(setup)
    trained = setup.accelerator.prepare(ActorCritic(setup.scorer, critic, job.temperature))
    reference = None if job.adapter else ActorCritic(frozen_policy(setup), None, job.temperature)
    return Models(trained, reference, reward)


def reward_models(setup: Setup) -> tuple[RewardScorer, ValueScorer | None]:
    """The reward model, frozen, and for GAE a critic that begins as a copy of it (Huang et al. 2024)."""
    job, device = setup.job, setup.accelerator.device

    def load(dtype: torch.dtype) -> PreTrainedModel:
        return load_reward_model(job.reward_path, dtype, None, trust_remote_code=job.trust_remote_code)

    reward = RewardScorer(load(setup.dtype)).to(device).requires_grad_(False)
    critic = ValueScorer(load(torch.float32)).to(device) if job.ppo.advantage == "gae" else None
    return reward, critic


def frozen_policy(setup: Setup) -> Scorer:
    """The policy as it is before training: what the KL is measured from, where all weights are trained."""
    path = setup.job.reference[0].path if setup.job.reference else setup.job.policy_path
    model = load_model(path, setup.dtype, trust_remote_code=setup.job.trust_remote_code)
    return Scorer(model).to(setup.accelerator.device).requires_grad_(False)
