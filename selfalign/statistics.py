"""The statistics of a report: intervals, win rates freed of length, and how varied texts are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import numpy as np

_CHUNK_DRAWS = 1 << 20  # resampled values held at a time
_RIDGE = 1e-2  # keeps the fit finite where one side wins everything; worth a hundredth of a prompt
_NEWTON_STEPS = 100


def bootstrap_interval(values: Sequence[float], *, resamples: int, seed: int) -> tuple[float, float]:
    """The 95% percentile bootstrap interval of the mean (Efron 1979). Raises ValueError for no values."""
    sample = np.asarray(values, dtype=np.float64)
    if sample.size == 0:
        raise ValueError("no values to resample")
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK_DRAWS // sample.size)
    means = [
        sample[generator.integers(0, sample.size, (min(rows, resamples - start), sample.size))].mean(axis=1)
        for start in range(0, resamples, rows)
    ]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)


def length_controlled_rate(probabilities: Sequence[float], length_differences: Sequence[float]) -> float:
    """The win rate at equal length (Dubois et al. 2024, without the term for the difficulty of a prompt).

    Fits logit p = theta + phi * tanh(d / std(d)) by maximum likelihood with soft targets and returns sigmoid(theta).
    `probabilities` are those of winning, `length_differences` own length minus the opponent's; both have one entry a
    prompt. Where all differences are the same, length cannot be told from quality and the plain mean is returned.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    d = np.asarray(length_differences, dtype=np.float64)
    spread = d.std()
    if spread == 0:
        return float(p.mean())
    features = np.stack([np.ones_like(d), np.tanh(d / spread)], axis=1)
    theta, _ = fit_logistic(features, p)
    return float(_sigmoid(theta))


def fit_logistic(features: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Coefficients [K] of a logistic regression of targets [N] in [0, 1] on features [N, K], by damped Newton steps.

    A ridge penalty of 0.01 |w|^2 / 2 keeps them finite on separable data.
    """
    weights = np.zeros(features.shape[1])
    loss = _loss(weights, features, targets)
    for _ in range(_NEWTON_STEPS):
        mean = _sigmoid(features @ weights)
        gradient = features.T @ (mean - targets) + _RIDGE * weights
        hessian = features.T @ (features * (mean * (1 - mean))[:, None]) + _RIDGE * np.eye(len(weights))
        step, size = np.linalg.solve(hessian, gradient), 1.0
        while (new_loss := _loss(weights - size * step, features, targets)) > loss and size > 1e-6:
            size /= 2
        weights = weights - size * step
        if loss - new_loss < 1e-12 * (1 + abs(loss)):
            break
        loss = new_loss
    return weights


def distinct(texts: Iterable[str], n: int) -> float:
    """distinct-n (Li et al. 2016): different word n-grams over all word n-grams of the texts; 0 for none."""
    grams = list(chain.from_iterable(ngrams(text, n) for text in texts))
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(text: str, n: int = 3) -> float:
    """The share of a text's word n-grams that have occurred before in it; 0 for a text without any."""
    grams = list(ngrams(text, n))
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def ngrams(text: str, n: int) -> Iterator[tuple[str, ...]]:
    words = text.split()
    return zip(*(words[start:] for start in range(n)), strict=False)


def _loss(weights: np.ndarray, features: np.ndarray, targets: np.ndarray) -> float:
    scores = features @ weights
    return float(np.sum(np.logaddexp(0.0, scores) - targets * scores) + 0.5 * _RIDGE * weights @ weights)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))
