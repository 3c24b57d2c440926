"""Which comparisons are worth asking the judge for: those that tell most about who is best and who is worst."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from selfalign.statistics import fit_logistic

Comparison = tuple[int, int]  # places of two candidates of a prompt, the lower first

_EVIDENCE = 4.0  # games that one probability of the judge is worth; in simulations 1 and 16 did about as well
_PRIOR_PRECISION = 0.25  # of log-strengths before anything is known: a standard deviation of 2
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(9)  # to average over a standard normal
_DRAW = 1e-3  # what information alone counts, so that something is asked where no answer could change the pair


@dataclass(frozen=True, slots=True)
class Answer:
    """The judge's probability that the first of a comparison is better, and how far its single verdicts lie apart.

    `spread`, in [0, 1]: the largest probability it gave less the smallest, over orders shown and principles.
    """

    probability: float
    spread: float = 0.0


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt: how many candidates it has, and what was asked of them; None where no valid answer came."""

    size: int
    answers: Mapping[Comparison, Answer | None]

    @property
    def open(self) -> int:
        """How many comparisons have not been asked for."""
        return self.size * (self.size - 1) // 2 - len(self.answers)


def covering(size: int, draw: random.Random) -> list[Comparison]:
    """Comparisons in which each of `size` candidates, 2 or more, takes part, as few as there can be: half a cycle."""
    cycle = draw.sample(range(size), size)
    pairs = ((cycle[i], cycle[(i + 1) % size]) for i in range(0, size, 2))
    return [(min(pair), max(pair)) for pair in pairs]


def most_telling(prompts: Sequence[Asked], count: int) -> list[tuple[int, Comparison]]:
    """The `count` comparisons not asked for yet, or as many as there are, as (place of the prompt, comparison).

    One after the other is taken whose answer is expected to widen most the gap between the strengths, as then believed,
    of the best and the worst candidate of its prompt: the knowledge gradient for correlated beliefs (Frazier, Powell
    and Dayanik 2009), here for a pair in place of a single best one. Strengths are believed to be normal: the Laplace
    approximation of a Bradley-Terry posterior, in which an answer counts the less, the wider its spread. Within one
    call an answer is expected to narrow the belief and not to move it. Nothing is random.
    """
    beliefs = [_Belief(prompt) for prompt in prompts]
    queue = [(-gain, place, comparison) for place, belief in enumerate(beliefs) for gain, comparison in belief.best()]
    heapq.heapify(queue)
    chosen: list[tuple[int, Comparison]] = []
    while queue and len(chosen) < count:
        _, place, comparison = heapq.heappop(queue)
        chosen.append((place, comparison))
        beliefs[place].expect(comparison)
        for gain, following in beliefs[place].best():
            heapq.heappush(queue, (-gain, place, following))
    return chosen


class _Belief:
    """What is known of the strengths of one prompt's K candidates, over its N = K (K - 1) / 2 comparisons."""

    def __init__(self, asked: Asked) -> None:
        i, j = np.triu_indices(asked.size, 1)
        self.comparisons: list[Comparison] = list(zip(i.tolist(), j.tolist(), strict=True))
        self.rows = np.eye(asked.size)[i] - np.eye(asked.size)[j]  # [N, K]
        self.open = np.array([comparison not in asked.answers for comparison in self.comparisons], dtype=bool)
        answers = [asked.answers.get(comparison) for comparison in self.comparisons]
        counts = np.array([_EVIDENCE * (1.0 - answer.spread) if answer else 0.0 for answer in answers])
        targets = np.array([answer.probability if answer else 0.5 for answer in answers])
        self.mean = fit_logistic(self.rows, targets, counts, ridge=_PRIOR_PRECISION)  # [K]
        p = 0.5 * (1.0 + np.tanh(0.5 * self.rows @ self.mean))
        self.information = _EVIDENCE * p * (1.0 - p)  # [N], of an answer to come
        precision = self.rows.T @ (self.rows * (counts * p * (1.0 - p))[:, None]) + _PRIOR_PRECISION * np.eye(
            asked.size
        )
        self.covariance = np.linalg.inv(precision)  # [K, K]

    def best(self) -> Iterator[tuple[float, Comparison]]:
        """The open comparison with the largest gain, and that gain; nothing where none is open."""
        if self.open.any():
            gains = np.where(self.open, self._gains(), -np.inf).round(12)  # equal ones stay in order
            place = int(gains.argmax())
            yield float(gains[place]), self.comparisons[place]

    def expect(self, comparison: Comparison) -> None:
        """Narrow the belief by an answer that will come (Sherman and Morrison)."""
        place = self.comparisons.index(comparison)
        self.open[place] = False
        shift = self.covariance @ self.rows[place]
        variance = self.rows[place] @ shift + 1.0 / self.information[place]
        self.covariance = self.covariance - np.outer(shift, shift) / variance

    def _gains(self) -> np.ndarray:
        """[N]: the expected growth of max - min of the mean strengths, an answer moving them by a normal step."""
        shifts = self.rows @ self.covariance  # [N, K]
        variances = (shifts * self.rows).sum(axis=1)
        steps = shifts / np.sqrt(variances + 1.0 / self.information)[:, None]
        moved = self.mean[:, None] + steps[:, :, None] * _NODES  # [N, K, nodes]
        gaps = (moved.max(axis=1) - moved.min(axis=1)) @ (_WEIGHTS / _WEIGHTS.sum())
        return gaps - np.ptp(self.mean) + _DRAW * self.information * variances
