"""Statistics against hand values, simulations with a known truth, and published numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfalign.statistics import (
    bootstrap_interval,
    bradley_terry,
    bradley_terry_intervals,
    bradley_terry_with_position,
    distinct,
    fit_logistic,
    length_controlled_rate,
    repetition,
)


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


# Bradley-Terry. Baseball, American League 1987 (Agresti), in the order Bal, Bos, Cle, Det, Mil, NY, Tor; the abilities
# are those that the R package BradleyTerry2 publishes. HOME[i, j]: games that i, at home, won against j; AWAY[i, j]:
# games that i won at j's. The two add up to WINS.
WINS = np.array(
    [
        [0, 1, 7, 4, 2, 3, 1],
        [12, 0, 7, 2, 6, 7, 6],
        [6, 6, 0, 4, 4, 6, 5],
        [9, 11, 9, 0, 6, 5, 7],
        [11, 7, 9, 7, 0, 7, 9],
        [10, 6, 7, 8, 6, 0, 6],
        [12, 7, 8, 6, 4, 7, 0],
    ]
)
HOME = np.array(
    [
        [0, 1, 3, 1, 2, 2, 1],
        [6, 0, 5, 2, 5, 4, 3],
        [2, 4, 0, 3, 2, 4, 3],
        [4, 6, 6, 0, 3, 4, 4],
        [6, 6, 4, 4, 0, 4, 4],
        [6, 4, 4, 5, 3, 0, 2],
        [6, 4, 4, 4, 2, 2, 0],
    ]
)
AWAY = WINS - HOME


def test_baseball_abilities_are_the_published_ones():
    strengths = bradley_terry(WINS, ridge=1e-9)
    assert strengths.mean() == pytest.approx(0, abs=1e-12)
    published = [0, 1.1077, 0.6839, 1.4364, 1.5814, 1.2476, 1.2945]
    assert strengths - strengths[0] == pytest.approx(published, abs=1e-4)


def test_baseball_with_home_advantage():
    strengths, advantage = bradley_terry_with_position(HOME, AWAY, ridge=1e-9)
    assert advantage == pytest.approx(0.302, abs=5e-4)
    abilities = np.exp(strengths) / np.exp(strengths).sum()
    assert abilities == pytest.approx([0.044, 0.137, 0.088, 0.190, 0.220, 0.157, 0.164], abs=6e-4)


def test_a_position_is_told_from_strength():
    generator = np.random.default_rng(5)
    truth, bias = np.array([-1.0, 0.0, 0.2, 0.8]), 0.7
    games = generator.integers(200, 400, (4, 4)) * (1 - np.eye(4, dtype=int))
    first_wins = generator.binomial(games, sigmoid(truth[:, None] - truth + bias))
    second_wins = (games - first_wins).T
    strengths, advantage = bradley_terry_with_position(first_wins, second_wins)
    assert advantage == pytest.approx(bias, abs=0.1)
    assert strengths == pytest.approx(truth, abs=0.15)
    assert bradley_terry_with_position(second_wins.T, first_wins.T)[1] < 0


def by_the_loop(wins, steps=3000):
    """Hunter's (2004) minorisation-maximisation for the unpenalised likelihood, one player at a time."""
    strength = [1.0] * len(wins)
    for _ in range(steps):
        for i in range(len(wins)):
            games = sum((wins[i][j] + wins[j][i]) / (strength[i] + strength[j]) for j in range(len(wins)) if j != i)
            strength[i] = sum(wins[i][j] for j in range(len(wins)) if j != i) / games
    logs = np.log(strength)
    return logs - logs.mean()


@pytest.mark.parametrize("seed", range(5))
def test_strengths_agree_with_a_plain_loop(seed):
    generator = np.random.default_rng(seed)
    wins = generator.random((5, 5)) * (1 - np.eye(5)) + 0.05
    assert bradley_terry(wins, ridge=1e-9) == pytest.approx(by_the_loop(wins), abs=1e-5)


@pytest.mark.parametrize(("clamp", "gap"), [(0.6, 0.405465), (0.8, 1.386294)])
def test_clamped_labels_bound_the_gap(clamp, gap):
    """Labels in [1 - c, c] cannot say more than ln c / (1 - c)."""
    better, worse = bradley_terry(np.array([[0, 9 * clamp], [9 * (1 - clamp), 0]]), ridge=1e-9)
    assert better - worse == pytest.approx(gap, abs=1e-6)


def test_a_tie_is_half_a_win_for_each():
    assert bradley_terry(np.array([[0, 0.5], [0.5, 0]])) == pytest.approx([0, 0], abs=1e-9)
    ties = bradley_terry(np.array([[0, 2.5], [1.5, 0]]), ridge=1e-9)
    assert ties[0] - ties[1] == pytest.approx(np.log(2.5 / 1.5), abs=1e-6)


def test_who_won_everything_is_finitely_strong_and_who_met_nobody_average():
    wins = np.zeros((4, 4))
    wins[0, 1] = wins[1, 2] = 3
    strengths = bradley_terry(wins)
    assert strengths[0] > strengths[1] > strengths[2] and strengths[3] == pytest.approx(0, abs=1e-9)
    assert bradley_terry(np.zeros((1, 1))) == pytest.approx([0])


@pytest.mark.parametrize("wins", [np.zeros((2, 3)), np.array([[0, -1], [1, 0]]), np.array([[0, np.nan], [1, 0]])])
def test_what_is_no_table_of_wins_is_refused(wins):
    with pytest.raises(ValueError, match="wins"):
        bradley_terry(wins)


@st.composite
def win_tables(draw):
    size = draw(st.integers(1, 5))
    counts = st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 50))
    return np.array(draw(st.lists(st.lists(counts, min_size=size, max_size=size), min_size=size, max_size=size)))


@settings(max_examples=100, deadline=None)
@given(win_tables(), st.randoms(use_true_random=False))
def test_strengths_are_finite_centred_and_do_not_hang_on_the_order_of_players(wins, random):
    strengths = bradley_terry(wins)
    assert np.isfinite(strengths).all() and abs(strengths.sum()) < 1e-9
    order = random.sample(range(len(wins)), len(wins))
    assert bradley_terry(wins[np.ix_(order, order)]) == pytest.approx(strengths[order], abs=1e-4)
    assert bradley_terry(wins.T) == pytest.approx(-strengths, abs=1e-4)


def test_intervals_of_strengths_resample_groups():
    """Ten copies of each battle in one group tell no more than one: the interval is that of the groups."""
    generator = np.random.default_rng(6)
    truth = np.array([0.5, 0.0, -0.5])
    wins = np.triu(generator.random((60, 3, 3)) < sigmoid(truth[:, None] - truth), 1).astype(float)
    wins += np.tril(1 - wins.transpose(0, 2, 1), -1)
    low, high = bradley_terry_intervals(wins, resamples=300, seed=1)
    assert ((low < truth) & (truth < high)).all() and (high - low < 1.2).all()
    again = bradley_terry_intervals(wins, resamples=300, seed=1)
    assert (low == again[0]).all() and (high == again[1]).all()
    loud = bradley_terry_intervals(10 * wins, resamples=300, seed=1, ridge=0.1)
    assert loud[0] == pytest.approx(low, abs=1e-6) and loud[1] == pytest.approx(high, abs=1e-6)
    with pytest.raises(ValueError, match="no groups"):
        bradley_terry_intervals(np.zeros((0, 3, 3)), resamples=10, seed=1)


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
