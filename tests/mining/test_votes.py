"""Votes by hand: orders averaged, coverage, consistency, and the greedy choice against trying all sets."""

from __future__ import annotations

import numpy as np
import pytest

from selfalign.config import Judge
from selfalign.mining.votes import SUREST, Votes, choose, decided, joint, share_right, vote
from tests.mining.world import engine, preferences, silent

NAN = float("nan")


def log_odds(p: float) -> float:
    return float(np.log(p / (1 - p)))


def test_log_odds_of_both_orders_by_hand() -> None:
    votes = Votes(np.array([[[0.9, 0.7], [0.8, 0.2], [0.9, NAN], [1.0, 1.0]]]))
    assert votes.log_odds[0] == pytest.approx([log_odds(0.8), 0.0, 0.0, log_odds(SUREST)])
    assert votes.decisive[0].tolist() == [True, False, False, True]
    assert votes.consistency()[0] == pytest.approx(2 / 3)
    assert votes.invalid == 1 / 8
    assert np.isnan(Votes(np.full((1, 2, 2), NAN)).consistency()[0])
    assert Votes(votes.p)[[3]].log_odds[0] == pytest.approx([log_odds(SUREST)])


def test_what_is_too_close_decides_nothing() -> None:
    """|2p - 1| is .08 for p = .54 and .12 for p = .56."""
    close, clear = log_odds(0.54), log_odds(0.56)
    assert decided(np.array([close, clear, -clear])).tolist() == [0.0, clear, -clear]
    assert share_right(np.array([close, clear, -clear, clear])) == (0.5 + 1 + 0 + 1) / 4


def test_a_set_is_the_sum_of_its_log_odds() -> None:
    votes = np.array([[1.0, -2.0], [0.5, 3.0], [9.0, 9.0]])
    assert joint(votes, [0, 1]).tolist() == [1.5, 1.0]
    assert joint(votes, []).tolist() == [0.0, 0.0]


def test_rules_are_taken_one_by_one_while_they_gain() -> None:
    """Rule 1 is right on 3 of 4 pairs and wrong on none; then only rule 2 mends the last; rule 0 adds nothing."""
    votes = np.array([[1.0, 1.0, -1.0, -1.0], [2.0, 2.0, 2.0, 0.0], [-1.0, 0.0, 0.0, 1.0]])
    assert choose(votes, most=9) == [1, 2]
    assert choose(votes, most=1) == [1]
    assert choose(-np.abs(votes), most=9) == []
    assert choose(np.zeros((3, 4)), most=9) == [] and choose(np.zeros((0, 4)), most=9) == []
    assert choose(np.array([[1.0, 1.0], [2.0, 2.0], [2.0, 2.0]]), most=9) == [1]  # the likelier, then the earlier


@pytest.mark.parametrize("seed", range(5))
def test_each_step_is_the_best_there_is(seed: int) -> None:
    votes = np.random.default_rng(seed).normal(0.3, 1.0, size=(6, 40))
    chosen = choose(votes, most=3)
    for size in range(1, len(chosen) + 1):
        before = chosen[: size - 1]
        best = max(share_right(joint(votes, [*before, k])) for k in range(6) if k not in before)
        assert share_right(joint(votes, chosen[:size])) == best


def test_votes_are_told_apart_by_rule_pair_and_order() -> None:
    """The scripted judge likes the first answer where a rule says nothing, and kind ones where one asks for it."""
    pairs, told = preferences(20), []
    rules = ["Select the response that mentions rain.", "Select the response that shows kindness."]
    votes = vote(rules, pairs, engine(), Judge(), seed=0, told=lambda *progress: told.append(progress))
    assert votes.p.shape == (2, 20, 2)
    assert votes.p[0] == pytest.approx(np.tile([0.6, 0.4], (20, 1)))
    assert votes.p[1] == pytest.approx(np.full((20, 2), 0.95))
    assert told[0] == ("vote", 0, 20) and told[-1] == ("vote", 20, 20)
    turned = vote(rules[1:], pairs[::-1], engine(), Judge(), seed=0, told=silent)
    assert (turned.p == votes.p[1:, ::-1]).all()
