"""When a reward model is believed: against hand values, published ones, and simulations whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfalign.calibration import (
    Accuracy,
    Bin,
    Comparison,
    Interval,
    accuracy,
    accuracy_by_bucket,
    agreement,
    brier_score,
    chance_calibration_error,
    cohen_kappa,
    decide,
    expected_calibration_error,
    explains_as_well,
    fit_length_baseline,
    fit_temperature,
    folded,
    maximum_calibration_error,
    measure_calibration,
    negative_log_likelihood,
    pairs_needed,
    reliability,
    unfolded,
    wilson_interval,
)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, dtype=float)))


def simulate(n: int, temperature: float = 1.0, seed: int = 0) -> np.ndarray:
    """Gaps, chosen minus rejected, of a model whose gap / temperature are the true log-odds."""
    generator = np.random.default_rng(seed)
    truth = generator.normal(0.0, 1.5, n)
    first_better = generator.random(n) < sigmoid(truth)
    return temperature * np.where(first_better, truth, -truth)


# Accuracy


def test_wilson_of_60_in_100():
    assert wilson_interval(60, 100) == (pytest.approx(0.5020, abs=5e-5), pytest.approx(0.6906, abs=5e-5))


def test_wilson_stays_within_0_and_1_where_all_or_none_are_right():
    assert wilson_interval(0, 10) == (0.0, pytest.approx(0.2775, abs=1e-4))
    assert wilson_interval(10, 10) == (pytest.approx(0.7225, abs=1e-4), 1.0)


@pytest.mark.parametrize(("points", "n"), [(10, 97), (5, 385), (3, 1068), (2, 2401), (1, 9604)])
def test_pairs_that_pin_a_share_down(points, n):
    assert pairs_needed(points / 100) == n


def test_a_tie_is_half_right():
    found = accuracy([2.0, 0.5, 0.0, -1.0])
    assert found.value == pytest.approx(0.625)
    assert (found.num_pairs, found.num_prompts) == (4, 4)
    assert found.wilson == wilson_interval(2.5, 4)


def test_both_intervals_agree_where_pairs_are_independent():
    found = accuracy(np.where(np.arange(400) % 5 < 3, 1.0, -1.0), resamples=4000)
    assert found.bootstrap == pytest.approx(found.wilson, abs=0.005)


def test_pairs_that_repeat_each_other_widen_the_bootstrap_alone():
    once = np.where(np.arange(50) % 5 < 3, 1.0, -1.0)
    groups = np.repeat([f"prompt {i}" for i in range(50)], 8)
    found, single = accuracy(np.repeat(once, 8), groups), accuracy(once)
    assert found.num_prompts == 50
    assert found.bootstrap == single.bootstrap
    assert found.wilson.high - found.wilson.low < 0.5 * (found.bootstrap.high - found.bootstrap.low)
    assert found.cautious == found.bootstrap


def test_a_prompt_counts_by_its_pairs():
    assert accuracy([1.0, 1.0, 1.0, -1.0], ["a", "a", "a", "b"]).bootstrap == (0.0, 1.0)
    assert accuracy([1.0, 1.0, 1.0, -1.0], ["a", "a", "a", "b"]).value == 0.75


def test_the_cautious_interval_is_not_fooled_by_a_model_that_is_always_right():
    found = accuracy([1.0] * 10)
    assert found.bootstrap == (1.0, 1.0)
    assert found.cautious == wilson_interval(10, 10)


def test_the_bootstrap_over_prompts_covers_the_truth_where_pairs_hang_together():
    generator, covered, wilson = np.random.default_rng(1), 0, 0
    for trial in range(300):
        rates = np.repeat(generator.beta(1.4, 0.6, 60), 4)  # a mean of .7, prompts easy or hard
        found = accuracy(np.where(generator.random(240) < rates, 1.0, -1.0), np.repeat(range(60), 4), seed=trial)
        covered += found.bootstrap.low <= 0.7 <= found.bootstrap.high
        wilson += found.wilson.low <= 0.7 <= found.wilson.high
    assert 0.90 <= covered / 300 <= 0.98
    assert wilson < covered


def test_accuracy_rises_with_what_the_judge_is_sure_of():
    gaps, labels = [1, -1, 1, 1, 1, 1], [0.55, 0.55, 0.6, 0.79, 0.95, 1.0]
    buckets = accuracy_by_bucket(gaps, labels)
    assert [(b.low, b.high, b.accuracy.num_pairs, b.accuracy.value) for b in buckets] == [
        (-math.inf, 0.6, 2, 0.5),
        (0.6, 0.7, 1, 1.0),
        (0.7, 0.8, 1, 1.0),
        (0.9, math.inf, 2, 1.0),
    ]


def test_buckets_of_margins_keep_their_prompts():
    buckets = accuracy_by_bucket([1.0, 1.0, -1.0], [0.1, 3.0, 4.0], [2.0], ["a", "b", "b"])
    assert [bucket.accuracy.num_prompts for bucket in buckets] == [1, 1]


# Calibration


def test_folding_is_blind_to_which_answer_is_first():
    gaps, labels = np.array([2.0, -1.0, 0.0, 0.3]), np.array([0.9, 0.2, 0.7, 0.4])
    one, other = folded(gaps, labels), folded(-gaps, 1 - labels)
    np.testing.assert_allclose(one.probabilities, sigmoid([2.0, 1.0, 0.0, 0.3]))
    np.testing.assert_allclose(one.outcomes, [0.9, 0.8, 0.5, 0.4])
    np.testing.assert_allclose(other.probabilities, one.probabilities)
    np.testing.assert_allclose(other.outcomes, one.outcomes)


def test_a_reliability_diagram_by_hand():
    p = np.array([0.55, 0.57, 0.62, 0.93, 0.97, 0.97])
    gaps = np.log(p / (1 - p)) * [1, -1, 1, 1, 1, -1]
    bins = reliability(folded(gaps), bins=5)
    assert [(b.low, b.high, b.n) for b in bins] == [(0.5, 0.6, 2), (0.6, 0.7, 1), (0.9, 1.0, 3)]
    assert [b.confidence for b in bins] == pytest.approx([0.56, 0.62, 0.9566667])
    assert [b.accuracy for b in bins] == pytest.approx([0.5, 1.0, 2 / 3])
    assert bins[2].interval == wilson_interval(2, 3)
    assert expected_calibration_error(bins) == pytest.approx((2 * 0.06 + 0.38 + 3 * 0.29) / 6)
    assert maximum_calibration_error(bins) == pytest.approx(0.38)


def test_bins_of_equal_mass_hold_equal_counts_and_keep_equal_forecasts_together():
    spread = folded(np.linspace(0.01, 4, 100))
    assert [b.n for b in reliability(spread, bins=5, equal_mass=True)] == [20] * 5
    lumped = folded([1.0] * 90 + [2.0] * 10)
    assert [b.n for b in reliability(lumped, bins=5, equal_mass=True)] == [90, 10]
    assert [b.n for b in reliability(folded([0.0] * 7), bins=5, equal_mass=True)] == [7]


def test_a_calibrated_model_has_no_calibration_error_beyond_chance():
    gaps = simulate(20_000)
    for equal_mass in (False, True):
        assert expected_calibration_error(reliability(folded(gaps), equal_mass=equal_mass)) < 0.012
    assert all(one.calibrated for one in reliability(folded(gaps), bins=5))
    assert expected_calibration_error(reliability(folded(3 * gaps))) > 0.1


def test_soft_labels_that_are_the_models_own_leave_no_error():
    gaps = np.random.default_rng(0).normal(size=500)
    for forecasts in (folded(gaps, sigmoid(gaps)), unfolded(gaps, sigmoid(gaps))):
        assert expected_calibration_error(reliability(forecasts)) == pytest.approx(0, abs=1e-12)
        assert maximum_calibration_error(reliability(forecasts, equal_mass=True)) == pytest.approx(0, abs=1e-12)


def test_unfolded_shows_a_liking_for_the_first_answer():
    generator = np.random.default_rng(0)
    truth = generator.normal(size=20_000)
    judged = unfolded(truth + 1.0, sigmoid(truth))  # a judge that adds 1 to the log-odds of what it reads first
    by_bin = reliability(judged)
    assert len(by_bin) == 10
    assert by_bin[0].low == 0.0
    assert all(one.accuracy < one.confidence for one in by_bin)


def test_few_pairs_make_an_error_by_chance():
    forecasts = folded(simulate(50, seed=3))
    by_chance = chance_calibration_error(forecasts)
    assert by_chance == chance_calibration_error(forecasts)
    assert 0.05 < by_chance < 0.2
    assert chance_calibration_error(folded(simulate(20_000)), resamples=20) < 0.012


def test_brier_score_and_likelihood_by_hand():
    gaps = np.log([3.0, 1 / 3])  # .75 and .25
    assert brier_score(gaps) == pytest.approx((0.0625 + 0.5625) / 2)
    assert brier_score(gaps, [0.75, 0.5]) == pytest.approx(0.03125)
    assert negative_log_likelihood(gaps) == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)
    assert negative_log_likelihood([0.0]) == pytest.approx(math.log(2))
    assert negative_log_likelihood([1.0], [0.7]) == pytest.approx(
        0.7 * math.log1p(math.exp(-1)) + 0.3 * math.log1p(math.e)
    )
    assert negative_log_likelihood([-1e6]) == pytest.approx(1e6)


@pytest.mark.parametrize("temperature", [0.2, 1.0, 4.0])
def test_the_temperature_of_a_simulated_model_is_found(temperature):
    assert fit_temperature(simulate(20_000, temperature)) == pytest.approx(temperature, rel=0.04)


def test_the_temperature_of_calibrated_soft_labels_is_1():
    gaps = np.random.default_rng(0).normal(size=200) * 3
    assert fit_temperature(gaps, sigmoid(gaps)) == pytest.approx(1.0, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_no_temperature_of_a_grid_is_likelier(seed):
    generator = np.random.default_rng(seed)
    gaps, labels = generator.normal(0.3, 2.0, 40), generator.random(40)
    best = negative_log_likelihood(gaps / fit_temperature(gaps, labels), labels)
    assert best <= min(negative_log_likelihood(gaps / t, labels) for t in np.geomspace(0.01, 100, 400)) + 1e-12


def test_a_temperature_without_an_optimum_stays_at_its_bound():
    assert fit_temperature([1.0, 2.0]) == pytest.approx(0.01)
    assert fit_temperature([-1.0, -2.0]) == pytest.approx(100)
    assert fit_temperature([0.0, 0.0]) == 1.0
    assert fit_temperature([1e300, -1e-300]) > 0


def test_all_figures_of_an_overconfident_model_improve_with_its_temperature():
    found = measure_calibration(simulate(4000, 3.0))
    assert found.temperature == pytest.approx(3.0, rel=0.1)
    assert found.ece > 0.1 > 0.03 > found.ece_scaled
    assert found.ece_equal_mass == pytest.approx(found.ece, abs=0.02)
    assert found.ece_by_chance < 0.03
    assert found.nll_scaled < found.nll
    assert found.mce >= found.ece


# Length alone


def test_length_alone_learns_the_sign_and_is_tested_on_other_pairs():
    generator = np.random.default_rng(0)
    d = generator.normal(0, 30, 2000)
    longer_wins = np.where(generator.random(2000) < 0.8, np.abs(d), -np.abs(d))  # chosen minus rejected
    baseline = fit_length_baseline(longer_wins[:1000])
    assert baseline.weight > 0
    assert accuracy(baseline.gaps(longer_wins[1000:])).value == pytest.approx(0.8, abs=0.04)
    assert fit_length_baseline(-longer_wins).weight == pytest.approx(-fit_length_baseline(longer_wins).weight)


def test_length_alone_knows_nothing_where_lengths_are_the_same_or_do_not_matter():
    assert accuracy(fit_length_baseline([0.0] * 5).gaps([3.0, -3.0])).value == 0.5
    d = np.random.default_rng(0).normal(size=4000)
    assert abs(fit_length_baseline(d).weight) < 0.15
    assert math.isfinite(fit_length_baseline([1e6, 2e6]).weight)


def test_soft_labels_of_one_half_teach_no_liking_for_length():
    assert fit_length_baseline([1.0, 2.0, 3.0], [0.5, 0.5, 0.5]).weight == pytest.approx(0, abs=1e-12)


def test_mcnemar_by_hand():
    # 8 pairs only the model orders, 1 only the baseline: 2 (1 + 9) / 2^9
    gaps, baseline = np.ones(100), np.ones(100)
    baseline[:8], gaps[8] = -1, -1
    found = explains_as_well(gaps, baseline)
    assert found.p_value == pytest.approx(20 / 512)
    assert found.difference == pytest.approx(0.07)
    assert not found.as_well
    assert "+0.070" in found.reason
    assert found.reason.endswith("so it is better")


def test_a_model_is_not_better_by_chance_or_by_a_few_pairs():
    assert explains_as_well([1.0] * 5, [-1.0] * 5).as_well  # p = .0625, whatever the bootstrap says
    assert explains_as_well([1.0, -1.0] * 50, [-1.0, 1.0] * 50).p_value == 1.0
    assert explains_as_well([1.0] * 9, [1.0] * 9).reason.endswith("no better")


def test_of_models_no_better_than_the_baseline_few_pass_for_better():
    generator, passed = np.random.default_rng(0), 0
    for trial in range(400):
        gaps, baseline = generator.normal(0.3, 1, (2, 120))
        passed += not explains_as_well(gaps, baseline, np.arange(120) // 2, resamples=200, seed=trial).as_well
    assert passed / 400 < 0.05


def test_one_prompt_with_many_pairs_does_not_make_a_model_better():
    gaps, baseline = np.ones(60), np.ones(60)
    baseline[:30] = -1
    groups = ["one"] * 30 + [f"other {i}" for i in range(30)]
    assert not explains_as_well(gaps, baseline).as_well
    assert explains_as_well(gaps, baseline, groups).as_well


def test_the_paired_test_handles_many_pairs():
    generator = np.random.default_rng(0)
    found = explains_as_well(generator.normal(size=20_000), generator.normal(size=20_000))
    assert 0 < found.p_value <= 1


# Go or no-go


def measured(value: float, n: int = 400, groups: int | None = None) -> Accuracy:
    right = round(value * n)
    return accuracy(np.r_[np.ones(right), -np.ones(n - right)], None if groups is None else np.arange(n) % groups)


BETTER = Comparison(False, "accuracy 0.7 against 0.6", 0.1, Interval(0.05, 0.15), 0.001)
AS_WELL = Comparison(True, "accuracy 0.7 against 0.7", 0.0, Interval(-0.05, 0.05), 1.0)


def test_a_good_model_goes():
    verdict = decide(measured(0.7), 0.6, BETTER)
    assert verdict.go
    assert verdict.reason.startswith("go: held-out accuracy 0.700 (95% interval 0.65")
    assert BETTER.reason in verdict.reason
    assert decide(measured(0.7), 0.7).go


@pytest.mark.parametrize(
    ("found", "against", "said"),
    [
        (None, None, "no pair was held out"),
        (measured(0.9, 20), BETTER, "20 prompts are too few to tell"),
        (measured(0.9, 400, 10), BETTER, "10 prompts are too few to tell"),
        (measured(0.52), BETTER, "below reward_model.min_accuracy 0.6; its interval ends below it"),
        (measured(0.58), BETTER, "below reward_model.min_accuracy 0.6; its interval reaches it"),
        (measured(0.61, 41), BETTER, "may be chance: its interval holds 0.5"),
        (measured(0.7), AS_WELL, "length alone explains the pairs as well: accuracy 0.7 against 0.7"),
    ],
)
def test_a_model_that_is_not_to_be_trusted_does_not_go(found, against, said):
    verdict = decide(found, 0.6, against)
    assert not verdict.go
    what, next_step = verdict.reason.split("\n")
    assert what.startswith("no-go: ")
    assert said in what
    assert next_step


def test_all_that_is_wrong_is_said_at_once():
    reason = decide(measured(0.52), 0.6, AS_WELL).reason
    assert "min_accuracy" in reason
    assert "length alone" in reason
    assert "pairs.length_balance" in reason


# Agreement


def test_kappa_by_hand():
    assert cohen_kappa([[20, 5], [10, 15]]) == pytest.approx(0.4)
    assert cohen_kappa([[5, 0], [0, 5]]) == pytest.approx(1.0)
    assert cohen_kappa([[0, 5], [5, 0]]) == pytest.approx(-1.0)
    assert cohen_kappa([[7, 0], [0, 0]]) is None


def test_agreement_is_blind_to_which_answer_is_first():
    ours, theirs = np.array([1, 1, -1, 0, 2.0]), np.array([1, -1, -1, 0, 0.5])
    found = agreement(ours, theirs)
    assert found.raw == pytest.approx(0.8)
    assert agreement(np.abs(ours), theirs * np.sign(ours + 0.5)).kappa is not None
    flip = np.array([1, -1, -1, 1, -1])
    assert agreement(ours * flip, theirs * flip) == found


def test_kappa_of_pairs_ordered_by_the_judge_is_what_exceeds_a_coin():
    found = agreement([1, 1, 1, -1], [1, 1, 1, 1])
    assert found.raw == 0.75
    assert found.kappa == pytest.approx(0.5)


def test_pairs_without_gold_are_left_out_and_counted():
    found = agreement([1.0, -1.0, 1.0], [1.0, math.nan, math.nan])
    assert (found.num_pairs, found.num_unknown, found.raw) == (1, 2, 1.0)
    assert agreement([1.0], [math.nan]) is None
    assert agreement([0.0, 0.0], [0.0, 0.0]).kappa is None


# What is refused


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: accuracy([]), "one a pair"),
        (lambda: accuracy([1.0, math.nan, math.inf]), "2 of 3 gaps are not finite; the first is that of pair 1"),
        (lambda: accuracy([1.0], ["a", "b"]), "2 groups of 1 pairs"),
        (lambda: brier_score([1.0], [1.2]), "no probabilities"),
        (lambda: folded([1.0, 2.0], [1.0]), "labels of the shape"),
        (lambda: explains_as_well([1.0], [1.0, 2.0]), "1 pairs of the model, 2 of the baseline"),
        (lambda: agreement([1.0], [1.0, 2.0]), "1 pairs of one rater"),
        (lambda: cohen_kappa([[1, 2]]), "no count of agreements"),
        (lambda: wilson_interval(3, 2), "no share"),
        (lambda: fit_length_baseline([math.nan]), "length differences are not finite"),
    ],
)
def test_what_makes_no_sense_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_a_bin_is_calibrated_if_chance_makes_the_difference():
    assert Bin(0.5, 0.6, 0.55, 0.5, 20, wilson_interval(10, 20)).calibrated
    assert not Bin(0.9, 1.0, 0.95, 0.5, 20, wilson_interval(10, 20)).calibrated
