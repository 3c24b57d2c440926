"""How far raters agree beyond chance: judge with people, people with one another, and each with themself.

What a rater says of a pair of answers is a lead: positive where the first is better, negative where the second is, 0
for neither, as `calibration.agreement` reads it. Pairs of one prompt hang together, so prompts are resampled.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from selfalign.calibration import Agreement, Groups, Values, agreement, cohen_kappa
from selfalign.records import Interval

_CHUNK = 1 << 20  # resampled cells held at a time


@dataclass(frozen=True, slots=True)
class Kappa:
    """Cohen's kappa with its 95% bootstrap interval over prompts; None where chance alone makes the raters agree."""

    value: float | None
    interval: Interval | None
    raw: float
    num_pairs: int
    num_prompts: int


def preference_kappa(
    ours: Values, theirs: Values, prompts: Groups, *, resamples: int = 1000, seed: int = 0
) -> Kappa | None:
    """Cohen's kappa (1960) of two raters' leads [N] on pairs of `prompts` [N]; None where they share no pair.

    NaN is a pair of which a rater says nothing. Each pair counts in both orders, half each, as in `agreement`.
    Resamples in which chance alone makes the raters agree have no kappa and are left out of the interval.
    """
    ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    known = ~(np.isnan(ours) | np.isnan(theirs))
    if not known.any():
        return None
    tables = _tables(ours[known], theirs[known], [prompts[i] for i in np.flatnonzero(known)])
    total = tables.sum(axis=0)
    value = cohen_kappa(total)
    interval = None if value is None else _kappa_interval(tables, resamples, seed)
    return Kappa(value, interval, float(np.trace(total) / total.sum()), int(known.sum()), len(tables))


def _tables(ours: np.ndarray, theirs: np.ndarray, prompts: Sequence[Hashable]) -> np.ndarray:
    """By prompt, how often one rater said i and the other j, each pair in both orders. [prompts, 3, 3]"""
    places = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
    where = np.array([places[prompt] for prompt in prompts])
    rows, columns = np.sign(ours).astype(int) + 1, np.sign(theirs).astype(int) + 1
    tables = np.zeros((len(places), 3, 3))
    np.add.at(tables, (where, rows, columns), 0.5)
    np.add.at(tables, (where, 2 - rows, 2 - columns), 0.5)
    return tables


def _kappa_interval(tables: np.ndarray, resamples: int, seed: int) -> Interval | None:
    generator, count = np.random.default_rng(seed), len(tables)
    rows, even = max(1, _CHUNK // count), np.full(count, 1 / count)
    found: list[float] = []
    for start in range(0, resamples, rows):
        drawn = generator.multinomial(count, even, size=min(rows, resamples - start))
        found += [k for table in np.tensordot(drawn, tables, axes=1) if (k := cohen_kappa(table)) is not None]
    return Interval(*map(float, np.quantile(found, [0.025, 0.975]))) if found else None


def krippendorff_alpha(units: Sequence[Sequence[Hashable | None]]) -> float | None:
    """Krippendorff's alpha of nominal data: 1 - observed / expected disagreement (Krippendorff 2011, section C).

    `units` holds for each unit what each rater said, None for a rater who said nothing; any number of raters, in any
    order. Units that fewer than two spoke of count for nothing. None where no unit is left, or all that was ever said
    is the same.
    """
    coincidences: dict[tuple[Hashable, Hashable], float] = defaultdict(float)
    for unit in units:
        said = [value for value in unit if value is not None]
        for i, one in enumerate(said):
            for j, other in enumerate(said):
                if i != j:
                    coincidences[one, other] += 1 / (len(said) - 1)
    totals: dict[Hashable, float] = defaultdict(float)
    for (one, _), count in coincidences.items():
        totals[one] += count
    n = sum(totals.values())
    expected = n * n - sum(count * count for count in totals.values())
    if expected <= 1e-9:
        return None
    observed = sum(count for (one, other), count in coincidences.items() if one != other)
    return 1 - (n - 1) * observed / expected


Said = Mapping[tuple[str, str], float]  # a labeller's leads, by pair


@dataclass(frozen=True, slots=True)
class BetweenRaters:
    """How far labellers agree: kappa of any two that share pairs, and Krippendorff's alpha over all of them.

    `num_shared` pairs were labelled by at least two.
    """

    kappas: Mapping[tuple[str, str], Kappa]
    alpha: float | None
    num_shared: int


def between_raters(
    raters: Mapping[str, Said], prompts: Mapping[tuple[str, str], Hashable], *, resamples: int = 1000, seed: int = 0
) -> BetweenRaters:
    """Agreement among labellers; `prompts` names the prompt of each pair.

    Which of two candidates a pair names first is a fair coin, their ids being hashes, so for alpha pairs count once.
    """
    kappas = {}
    for one, other in combinations(sorted(raters), 2):
        shared = sorted(raters[one].keys() & raters[other].keys())
        ours, theirs = ([raters[name][pair] for pair in shared] for name in (one, other))
        kappa = preference_kappa(ours, theirs, [prompts[p] for p in shared], resamples=resamples, seed=seed)
        if kappa is not None:
            kappas[one, other] = kappa
    pairs = sorted({pair for said in raters.values() for pair in said})
    units = [[_sign(said.get(pair)) for said in raters.values()] for pair in pairs]
    shared_units = sum(sum(value is not None for value in unit) > 1 for unit in units)
    return BetweenRaters(kappas, krippendorff_alpha(units), shared_units)


def self_consistency(first: Values, again: Values) -> Agreement | None:
    """How far a labeller says the same of pairs shown twice, without having been told. None for no such pair."""
    return agreement(first, again) if len(first) else None


def _sign(lead: float | None) -> int | None:
    return None if lead is None else int(np.sign(lead))
