"""The guard against over-optimisation: a tabular case built to fool a reward, and cases that are only noisy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from selfalign.config import Ppo
from selfalign.training.guards import Health, Reading, best_iterate, has_limits, overoptimised, past_limits

JUDGED = 256  # prompts a reading rests on
COEFFICIENTS = np.geomspace(4.0, 0.05, 25)  # the price of a nat, swept down


@dataclass(frozen=True)
class Case:
    """A tabular policy: what the reference does, what is optimised, what is wanted."""

    reference: np.ndarray
    proxy: np.ndarray
    gold: np.ndarray

    def policy(self, beta: float) -> np.ndarray:
        """The optimum of proxy - beta KL: pi_ref exp(proxy / beta) / Z."""
        logits = np.log(self.reference) + self.proxy / beta
        weights = np.exp(logits - logits.max())
        return weights / weights.sum()

    def proxies(self) -> list[float]:
        return [float(self.policy(beta) @ self.proxy) for beta in COEFFICIENTS]

    def readings(self, seed: int, judged: int = JUDGED) -> list[Reading]:
        """Gold of freshly sampled answers, with its interval."""
        generator = np.random.default_rng(seed)
        return [
            reading(self.gold[generator.choice(len(self.gold), judged, p=self.policy(beta))]) for beta in COEFFICIENTS
        ]


def reading(scores: np.ndarray) -> Reading:
    mean, half = float(scores.mean()), 1.96 * float(scores.std(ddof=1)) / math.sqrt(len(scores))
    return Reading(mean, mean - half, mean + half)


@pytest.fixture
def rare_trick() -> Case:
    """Three honest answers, and a rare one that the proxy takes for the best and gold for the worst."""
    return Case(
        reference=np.array([0.5, 0.3, 0.19, 0.01]),
        proxy=np.array([0.0, 0.5, 1.0, 2.0]),
        gold=np.array([0.0, 0.5, 1.0, -2.0]),
    )


@pytest.fixture
def only_noisy() -> Case:
    """2000 answers whose proxy is gold plus independent noise of the same size: a poor reward, not a fooled one."""
    generator = np.random.default_rng(0)
    gold = generator.normal(size=2000)
    return Case(np.full(2000, 1 / 2000), gold + generator.normal(size=2000), gold)


def first_stop(proxy: list[float], judge: list[Reading]) -> int | None:
    return next((n for n in range(1, len(proxy)) if overoptimised(proxy[: n + 1], judge[: n + 1])), None)


def test_the_case_is_what_it_is_meant_to_be(rare_trick: Case) -> None:
    gold = [float(rare_trick.policy(beta) @ rare_trick.gold) for beta in COEFFICIENTS]
    peak = int(np.argmax(gold))
    assert np.all(np.diff(rare_trick.proxies()) > 0)
    assert 0 < peak < len(gold) - 1
    assert np.all(np.diff(gold[: peak + 1]) > 0)
    assert np.all(np.diff(gold[peak:]) < 0)
    assert gold[-1] < gold[0] < gold[peak]


@pytest.mark.parametrize("seed", range(10))
def test_it_fires_between_the_peak_and_the_ruin(rare_trick: Case, seed: int) -> None:
    gold = [float(rare_trick.policy(beta) @ rare_trick.gold) for beta in COEFFICIENTS]
    proxy, judge = rare_trick.proxies(), rare_trick.readings(seed)
    stop = first_stop(proxy, judge)
    assert stop is not None
    assert stop > int(np.argmax(gold))
    kept = best_iterate(judge[: stop + 1])
    assert kept < stop
    assert gold[kept] > 0.8 * max(gold)
    assert gold[stop] > gold[-1] + 0.5, "long before the end of the sweep"


def test_it_says_why() -> None:
    reason = overoptimised([0.4, 0.9], [Reading(0.6, 0.55, 0.65), Reading(0.3, 0.25, 0.35)])
    assert reason == (
        "the reward is over-optimised: since iteration 0 it rose from 0.4 to 0.9, while the held-out judge fell from "
        "0.6 [0.55, 0.65] to 0.3 [0.25, 0.35], by 0.3; chance explains 0.0929"
    )


@pytest.mark.parametrize("seed", range(20))
def test_it_is_silent_where_the_proxy_is_only_noisy(only_noisy: Case, seed: int) -> None:
    """Independent noise spoils how much is gained, not the direction."""
    sweep = [n for n, beta in enumerate(COEFFICIENTS) if beta > 0.7]
    proxy, judge = only_noisy.proxies()[: len(sweep)], only_noisy.readings(seed)[: len(sweep)]
    assert judge[-1].low > judge[0].high, "the policy did become better"
    assert first_stop(proxy, judge) is None


def test_an_unchanged_policy_is_seldom_stopped() -> None:
    """200 runs of 50 readings around one win rate, under a proxy that always rises; plain intervals stop most."""
    generator, stopped, apart = np.random.default_rng(0), 0, 0
    proxy = [0.01 * n for n in range(50)]
    for _ in range(200):
        rates = generator.binomial(JUDGED, 0.6, 50) / JUDGED
        halves = 1.96 * np.sqrt(rates * (1 - rates) / JUDGED)
        judge = [Reading(r, r - h, r + h) for r, h in zip(rates.tolist(), halves.tolist(), strict=True)]
        stopped += first_stop(proxy, judge) is not None
        apart += any(judge[n].high < max(j.low for j in judge[:n]) for n in range(1, 50))
    assert stopped <= 12  # 3% of the runs, and what sampling allows
    assert apart > 100


def test_both_have_to_move() -> None:
    high, low = Reading(0.6, 0.55, 0.65), Reading(0.3, 0.25, 0.35)
    assert overoptimised([0.4, 0.9], [high, low]) is not None
    assert overoptimised([0.9, 0.4], [high, low]) is None  # both fell: no hack, but a failure of another kind
    assert overoptimised([0.4, 0.4], [high, low]) is None
    assert overoptimised([0.4, 0.9], [low, high]) is None
    assert overoptimised([0.4, 0.9], [high, Reading(0.58, 0.53, 0.63)]) is None


def test_it_remembers_the_best_iterate() -> None:
    """A slow fall, each reading within the last one's interval."""
    judge = [Reading(0.6 - 0.02 * n, 0.56 - 0.02 * n, 0.64 - 0.02 * n) for n in range(10)]
    assert first_stop([0.1 * n for n in range(10)], judge) is not None
    assert best_iterate(judge) == 0


