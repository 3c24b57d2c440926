"""The models of PPO, and what they say of rollouts before the first step: policy, critic, reference, reward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel

from selfalign.config import RewardModel
from selfalign.records import Candidate, Prompt, derived_seed
from selfalign.training.batches import Batch, Layout
from selfalign.training.dataset import Group, GroupDataset, answer_tokens
from selfalign.training.job import TrainJob
from selfalign.training.loop import emit
from selfalign.training.model import (
    RewardScorer,
    Scorer,
    ValueScorer,
    add_saved_adapter,
    choose_layout,
    last_sources,
    load_model,
    load_reward_model,
    scalars,
)
from selfalign.training.reference import is_own_reference
from selfalign.training.reward_model import check_rewards, combine, heldout_mean, member_folder, rewards_of
from selfalign.training.rollouts import Rollouts
from selfalign.training.saving import ADAPTER_FOLDER, saved_base, weights_digest
from selfalign.training.setup import Setup, make_encoder

Asked = Literal["policy", "reference", "rewards"]
VALUE = "value"  # the critic's adapter on a shared base


class ActorCritic(nn.Module):
    """The policy at the temperature of its rollouts, and a model of what is still to come, where one is asked for."""

    def __init__(self, actor: Scorer, critic: ValueScorer | None, temperature: float) -> None:
        super().__init__()
        self.actor, self.critic, self.temperature = actor, critic, temperature
        self._no_split_modules = actor._no_split_modules

    def forward(
        self, batch: Batch, asked: Asked = "policy", *, with_entropy: bool = False
    ) -> Tensor | tuple[Tensor, Tensor | None, Tensor | None]:
        """Log-probabilities, values and, on demand, entropies of the batch's targets, float32, each [N].

        "reference" are the log-probabilities of the policy without its adapter, [N], "rewards" those of a shared base,
        [K, S]. All of that goes through here, because the weights may be spread over processes.
        """
        if asked == "rewards":
            return self.rewards(batch)
        if asked == "reference":
            with self.actor.under():
                return self.actor(batch, temperature=self.temperature)
        found = self.actor(batch, temperature=self.temperature, with_entropy=with_entropy)
        logprobs, entropies = found if with_entropy else (found, None)
        return logprobs, self.values(batch), entropies

    def values(self, batch: Batch) -> Tensor | None:
        return self.critic(batch) if self.critic is not None else None


class OneBase(ActorCritic):
    """Policy, reference, rewards and critic on one base in memory; what is not the policy has an adapter of its own.

    The policy's adapter is "default", the reference has none; `heads` are [1, D], by adapter: "reward-0", "reward-1",
    ... frozen, and "value" trained.
    """

    def __init__(self, actor: Scorer, heads: dict[str, Tensor], temperature: float) -> None:
        super().__init__(actor, None, temperature)
        heads = {name: nn.Parameter(head, requires_grad=name == VALUE) for name, head in heads.items()}
        self.heads = nn.ParameterDict(heads)
        if actor.whole.is_gradient_checkpointing:
            settings = {"use_reentrant": False, "context_fn": actor.recompute_as_now}
            actor.whole.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)

    def values(self, batch: Batch) -> Tensor | None:
        return self._scalars(VALUE, batch, batch.sources) if VALUE in self.heads else None

    def rewards(self, batch: Batch) -> Tensor:
        """Rewards by each of K members, float32. [K, S]"""
        places = last_sources(batch)
        return torch.stack([self._scalars(name, batch, places) for name in self.heads if name != VALUE])

    def _scalars(self, name: str, batch: Batch, places: Tensor) -> Tensor:
        with self.actor.under(name):
            return scalars(self.actor.hidden_states(batch, places), self.heads[name])


class RewardScorers(nn.ModuleList):
    """Reward models that are models of their own."""

    def forward(self, batch: Batch) -> Tensor:
        """Rewards by each of K models, float32. [K, S]"""
        return torch.stack([model(batch) for model in self])


@dataclass
class Apart:
    """Reward models that cannot read the policy's rows: their tokenizer or their attention is another.

    They read rollouts as texts where the tokenizer is another, in rows of their own.
    """

    scorers: RewardScorers
    setup: Setup  # as of the first of them
    layout: Layout | None = None  # chosen when the first rollouts are there

    @staticmethod
    def of(setup: Setup, members: Members, scorers: RewardScorers) -> Apart | None:
        """None where the policy's rows will do."""
        if not members.count:
            return None
        job = replace(setup.job, policy_path=str(members.folders[0]), sampler_path=setup.job.policy_path)
        tokenizer = AutoTokenizer.from_pretrained(job.policy_path, trust_remote_code=job.trust_remote_code)
        encoder, first = make_encoder(job, tokenizer), scorers[0]
        if not encoder.foreign and first.attention == setup.scorer.attention:
            return None
        if encoder.foreign and setup.accelerator.is_main_process:
            said = "the reward model has another tokenizer than the policy: rollouts are encoded anew from their text"
            emit("warning", message=f"round {job.round}: {said}")
        return Apart(scorers, replace(setup, tokenizer=tokenizer, encoder=encoder, scorer=first))

    def rewards(self, prompts: Mapping[str, Prompt], candidates: Sequence[Candidate]) -> Tensor:
        """Rewards by each of K models of M answers, in their order, which is prompt by prompt. [K, M]"""
        encoder, groups = self.setup.encoder, []
        for name, sampled in groupby(candidates, key=lambda candidate: candidate.prompt_id):
            answers = tuple(answer_tokens(candidate, prompts, encoder) for candidate in sampled)
            groups.append(Group(name, encoder.chat(prompts[name].messages), answers, (1.0,) * len(answers)))
        data = GroupDataset(groups)
        if self.layout is None:
            self.layout = choose_layout(self.setup.scorer, data.with_room_behind())
        setup = replace(self.setup, layout=self.layout)
        return torch.stack([torch.from_numpy(rewards_of(setup, model, data)) for model in self.scorers])


