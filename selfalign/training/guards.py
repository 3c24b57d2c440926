"""When to stop a policy that pleases its reward more than the judge: no torch, for whoever watches a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

from selfalign.config import Ppo

_FALSE_ALARM = 0.005
_HALF_WIDTHS = NormalDist().inv_cdf(0.975)  # standard errors in half a 95% interval


class Reading(NamedTuple):
    """What a held-out judge, whom the policy is not trained to please, says of one iterate."""

    mean: float
    low: float  # of the 95% interval
    high: float

    @property
    def standard_error(self) -> float:
        return (self.high - self.low) / (2.0 * _HALF_WIDTHS)


def best_iterate(judge: Sequence[Reading]) -> int:
    """The number of the iterate the judge likes best, the earliest of equals: the one to keep."""
    return max(range(len(judge)), key=lambda number: judge[number].mean)


def overoptimised(
    proxy: Sequence[float], judge: Sequence[Reading], iterates: Sequence[int] | None = None
) -> str | None:
    """Why to stop, if since the judge's best iterate the proxy rose while the judge fell further than chance; or None.

    Both are histories of the same `iterates` (by default 0, 1, 2, ...): `proxy` the mean of the reward that is
    optimised. Past its peak the gold
    reward falls while the proxy goes on rising: Gao et al. 2022 (arXiv:2210.10760).

    That two 95% intervals come apart is no proof: among 50 readings of an unchanged policy some two do so in most runs.
    So the fall has to be beyond what chance does in any pair of the n readings so far: z standard errors of a
    difference, z of a one-sided test at 0.005 / (n (n - 1) / 2). An unchanged policy under a proxy that always rises
    is then stopped in about 1.5% of runs of 10 readings, and 3% of runs of 50.
    """
    if len(proxy) != len(judge):
        raise ValueError(f"{len(proxy)} proxy rewards, but {len(judge)} readings of the judge: one of each an iterate")
    if len(judge) < 2:
        return None
    best, last = best_iterate(judge), len(judge) - 1
    if not proxy[last] > proxy[best]:
        return None
    fall, bound = judge[best].mean - judge[last].mean, _bound_of_chance(judge[best], judge[last], len(judge))
    if not fall > bound:
        return None
    since = iterates[best] if iterates is not None else best
    return (
        f"the reward is over-optimised: since iteration {since} it rose from {proxy[best]:.3g} to {proxy[last]:.3g}, "
        f"while the held-out judge fell from {_shown(judge[best])} to {_shown(judge[last])}, by {fall:.3g}; "
        f"chance explains {bound:.3g}"
    )


class Health(NamedTuple):
    """What one iteration's rollouts look like; all are means over them."""

    kl: float  # to the reference, nats per answer
    repetition: float  # the share of an answer's word 3-grams that it has said before
    length: float  # tokens per answer
    entropy: float  # nats per token
    spread: float  # the standard deviation of scores
    disagreement: float = 0.0  # the standard deviation of an ensemble's members on an answer


class _Limit(NamedTuple):
    """What `ppo.stop_<name>` bounds: a figure of Health, or where `relative` its ratio to the first iteration's."""

    name: str
    side: str  # most | least
    relative: bool
    words: str


_LIMITS = (
    _Limit("kl", "most", False, "the KL to the reference is {:.3g} nats per answer"),
    _Limit("repetition", "most", False, "{:.3g} of an answer's word 3-grams are repetitions"),
    _Limit("length", "most", True, "answers have {:.3g} tokens, {:.3g} at first"),
    _Limit("entropy", "least", True, "the entropy is {:.3g} nats per token, {:.3g} at first"),
    _Limit("spread", "least", True, "the standard deviation of scores is {:.3g}, {:.3g} at first"),
    _Limit("disagreement", "most", True, "the reward models are {:.3g} apart, {:.3g} at first"),
)


def has_limits(limits: Ppo) -> bool:
    return any(getattr(limits, f"stop_{limit.name}") is not None for limit in _LIMITS)


def past_limits(history: Sequence[Health], limits: Ppo) -> str | None:
    """Why to stop, where the last of the iterations so far is past one of the limits `ppo.stop_*`; or None.

    What is no number is past any limit.
    """
    return next((said for limit in _LIMITS if (said := _past_limit(history, limit, limits)) is not None), None)


def _past_limit(history: Sequence[Health], limit: _Limit, limits: Ppo) -> str | None:
    setting = f"stop_{limit.name}"
    given, first, now = getattr(limits, setting), getattr(history[0], limit.name), getattr(history[-1], limit.name)
    if given is None:
        return None
    bound = given * first if limit.relative else given
    if now <= bound if limit.side == "most" else now >= bound:
        return None
    said = f"in the rollouts of iteration {len(history) - 1} {limit.words.format(now, first)}"
    return f"ppo.{setting}: {said}; the {limit.side} allowed is {bound:.3g}"


def _bound_of_chance(one: Reading, other: Reading, readings: int) -> float:
    pairs = readings * (readings - 1) / 2
    z = NormalDist().inv_cdf(1.0 - _FALSE_ALARM / pairs)
    return z * math.hypot(one.standard_error, other.standard_error)


def _shown(reading: Reading) -> str:
    return f"{reading.mean:.3g} [{reading.low:.3g}, {reading.high:.3g}]"
