"""Is a reward model, or a judge, to be trusted: how often it is right, how sure it may be, and whether length does it.

A *gap* [N] is a reward difference or a log-odds, and the probability it stands for is sigmoid(gap) (Bradley and Terry
1952). Unless a docstring says otherwise, gaps are of the chosen answer minus the rejected one. `labels` [N] in [0, 1]
are the probabilities that the answer counted positive is the better one; left out, it is so for certain. `groups` [N]
names what each pair belongs to, usually its prompt: pairs on one prompt hang together, so prompts are resampled, not
pairs. Intervals are of 95%. All functions raise ValueError for no pairs, for a gap that is not finite, for a label
outside [0, 1], and for arrays of different lengths.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from selfalign.records import Bin, Interval
from selfalign.statistics import fit_logistic

Values = Sequence[float] | np.ndarray
Groups = Sequence[Hashable] | np.ndarray

MIN_PROMPTS = 30  # below, an interval spans some 35 points and the bootstrap's are too narrow
LABEL_CUTS = (0.6, 0.7, 0.8, 0.9)  # between buckets of p_chosen
_Z = 1.959963984540054
_CHUNK_DRAWS = 1 << 20  # resampled counts held at a time
_COLDEST, _HOTTEST = 1e-2, 1e2  # temperatures
_BISECTIONS = 60


def wilson_interval(successes: float, n: int) -> Interval:
    """The 95% interval of a share (Wilson 1927), which stays within [0, 1] and holds for few cases and extreme shares.

    `successes` may be fractional: halves for ties, or soft labels, for which the interval is rather too wide.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes:g} of {n} is no share")
    p, z2 = successes / n, _Z**2
    middle, half = p + z2 / (2 * n), _Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    low, high = (middle - half) / (1 + z2 / n), (middle + half) / (1 + z2 / n)
    return Interval(max(0.0, min(low, p)), min(1.0, max(high, p)))  # with p, for rounding at 0 and 1


def pairs_needed(half_width: float) -> int:
    """How many independent pairs pin a share near one half down to plus or minus `half_width`."""
    return math.ceil((_Z / (2 * half_width)) ** 2)


