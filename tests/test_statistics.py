"""Statistics against hand values, simulations with a known truth, and published numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfalign.statistics import bootstrap_interval, distinct, fit_logistic, length_controlled_rate, repetition


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def simulate_judge(n: int, seed: int = 0):
    """logit p = -.3 + 1.2 tanh(d / std d), d ~ N(.8, 1): 56.1% as it is, sigmoid(-.3) = 42.56% at equal length."""
    generator = np.random.default_rng(seed)
    d = generator.normal(0.8, 1.0, n)
    p = sigmoid(-0.3 + 1.2 * np.tanh(d / d.std()))
    return p, (generator.random(n) < p).astype(float), d


def test_length_control_recovers_the_rate_at_equal_length_from_wins_and_losses():
    _, won, d = simulate_judge(20_000)
    assert won.mean() == pytest.approx(0.561, abs=0.01)
    assert length_controlled_rate(won, d) == pytest.approx(0.4256, abs=0.012)


def test_length_control_is_exact_for_soft_labels():
    p, _, d = simulate_judge(20_000)
    assert length_controlled_rate(p, d) == pytest.approx(sigmoid(-0.3), abs=1e-5)


def test_length_control_leaves_a_judge_alone_that_does_not_look_at_length():
    generator = np.random.default_rng(1)
    p = np.full(400, 0.7)
    assert length_controlled_rate(p, generator.normal(2.0, 3.0, 400)) == pytest.approx(0.7, abs=1e-3)
    assert length_controlled_rate([0.2, 0.9], [3, 3]) == pytest.approx(0.55)


@pytest.mark.parametrize("n", [1, 2, 30])
def test_length_control_is_finite_where_one_side_wins_everything(n):
    rate = length_controlled_rate(np.ones(n), np.arange(n))
    assert 0.5 < rate <= 1.0


def test_the_logistic_fit_has_no_gradient_left():
    generator = np.random.default_rng(2)
    features, targets = generator.normal(size=(50, 3)), generator.random(50)
    weights = fit_logistic(features, targets)
    gradient = features.T @ (sigmoid(features @ weights) - targets) + 0.01 * weights
    assert np.abs(gradient).max() < 1e-5


def test_the_bootstrap_interval_covers_the_truth_about_95_times_of_100():
    generator = np.random.default_rng(3)
    covered = 0
    for trial in range(400):
        low, high = bootstrap_interval(generator.random(80) ** 2, resamples=400, seed=trial)
        covered += low <= 1 / 3 <= high
    assert 0.90 <= covered / 400 <= 0.98


def test_the_bootstrap_agrees_with_the_normal_interval():
    values = (np.arange(400) % 5 < 3).astype(float)
    low, high = bootstrap_interval(values, resamples=4000, seed=0)
    half = 1.96 * values.std() / 20
    assert (low, high) == (pytest.approx(0.6 - half, abs=0.005), pytest.approx(0.6 + half, abs=0.005))


def test_the_bootstrap_hangs_on_its_seed_alone_and_works_in_pieces():
    values = np.random.default_rng(4).random(3000)
    once = bootstrap_interval(values, resamples=1000, seed=7)
    assert once == bootstrap_interval(values, resamples=1000, seed=7)
    assert once != bootstrap_interval(values, resamples=1000, seed=8)
    assert once[0] < values.mean() < once[1]
    assert bootstrap_interval([0.3], resamples=50, seed=1) == (0.3, 0.3)
    with pytest.raises(ValueError, match="no values"):
        bootstrap_interval([], resamples=10, seed=1)


def test_distinct_counts_different_ngrams_over_all_texts():
    texts = ["a b a", "a b c", "z"]
    assert distinct(texts, 1) == pytest.approx(4 / 7)
    assert distinct(texts, 2) == pytest.approx(3 / 4)
    assert distinct(["one", ""], 2) == 0.0


def test_repetition_is_the_share_of_ngrams_seen_before():
    assert repetition("a b c a b c a b c") == pytest.approx(1 - 3 / 7)
    assert repetition("a b c d e") == 0.0
    assert repetition("a b") == 0.0


@given(st.text(alphabet="ab ", max_size=60), st.integers(1, 4))
def test_repetition_of_one_text_complements_its_distinct_ngrams(text, n):
    if len(text.split()) >= n:
        assert repetition(text, n) == pytest.approx(1 - distinct([text], n))
