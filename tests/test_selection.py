"""Which comparisons are asked for: those that can still change who is best and worst."""

from __future__ import annotations

import random
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfalign.selection import Answer, Asked, _Belief, covering, most_telling


@pytest.mark.parametrize("size", range(2, 9))
def test_a_cover_has_each_candidate_and_no_comparison_too_many(size):
    cover = covering(size, random.Random(size))
    assert {place for pair in cover for place in pair} == set(range(size))
    assert len(set(cover)) == len(cover) == (size + 1) // 2
    assert all(0 <= i < j < size for i, j in cover)


def test_what_is_sure_is_not_asked_and_what_is_open_is():
    """In the first prompt the best and the worst are clear, in the second nothing is."""
    clear = Asked(3, {(0, 1): Answer(0.98), (1, 2): Answer(0.98)})
    unclear = Asked(3, {(0, 1): Answer(0.55), (1, 2): Answer(0.45)})
    assert most_telling([clear, unclear], 1) == [(1, (0, 2))]
    assert most_telling([clear, unclear], 5) == [(1, (0, 2)), (0, (0, 2))]


def test_rivals_for_the_best_place_meet_before_the_middle():
    """0 and 1 both beat 2 and 3 clearly, as 2 and 3 do 4: who is best is open, and 2 against 3 does not matter."""
    won = Answer(0.9)
    asked = Asked(5, {(0, 2): won, (1, 3): won, (0, 3): won, (1, 2): won, (2, 4): won, (3, 4): won})
    assert most_telling([asked], 1) == [(0, (0, 1))]


def test_a_judge_that_contradicts_itself_leaves_more_open():
    firm, torn = (Asked(2, {(0, 1): Answer(0.7, spread)}) for spread in (0.0, 0.8))
    variance = [row @ belief.covariance @ row for belief in map(_Belief, (firm, torn)) for row in belief.rows]
    assert variance[0] < variance[1]
    firm, torn = (Asked(3, {(0, 1): Answer(0.7, s), (1, 2): Answer(0.7, s)}) for s in (0.0, 0.8))
    assert most_telling([firm, torn], 1) == [(1, (0, 2))]


def test_a_comparison_without_an_answer_says_nothing_and_is_not_asked_again():
    asked = Asked(3, {(0, 1): None, (0, 2): Answer(0.9)})
    assert most_telling([asked], 3) == [(0, (1, 2))]
    assert _Belief(Asked(2, {(0, 1): None})).mean == pytest.approx([0, 0])
    assert most_telling([Asked(2, {(0, 1): None})], 1) == [] == most_telling([], 3)


def test_the_gain_is_the_mean_growth_of_the_gap():
    """Against draws from the belief: what the gap of the mean strengths is after an answer, less what it is now."""
    belief = _Belief(Asked(4, {(0, 1): Answer(0.7), (2, 3): Answer(0.6)}))
    generator = np.random.default_rng(0)
    for place, row in enumerate(belief.rows):
        shift = belief.covariance @ row
        step = shift / np.sqrt(row @ shift + 1 / belief.information[place])
        moved = belief.mean + generator.standard_normal((100_000, 1)) * step
        gain = np.ptp(moved, axis=1).mean() - np.ptp(belief.mean)
        information = 1e-3 * belief.information[place] * (row @ shift)
        assert belief._gains()[place] - information == pytest.approx(gain, abs=0.08)  # 9 nodes, and a kink


def test_an_expected_answer_narrows_as_one_more_row_of_the_precision():
    belief = _Belief(Asked(4, {(0, 1): Answer(0.7)}))
    place = belief.comparisons.index((1, 3))
    row = belief.rows[place]
    precision = np.linalg.inv(belief.covariance) + belief.information[place] * np.outer(row, row)
    belief.expect((1, 3))
    assert belief.covariance == pytest.approx(np.linalg.inv(precision))


@st.composite
def fields(draw):
    size = draw(st.integers(2, 5))
    answer = st.one_of(st.none(), st.builds(Answer, st.floats(0, 1), st.floats(0, 1)))
    asked = draw(st.sets(st.sampled_from(list(combinations(range(size), 2)))))
    return Asked(size, {comparison: draw(answer) for comparison in sorted(asked)})


@settings(max_examples=100, deadline=None)
@given(st.lists(fields(), max_size=4), st.integers(0, 30))
def test_each_open_comparison_is_chosen_at_most_once(prompts, count):
    chosen = most_telling(prompts, count)
    assert len(chosen) == len(set(chosen)) == min(count, sum(prompt.open for prompt in prompts))
    assert all(comparison not in prompts[place].answers for place, comparison in chosen)
    assert chosen == most_telling(prompts, count)