# Accuracy ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The share of pairs ordered as their labels order them, a tie counting half.

    `wilson` takes the pairs for independent, `bootstrap` resamples prompts and so knows better, but is too narrow where
    there are few or where all agree. `cautious` reaches as far as either.
    """

    value: float
    num_pairs: int
    num_prompts: int
    wilson: Interval
    bootstrap: Interval

    @property
    def cautious(self) -> Interval:
        return Interval(min(self.wilson.low, self.bootstrap.low), max(self.wilson.high, self.bootstrap.high))

    def __str__(self) -> str:
        pairs = f"{self.num_pairs:,} pairs" if self.num_pairs != 1 else "1 pair"
        prompts = f"{self.num_prompts:,} prompts" if self.num_prompts != 1 else "1 prompt"
        return f"{self.value:.3f} (95% interval {self.cautious}, {pairs} of {prompts})"


def accuracy(gaps: Values, groups: Groups | None = None, *, resamples: int = 1000, seed: int = 0) -> Accuracy:
    """How often the chosen answer has the higher reward."""
    right, codes = _right(gaps), _codes(groups, len(gaps))
    wilson = wilson_interval(float(right.sum()), len(right))
    bootstrap = _grouped_interval(right, codes, resamples, seed)
    return Accuracy(float(right.mean()), len(right), int(codes.max()) + 1, wilson, bootstrap)


@dataclass(frozen=True, slots=True)
class Bucket:
    """The pairs whose label or margin is in [low, high); the first and the last bucket are open-ended."""

    low: float
    high: float
    accuracy: Accuracy


def accuracy_by_bucket(
    gaps: Values,
    margins: Values,
    cuts: Sequence[float] = LABEL_CUTS,
    groups: Groups | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[Bucket, ...]:
    """Accuracy where the judge was undecided, rather sure, sure: by its soft label or its margin [N], parted at `cuts`.

    A model that learned what the judge means is best where the judge is sure. Empty buckets are left out.
    """
    gaps, margins = _finite(gaps, "gap"), _finite(margins, "margin", len(gaps))
    codes, place = _codes(groups, len(gaps)), np.searchsorted(cuts, margins, side="right")
    ends = [-math.inf, *cuts, math.inf]
    return tuple(
        Bucket(low, high, accuracy(gaps[inside], codes[inside], resamples=resamples, seed=seed))
        for index, (low, high) in enumerate(pairwise(ends))
        if (inside := place == index).any()
    )


# Calibration ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Forecasts:
    """Probabilities [N] in [floor, 1] and what came of each [N] in [0, 1]."""

    probabilities: np.ndarray
    outcomes: np.ndarray
    floor: float


def folded(gaps: Values, labels: Values | None = None) -> Forecasts:
    """How sure each answer is, in [.5, 1], and how far it is right: the same whichever answer is called the first.

    A gap of 0 is right by half, whatever the label.
    """
    gaps, labels = _gaps_and_labels(gaps, labels)
    outcomes = np.where(gaps > 0, labels, np.where(gaps < 0, 1 - labels, 0.5))
    return Forecasts(_sigmoid(np.abs(gaps)), outcomes, 0.5)


def unfolded(gaps: Values, labels: Values) -> Forecasts:
    """sigmoid(gap) in [0, 1] against the labels, which shows a liking for the first answer that folding hides.

    The order of the two answers must not come from the labels, as it does in pairs of chosen and rejected: there a
    perfect model looks underconfident. A judge's log-odds of the answer shown first, against gold, have such an order.
    """
    gaps, labels = _gaps_and_labels(gaps, labels)
    return Forecasts(_sigmoid(gaps), labels, 0.0)


def reliability(forecasts: Forecasts, *, bins: int = 10, equal_mass: bool = False) -> tuple[Bin, ...]:
    """The bins of a reliability diagram, of equal width, or of about equal counts; empty bins are left out.

    Forecasts that are the same share a bin, so that equal counts may not be reached.
    """
    p, outcomes = forecasts.probabilities, forecasts.outcomes
    edges = _edges_by_rank(forecasts, bins) if equal_mass else np.linspace(forecasts.floor, 1.0, bins + 1)
    place = np.searchsorted(edges[1:-1], p, side="right")
    return tuple(
        _bin(float(low), float(high), p[inside], outcomes[inside])
        for index, (low, high) in enumerate(pairwise(edges))
        if (inside := place == index).any()
    )


def _edges_by_rank(forecasts: Forecasts, bins: int) -> np.ndarray:
    """Edges between bins of about equal counts, none of which parts forecasts that are the same."""
    ordered = np.sort(forecasts.probabilities)
    place = np.searchsorted(ordered, ordered) * bins // len(ordered)
    return np.r_[forecasts.floor, ordered[1:][np.diff(place) > 0], 1.0]


def _bin(low: float, high: float, probabilities: np.ndarray, outcomes: np.ndarray) -> Bin:
    n, total = len(outcomes), float(outcomes.sum())
    return Bin(low, high, float(probabilities.mean()), total / n, n, wilson_interval(min(total, n), n))


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """ECE: mean distance between what was said and what came of it, weighted by count (Guo et al. 2017, eq. 3)."""
    return sum(one.n * abs(one.accuracy - one.confidence) for one in bins) / sum(one.n for one in bins)


def maximum_calibration_error(bins: Sequence[Bin]) -> float:
    """MCE: the largest such distance over the bins (Guo et al. 2017, eq. 4). A bin of few pairs can make it large."""
    return max(abs(one.accuracy - one.confidence) for one in bins)


def chance_calibration_error(forecasts: Forecasts, *, bins: int = 10, resamples: int = 200, seed: int = 0) -> float:
    """The ECE to expect of these forecasts if they were calibrated: what comes of few pairs alone.

    Outcomes are drawn with the probabilities that were forecast (after Broecker and Smith 2007), each right or wrong;
    soft ones vary less, and their ECE can lie below.
    """
    generator, p = np.random.default_rng(seed), forecasts.probabilities
    draws = (Forecasts(p, (generator.random(len(p)) < p).astype(float), forecasts.floor) for _ in range(resamples))
    return float(np.mean([expected_calibration_error(reliability(drawn, bins=bins)) for drawn in draws]))


def brier_score(gaps: Values, labels: Values | None = None) -> float:
    """Mean (sigmoid(gap) - label)^2 (Brier 1950); .25 for who always says one half of pairs with hard labels."""
    gaps, labels = _gaps_and_labels(gaps, labels)
    return float(np.mean((_sigmoid(gaps) - labels) ** 2))


def negative_log_likelihood(gaps: Values, labels: Values | None = None) -> float:
    """Mean -p log sigmoid(gap) - (1 - p) log sigmoid(-gap), in nats: the loss that trains a reward model."""
    gaps, labels = _gaps_and_labels(gaps, labels)
    return float(np.mean(np.logaddexp(0.0, gaps) - labels * gaps))


def fit_temperature(gaps: Values, labels: Values | None = None) -> float:
    """The T > 0 whose gap / T is the most likely (Guo et al. 2017): above 1 the model is too sure, below not enough.

    The loss is convex in 1 / T, so its slope is bisected. T stays in [.01, 100] and meets an end where no T between is
    best: at the lower one all pairs are in order, at the upper one the model is no better than chance. 1 where all gaps
    are 0.
    """
    gaps, labels = _gaps_and_labels(gaps, labels)
    if not gaps.any():
        return 1.0
    low, high = math.log(_COLDEST), math.log(_HOTTEST)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        slope = np.mean(gaps * (_sigmoid(gaps * math.exp(-middle)) - labels))
        low, high = (middle, high) if slope > 0 else (low, middle)
    return math.exp((low + high) / 2)


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well probabilities fit what came of them, before and after dividing the gaps by `temperature`.

    All of it is of folded forecasts in ten bins; `ece_by_chance` is what a calibrated model would show of so few pairs.
    The temperature is fitted on the same pairs, which flatters `nll_scaled` by about 1 / num_pairs.
    """

    num_pairs: int
    ece: float
    ece_equal_mass: float
    ece_by_chance: float
    mce: float
    brier: float
    nll: float
    temperature: float
    ece_scaled: float
    nll_scaled: float


