"""Advantages: how much better each token, or each answer, was than expected. Pure functions of rewards; no model.

Tokens lie flat, [N] over S answers (`segments`); answers lie prompt by prompt, [S] over B groups of `sizes_B`. No
gradient belongs through any of these: call them under `torch.no_grad`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from selfalign.training.segments import discounted_sums, means, spread, sums, tokens_left

_WHITEN_EPSILON = 1e-8
_GRPO_EPSILON = 1e-4


class Advantages(NamedTuple):
    advantages: Tensor  # [N]
    returns: Tensor  # [N] what the values should have been


# Of tokens.


def gae(rewards_N: Tensor, values_N: Tensor, lengths_S: Tensor, gamma: float, lam: float) -> Advantages:
    """delta_t = r_t + gamma V_(t+1) - V_t,  A_t = delta_t + gamma lam A_(t+1),  return_t = A_t + V_t.

    Schulman et al. 2016 (arXiv:1506.02438), eq. 16. V_t is the value before token t is known; after an answer's last
    token it is 0, cut or ended: the score is all there is to come.
    """
    after_N = torch.where(tokens_left(lengths_S) > 0, values_N.roll(-1), 0.0)
    deltas_N = rewards_N + gamma * after_N - values_N
    advantages_N = discounted_sums(deltas_N, lengths_S, gamma * lam)
    return Advantages(advantages_N, advantages_N + values_N)


def returns_to_go(rewards_N: Tensor, lengths_S: Tensor, gamma: float = 1.0) -> Tensor:
    """sum_j gamma^j r_(t+j): REINFORCE++'s advantages, still to be whitened over all tokens. [N]

    Hu et al. 2025 (arXiv:2501.03262), with the KL in the rewards: -kl_coef k1 at each token.
    """
    return discounted_sums(rewards_N, lengths_S, gamma)


# Whitening.


def moments(values: Tensor) -> Tensor:
    """Count, sum and sum of squares of values of any shape. Those of several processes add up. [3] float64"""
    exact = values.detach().double()
    return torch.stack([exact.new_tensor(exact.numel()), exact.sum(), exact.square().sum()])


def whiten_with(values: Tensor, statistics: Tensor, *, shift_mean: bool = True, bessel: bool = False) -> Tensor:
    """(x - mean) / sqrt(var + 1e-8), by the `moments` of a whole of which `values` may be a part; keeps the shape.

    `bessel` divides the variance by n - 1 (TRL) and not by n (OpenAI, N+). Without `shift_mean` the mean is added
    again, as for rewards: their scale changes, their average does not. One value alone, or equal ones, become 0.
    """
    count, total, squares = statistics.unbind()
    mean = total / count.clamp(min=1)
    spread_out = (squares - total * mean).clamp(min=0.0)
    variance = spread_out / (count - 1 if bessel else count).clamp(min=1)
    white = (values - mean) * torch.rsqrt(variance + _WHITEN_EPSILON)
    return (white if shift_mean else white + mean).to(values.dtype)


def whiten(values: Tensor, *, shift_mean: bool = True, bessel: bool = False) -> Tensor:
    """`whiten_with` the values' own moments."""
    return whiten_with(values, moments(values), shift_mean=shift_mean, bessel=bessel)


# Of answers, within their group.


def leave_one_out(rewards_S: Tensor, sizes_B: Tensor) -> Tensor:
    """RLOO: each reward less the mean of the others' in its group. [S]

    Ahmadian et al. 2024 (arXiv:2402.14740): k / (k - 1) (r - mean). An answer alone has nothing to be compared
    with: 0.
    """
    others_S = spread(sizes_B - 1, sizes_B).clamp(min=1)
    centred_S = _centred(rewards_S, sizes_B)
    stretched_S = centred_S + centred_S / others_S
    return torch.where(spread(has_contrast(rewards_S, sizes_B), sizes_B), stretched_S, 0.0)


def group_normalised(rewards_S: Tensor, sizes_B: Tensor) -> Tensor:
    """GRPO: (r - mean) / (std + 1e-4) within each group, std over k - 1. [S]

    Shao et al. 2024 (arXiv:2402.03300), section 4.1.2; std and 1e-4 as in TRL. Exactly 0 where all are the same.
    """
    centred_S = _centred(rewards_S, sizes_B)
    variance_B = sums(centred_S.square(), sizes_B) / (sizes_B - 1).clamp(min=1)
    scaled_S = centred_S / (spread(variance_B.sqrt(), sizes_B) + _GRPO_EPSILON)
    return torch.where(spread(has_contrast(rewards_S, sizes_B), sizes_B), scaled_S, 0.0)


def has_contrast(rewards_S: Tensor, sizes_B: Tensor) -> Tensor:
    """Which groups hold different rewards, all finite; the others teach nothing, so count them. [B] bool

    DAPO, Yu et al. 2025 (arXiv:2503.14476), draws others in their place; here their advantages are 0.
    """
    highest_B = torch.segment_reduce(rewards_S, "max", lengths=sizes_B)
    range_B = highest_B - torch.segment_reduce(rewards_S, "min", lengths=sizes_B)
    return (range_B > 0) & range_B.isfinite()


def _centred(rewards_S: Tensor, sizes_B: Tensor) -> Tensor:
    return rewards_S - spread(means(rewards_S, sizes_B), sizes_B)
