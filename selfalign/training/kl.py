"""How far a policy is from its reference: estimates from samples, the coefficient that prices them, when to stop.

With y drawn from pi and r = pi_ref(y) / pi(y), Schulman 2020 ("Approximating KL divergence") estimates KL(pi || pi_ref)
by the means of
    k1 = -log r (no bias),   k2 = (log r)^2 / 2 (a little bias),   k3 = r - 1 - log r (no bias, never negative).
The estimators agree in value, not in what they do to a policy. Of the expected gradients, with pi on its own samples,
    in the loss:    k1 gives 0,   k2 gives that of KL(pi || pi_ref),   k3 gives that of KL(pi_ref || pi);
    in the reward:  k1 gives that of KL(pi || pi_ref),   k3 gives that minus the one of KL(pi_ref || pi).
Tang & Munos 2025 (arXiv:2506.09477) show where the two come apart; for the loss, tokens that follow are left out.
So the optimum pi_ref exp(r / beta) / Z belongs to k1 in the reward, and, for single tokens, to k2 in the loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]

_MAX_EXPONENT = 20.0
_MAX_ERROR = 0.2


def bounded_exp(t: Tensor) -> Tensor:
    """exp, continued as a line past 20: neither it nor its gradient overflows. Same shape."""
    inside = t.clamp(max=_MAX_EXPONENT)
    return torch.exp(inside) * (1.0 + (t - inside))


def kl_estimates(logprobs: Tensor, reference: Tensor, estimator: Estimator) -> Tensor:
    """k1, k2 or k3 of each token drawn from the policy, in nats; same shape as its arguments.

    A sequence's estimate is the sum over its tokens (`segments.sums`): for k1 this is k1 of the whole sequence.
    """
    log_ratio = logprobs - reference  # -log r
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return 0.5 * log_ratio**2
    if estimator == "k3":
        return log_ratio + _expm1(-log_ratio)
    raise ValueError(f"no estimator of the KL is named {estimator!r}: k1, k2 or k3")


def _expm1(t: Tensor) -> Tensor:
    """expm1 keeps k3 exact where the policy is near its reference; past 20 the line of `bounded_exp`."""
    return torch.where(t < _MAX_EXPONENT, torch.expm1(t.clamp(max=_MAX_EXPONENT)), bounded_exp(t) - 1.0)


@dataclass(frozen=True)
class KLController:
    """The price of a nat, `coef`: fixed where there is no `target`, else steered towards it.

    Ziegler et al. 2019 (arXiv:1909.08593), section 2.2: e = clip(KL / target - 1, -0.2, 0.2), and the coefficient is
    multiplied by 1 + e steps / horizon. `target` is in nats a sequence, `steps` and `horizon` count sequences.
    """

    coef: float
    target: float | None = None
    horizon: float = 10_000.0

    def update(self, kl: float, steps: int) -> KLController:
        """The controller after `steps` sequences whose mean KL was `kl` nats. Raises ValueError for a KL not finite."""
        if not math.isfinite(kl):
            raise ValueError(f"the KL to the reference is {kl}: no coefficient follows from it")
        if self.target is None:
            return self
        error = min(max(kl / self.target - 1.0, -_MAX_ERROR), _MAX_ERROR)
        return replace(self, coef=self.coef * (1.0 + error * steps / self.horizon))


def past_target(approxkl: float, target: float | None) -> bool:
    """Whether to end a batch's epochs: the policy has moved further from the sampling one than `target` nats a token.

    As CleanRL's `target_kl`. No target: never. A KL that is no number is past any target.
    """
    return target is not None and not approxkl <= target
