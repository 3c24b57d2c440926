"""Losses of PPO, RLOO, GRPO and REINFORCE++: pure functions of log-probabilities, advantages, values and entropies.

Each gives a term per token, [N], laid flat over S answers (`segments`); `token_mean` or `answer_mean` makes a loss of
the terms. For RLOO, whose ratio is of whole answers, `policy_loss` takes their log-probabilities and advantages, [S].
Log-probabilities, old ones too, are the trainer's, at the temperature of sampling; `old` are from before the epochs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from selfalign.training.kl import Estimator, bounded_exp, kl_estimates
from selfalign.training.segments import means


def policy_loss(
    logprobs: Tensor, old: Tensor, advantages: Tensor, cliprange: float, dual_clip: float | None = None
) -> Tensor:
    """max(-A r, -A clip(r, 1 - e, 1 + e)), r = pi / pi_old; [N] or [S].

    Schulman et al. 2017 (arXiv:1707.06347), eq. 7. With `dual_clip` c > 1 a negative advantage costs at most -c A,
    however likely the token has become: Ye et al. 2020 (arXiv:1912.09729).
    """
    free, clipped = _surrogates(logprobs, old, advantages, cliprange)
    loss = torch.maximum(free, clipped)
    if dual_clip is None:
        return loss
    return torch.where(advantages < 0, torch.minimum(loss, -dual_clip * advantages), loss)


def grpo_loss(
    logprobs_N: Tensor,
    old_N: Tensor,
    reference_N: Tensor,
    advantages_N: Tensor,
    cliprange: float,
    kl_coef: float,
    estimator: Estimator = "k3",
) -> Tensor:
    """policy_loss + kl_coef KL, the KL in the loss and not in the reward. [N]

    Shao et al. 2024 (arXiv:2402.03300), eq. 3, with k3. What each estimator pulls towards is in `kl`: k3 has the
    gradient of KL(pi_ref || pi), k2 that of KL(pi || pi_ref), k1 none.
    """
    return policy_loss(logprobs_N, old_N, advantages_N, cliprange) + kl_coef * kl_estimates(
        logprobs_N, reference_N, estimator
    )


def value_loss(values_N: Tensor, old_values_N: Tensor, returns_N: Tensor, cliprange: float) -> Tensor:
    """max((V - R)^2, (V_clipped - R)^2) / 2, V_clipped within `cliprange` of the old value, in units of reward. [N]

    OpenAI's PPO; Huang et al. 2024 (arXiv:2403.17031). The larger of both: clipping can stop a step, never reward one.
    """
    clipped_N = values_N.clamp(old_values_N - cliprange, old_values_N + cliprange)
    return 0.5 * torch.maximum((values_N - returns_N) ** 2, (clipped_N - returns_N) ** 2)


def entropy_bonus(entropies_N: Tensor, coef: float) -> Tensor:
    """-coef H: what a policy is paid for staying undecided, in nats a token. [N] Schulman et al. 2017, eq. 9."""
    return -coef * entropies_N


def sampler_weights(old: Tensor, sampler: Tensor, cap: float) -> Tensor:
    """min(pi_old / pi_sampler, cap): a factor for the policy loss where another engine sampled; no gradient. [N] or [S]

    Truncated importance sampling (Ionides 2008), used so by Yao et al. 2025 ("Your efficient RL framework secretly
    brings you off-policy RL training"). Both are of the same weights: `old` by the trainer, `sampler` by the engine.
    """
    return bounded_exp(old - sampler).clamp(max=cap).detach()


def truncated_share(old: Tensor, sampler: Tensor, cap: float) -> Tensor:
    """How often `sampler_weights` is held at its cap. []"""
    return (bounded_exp(old - sampler) > cap).float().mean()


# From terms to a loss. A step may be cut into micro-batches and shared among processes: their losses add up to the
# step's if each is divided by what the whole step holds.


def token_mean(terms_N: Tensor, num_tokens: int | None = None) -> Tensor:
    """The mean over tokens, or their sum divided by the `num_tokens` of the whole step. []

    By the whole step's tokens every token counts the same: DAPO, Yu et al. 2025 (arXiv:2503.14476), and PPO.
    By a constant, such as answers x longest allowed answer: Dr. GRPO, Liu et al. 2025 (arXiv:2503.20783).
    """
    return terms_N.sum() / (terms_N.numel() if num_tokens is None else num_tokens)


def answer_mean(terms_N: Tensor, lengths_S: Tensor, num_answers: int | None = None) -> Tensor:
    """The mean over answers of the mean over tokens, or their sum divided by the `num_answers` of the whole step. []

    GRPO as published (arXiv:2402.03300, eq. 3): a token of a long answer counts less than one of a short answer.
    """
    return means(terms_N, lengths_S).sum() / (len(lengths_S) if num_answers is None else num_answers)


# What to watch.


class PolicyStatistics(NamedTuple):
    """Means over the tokens given, each []. Before the first step of an iteration: 0, 0, 0 and 1."""

    approxkl: Tensor  # (log r)^2 / 2, nats: N+ and TRL
    approxkl_k3: Tensor  # r - 1 - log r, nats: CleanRL; from the sampling to the present policy
    clipfrac: Tensor  # how often clipping takes the gradient, a share of the tokens
    ratio: Tensor  # r = pi / pi_old


@torch.no_grad()
def policy_statistics(logprobs: Tensor, old: Tensor, advantages: Tensor, cliprange: float) -> PolicyStatistics:
    """How far the policy has moved since it sampled, from the arguments of `policy_loss`.

    The clip fraction is N+'s: tokens whose clipped term is the larger. A ratio beyond its bounds on the side that
    the advantage does not reward is not clipped and not counted, though CleanRL counts it.
    """
    free, clipped = _surrogates(logprobs, old, advantages, cliprange)
    return PolicyStatistics(
        approxkl=kl_estimates(old, logprobs, "k2").mean(),
        approxkl_k3=kl_estimates(old, logprobs, "k3").mean(),
        clipfrac=(clipped > free).to(logprobs.dtype).mean(),
        ratio=bounded_exp(logprobs - old).mean(),
    )


@torch.no_grad()
def value_clipfrac(values_N: Tensor, old_values_N: Tensor, returns_N: Tensor, cliprange: float) -> Tensor:
    """How often clipping takes the gradient of the value loss, a share of the tokens. [] N+'s `vf_clipfrac`."""
    clipped_N = values_N.clamp(old_values_N - cliprange, old_values_N + cliprange)
    return ((clipped_N - returns_N) ** 2 > (values_N - returns_N) ** 2).to(values_N.dtype).mean()


def _surrogates(logprobs: Tensor, old: Tensor, advantages: Tensor, cliprange: float) -> tuple[Tensor, Tensor]:
    """-A r and -A clip(r)."""
    ratio = bounded_exp(logprobs - old)
    return -advantages * ratio, -advantages * ratio.clamp(1.0 - cliprange, 1.0 + cliprange)