def measure_calibration(gaps: Values, labels: Values | None = None, *, seed: int = 0) -> Calibration:
    """All figures of calibration on held-out pairs."""
    gaps, labels = _gaps_and_labels(gaps, labels)
    forecasts, temperature = folded(gaps, labels), fit_temperature(gaps, labels)
    bins, scaled = reliability(forecasts), gaps / temperature
    return Calibration(
        num_pairs=len(gaps),
        ece=expected_calibration_error(bins),
        ece_equal_mass=expected_calibration_error(reliability(forecasts, equal_mass=True)),
        ece_by_chance=chance_calibration_error(forecasts, seed=seed),
        mce=maximum_calibration_error(bins),
        brier=brier_score(gaps, labels),
        nll=negative_log_likelihood(gaps, labels),
        temperature=temperature,
        ece_scaled=expected_calibration_error(reliability(folded(scaled, labels))),
        nll_scaled=negative_log_likelihood(scaled, labels),
    )


# Length alone --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LengthBaseline:
    """A reward model that sees nothing but lengths: gap = weight * tanh(difference / scale)."""

    weight: float
    scale: float

    def gaps(self, differences: Values) -> np.ndarray:
        """The gaps [N] of pairs with these length differences [N], own minus the other's."""
        return self.weight * np.tanh(_finite(differences, "length difference") / self.scale)