def test_short_and_broken_histories() -> None:
    assert overoptimised([], []) is None
    assert overoptimised([1.0], [Reading(0.5, 0.4, 0.6)]) is None
    assert overoptimised([1.0, math.nan], [Reading(0.6, 0.55, 0.65), Reading(0.3, 0.25, 0.35)]) is None
    with pytest.raises(ValueError, match="one of each an iterate"):
        overoptimised([1.0, 2.0], [Reading(0.5, 0.4, 0.6)])


HEALTHY = Health(kl=2.0, repetition=0.05, length=100.0, entropy=1.0, spread=0.8, disagreement=0.2)
LIMITS = Ppo(
    stop_kl=10.0, stop_repetition=0.3, stop_length=1.5, stop_entropy=0.4, stop_spread=0.25, stop_disagreement=2.0
)


@pytest.mark.parametrize(
    ("figure", "values", "reason"),
    [
        ("kl", [2, 9.9, 10.0, 12.3], "the KL to the reference is 12.3 nats per answer; the most allowed is 10"),
        (
            "repetition",
            [0.05, 0.3, 0.31],
            "0.31 of an answer's word 3-grams are repetitions; the most allowed is 0.3",
        ),
        ("length", [100, 150, 80, 151], "answers have 151 tokens, 100 at first; the most allowed is 150"),
        (
            "entropy",
            [1.0, 0.4, 0.39],
            "the entropy is 0.39 nats per token, 1 at first; the least allowed is 0.4",
        ),
        (
            "spread",
            [0.8, 0.2, 0.1],
            "the standard deviation of scores is 0.1, 0.8 at first; the least allowed is 0.2",
        ),
        (
            "disagreement",
            [0.2, 0.4, 0.5],
            "the reward models are 0.5 apart, 0.2 at first; the most allowed is 0.4",
        ),
        ("kl", [2, math.nan], "the KL to the reference is nan nats per answer; the most allowed is 10"),
    ],
)
def test_each_limit_fires_when_it_is_past_and_says_so(figure: str, values: list[float], reason: str) -> None:
    history = [HEALTHY._replace(**{figure: float(value)}) for value in values]
    for number in range(1, len(history)):
        assert past_limits(history[:number], LIMITS) is None
    last = len(history) - 1
    assert past_limits(history, LIMITS) == f"ppo.stop_{figure}: in the rollouts of iteration {last} {reason}"
    assert past_limits(history, Ppo()) is None


@pytest.mark.parametrize("seed", range(10))
def test_limits_are_silent_where_the_rollouts_only_vary(seed: int) -> None:
    """100 iterations of 64 answers each, whose figures are noisy and no more."""
    generator = np.random.default_rng(seed)
    history = [
        Health(
            *(
                generator.normal(mean, deviation / 8)
                for mean, deviation in zip(HEALTHY[:4], (8, 0.1, 60, 1), strict=True)
            ),
            spread=float(generator.normal(0, 0.8, 64).std()),
        )
        for _ in range(100)
    ]
    assert not any(past_limits(history[: number + 1], LIMITS) for number in range(100))


def test_limits_are_asked_for_one_by_one() -> None:
    assert not has_limits(Ppo())
    assert has_limits(LIMITS) and has_limits(Ppo(stop_spread=0.0))


def test_the_earliest_of_equals_is_best() -> None:
    assert best_iterate([Reading(0.4, 0.3, 0.5), Reading(0.6, 0.5, 0.7), Reading(0.6, 0.5, 0.7)]) == 1
