"""Agreement against published examples, hand-computed tables and a naive loop."""

from __future__ import annotations

import random

import numpy as np
import pytest

from selfalign.agreement import between_raters, krippendorff_alpha, preference_kappa, self_consistency

NAN = float("nan")
# Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", section C: four observers, twelve units.
OBSERVERS = (
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
)


def units(*observers: str) -> list[list[str | None]]:
    said = [[None if value == "." else value for value in line.split()] for line in observers]
    return [list(unit) for unit in zip(*said, strict=True)]


def test_alpha_of_the_worked_examples_that_krippendorff_published() -> None:
    assert krippendorff_alpha(units(*OBSERVERS)) == pytest.approx(0.743, abs=5e-4)  # C: nominal, missing values
    two = ("0 1 0 0 0 0 0 0 1 0", "1 1 1 0 0 1 0 0 0 0")  # A: binary, two observers
    assert krippendorff_alpha(units(*two)) == pytest.approx(0.095, abs=5e-4)
    letters = ("a a b b d c c c e d d a", "b a b b b c c c e d d d")  # B: nominal, two observers
    assert krippendorff_alpha(units(*letters)) == pytest.approx(0.692, abs=5e-4)


def test_alpha_is_not_defined_where_nothing_varies_or_nobody_shares_a_unit() -> None:
    assert krippendorff_alpha(units("1 1", "1 1")) is None
    assert krippendorff_alpha(units("1 .", ". 1")) is None
    assert krippendorff_alpha([]) is None


def naive_alpha(said: list[list[str | None]]) -> float:
    """1 - D_o / D_e, over ordered pairs of values within units and of values at large."""
    kept = [[v for v in unit if v is not None] for unit in said]
    kept = [unit for unit in kept if len(unit) > 1]
    every = [v for unit in kept for v in unit]
    within = sum(sum(a != b for a in unit for b in unit) / (len(unit) - 1) for unit in kept) / len(every)
    at_large = sum(a != b for a in every for b in every) / (len(every) * (len(every) - 1))
    return 1 - within / at_large


def test_alpha_agrees_with_its_definition_on_random_ratings() -> None:
    draw = random.Random(4)
    for _ in range(20):
        said = [[draw.choice("abc..") for _ in range(4)] for _ in range(15)]
        rated = [[None if v == "." else v for v in unit] for unit in said]
        assert krippendorff_alpha(rated) == pytest.approx(naive_alpha(rated))


def test_kappa_by_hand() -> None:
    # Four pairs, no ties: three alike. In both orders each rater says first as often as second: expected 1/2.
    kappa = preference_kappa([1, 1, -1, 0.2], [1, 1, -1, -1], ["p", "p", "q", "r"])
    assert (kappa.raw, kappa.num_pairs, kappa.num_prompts) == (0.75, 4, 3)
    assert kappa.value == pytest.approx((0.75 - 0.5) / 0.5)
    # One rater ties the last: expected 2 * (3/8 * 1/2) + 1/4 * 0 = 3/8.
    tied = preference_kappa([1, 1, -1, 0], [1, 1, -1, -1], ["p", "p", "q", "r"])
    assert tied.value == pytest.approx((0.75 - 0.375) / 0.625)


def test_kappa_leaves_out_what_a_rater_says_nothing_of() -> None:
    kappa = preference_kappa([1, NAN, 1], [1, 1, NAN], ["a", "b", "c"])
    assert (kappa.num_pairs, kappa.num_prompts, kappa.raw) == (1, 1, 1.0)
    assert preference_kappa([NAN], [1], ["a"]) is None


def test_the_interval_of_kappa_resamples_prompts() -> None:
    draw = np.random.default_rng(1)
    theirs = np.where(draw.random(60) < 0.5, 1.0, -1.0)
    ours = np.where(draw.random(60) < 0.8, theirs, -theirs)
    alone = preference_kappa(ours, theirs, range(60))
    assert alone.interval.low < alone.value < alone.interval.high
    # The same pairs ten times over, on the same prompts, tell nothing more.
    tenfold = preference_kappa(np.tile(ours, 10), np.tile(theirs, 10), list(range(60)) * 10)
    width = alone.interval.high - alone.interval.low
    assert tenfold.interval.high - tenfold.interval.low == pytest.approx(width, rel=0.2)
    assert preference_kappa(ours, theirs, range(60)) == alone  # seeded


def test_the_interval_of_kappa_covers_the_truth_about_as_often_as_it_says() -> None:
    draw, hits = np.random.default_rng(7), 0
    for repeat in range(200):
        theirs = np.where(draw.random(100) < 0.5, 1.0, -1.0)
        ours = np.where(draw.random(100) < 0.8, theirs, -theirs)
        low, high = preference_kappa(ours, theirs, range(100), resamples=300, seed=repeat).interval
        hits += low <= 0.6 <= high
    assert 0.9 <= hits / 200 <= 0.99


def test_agreement_among_several_labellers() -> None:
    pairs = [(f"a{i}", f"b{i}") for i in range(4)]
    ann = dict(zip(pairs, (1.0, 1.0, -1.0, 0.0), strict=True))
    bob = dict(zip(pairs, (1.0, -1.0, -1.0, 0.0), strict=True))
    found = between_raters({"ann": ann, "bob": bob, "cy": {("x", "y"): 1.0}}, {p: p for p in [*pairs, ("x", "y")]})
    assert list(found.kappas) == [("ann", "bob")]
    assert found.kappas["ann", "bob"].raw == 0.75
    assert found.num_shared == 4
    assert found.alpha == pytest.approx(naive_alpha([["+", "+"], ["+", "-"], ["-", "-"], ["0", "0"]]))


def test_self_consistency_counts_pairs_that_were_shown_twice() -> None:
    found = self_consistency([1.0, -1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 1.0])
    assert (found.raw, found.num_pairs) == (0.75, 4)
    assert self_consistency([], []) is None
