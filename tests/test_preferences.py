"""How single judgments become a decision."""

from __future__ import annotations

import pytest

from selfalign.constitution import Constitution, Principle
from selfalign.preferences import Reading, decide, ratings, read_prompt, sigmoid
from tests.stages.world import both_orders, candidate, compared, prompt, rated

ASK = prompt("Well?")
A, B = candidate(ASK, "one", 0), candidate(ASK, "two", 1)
P, Q = Principle(id="p", text="p", weight=3.0), Principle(id="q", text="q", weight=1.0)
LOW = Principle(id="low", text="low", tier=2)
VETO = Principle(id="veto", text="veto", kind="hard_constraint", tier=9, weight=0.0)
OFF = Principle(id="off", text="off", weight=0.0)
ALL = Constitution(name="all", version="1", principles=(P, Q, LOW, VETO, OFF))


def lead(*judgments, min_margin: float = 0.0) -> float | None:
    return read_prompt(judgments, ALL).decision(A.id, B.id, min_margin)


def test_the_lead_is_that_of_the_mean_over_both_orders():
    """With bias 1, scale 1 and a difference of 2: the mean is .841816."""
    judgments = [compared(A, B, sigmoid(3), P), compared(B, A, sigmoid(-1), P)]
    assert (1 + lead(*judgments)) / 2 == pytest.approx(0.841816, abs=1e-6)


def test_a_judge_that_always_says_first_says_nothing():
    assert lead(compared(A, B, 1.0, P), compared(B, A, 1.0, P)) == 0.0


def test_a_comparison_invalid_in_one_order_is_left_out():
    readings = read_prompt([compared(A, B, 0.9, P), compared(B, A, None, P), *both_orders(A, B, 0.4, Q)], ALL)
    assert readings.decision(A.id, B.id, 0.0) == pytest.approx(-0.2)
    assert read_prompt([compared(A, B, 0.9, P), compared(B, A, None, P)], ALL).pairs == {(A.id, B.id): ()}


def test_principles_of_a_tier_count_by_weight():
    judgments = [*both_orders(A, B, 0.9, P), *both_orders(A, B, 0.3, Q), *both_orders(A, B, 0.0, OFF)]
    assert lead(*judgments) == pytest.approx((3 * 0.8 + 1 * -0.4) / 4)
    assert read_prompt(both_orders(A, B, 0.9, OFF), ALL).pairs == {}


def test_a_higher_tier_outranks_unless_it_is_within_the_margin():
    judgments = [*both_orders(A, B, 0.6, P), *both_orders(A, B, 0.1, LOW)]
    assert lead(*judgments, min_margin=0.1) == pytest.approx(0.2)
    assert lead(*judgments, min_margin=0.3) == pytest.approx(-0.8)


def test_where_no_tier_decides_the_largest_lead_stands():
    assert decide([Reading(P, 0.1), Reading(LOW, -0.2)], 0.5) == -0.2
    assert decide([Reading(P, 0.0), Reading(LOW, 0.0)], 0.0) == 0.0


def test_a_hard_constraint_comes_before_every_tier_whatever_its_weight():
    judgments = [*both_orders(A, B, 1.0, P), *both_orders(A, B, 0.2, VETO)]
    assert lead(*judgments) == pytest.approx(-0.6)
    assert read_prompt(judgments, ALL).vetoed() == {A.id}
    assert read_prompt(both_orders(A, B, 0.3, VETO), ALL).vetoed() == frozenset()


def test_a_principle_yields_only_where_the_other_decides():
    kind = Principle(id="kind", text="kind", weight=9.0, yields_to=("p",))
    agreed = (3 * -0.4 + 9 * 0.8) / 12
    assert decide([Reading(P, -0.4), Reading(kind, 0.8)], 0.3) == pytest.approx(-0.4)
    assert decide([Reading(P, -0.4), Reading(kind, 0.8)], 0.5) == pytest.approx(agreed)
    assert decide([Reading(P, 0.0), Reading(kind, 0.8)], 0.0) == pytest.approx(0.6)
    assert decide([Reading(kind, 0.8)], 0.3) == 0.8


def test_ratings_compare_under_shared_principles():
    judgments = [rated(A, 4.5, P), rated(B, 2.5, P), rated(A, 1.0, Q), rated(B, None, Q)]
    readings = read_prompt(judgments, ALL, rating_scale=0.5)
    assert readings.decision(A.id, B.id, 0.0) == pytest.approx(2.0)
    assert readings.decision(B.id, A.id, 0.0) == pytest.approx(-2.0)
    assert readings.probability(2.0) == pytest.approx(sigmoid(1.0))
    assert read_prompt([rated(A, 1.0, VETO), rated(B, 2.5, VETO)], ALL).vetoed() == {A.id}


def test_an_unknown_principle_is_an_error():
    with pytest.raises(KeyError):
        read_prompt(both_orders(A, B, 0.9, Principle(id="stranger", text="x")), ALL)


def test_a_rating_of_its_own_is_the_mean_by_weight_of_the_tier_that_rates_it_worst():
    judgments = [rated(A, 4.0, P), rated(A, 2.0, Q), rated(A, 1.0, OFF), rated(B, 2.0, P), rated(B, 4.5, LOW)]
    assert ratings(judgments, ALL) == pytest.approx({A.id: (3 * 4 + 2) / 4, B.id: 2.0})
    assert ratings([*judgments, rated(A, 3.0, LOW), rated(B, 1.5, VETO)], ALL) == {A.id: 3.0, B.id: 1.5}
    two = Constitution(name="two", version="1", principles=(P, VETO, Principle(id="v", text="v", kind=VETO.kind)))
    said = [rated(A, 5.0, VETO), rated(A, 2.0, two.principles[2]), rated(A, 4.0, P)]
    assert ratings(said, two) == {A.id: 2.0}  # no constraint makes up for another


def test_one_invalid_verdict_leaves_an_answer_without_a_rating():
    judgments = [rated(A, 4.0, P), rated(A, None, Q), rated(B, 3.0, P), rated(B, None, OFF)]
    assert ratings(judgments, ALL) == {B.id: 3.0}
    assert ratings([rated(A, 3.0, OFF)], ALL) == ratings([], ALL) == {}