def fit_length_baseline(differences: Values, labels: Values | None = None) -> LengthBaseline:
    """A logistic model of the labels on the length difference, chosen minus rejected, of the pairs trained on.

    It has no intercept, which would only learn that the chosen answer is named first. The tanh, as in length-controlled
    win rates (Dubois et al. 2024), keeps a few very long answers from deciding.
    """
    differences, labels = _gaps_and_labels(differences, labels, "length difference")
    scale = math.sqrt(np.mean(differences**2)) or 1.0
    (weight,) = fit_logistic(np.tanh(differences / scale)[:, None], labels)
    return LengthBaseline(float(weight), scale)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A model beside a baseline on the same pairs. `as_well`: nothing shows that the model is the better one."""

    as_well: bool
    reason: str
    difference: float  # accuracy of the model minus that of the baseline
    interval: Interval
    p_value: float


def explains_as_well(
    gaps: Values, baseline_gaps: Values, groups: Groups | None = None, *, resamples: int = 1000, seed: int = 0
) -> Comparison:
    """Whether a baseline, such as length alone, orders held-out pairs as well as the model does: a paired test.

    The model is better if the bootstrap interval of the difference, over prompts, is above 0, and McNemar's test (1947;
    exact: a sign test of the pairs on which the two differ) has p < .05. The first knows that pairs of one prompt hang
    together, the second holds for few pairs.
    """
    ours, theirs = _right(gaps), _right(baseline_gaps)
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} pairs of the model, {len(theirs)} of the baseline")
    gains = ours - theirs
    interval = _grouped_interval(gains, _codes(groups, len(gains)), resamples, seed)
    p_value = _sign_test(int((gains > 0).sum()), int((gains < 0).sum()))
    as_well = not (interval.low > 0 and p_value < 0.05)
    reason = (
        f"accuracy {ours.mean():.3f} against the baseline's {theirs.mean():.3f} on the same {len(ours):,} pairs: "
        f"{gains.mean():+.3f} (95% interval {interval.low:+.3f} to {interval.high:+.3f}, McNemar p {_p(p_value)}), "
        + ("which chance can make" if as_well and gains.mean() > 0 else "no better" if as_well else "so it is better")
    )
    return Comparison(as_well, reason, float(gains.mean()), interval, p_value)


def _sign_test(better: int, worse: int) -> float:
    """Two-sided exact p-value of `better` against `worse` under a fair coin."""
    n, term, total = better + worse, 1, 0
    for k in range(min(better, worse) + 1):
        total, term = total + term, term * (n - k) // (k + 1)
    return min(1.0, 2 * total / 2**n)


def _p(value: float) -> str:
    return f"= {value:.3f}" if value >= 0.001 else "below 0.001"


# Go or no-go ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a policy may be optimised against the reward model, and why, in words: what, why, what to do next."""

    go: bool
    reason: str


def decide(measured: Accuracy | None, min_accuracy: float, against_length: Comparison | None = None) -> Verdict:
    """Go if the model is accurate enough on enough held-out pairs, beyond chance, and better than length alone.

    `measured` is None where there is no held-out pair, `against_length` where no length is known.
    """
    problems = list(_problems(measured, min_accuracy, against_length))
    if problems:
        whats, fixes = zip(*problems, strict=True)
        return Verdict(False, f"no-go: {'; '.join(whats)}\n{'; '.join(dict.fromkeys(fixes))}")
    length = f"; against length alone: {against_length.reason}" if against_length else ""
    return Verdict(True, f"go: held-out accuracy {measured}, at least {min_accuracy:g}{length}")


_MORE_HELD_OUT = (
    "hold out more pairs, by drawing more prompts (prompts.per_round) or a larger share (reward_model.holdout)"
)


def _problems(
    measured: Accuracy | None, min_accuracy: float, against_length: Comparison | None
) -> Iterator[tuple[str, str]]:
    """What speaks against the model, each with what to do next."""
    if measured is None:
        yield "no pair was held out, so that nothing is known of the reward model", _MORE_HELD_OUT
    elif measured.num_prompts < MIN_PROMPTS:
        prompts = "1 prompt" if measured.num_prompts == 1 else f"{measured.num_prompts} prompts"
        few = f"held-out pairs of {prompts} are too few to tell: accuracy {measured}"
        yield few, f"{_MORE_HELD_OUT}: at least {MIN_PROMPTS} prompts, {pairs_needed(0.05)} for 5 points either way"
    else:
        yield from _inaccurate(measured, min_accuracy)
        if against_length is not None and against_length.as_well:
            yield (
                f"length alone explains the pairs as well: {against_length.reason}; a policy optimised against the "
                "model would learn to write longer or shorter",
                "balance the lengths of the pairs (pairs.length_balance), or train on more of them "
                "(reward_model.data: all)",
            )


def _inaccurate(measured: Accuracy, min_accuracy: float) -> Iterator[tuple[str, str]]:
    if measured.value < min_accuracy:
        reach = (
            "reaches it, so that more held-out pairs may clear it"
            if measured.cautious.high >= min_accuracy
            else "ends below it"
        )
        yield (
            f"held-out accuracy {measured} is below reward_model.min_accuracy {min_accuracy:g}; its interval {reach}; "
            "a policy optimised against the model would learn its errors",
            "train on more pairs (prompts.per_round, reward_model.data: all) or on clearer ones (pairs.min_margin), "
            "read some to see whether the judge can be believed (selfalign pairs ls RUN), or lower "
            "reward_model.min_accuracy",
        )
    elif measured.cautious.low <= 0.5:
        yield (
            f"held-out accuracy {measured} may be chance: its interval holds 0.5",
            f"{_MORE_HELD_OUT}: {pairs_needed(max(measured.value - 0.5, 0.01))} pairs would tell",
        )


