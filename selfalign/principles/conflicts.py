"""Which principles say the same, and which contradict each other, on the pairs of answers on which both spoke."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from selfalign.principles.figures import Bundles, Estimate, Measure, with_wilson
from selfalign.principles.opinions import Said

_SILENT = 2


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two principles on the `n` pairs of answers on which both spoke: each prefers one answer, the other, or neither.

    `agreement`: both say the same. `opposite`: each prefers what the other does not. `kappa`: Cohen's (1960), each pair
    counted in both orders; 1 is always the same, 0 as often as by chance, None where chance alone makes them agree.
    """

    a: str
    b: str
    n: int
    agreement: Estimate
    opposite: Estimate
    kappa: float | None


def conflicts(said: Said, names: list[str]) -> list[Conflict]:
    """Every two principles that spoke on the same pairs, in the order of `names`."""
    measure = Measure(Bundles(said), len(names))
    sides, starts = _sides_by_bundle(said, measure.bundles, len(names))
    found: list[Conflict] = []
    for i in range(len(names) - 1):
        found += _against_later(sides, starts, i, names, measure)
    return found


def _sides_by_bundle(said: Said, bundles: Bundles, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Each principle's side on each pair, or _SILENT [P, K], sorted by the pairs' bundles [P]."""
    sides = np.full((len(said.pairs.prompt), size), _SILENT, dtype=np.int8)
    sides[said.opinions.pair, said.opinions.principle] = said.opinions.side
    bundle = bundles.of(said.pairs.prompt)
    order = np.argsort(bundle, kind="stable")
    return sides[order], bundle[order]


def _against_later(
    sides: np.ndarray, bundle: np.ndarray, i: int, names: list[str], measure: Measure
) -> Iterator[Conflict]:
    spoke = sides[:, i] != _SILENT
    if not spoke.any():
        return
    ours, theirs, bundle = sides[spoke, i, None], sides[spoke, i + 1 :], bundle[spoke]
    both = theirs != _SILENT
    counts = _by_bundle(both, bundle, measure.bundles.size)
    agreements = measure.bundled_means(_by_bundle(theirs == ours, bundle, measure.bundles.size), counts)
    opposed = _by_bundle(both & (theirs * ours < 0), bundle, measure.bundles.size)
    opposites = measure.bundled_means(opposed, counts)
    our_ties = (both & (ours == 0)).sum(axis=0).tolist()
    their_ties = (theirs == 0).sum(axis=0).tolist()
    for j, (agreement, opposite) in enumerate(
        zip(map(with_wilson, agreements), map(with_wilson, opposites), strict=True)
    ):
        if agreement is not None and opposite is not None:
            kappa = _kappa(agreement.value, our_ties[j] / agreement.n, their_ties[j] / agreement.n)
            yield Conflict(names[i], names[i + 1 + j], agreement.n, agreement, opposite, kappa)


def _by_bundle(rows: np.ndarray, bundle: np.ndarray, size: int) -> np.ndarray:
    """Rows [N, K], sorted by bundle, counted by bundle. [B, K]"""
    first = np.flatnonzero(np.r_[True, bundle[1:] != bundle[:-1]])
    sums = np.zeros((size, rows.shape[1]))
    sums[bundle[first]] = np.add.reduceat(rows, first, axis=0, dtype=np.int64)
    return sums


def _kappa(agreement: float, our_ties: float, their_ties: float) -> float | None:
    by_chance = our_ties * their_ties + (1 - our_ties) * (1 - their_ties) / 2
    return (agreement - by_chance) / (1 - by_chance) if by_chance < 1 else None
