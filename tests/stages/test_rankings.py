"""The rankings stage: scores and win rates by hand, who may not stand high, labels, and the best of k."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfalign.config import Pairs
from selfalign.constitution import Constitution, Principle
from selfalign.contest import DISCARDS
from selfalign.preferences import sigmoid
from selfalign.stages import StageError
from selfalign.stages.rankings import best_of, build_rankings
from tests.stages.test_pairs import judged_shards
from tests.stages.world import both_orders, candidate, compared, prompt, rated

ASK = prompt("Well?")
KIND = Principle(id="kind", text="Be kind.")
BRIEF = Principle(id="brief", text="Be brief.", tier=2)
SAFE = Principle(id="safe", text="Be safe.", kind="hard_constraint")
HOUSE = Constitution(name="house", version="1", principles=(KIND, BRIEF, SAFE))
A, B, C, D = (candidate(ASK, text, i) for i, text in enumerate("abcd"))
NAMED = dict(zip("abcd", (A, B, C, D), strict=True))


def build(candidates, judgments, algorithm="ranking", **options):
    return build_rankings(list(candidates), list(judgments), HOUSE, Pairs(**options), algorithm)


def table(p: dict[str, float], principle: Principle = KIND) -> list:
    said = (both_orders(NAMED[pair[0]], NAMED[pair[1]], value, principle) for pair, value in p.items())
    return [judgment for judgments in said for judgment in judgments]


def ratings(values: dict[str, float | None], principle: Principle = KIND) -> list:
    return [rated(NAMED[name], value, principle) for name, value in values.items()]


def truthful(strengths: dict[str, float], pairs=None) -> list:
    """Judgments by the Bradley-Terry probabilities of these strengths."""
    pairs = pairs or ["".join(pair) for pair in combinations(strengths, 2)]
    return table({pair: sigmoid(strengths[pair[0]] - strengths[pair[1]]) for pair in pairs})


def test_scores_are_bradley_terry_strengths_and_win_rates_count_oneself():
    """The ridge of 0.01 shrinks a little: with p(1-p) of about .2 and four candidates, by a hundredth or two."""
    truth = {"a": 0.1, "b": 0.9, "c": -0.7, "d": -0.3}
    (ranking,), left_out = build([A, B, C, D], truthful(truth))
    assert ranking.candidate_ids == (B.id, A.id, D.id, C.id) and not left_out
    assert ranking.scores == pytest.approx([0.9, 0.1, -0.3, -0.7], abs=0.02)
    assert sum(ranking.scores) == pytest.approx(0)
    p = [0.5, sigmoid(0.8), sigmoid(1.2), sigmoid(1.6)]
    assert ranking.win_rates[0] == pytest.approx(np.mean(p))
    assert sum(ranking.win_rates) == pytest.approx(2)
    assert len(ranking.judgment_ids) == 12 and ranking.desirable == ()


def test_what_was_not_compared_is_estimated():
    truth = {"a": 0.1, "b": 0.9, "c": -0.7, "d": -0.3}
    (ranking,), _ = build([A, B, C, D], truthful(truth, ["ab", "bc", "cd"]))
    assert ranking.scores == pytest.approx([0.9, 0.1, -0.3, -0.7], abs=0.05)
    p = [0.5, sigmoid(0.8), sigmoid(1.2), sigmoid(1.6)]
    assert ranking.win_rates[0] == pytest.approx(np.mean(p), abs=0.01)


def test_scores_of_ratings_are_the_ratings():
    (ranking,), _ = build([A, B, C], ratings({"a": 2.0, "b": 4.5, "c": 3.0}), rating_scale=0.5)
    assert (ranking.candidate_ids, ranking.scores) == ((B.id, C.id, A.id), (4.5, 3.0, 2.0))
    assert ranking.win_rates[0] == pytest.approx((0.5 + sigmoid(0.75) + sigmoid(1.25)) / 3)
    both = ratings({"a": 2.0, "b": 4.0}) + ratings(
        {"a": 5.0, "b": 1.0}, Principle(id="brief", text="Be brief.", weight=3)
    )
    house = Constitution(name="h", version="1", principles=(KIND, Principle(id="brief", text="Be brief.", weight=3)))
    (ranking,), _ = build_rankings([A, B], both, house, Pairs(), "sppo")
    assert ranking.scores == pytest.approx([(2 + 3 * 5) / 4, (4 + 3 * 1) / 4])


def test_a_rating_follows_the_tier_that_decides():
    """a and b are near on the first tier and decided by the second; c loses to both on the first."""
    said = ratings({"a": 4.0, "b": 4.05, "c": 1.0}) + ratings({"a": 3.0, "b": 2.0, "c": 5.0}, BRIEF)
    (ranking,), _ = build([A, B, C], said)
    assert ranking.candidate_ids == (A.id, B.id, C.id)
    assert ranking.scores == pytest.approx([(3.0 + 4.0) / 2, (2.0 + 4.05) / 2, 1.0])
    assert ranking.win_rates[0] > ranking.win_rates[1] > ranking.win_rates[2]


def test_strengths_follow_the_tiers():
    said = table({"ab": 0.52, "ac": 0.8, "bc": 0.8}) + table({"ab": 0.1, "ac": 0.1, "bc": 0.1}, BRIEF)
    (ranking,), _ = build([A, B, C], said)
    assert ranking.candidate_ids == (B.id, A.id, C.id)


def test_a_cycle_is_a_tie():
    """a beats b beats c beats a: all strengths are 0, and the first sampled stands first, however the sums round."""
    cycle = table({"ab": 0.9, "bc": 0.9, "ac": 0.1})
    assert build([A, B, C], cycle) == ([], {"tie": 1})
    (ranking,), _ = build([A, B, C], cycle, "sppo")
    assert ranking.candidate_ids == (A.id, B.id, C.id)
    assert ranking.win_rates == pytest.approx([0.5, 0.5, 0.5])
    assert build([A, B], table({"ab": 0.53}))[1] == {"below_margin": 1}


@pytest.mark.parametrize(
    ("text", "fields", "reason"), [("half", {"finish_reason": "length"}, "truncated"), ("  ", {}, "empty")]
)
def test_barred_candidates_stand_behind_all_others(text, fields, reason):
    odd = candidate(ASK, text, 4, **fields)
    said = [*both_orders(odd, A, 0.9, KIND), *both_orders(odd, B, 0.9, KIND), *both_orders(A, B, 0.7, KIND)]
    (ranking,), _ = build([odd, A, B], said)
    assert ranking.candidate_ids == (A.id, B.id, odd.id)
    assert ranking.scores[2] == ranking.scores[1] and ranking.win_rates[2] == min(ranking.win_rates)
    assert sum(ranking.scores) == pytest.approx(0)
    assert build([odd, candidate(ASK, "", 5, finish_reason="error"), odd], [])[1] == {"identical_text": 1}
    other = candidate(ASK, text + " ", 6, **fields)
    assert build([odd, other], both_orders(odd, other, 0.9, KIND)) == ([], {reason: 1})


def test_a_vetoed_candidate_is_never_the_best():
    kind = {"ab": 0.99, "ad": 0.99, "bc": 0.6, "bd": 0.9, "cd": 0.6}
    (ranking,), _ = build([A, B, C, D], table(kind) + table({"ac": 0.2}, SAFE))
    assert ranking.candidate_ids[-1] == A.id
    assert [c.id for c in best_of([A, B, C, D], table(kind) + table({"ac": 0.2}, SAFE), HOUSE, Pairs())[0]] == [C.id]


def test_labels_are_relative_to_the_mean_of_the_prompt():
    """Mean 3; with a margin of 1 what is within half a point of it is neutral."""
    said = ratings({"a": 4.4, "b": 3.4, "c": 2.5, "d": 1.7})
    (ranking,), left_out = build([A, B, C, D], said, "kto", min_margin=1.0)
    assert ranking.candidate_ids == (A.id, C.id, D.id)
    assert ranking.desirable == (True, False, False) and left_out == {"neutral": 1}
    assert ranking.scores == pytest.approx([4.4, 2.5, 1.7])
    (ranking,), left_out = build([A, B, C, D], said, "bco", min_margin=1.0, desirable_above=2.0)
    assert dict(zip(ranking.candidate_ids, ranking.desirable, strict=True)) == {A.id: True, B.id: True, C.id: True}
    assert left_out == {"neutral": 1}


@pytest.mark.parametrize(("p", "labelled"), [(0.56, 2), (0.54, 0)])
def test_two_candidates_are_labelled_where_they_would_make_a_pair(p, labelled):
    """With two candidates the strengths are plus and minus half of logit p (less the ridge): a margin of 2p - 1."""
    rankings, left_out = build([A, B], table({"ab": p}), "kto", min_margin=0.1)
    assert sum(len(ranking.candidate_ids) for ranking in rankings) == labelled
    assert left_out["neutral"] == 2 - labelled
    assert all(ranking.desirable == (True, False) for ranking in rankings)


def test_nothing_barred_is_desirable():
    cut = candidate(ASK, "cut o", 4, finish_reason="length")
    said = [rated(cut, 4.5, KIND), *ratings({"a": 4.0, "b": 3.8})]
    (ranking,), left_out = build([cut, A, B], said, "kto", desirable_above=3.0)
    assert ranking.desirable == (True, True) and left_out == {"truncated": 1}


def test_equal_ratings_are_neutral_without_a_margin_too():
    assert build([A, B], ratings({"a": 3.0, "b": 3.0}), "kto", min_margin=0.0) == ([], {"neutral": 2})


def test_every_reason_without_a_ranking():
    failed, copy = candidate(ASK, "", 4, finish_reason="error"), candidate(ASK, "a", 5, duplicate_of=A.id)
    assert build([A, failed], []) == ([], {"too_few_candidates": 1})
    assert build([A, copy], []) == ([], {"identical_text": 1})
    assert build([A, B], []) == ([], {"no_judgments": 1})
    assert build([A, B], [compared(A, B, None, KIND), compared(B, A, 0.9, KIND)]) == ([], {"invalid": 1})
    assert build([A, B], [rated(A, None, KIND), rated(B, 3.0, KIND)]) == ([], {"invalid": 1})
    (ranking,), left_out = build([A, B, C], [*table({"ab": 0.9}), compared(B, C, None, KIND)])
    assert ranking.candidate_ids == (A.id, B.id) and left_out == {"invalid": 1}
    assert best_of([A, failed], [], HOUSE, Pairs()) == ([], {"too_few_candidates": 1})


def test_judgments_of_another_constitution_are_refused():
    stranger = both_orders(A, B, 0.9, Principle(id="stranger", text="x"))
    with pytest.raises(StageError, match="'stranger', which the constitution house does not have"):
        build([A, B], stranger)
    with pytest.raises(StageError, match="another constitution"):
        best_of([A, B], stranger, HOUSE, Pairs())


def test_the_best_of_equals_is_the_first_sampled():
    said = ratings({"d": 4.0, "b": 4.0, "a": 1.0})
    assert best_of([D, B, A], said, HOUSE, Pairs()) == ([B], {})


def test_best_of_two_over_rounds_is_the_raft_recursion():
    """Best of K = 2, then exact SFT: pi'(k) = F_k^2 - F_(k-1)^2. From uniform over rewards 0..3: (1, 3, 5, 7) / 16."""
    policy, means = np.full(4, 0.25), []
    for _ in range(4):
        means.append(policy @ np.arange(4))
        nearest = np.zeros(4)
        for first, second in product(range(4), repeat=2):
            drawn = [candidate(ASK, f"{first} at first", 0), candidate(ASK, f"{second} then", 1)]
            said = [rated(who, 1.0 + reward, KIND) for who, reward in zip(drawn, (first, second), strict=True)]
            (best,), _ = best_of(drawn, said, HOUSE, Pairs())
            nearest[int(best.text[0])] += policy[first] * policy[second]
        cumulative = np.cumsum(policy)
        assert nearest == pytest.approx(np.diff(cumulative**2, prepend=0))
        policy = nearest
    assert means == pytest.approx([1.5, 2.125, 2.617188, 2.895966], abs=1e-6)