# Agreement -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two raters prefer the same answers. `raw` counts pairs on which both say the same, ties included.

    `kappa` is Cohen's, None where chance alone makes them agree. `num_unknown` pairs, of which one rater says nothing,
    are left out.
    """

    raw: float
    interval: Interval
    kappa: float | None
    num_pairs: int
    num_unknown: int


def agreement(ours: Values, theirs: Values) -> Agreement | None:
    """The agreement of two raters of the same pairs, such as reward model and judge, or either and gold.

    A rater is given by leads [N] of one answer over the other, of which only the sign counts: gaps, 2p - 1, or -1, 0
    and 1. NaN is a pair that a rater says nothing of. For kappa each pair counts in both orders, half each: which
    answer is named first means nothing, and of pairs of chosen and rejected the judge would otherwise always say the
    same. None where no pair is known to both.
    """
    ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"{len(ours)} pairs of one rater, {len(theirs)} of the other")
    known = ~(np.isnan(ours) | np.isnan(theirs))
    if not known.any():
        return None
    rows, columns = (np.sign(side[known]).astype(int) + 1 for side in (ours, theirs))
    table = np.zeros((3, 3))
    np.add.at(table, (rows, columns), 0.5)
    np.add.at(table, (2 - rows, 2 - columns), 0.5)
    same, n = float(np.trace(table)), int(known.sum())
    return Agreement(same / n, wilson_interval(min(same, n), n), cohen_kappa(table), n, len(known) - n)


def cohen_kappa(table: Sequence[Sequence[float]] | np.ndarray) -> float | None:
    """(observed - expected) / (1 - expected) agreement (Cohen 1960); 1 is perfect, 0 what chance makes.

    `table` [K, K]: how often one rater said i and the other j. None where both only ever said one and the same.
    """
    table = np.asarray(table, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or not (table >= 0).all() or table.sum() == 0:
        raise ValueError(f"a table of the shape {table.shape} and the sum {table.sum():g} is no count of agreements")
    shares = table / table.sum()
    expected = float(shares.sum(axis=1) @ shares.sum(axis=0))
    return None if expected >= 1 - 1e-12 else (float(np.trace(shares)) - expected) / (1 - expected)


# Parts ---------------------------------------------------------------------------------------------------------------


def _right(gaps: Values) -> np.ndarray:
    """1 where the chosen answer has the higher reward, .5 for a tie, 0 where it has the lower. [N]"""
    return (np.sign(_finite(gaps, "gap")) + 1) / 2


def _grouped_interval(values: np.ndarray, codes: np.ndarray, resamples: int, seed: int) -> Interval:
    """The percentile bootstrap interval (Efron 1979) of the mean of values [N], whole groups [N] being resampled."""
    counts = np.bincount(codes).astype(np.float64)
    totals, generator = np.bincount(codes, weights=values), np.random.default_rng(seed)
    rows, even = max(1, _CHUNK_DRAWS // len(counts)), np.full(len(counts), 1 / len(counts))
    means = []
    for start in range(0, resamples, rows):
        drawn = generator.multinomial(len(counts), even, size=min(rows, resamples - start))
        means.append((drawn @ totals) / (drawn @ counts))
    return Interval(*map(float, np.quantile(np.concatenate(means), [0.025, 0.975])))


def _codes(groups: Groups | None, size: int) -> np.ndarray:
    """Groups as numbers from 0 [N]; each pair its own where none are given."""
    if groups is None:
        return np.arange(size)
    if len(groups) != size:
        raise ValueError(f"{len(groups)} groups of {size} pairs")
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups])


def _gaps_and_labels(gaps: Values, labels: Values | None, what: str = "gap") -> tuple[np.ndarray, np.ndarray]:
    gaps = _finite(gaps, what)
    if labels is None:
        return gaps, np.ones_like(gaps)
    labels = _finite(labels, "label", len(gaps))
    if ((labels < 0) | (labels > 1)).any():
        raise ValueError(f"labels from {labels.min():g} to {labels.max():g} are no probabilities")
    return gaps, labels


def _finite(values: Values, what: str, size: int | None = None) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or len(values) != (size or len(values)):
        raise ValueError(f"{what}s of the shape {values.shape}" + (f", not ({size},)" if size else ": one a pair"))
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise ValueError(f"{len(wrong)} of {len(values)} {what}s are not finite; the first is that of pair {wrong[0]}")
    return values


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))
