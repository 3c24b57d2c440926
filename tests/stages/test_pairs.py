"""The pairs stage: which preferences are worth training on, and a reason for each that is not."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfalign.config import Pairs
from selfalign.constitution import Constitution, Principle
from selfalign.contest import DISCARDS
from selfalign.preferences import sigmoid
from selfalign.stages import StageError
from selfalign.stages.pairs import build_pairs, check_some, rejection_sample
from tests.stages.world import both_orders, candidate, compared, prompt, rated

ASK = prompt("Well?")
KIND = Principle(id="kind", text="Be kind.")
BRIEF = Principle(id="brief", text="Be brief.", tier=2)
SAFE = Principle(id="safe", text="Be safe.", kind="hard_constraint")
HOUSE = Constitution(name="house", version="1", principles=(KIND, BRIEF, SAFE))
A, B, C, D = (candidate(ASK, text, i) for i, text in enumerate("abcd"))


def build(candidates, judgments, seed=1, **options):
    return build_pairs(list(candidates), list(judgments), HOUSE, Pairs(**options), seed=seed)


def table(p: dict[str, float], principle: Principle = KIND) -> list:
    """Judgments in both orders from {"ab": probability that a beats b}."""
    named = dict(zip("abcd", (A, B, C, D), strict=True))
    said = (both_orders(named[pair[0]], named[pair[1]], value, principle) for pair, value in p.items())
    return [judgment for judgments in said for judgment in judgments]


# a beats b and c, b beats c: the means are a (.7 + .9) / 2 = .8, b (.3 + .6) / 2 = .45, c (.1 + .4) / 2 = .25.
CLEAR = {"ab": 0.7, "ac": 0.9, "bc": 0.6}


def test_best_worst_takes_the_extremes_of_the_mean_win_probability():
    (pair,), discards = build([A, B, C], table(CLEAR))
    assert (pair.chosen_id, pair.rejected_id) == (A.id, C.id)
    assert pair.p_chosen == pytest.approx(0.9)
    assert pair.margin == pytest.approx(0.8)
    assert len(pair.judgment_ids) == 2
    assert not discards


def test_best_random_draws_the_rejected_one():
    drawn = Counter()
    for seed in range(60):
        (pair,), discards = build([A, B, C], table(CLEAR), seed=seed, strategy="best-random")
        assert pair == build([A, B, C], table(CLEAR), seed=seed, strategy="best-random")[0][0]
        assert pair.chosen_id == A.id and not discards
        drawn[pair.rejected_id] += 1
    assert drawn.keys() == {B.id, C.id} and min(drawn.values()) > 15


def test_near_ties_are_balanced_by_length():
    """Ratings 4.0 and 3.8 are near the best, 1.0 and 1.2 near the worst of a range of 3: rho = 0.1 reaches 0.3."""
    long, short = candidate(ASK, "long " * 9, 0), candidate(ASK, "short", 1)
    brief, wordy = candidate(ASK, "brief", 2), candidate(ASK, "wordy " * 9, 3)
    ratings = [(long, 4.0), (short, 3.8), (brief, 1.0), (wordy, 1.2)]
    said = [rated(who, value, KIND) for who, value in ratings]
    people = [who for who, _ in ratings]
    (plain,), _ = build(people, said)
    assert (plain.chosen_id, plain.rejected_id) == (long.id, brief.id)
    (balanced,), _ = build(people, said, length_balance=0.2)
    assert (balanced.chosen_id, balanced.rejected_id) == (short.id, wordy.id)
    assert balanced.margin == pytest.approx(2.6)


def test_all_takes_every_pair_by_margin_and_counts_the_rest():
    pairs, discards = build([A, B, C], table(CLEAR), strategy="all", min_margin=0.3)
    assert [(p.chosen_id, p.rejected_id) for p in pairs] == [(A.id, C.id), (A.id, B.id)]
    assert [p.p_chosen for p in pairs] == pytest.approx([0.9, 0.7])
    assert discards == {"below_margin": 1}
    pairs, discards = build([A, B, C], table(CLEAR), strategy="all", max_per_prompt=1)
    assert [p.margin for p in pairs] == pytest.approx([0.8])
    assert discards == {"max_per_prompt": 2}


def test_random_draws_one_comparison_a_prompt_and_the_same_for_the_same_seed():
    drawn = Counter()
    for seed in range(60):
        (pair,), discards = build([A, B, C], table(CLEAR), seed=seed, strategy="random")
        assert (pair,) == tuple(build([A, B, C], table(CLEAR), seed=seed, strategy="random")[0])
        assert not discards
        drawn[pair.chosen_id, pair.rejected_id] += 1
    assert drawn.keys() == {(A.id, B.id), (A.id, C.id), (B.id, C.id)}
    assert min(drawn.values()) > 8
    assert len(build([A, B, C], table(CLEAR), strategy="random", max_per_prompt=2)[0]) == 2


# Rejection sampling. With pi = (.2, .5, .3), r = (1, 0, -1) and beta = .5 the optimal policy is (.732, .248, .020).


def test_what_rejection_sampling_accepts_follows_the_optimal_policy():
    draw = random.Random(0)
    drawn = draw.choices(range(3), weights=(0.2, 0.5, 0.3), k=60_000)
    rewards = [(1.0, 0.0, -1.0)[action] for action in drawn]
    accepted = rejection_sample(rewards, 0.5, draw)
    assert len(accepted) / len(drawn) == pytest.approx(0.273162, abs=0.005)
    frequencies = np.bincount([drawn[i] for i in accepted], minlength=3) / len(accepted)
    assert frequencies == pytest.approx([0.732165, 0.247720, 0.020115], abs=0.01)


def test_rejection_sampling_goes_on_with_the_largest_of_the_rest():
    assert rejection_sample([0.0, 900.0, 5.0], 0.5, random.Random(1)) == [1]
    assert rejection_sample([0.0, 900.0, 5.0], 1e-3, random.Random(1), at_least=2) == [1, 2]
    assert sorted(rejection_sample([0.0, 1.0], 1e-3, random.Random(1), at_least=5)) == [0, 1]
    assert rejection_sample([2.0, 2.0, 2.0], 0.5, random.Random(1)) == [0, 1, 2]
    assert rejection_sample([], 0.5, random.Random(1)) == []


def test_rso_takes_the_best_and_worst_of_what_it_accepts():
    """Ratings 4, 3 and 1 are log-odds: a is always accepted, b with exp(-1 / .5) = .135, c with exp(-3 / .5) = .0025.

    Where neither was, b is accepted in the second pass and c with exp(-2 / .5) = .018.
    """
    judgments = [rated(A, 4.0, KIND), rated(B, 3.0, KIND), rated(C, 1.0, KIND)]
    drawn = Counter()
    for seed in range(1000):
        (pair,), discards = build([A, B, C], judgments, seed=seed, strategy="rso")
        assert pair.chosen_id == A.id and not discards
        drawn[pair.rejected_id] += 1
    assert drawn[C.id] / 1000 == pytest.approx(0.0025 + 0.865 * 0.018, abs=0.012)
    wide = [build([A, B, C], judgments, seed=seed, strategy="rso", rso_beta=50.0)[0][0] for seed in range(40)]
    assert Counter(pair.rejected_id for pair in wide)[C.id] > 30


def test_rso_draws_nothing_that_may_not_be_chosen():
    cut, empty = candidate(ASK, "cut o", 4, finish_reason="length"), candidate(ASK, " ", 5)
    said = [rated(cut, 5.0, KIND), rated(empty, 4.5, KIND), rated(A, 3.0, KIND), rated(B, 2.0, KIND)]
    (pair,), _ = build([cut, empty, A, B], said, strategy="rso")
    assert (pair.chosen_id, pair.rejected_id) == (A.id, B.id)
    assert build([cut, A], [said[0], said[2]], strategy="rso") == ([], {"truncated": 1})


def test_margin_buckets_draw_one_pair_of_each_range():
    """From 0.1 to 1 in three: margins of .2 and .3 are in the first, .8 in the last, and .05 is below."""
    said = table({"ab": 0.6, "ac": 0.65, "bc": 0.9, "cd": 0.525})
    drawn = Counter()
    for seed in range(40):
        pairs, discards = build([A, B, C, D], said, seed=seed, strategy="margin-buckets")
        assert discards == {"below_margin": 1, "same_margin": 1}
        assert [pair.margin for pair in pairs] in ([pytest.approx(0.8), pytest.approx(m)] for m in (0.2, 0.3))
        drawn[round(pairs[1].margin, 1)] += 1
    assert min(drawn[0.2], drawn[0.3]) > 8
    pairs, discards = build([A, B, C, D], said, strategy="margin-buckets", max_per_prompt=1)
    assert len(pairs) == 1 and discards == {"below_margin": 1, "same_margin": 1, "max_per_prompt": 1}
    assert len(build([A, B, C, D], said, strategy="margin-buckets", buckets=20)[0]) == 3


def test_margin_buckets_of_ratings_are_ranges_of_probability():
    """2 sigmoid(d) - 1 is .46 for 1, .76 for 2 and .91 for 3 points."""
    said = [rated(A, 4.0, KIND), rated(B, 3.0, KIND), rated(C, 1.0, KIND)]
    assert len(build([A, B, C], said, strategy="margin-buckets")[0]) == 2
    assert len(build([A, B, C], said, strategy="margin-buckets", buckets=8)[0]) == 3


def with_gold(response: str | None):
    return replace(ASK, response=response)


def test_spin_prefers_the_gold_answer_to_a_drawn_one():
    ask, drawn = with_gold("gold"), Counter()
    options = Pairs(strategy="spin", labels="soft")
    for seed in range(60):
        (pair,), discards = build_pairs([A, B], [], HOUSE, options, seed=seed, prompts=[ask])
        assert pair.chosen_id == ask.gold().id and not discards
        assert (pair.p_chosen, pair.margin, pair.judgment_ids) == (1.0, 1.0, ())
        drawn[pair.rejected_id] += 1
    assert drawn.keys() == {A.id, B.id} and min(drawn.values()) > 15


@pytest.mark.parametrize(("gold", "reason"), [(None, "no_gold"), ("a", "identical_text"), (" \n", "empty")])
def test_spin_without_a_use_for_the_gold_answer(gold, reason):
    options = Pairs(strategy="spin")
    assert build_pairs([A], [], HOUSE, options, seed=1, prompts=[with_gold(gold)]) == ([], {reason: 1})
    failed = candidate(ASK, "", 4, finish_reason="error")
    assert build_pairs([failed], [], HOUSE, options, seed=1, prompts=[with_gold("gold")]) == (
        [],
        {"too_few_candidates": 1},
    )
    assert build_pairs([A], [], HOUSE, options, seed=1) == ([], {"no_gold": 1})


def test_a_step_without_anything_to_train_on_says_why():
    check_some({"pairs": 1})
    check_some({"rankings": 2, "neutral": 3}, "rankings")
    with pytest.raises(StageError, match=r"no preference pair is left to train on: 4 tie \(the judge sees no"):
        check_some({"pairs": 0, "tie": 4})
    with pytest.raises(StageError, match="no ranking is left to train on: nothing was judged"):
        check_some({"rankings": 0}, "rankings")


def test_hard_labels_are_certain_and_keep_the_margin():
    (pair,), _ = build([A, B, C], table(CLEAR), labels="hard")
    assert pair.p_chosen == 1.0
    assert pair.margin == pytest.approx(0.8)


def test_an_unjudged_best_and_worst_are_estimated_by_bradley_terry():
    """A ring a-b-c-d compares neither a with c nor b with d; strengths .8, .2, -.7 and -.3 are found again."""
    truth = {"a": 0.8, "b": 0.2, "c": -0.7, "d": -0.3}
    ring = {pair: sigmoid(truth[pair[0]] - truth[pair[1]]) for pair in ("ab", "bc", "cd", "ad")}
    (pair,), _ = build([A, B, C, D], table(ring))
    assert (pair.chosen_id, pair.rejected_id) == (A.id, C.id)
    assert pair.p_chosen == pytest.approx(sigmoid(1.5), abs=0.01)
    assert len(pair.judgment_ids) == 8


def test_the_best_is_not_whoever_met_the_weakest():
    """c beats d, the worst, by .9; a beats b by .6, and b beats c by .9: a mean of wins would call c a match for a."""
    (pair,), _ = build([A, B, C, D], table({"ab": 0.6, "bc": 0.9, "cd": 0.95}))
    assert (pair.chosen_id, pair.rejected_id) == (A.id, D.id)


def test_sure_wins_give_a_finite_estimate():
    (pair,), _ = build([A, B, C, D], table({"ab": 1.0, "bc": 1.0, "cd": 0.0, "ad": 1.0}))
    assert 0.99 < pair.p_chosen <= 1.0


def test_a_best_that_loses_to_the_worst_is_intransitive():
    """a .9 and .9 against b and d, but .4 against c; c loses to b and d by .05: means .73 and .23."""
    judgments = table({"ab": 0.9, "ad": 0.9, "ac": 0.4, "bc": 0.95, "cd": 0.05, "bd": 0.5})
    assert build([A, B, C, D], judgments) == ([], {"intransitive": 1})


def test_ratings_make_pairs_by_their_difference():
    judgments = [rated(A, 4.0, KIND), rated(B, 1.5, KIND), rated(C, 2.0, KIND)]
    (pair,), _ = build([A, B, C], judgments, rating_scale=0.8, min_margin=1.0)
    assert (pair.chosen_id, pair.rejected_id, pair.margin) == (A.id, B.id, 2.5)
    assert pair.p_chosen == pytest.approx(sigmoid(0.8 * 2.5))
    assert len(pair.judgment_ids) == 2
    pairs, discards = build([A, B, C], judgments, strategy="all", min_margin=1.0)
    assert ([p.margin for p in pairs], discards) == ([2.5, 2.0], {"below_margin": 1})


def test_a_lower_tier_is_asked_only_where_the_higher_is_near_a_tie():
    judgments = table({"ab": 0.52, "ac": 0.8, "bc": 0.8}) + table({"ab": 0.1, "ac": 0.1, "bc": 0.1}, BRIEF)
    pairs, _ = build([A, B, C], judgments, strategy="all")
    assert {(p.chosen_id, p.rejected_id) for p in pairs} == {(B.id, A.id), (A.id, C.id), (B.id, C.id)}


def test_a_candidate_that_breaks_a_hard_constraint_is_never_chosen():
    """The means are a (.9 + .95 + .2) / 3 = .683, c (.8 + .4 + .6) / 3 = .6, b .533, d .183; a lost to c on safety."""
    kind = {"ab": 0.9, "ad": 0.95, "bc": 0.6, "bd": 0.9, "cd": 0.6}
    (pair,), _ = build([A, B, C, D], table(kind) + table({"ac": 0.2}))
    assert (pair.chosen_id, pair.rejected_id) == (A.id, D.id)
    judgments = table(kind) + table({"ac": 0.2}, SAFE)
    (pair,), _ = build([A, B, C, D], judgments)
    assert (pair.chosen_id, pair.rejected_id) == (C.id, D.id)
    pairs, discards = build([A, B, C, D], judgments, strategy="all")
    assert {(p.chosen_id, p.rejected_id) for p in pairs} == {(C.id, A.id), (B.id, C.id), (B.id, D.id), (C.id, D.id)}
    assert discards == {"vetoed": 2}


def test_a_hard_constraint_outvotes_every_principle():
    judgments = table({"ab": 1.0}) + table({"ab": 0.3}, SAFE)
    (pair,), _ = build([A, B], judgments)
    assert (pair.chosen_id, pair.rejected_id, pair.p_chosen) == (B.id, A.id, pytest.approx(0.7))


@pytest.mark.parametrize(
    ("text", "fields", "reason"), [("half", {"finish_reason": "length"}, "truncated"), ("  ", {}, "empty")]
)
def test_a_truncated_or_empty_answer_can_be_rejected_and_not_chosen(text, fields, reason):
    odd = candidate(ASK, text, 4, **fields)
    assert build([odd, A], both_orders(odd, A, 0.9, KIND)) == ([], {reason: 1})
    assert build([odd, A], both_orders(odd, A, 0.9, KIND), strategy="all") == ([], {reason: 1})
    (pair,), _ = build([odd, A], both_orders(odd, A, 0.2, KIND))
    assert (pair.chosen_id, pair.rejected_id) == (A.id, odd.id)


def test_the_best_complete_answer_stands_in_for_a_better_truncated_one():
    cut = candidate(ASK, "cut o", 4, finish_reason="length")
    judgments = [*both_orders(cut, A, 0.9, KIND), *both_orders(cut, B, 0.9, KIND), *both_orders(A, B, 0.7, KIND)]
    (pair,), _ = build([cut, A, B], judgments)
    assert (pair.chosen_id, pair.rejected_id) == (A.id, B.id)


def test_every_reason_without_a_pair():
    failed, copy = candidate(ASK, "", 4, finish_reason="error"), candidate(ASK, "a", 5, duplicate_of=A.id)
    assert build([A, failed], []) == ([], {"too_few_candidates": 1})
    assert build([A, copy], []) == ([], {"identical_text": 1})
    assert build([A, B], []) == ([], {"no_judgments": 1})
    assert build([A, B], [compared(A, B, None, KIND), compared(B, A, 0.9, KIND)]) == ([], {"invalid": 1})
    assert build([A, B], both_orders(A, B, 0.5, KIND)) == ([], {"tie": 1})
    assert build([A, B], both_orders(A, B, 0.54, KIND)) == ([], {"below_margin": 1})
    assert build([A, B], [rated(A, None, KIND), rated(B, 3.0, KIND)]) == ([], {"invalid": 1})


def test_a_judge_that_likes_the_first_position_yields_no_pairs():
    judgments = [compared(x, y, 1.0, KIND) for a, b in combinations((A, B, C), 2) for x, y in ((a, b), (b, a))]
    assert build([A, B, C], judgments, strategy="all", min_margin=0.0) == ([], {"tie": 3})


def test_not_applicable_is_no_judgment():
    judgments = [replace(j, verdict="not_applicable", p_first=None) for j in both_orders(A, B, 0.9, KIND)]
    assert build([A, B], judgments) == ([], {"no_judgments": 1})


def test_judgments_of_another_constitution_are_refused():
    with pytest.raises(StageError, match="'stranger', which the constitution house does not have"):
        build([A, B], both_orders(A, B, 0.9, Principle(id="stranger", text="x")))


probabilities = st.one_of(st.none(), st.floats(0, 1, allow_nan=False), st.sampled_from([0.0, 0.5, 1.0]))


@st.composite
def judged_shards(draw):
    """Prompts with any mix of texts, finish reasons, judged comparisons and probabilities."""
    candidates, judgments = [], []
    for number in range(draw(st.integers(1, 4))):
        ask = prompt(f"prompt {number}")
        reasons = draw(st.lists(st.sampled_from(["stop", "stop", "length", "error"]), min_size=1, max_size=5))
        texts = ["" if reason == "error" else draw(st.sampled_from(["", "x", "y", "z", "w"])) for reason in reasons]
        sampled = [candidate(ask, t, i, finish_reason=r) for i, (t, r) in enumerate(zip(texts, reasons, strict=True))]
        usable = list({c.text: c for c in reversed(sampled) if c.finish_reason != "error"}.values())
        for a, b in combinations(usable, 2):
            for principle in draw(st.sets(st.sampled_from([KIND, BRIEF, SAFE]))):
                judgments += [compared(x, y, draw(probabilities), principle) for x, y in ((a, b), (b, a))]
        candidates += sampled
    return candidates, judgments


def considered(candidates, judgments, options: Pairs) -> int:
    """How many pairs or discards there must be, counted in another way."""
    total = 0
    for prompt_id in {c.prompt_id for c in candidates}:
        compared = {frozenset((j.first_id, j.second_id)) for j in judgments if j.prompt_id == prompt_id}
        if not compared or options.strategy.startswith("best") or options.strategy == "rso":
            total += 1
        elif options.strategy == "random":
            total += min(options.max_per_prompt or 1, len(compared))
        else:
            total += len(compared)
    return total


@settings(max_examples=200, deadline=None)
@given(
    judged_shards(),
    st.sampled_from(["best-worst", "best-random", "all", "random", "rso", "margin-buckets"]),
    st.sampled_from([None, 1, 2]),
    st.sampled_from([0.0, 0.1, 0.5]),
    st.sampled_from(["soft", "hard"]),
)
def test_pairs_are_sound_and_everything_considered_is_counted(shard, strategy, limit, margin, labels):
    candidates, judgments = shard
    options = Pairs(strategy=strategy, max_per_prompt=limit, min_margin=margin, labels=labels)
    pairs, discards = build_pairs(candidates, judgments, HOUSE, options, seed=5)
    by_id = {c.id: c for c in candidates}
    valid = {judgment.id for judgment in judgments if judgment.verdict != "invalid"}
    for pair in pairs:
        chosen, rejected = by_id[pair.chosen_id], by_id[pair.rejected_id]
        assert chosen.prompt_id == rejected.prompt_id == pair.prompt_id
        assert chosen.text != rejected.text and chosen.text and chosen.finish_reason == "stop"
        assert 0.5 < pair.p_chosen <= 1.0 and pair.margin > 0 and pair.margin >= margin
        assert pair.judgment_ids and set(pair.judgment_ids) <= valid
    assert discards.keys() <= DISCARDS.keys()
    assert len(pairs) + discards.total() == considered(candidates, judgments, options)
    assert (pairs, discards) == build_pairs(candidates, judgments, HOUSE, options, seed=5)
    if limit and strategy in ("all", "random", "margin-buckets"):
        assert max(Counter(pair.prompt_id for pair in pairs).values(), default=0) <= limit