@settings(max_examples=150, deadline=None)
@given(judged_shards(), st.sampled_from(["ranking", "sppo", "kto", "raft"]), st.sampled_from([0.0, 0.1, 0.5]))
def test_rankings_are_sound(shard, algorithm, margin):
    candidates, judgments = shard
    options = Pairs(min_margin=margin)
    rankings, left_out = build_rankings(candidates, judgments, HOUSE, options, algorithm)
    by_id = {c.id: c for c in candidates}
    valid = {judgment.id for judgment in judgments if judgment.verdict != "invalid"}
    for ranking in rankings:
        ranked = [by_id[name] for name in ranking.candidate_ids]
        assert {c.prompt_id for c in ranked} == {ranking.prompt_id}
        assert len({c.text for c in ranked}) == len(ranked) and all(c.finish_reason != "error" for c in ranked)
        assert all(x >= y - 1e-8 for x, y in zip(ranking.scores, ranking.scores[1:], strict=False))
        assert all(0 < rate < 1 for rate in ranking.win_rates)
        odd = [c.finish_reason == "length" or not c.text for c in ranked]
        assert algorithm == "kto" or not odd[0]
        assert bool(ranking.desirable) == (algorithm == "kto")
        assert not any(odd[i] and good for i, good in enumerate(ranking.desirable))
        assert ranking.judgment_ids and set(ranking.judgment_ids) <= valid
    assert left_out.keys() <= DISCARDS.keys() and all(left_out.values())
    assert (rankings, left_out) == build_rankings(candidates, judgments, HOUSE, options, algorithm)
    best, _ = best_of(candidates, judgments, HOUSE, options)
    assert all(c.text and c.finish_reason == "stop" for c in best)
