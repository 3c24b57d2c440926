"""Policy gradients on the policy's own rollouts: PPO, RLOO, GRPO and REINFORCE++ in one loop.

rollouts (asked for, sampled by the engine) -> scores, old log-probabilities, values -> advantages -> epochs of steps
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np
import torch
from torch import Tensor, nn

from selfalign.config import Ppo
from selfalign.statistics import repetition
from selfalign.training import advantages as estimators
from selfalign.training.advantages import group_normalised, has_contrast, leave_one_out, returns_to_go, whiten
from selfalign.training.batches import Batch
from selfalign.training.dataset import NothingToTrainOn
from selfalign.training.guards import Health, past_limits
from selfalign.training.kl import KLController, kl_estimates, past_target
from selfalign.training.loop import MicroBatch
from selfalign.training.ppo_losses import (
    entropy_bonus,
    grpo_loss,
    policy_loss,
    policy_statistics,
    sampler_weights,
    truncated_share,
    value_clipfrac,
    value_loss,
)
from selfalign.training.ppo_models import Models
from selfalign.training.rewards import (
    clip_scores,
    penalise_unended,
    penalised_scores,
    replace_unended,
    shift_scores,
    token_rewards,
)
from selfalign.training.rollouts import Asking, OverOptimised, Rollouts, load_rollouts, sampler_logprobs
from selfalign.training.segments import spread, sums
from selfalign.training.setup import Setup

STEP = ("loss", "loss/policy", "loss/value", "policy/approxkl", "policy/clipfrac", "val/ratio", "val/clipfrac")


class PpoTask:
    """An iteration is `epochs` passes over its rollouts in `minibatches` optimizer steps each.

    `ask(iteration, scores)` hands out the rollouts of the present weights, and their rewards where no reward model is
    held; where they are past a limit, training ends with OverOptimised. All is computed anew from recorded rollouts
    and the weights at the iteration's start, so training can go on from there.
    """

    def __init__(
        self,
        setup: Setup,
        models: Models,
        ask: Asking,
    ) -> None:
        self.setup, self.models, self.ask = setup, models, ask
        self.ppo: Ppo = setup.job.ppo
        self.per_iteration = self.ppo.epochs * self.ppo.minibatches
        self.total_steps = self.ppo.iterations * self.per_iteration
        self.metric_names = STEP + (("policy/entropy",) if self.ppo.entropy_coef else ())
        self.controller = KLController(self.ppo.kl_coef, self.ppo.kl_target, self.ppo.kl_horizon)
        self.shift: float | None = None  # the mean score of the first rollouts
        self.history: list[float] = []  # the mean score of each iteration
        self.health: list[Health] = []  # of each iteration's rollouts
        self.iteration, self.rollouts = -1, None
        self.ended = -1  # the iteration that was ended early

    # What the loop asks.

    def resume(self, metrics: Sequence[dict[str, float]]) -> None:
        for step in _first_of_each(metrics):
            self.controller = self.controller.update(step["objective/kl"], int(step["rollout/answers"]))
            self.shift = step["objective/shift"]
            self.history.append(step["objective/scores"])
            self.health.append(_health(step))

    def skips(self, step: int) -> bool:
        return step // self.per_iteration == self.ended

    def resumable_at(self, step: int) -> bool:
        return step % self.per_iteration == 0

    def micro_batches(self, step: int) -> Iterator[MicroBatch]:
        self.enter(step // self.per_iteration)
        return replace(self.setup, groups=self.rollouts.groups).micro_batches(self.indexes(step))

    def indexes(self, step: int) -> np.ndarray:
        """The groups of an optimizer step: each epoch is a fresh permutation, cut into minibatches."""
        iteration, inner = divmod(step, self.per_iteration)
        epoch, part = divmod(inner, self.ppo.minibatches)
        order = np.random.default_rng([self.setup.job.seed, iteration, epoch]).permutation(len(self.rollouts.groups))
        return np.array_split(order, min(self.ppo.minibatches, len(order)))[part % len(order)]

    def num_tokens(self, step: int) -> int:
        return self.rollouts.groups.num_tokens(self.indexes(step))

    def loss(self, model: nn.Module, micro: MicroBatch, step: int) -> tuple[Tensor, Tensor]:
        """This micro-batch's part of the policy's loss and the critic's, by the tokens (RLOO: answers) of the step."""
        batch, groups, counts = micro.batch, self.rollouts.groups, float(micro.counts)
        answers = groups.answers_of(self.indexes(step))
        tokens = int(groups.answer_lengths[answers].sum())
        with self.setup.accelerator.autocast():
            logprobs, values, entropies = model(batch, with_entropy=self.ppo.entropy_coef > 0)
        places = self.rollouts.tokens_of(batch)
        old, advantages = self.rollouts.old[places], self.rollouts.advantages
        scored = batch.answers if self.ppo.advantage == "rloo" else places
        advantages, weights = advantages[scored], self.rollouts.weights
        policy = self.policy_terms(logprobs, old, places, advantages, batch)
        policy = policy if weights is None else policy * weights[scored]
        policy = policy.sum() * (counts / (len(answers) if self.ppo.advantage == "rloo" else tokens))
        value, clipped = self.value_terms(values, places)
        loss = policy + self.ppo.value_coef * value.sum() * (counts / tokens)
        found = policy_statistics(
            logprobs.detach(), old, spread(advantages, batch.lengths) if self.ppo.advantage == "rloo" else advantages,
            self.ppo.cliprange,
        )  # fmt: skip
        share = counts * len(places) / tokens
        parts = [loss, policy, value.sum() * (counts / tokens)]
        means = [found.approxkl, found.clipfrac, found.ratio, clipped]
        if entropies is not None:
            loss = loss + entropy_bonus(entropies, self.ppo.entropy_coef).sum() * (counts / tokens)
            parts[0], means = loss, [*means, entropies.detach().mean()]
        return loss, torch.stack([*(part.detach() for part in parts), *(mean * share for mean in means)])

    def policy_terms(self, logprobs: Tensor, old: Tensor, places: Tensor, advantages: Tensor, batch: Batch) -> Tensor:
        """[N], for RLOO [S]."""
        if self.ppo.advantage == "rloo":
            return policy_loss(
                sums(logprobs, batch.lengths), sums(old, batch.lengths), advantages, self.ppo.cliprange,
                self.ppo.dual_clip,
            )  # fmt: skip
        if self.ppo.advantage == "grpo":
            reference = self.rollouts.reference[places]
            return grpo_loss(logprobs, old, reference, advantages, self.ppo.cliprange, self.controller.coef)
        return policy_loss(logprobs, old, advantages, self.ppo.cliprange, self.ppo.dual_clip)

    def value_terms(self, values: Tensor | None, places: Tensor) -> tuple[Tensor, Tensor]:
        """The critic's loss at each token, [N], and how often it is clipped, []."""
        zero = self.rollouts.old.new_zeros(())
        if values is None:
            return zero, zero
        old, returns = self.rollouts.values[places], self.rollouts.returns[places]
        clipped = value_clipfrac(values.detach(), old, returns, self.ppo.value_cliprange)
        return value_loss(values, old, returns, self.ppo.value_cliprange), clipped

    def metrics(self, step: int, sums: dict[str, float]) -> dict[str, float]:
        if past_target(sums["policy/approxkl"], self.ppo.max_approxkl):
            self.ended = step // self.per_iteration
        iteration = step // self.per_iteration
        return {**sums, "iteration": iteration, **self.rollouts.summary, "objective/shift": self.shift}

    def drift(self) -> None:
        return None

    # An iteration.

    def enter(self, iteration: int) -> None:
        """Have the rollouts of an iteration at hand, sampled by the weights as they are at its beginning.

        Raises OverOptimised where they are past a limit.
        """
        if iteration == self.iteration:
            return
        if self.rollouts is not None:
            before = self.rollouts.summary
            self.controller = self.controller.update(before["objective/kl"], int(before["rollout/answers"]))
        self.rollouts = self.collect(iteration)
        self.iteration = iteration
        self.history.append(self.rollouts.summary["objective/scores"])
        self.health.append(_health(self.rollouts.summary))
        if (reason := past_limits(self.health, self.ppo)) is not None:
            raise OverOptimised(reason, iteration, self.ask.before_limit(iteration))

    @torch.no_grad()
    def collect(self, iteration: int) -> Rollouts:
        handed = self.ask(iteration, self.history)
        groups, candidates, rewards = load_rollouts(self.setup, handed)
        setup = replace(self.setup, groups=groups)
        device = setup.accelerator.device
        lengths = torch.from_numpy(groups.answer_lengths).to(device)
        places = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        empty = torch.zeros(0, device=device)
        base = Rollouts(groups, places, empty, empty, empty)
        measured = self.models.measure(setup, base, handed.asked(), candidates)
        old, reference, values = measured.old, measured.reference, measured.values
        raw = measured.rewards if rewards is None else torch.tensor(rewards, dtype=torch.float32, device=device)
        ended = torch.from_numpy(groups.labels > 0.5).to(device)
        scores = self.scores(raw, ended)
        kl = kl_estimates(old, reference, self.ppo.kl_estimator)
        sizes = torch.from_numpy(groups.sizes).to(device)
        found = self.advantages(scores, kl, lengths, sizes, values)
        contrast = has_contrast(scores, sizes).float().mean() if self.ppo.samples > 1 else torch.ones((), device=device)
        sampler = sampler_logprobs(candidates, setup.job.temperature)
        weights, mismatch = self.sampler_weights(old, None if sampler is None else sampler.to(device), lengths)
        summary = {
            "objective/kl": sums(old - reference, lengths).mean(),
            "objective/entropy": -sums(old, lengths).mean(),
            "objective/scores": raw.mean(),
            "objective/score_spread": raw.std(correction=0),
            "objective/rlhf_reward": (scores - self.controller.coef * sums(kl, lengths)).mean(),
            "objective/kl_coef": self.controller.coef,
            "rollout/answers": len(lengths),
            "rollout/mean_tokens": lengths.float().mean(),
            "rollout/ended": ended.float().mean(),
            "rollout/without_contrast": 1.0 - contrast,
            "rollout/repetition": fmean(repetition(candidate.text) for candidate in candidates),
            **mismatch,
        }
        if measured.spread is not None:
            summary["rollout/reward_spread"] = measured.spread.mean()
        return Rollouts(
            groups, places, old, reference, found.advantages, values, found.returns if values is not None else None,
            weights, {name: float(value) for name, value in summary.items()},
        )  # fmt: skip

    def sampler_weights(
        self, old: Tensor, sampler: Tensor | None, lengths: Tensor
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """What `ppo.sampler_clip` weighs the policy's loss with, as `advantages`; how far engine and trainer differ.

        GRPO's loss holds the KL, which is weighed with the rest, being of the same sampled tokens. Raises
        NothingToTrainOn where weights are asked for and the engine's log-probabilities are not recorded.
        """
        clip = self.ppo.sampler_clip
        if sampler is None:
            if clip is None:
                return None, {}
            raise NothingToTrainOn(
                "ppo.sampler_clip: the engine's log-probabilities of single tokens are not recorded with the rollouts; "
                "remove the setting, or have the round sampled by this version of selfalign"
            )
        found = {
            "rollout/sampler_difference": (old - sampler).abs().mean(),
            "rollout/sampler_kl": kl_estimates(sampler, old, "k3").mean(),
        }
        if clip is None:
            return None, found
        ratio = (old, sampler) if self.ppo.advantage != "rloo" else (sums(old, lengths), sums(sampler, lengths))
        return sampler_weights(*ratio, clip), found | {"rollout/sampler_truncated": truncated_share(*ratio, clip)}

    def scores(self, raw: Tensor, ended: Tensor) -> Tensor:
        """The rewards: shifted so that the first rollouts average 0, clipped, cut answers seen to."""
        if self.shift is None:
            self.shift = float(raw.mean()) if self.ppo.shift_rewards else 0.0
        scores = shift_scores(raw, raw.new_tensor([self.shift]))
        scores = scores if self.ppo.reward_clip is None else clip_scores(scores, self.ppo.reward_clip)
        if self.ppo.missing_eos == "replace":
            return replace_unended(scores, ended, -self.ppo.missing_eos_value)
        if self.ppo.missing_eos == "subtract":
            return penalise_unended(scores, ended, self.ppo.missing_eos_value)
        return scores

    def advantages(
        self, scores: Tensor, kl: Tensor, lengths: Tensor, sizes: Tensor, values: Tensor | None
    ) -> estimators.Advantages:
        """By `ppo.advantage`; of tokens, for RLOO of answers."""
        ppo, bessel, coef = self.ppo, self.ppo.whitening == "bessel", self.controller.coef
        if ppo.advantage == "rloo":
            found = leave_one_out(penalised_scores(scores, kl, lengths, coef), sizes)
            return estimators.Advantages(found, found)
        if ppo.advantage == "grpo":
            found = spread(group_normalised(scores, sizes), lengths)
            return estimators.Advantages(found, found)
        rewards = token_rewards(scores, kl, lengths, coef)
        if ppo.whiten_rewards:
            rewards = whiten(rewards, shift_mean=False, bessel=bessel)
        if ppo.advantage == "reinforce":
            found = returns_to_go(rewards, lengths, ppo.gamma)
            return estimators.Advantages(whiten(found, bessel=bessel), found)
        found = estimators.gae(rewards, values, lengths, ppo.gamma, ppo.lam)
        return found._replace(advantages=whiten(found.advantages, bessel=bessel)) if ppo.whiten_advantages else found


def _health(metrics: Mapping[str, float]) -> Health:
    """By the metrics of an iteration."""
    tokens = metrics["rollout/mean_tokens"]
    return Health(
        kl=metrics["objective/kl"],
        repetition=metrics["rollout/repetition"],
        length=tokens,
        entropy=metrics["objective/entropy"] / tokens,
        spread=metrics["objective/score_spread"],
        disagreement=metrics.get("rollout/reward_spread", 0.0),
    )


def _first_of_each(metrics: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """The first step of each iteration."""
    first: dict[float, dict[str, float]] = {}
    for step in metrics:
        first.setdefault(step["iteration"], step)
    return list(first.values())