@dataclass(frozen=True)
class Measured:
    """What the models say of M answers with T tokens, at the weights that sampled them.

    `old` and `reference` are log-probabilities in nats at the temperature of sampling; `spread` is the population
    standard deviation of an ensemble's members, None of a single reward model. Where rewards come with the rollouts,
    no model says any.
    """

    old: Tensor  # [T]
    reference: Tensor  # [T]
    values: Tensor | None  # [T]
    rewards: Tensor | None  # [M]
    spread: Tensor | None  # [M]


@dataclass(frozen=True)
class Models:
    """All models of a job. `trained` is wrapped by the accelerator; `frozen` ones lie on the device only while read."""

    trained: nn.Module
    reference: Callable[[Batch], Tensor]  # [N]
    rewards: Callable[[Batch], Tensor]  # [K, S]: K members; reads answers with room behind them
    members: Members
    frozen: Sequence[nn.Module]
    apart: Apart | None = None

    @torch.no_grad()
    def measure(
        self, setup: Setup, rollouts: Rollouts, prompts: Mapping[str, Prompt], candidates: Sequence[Candidate]
    ) -> Measured:
        """One sweep over the rollouts, the setup's groups: all models read the same rows, each process its share.

        Only reward models that are `apart` read their own. `prompts` are by id, `candidates` the records of the
        rollouts in their order. Raises NonFiniteReward.
        """
        accelerator, wide = setup.accelerator, replace(setup, groups=setup.groups.with_room_behind())
        tokens = torch.zeros(3, int(rollouts.places[-1]), device=accelerator.device)
        answers = torch.zeros(self.members.count, setup.groups.num_answers, device=accelerator.device)
        values = None
        with on_device(self.frozen, accelerator.device):
            for micro in wide.micro_batches(np.arange(len(setup.groups))):
                batch = micro.batch.without_room_behind()
                with accelerator.autocast():
                    old, values, _ = self.trained(batch)
                    found = [old, self.reference(batch), *([] if values is None else [values])]
                    rewards = self.rewards(micro.batch) if self.members.count and not self.apart else None
                if micro.counts:
                    tokens[: len(found), rollouts.tokens_of(batch)] = torch.stack(found)
                    if rewards is not None:
                        answers[:, batch.answers] = rewards
            read_apart = self.apart.rewards(prompts, candidates) if self.apart else None
        tokens, answers = accelerator.reduce(tokens, "sum"), accelerator.reduce(answers, "sum")
        answers = answers if read_apart is None else read_apart.to(answers.device)
        rewards, spread = self.members.combined(answers)
        return Measured(tokens[0], tokens[1], None if values is None else tokens[2], rewards, spread)


