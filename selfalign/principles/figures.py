"""How each principle did: what it was asked, how clearly it answered, and whom it agrees with.

Intervals are of 95%: the percentile bootstrap over prompts (Efron 1979), because what is said of one prompt hangs
together; for shares widened to Wilson's, because the bootstrap knows no doubt where all cases agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from selfalign.calibration import wilson_interval
from selfalign.principles.opinions import Said

RESAMPLES = 1000
_BUNDLES = 1000  # prompts are resampled in at most so many bundles, put together at random: the same spread, less work
_SUREST = 0.999  # beyond this a probability counts as this much, or a few certain verdicts would be the correlation


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95% interval; `n` is how many cases it is the mean of."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What a principle did in a round, or in several. Shares are in [0, 1]; None is what could not be measured.

    `judgments`: how often it was put before the judge. `comparisons`: pairs of answers on which it spoke, ratings of
    both counting as a comparison. `coverage`: prompts that it was asked about, of those sampled. `invalid`: judgments
    without a valid verdict.

    `decisiveness`: the mean of |2p - 1|, p being the probability of the preferred answer. `preferring`: comparisons in
    which it prefers either. The following are shares of these: `chosen`, that what it prefers was trained on as the
    better of the two (its own vote is among those that decided it); `people` and `gold`, that people, or a gold answer,
    are of its opinion; `longer`, that it prefers the answer with more tokens. `length_correlation`: of the log-odds
    with the difference in tokens, each comparison counted in both orders. `swap_consistency` and `first_preferred` are
    as in JudgeHealth. `strength`: (2 chosen - 1) times the share of all comparisons in which it prefers either: how far
    the labels follow it.
    """

    judgments: int
    comparisons: int
    coverage: Estimate | None
    invalid: Estimate | None
    decisiveness: Estimate | None
    preferring: Estimate | None
    chosen: Estimate | None
    swap_consistency: Estimate | None
    first_preferred: Estimate | None
    longer: Estimate | None
    length_correlation: Estimate | None
    people: Estimate | None
    gold: Estimate | None
    strength: float | None


def figures(said: Said, size: int) -> list[Figures]:
    """The figures of principles 0 to `size` - 1."""
    measure = Measure(Bundles(said), size)
    columns = {"coverage": _coverage(said, size), **_of_questions(said, measure), **_of_opinions(said, measure)}
    judgments = np.bincount(said.questions.principle, minlength=size).tolist()
    comparisons = np.bincount(said.opinions.principle, minlength=size).tolist()
    return [
        Figures(
            judgments=judgments[i],
            comparisons=comparisons[i],
            strength=_strength(columns["chosen"][i], columns["preferring"][i], len(said.pairs.prompt)),
            **{name: column[i] for name, column in columns.items()},
        )
        for i in range(size)
    ]


def _of_questions(said: Said, measure: Measure) -> dict[str, list[Estimate | None]]:
    """What single judgments tell, and pairs of them."""
    asked = said.questions
    return {
        "invalid": measure.shares(asked.principle, asked.prompt, asked.invalid),
        "first_preferred": measure.shares(asked.principle, asked.prompt, asked.first, asked.decided),
        "swap_consistency": measure.shares(*said.swaps),
    }


def _of_opinions(said: Said, measure: Measure) -> dict[str, list[Estimate | None]]:
    """How clear opinions are, and whose they are too."""
    principle, pair, lead = said.opinions
    prompt, side = said.pairs.prompt[pair], said.opinions.side
    found = {
        "decisiveness": measure.means(principle, prompt, np.abs(lead)),
        "preferring": measure.shares(principle, prompt, side != 0),
        "length_correlation": measure.correlations(principle, prompt, _log_odds(lead), said.pairs.longer[pair]),
    }
    others = {name: getattr(said.pairs, name) for name in ("chosen", "people", "gold")}
    for name, theirs in {**others, "longer": np.sign(said.pairs.longer).astype(np.int8)}.items():
        other = theirs[pair]
        found[name] = measure.shares(principle, prompt, side == other, (side != 0) & (other != 0))
    return found


def _strength(chosen: Estimate | None, preferring: Estimate | None, num_pairs: int) -> float | None:
    if chosen is None or preferring is None:
        return None
    return (2 * chosen.value - 1) * preferring.value * preferring.n / num_pairs