@dataclass(frozen=True)
class Members:
    """The reward models that a job asks: one, or an ensemble, each taken about its own mean on the held-out answers.

    None where the rewards come with the rollouts.
    """

    folders: list[Path]
    settings: RewardModel

    @staticmethod
    def of(job: TrainJob) -> Members:
        settings = job.rewarded_by or RewardModel()
        if job.rewards_given:
            return Members([], settings)
        folder = Path(job.reward_path)
        if settings.ensemble == 1:
            return Members([folder], settings)
        return Members([member_folder(folder, number) for number in range(settings.ensemble)], settings)

    @property
    def count(self) -> int:
        return len(self.folders)

    def combined(self, rewards: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """What K members [K, M] say together, and how far they are apart. Both [M]. Raises NonFiniteReward."""
        if not self.count:
            return None, None
        check_rewards(rewards)
        if self.count == 1:
            return rewards[0], None
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
    """The models of a job, as few as can be; its policy is the one of the setup, wrapped here."""
    job, members = setup.job, Members.of(setup.job)
    shared, own = shares_base(job, members), job.adapter is not None and is_own_reference(job)
    rewards = None if shared else reward_scorers(setup, members)
    apart = None if rewards is None else Apart.of(setup, members, rewards)
    like = None if apart else reward_folder(job, members)
    policy = one_base(setup, members) if shared else ActorCritic(setup.scorer, _critic(setup, like), job.temperature)
    trained = setup.accelerator.prepare(policy)
    other = None if own else frozen_policy(setup)
    return Models(
        trained,
        partial(trained, asked="reference") if other is None else partial(other, temperature=job.temperature),
        partial(trained, asked="rewards") if rewards is None else rewards,
        members,
        [model for model in (rewards, other) if model is not None],
        apart,
    )


def shares_base(job: TrainJob, members: Members) -> bool:
    """Whether all reward models are adapters on the very weights that the policy's adapter is trained on."""
    if job.adapter is None or not members.count:
        return False
    bases = {saved_base(folder) for folder in members.folders}
    return None not in bases and bases == {weights_digest(job.policy_path)}


def one_base(setup: Setup, members: Members) -> OneBase:
    """The policy of the setup with the adapters of its reward models; its critic begins as a copy of the first one."""
    model, adapters = setup.scorer.model, [folder / ADAPTER_FOLDER for folder in members.folders]
    heads = {
        f"reward-{number}": add_saved_adapter(model, adapter, f"reward-{number}", trained=False)
        for number, adapter in enumerate(adapters)
    }
    if setup.job.ppo.advantage == "gae":
        heads[VALUE] = add_saved_adapter(model, adapters[0], VALUE, trained=True)
    return OneBase(setup.scorer, heads, setup.job.temperature).to(setup.accelerator.device)


def reward_scorers(setup: Setup, members: Members) -> RewardScorers:
    scorers = (RewardScorer(_classifier(setup, folder, setup.dtype)) for folder in members.folders)
    return RewardScorers(scorers).requires_grad_(False)


def reward_folder(job: TrainJob, members: Members) -> Path | None:
    """The reward model, or an ensemble's first member; None where there is none."""
    return members.folders[0] if members.count else Path(job.reward_path) if job.reward_path else None


def _critic(setup: Setup, like: Path | None) -> ValueScorer | None:
    """For GAE: it begins as a copy of the reward model (Huang et al. 2024).

    Where there is none, or none that reads the policy's rows, it begins as the policy, with a head of its own.
    """
    job = setup.job
    if job.ppo.advantage != "gae":
        return None
    torch.manual_seed(derived_seed("critic", job.seed, job.round))  # a head of its own is drawn at random
    folder = like or Path(job.policy_path)
    return ValueScorer(_classifier(setup, folder, torch.float32)).to(setup.accelerator.device)


def _classifier(setup: Setup, folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    return load_reward_model(str(folder), dtype, None, trust_remote_code=setup.job.trust_remote_code)


def frozen_policy(setup: Setup) -> Scorer:
    """The reference as a model of its own: another one, or the policy before all its weights are trained."""
    path = setup.job.reference[0].path if setup.job.reference else setup.job.policy_path
    model = load_model(path, setup.dtype, trust_remote_code=setup.job.trust_remote_code)
    return Scorer(model).requires_grad_(False)