def _coverage(said: Said, size: int) -> list[Estimate | None]:
    """The share of sampled prompts that each principle was asked about."""
    width = int(max(said.questions.prompt.max(initial=0), said.prompts.max(initial=0))) + 1
    asked = np.bincount(np.unique(said.questions.principle * width + said.questions.prompt) // width, minlength=size)
    whole = len(np.union1d(said.prompts, said.questions.prompt))
    return [
        Estimate(count / whole, *wilson_interval(count, whole), whole) if whole else None for count in asked.tolist()
    ]


def _log_odds(lead: np.ndarray) -> np.ndarray:
    p = np.clip((1 + lead) / 2, 1 - _SUREST, _SUREST)
    return np.log(p / (1 - p))


class Bundles:
    """The prompts of what was said, put into bundles at random. `of` maps numbers of prompts to those of bundles."""

    def __init__(self, said: Said) -> None:
        self._prompts = np.union1d(said.prompts, said.questions.prompt)
        order = np.random.default_rng(0).permutation(len(self._prompts))
        self._bundle = order % _BUNDLES
        self.size = min(len(order), _BUNDLES)

    def of(self, prompts: np.ndarray) -> np.ndarray:
        return self._bundle[np.searchsorted(self._prompts, prompts)]

    def resampled(self, sums: np.ndarray) -> np.ndarray:
        """Sums by bundle [B, ...] over bundles drawn anew. [RESAMPLES, ...]"""
        return np.tensordot(_draws(self.size), sums, axes=1)


@lru_cache(maxsize=8)
def _draws(size: int) -> np.ndarray:
    """How often each of `size` bundles is drawn. [RESAMPLES, size]"""
    if not size:  # nothing was asked
        return np.zeros((RESAMPLES, 0))
    return np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), size=RESAMPLES).astype(np.float64)


@dataclass(frozen=True)
class Measure:
    """Figures of `size` principles, of rows [N] that belong to a principle and a prompt each."""

    bundles: Bundles
    size: int

    def shares(
        self, principle: np.ndarray, prompt: np.ndarray, hits: np.ndarray, count: np.ndarray | None = None
    ) -> list[Estimate | None]:
        """The share of hits among the rows that `count` (default: all)."""
        if count is not None:
            principle, prompt, hits = principle[count], prompt[count], hits[count]
        return [with_wilson(found) for found in self.means(principle, prompt, hits)]

    def means(self, principle: np.ndarray, prompt: np.ndarray, values: np.ndarray) -> list[Estimate | None]:
        totals, counts = self._sums(principle, prompt, values), self._sums(principle, prompt, np.ones(len(prompt)))
        return list(self.bundled_means(totals, counts))

    def bundled_means(self, totals: np.ndarray, counts: np.ndarray) -> Iterator[Estimate | None]:
        """Means from totals and counts by bundle. [B, K] each"""
        return _estimates(
            _ratio(totals.sum(axis=0), counts.sum(axis=0)),
            _ratio(self.bundles.resampled(totals), self.bundles.resampled(counts)),
            counts.sum(axis=0),
        )

    def correlations(
        self, principle: np.ndarray, prompt: np.ndarray, x: np.ndarray, y: np.ndarray
    ) -> list[Estimate | None]:
        """Pearson's correlation where each row counts in both orders, as (x, y) and (-x, -y): without the means."""
        sums = [self._sums(principle, prompt, values) for values in (x * y, x * x, y * y)]
        counts = self._sums(principle, prompt, np.ones(len(prompt))).sum(axis=0)

        def correlation(xy: np.ndarray, xx: np.ndarray, yy: np.ndarray) -> np.ndarray:
            return _ratio(xy, np.sqrt(xx * yy))

        value = correlation(*(part.sum(axis=0) for part in sums))
        return list(_estimates(value, correlation(*map(self.bundles.resampled, sums)), counts))

    def _sums(self, principle: np.ndarray, prompt: np.ndarray, values: np.ndarray) -> np.ndarray:
        """By bundle and principle. [B, K]"""
        place = self.bundles.of(prompt) * self.size + principle
        flat = np.bincount(place, weights=values, minlength=self.bundles.size * self.size)
        return flat.reshape(self.bundles.size, self.size)


def with_wilson(share: Estimate | None) -> Estimate | None:
    """A share with an interval that reaches as far as Wilson's."""
    if share is None:
        return None
    low, high = wilson_interval(min(max(share.value, 0.0), 1.0) * share.n, share.n)
    return Estimate(share.value, min(low, share.low), max(high, share.high), share.n)


def _estimates(values: np.ndarray, resampled: np.ndarray, counts: np.ndarray) -> Iterator[Estimate | None]:
    """Values [K] with the quantiles of their resamples [RESAMPLES, K]; None where there is nothing to measure."""
    for i, (value, n) in enumerate(zip(values.tolist(), counts.tolist(), strict=True)):
        drawn = resampled[:, i][np.isfinite(resampled[:, i])]
        if not n or not np.isfinite(value):
            yield None
        else:
            low, high = np.quantile(drawn, [0.025, 0.975]).tolist() if len(drawn) else (value, value)
            yield Estimate(value, min(low, value), max(high, value), int(n))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full_like(whole, np.nan, dtype=np.float64), where=whole > 0)
