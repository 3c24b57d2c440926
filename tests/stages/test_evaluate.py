"""The evaluate stage: win rates, divergence, behaviour, judge health, the gate."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from selfalign.config import Accept, Campaign, Judge, Pairs
from selfalign.constitution import Constitution, Principle
from selfalign.preferences import sigmoid
from selfalign.records import Checkpoint, Guarded, JudgeHealth, Kl, Look, Report, Scored, WinRate
from selfalign.stages.evaluate import (
    Heldout,
    behaviour,
    comparisons,
    first_answers,
    gate,
    judge_health,
    kl_to_base,
    make_report,
    pick_samples,
    score,
    win_rate,
    win_rates_by_principle,
)
from selfalign.stages.judge import judge
from tests.stages.world import FakeEngine, both_orders, candidate, compared, prompt, rated

KIND = Principle(id="kind", text="Be kind.")
BRIEF = Principle(id="brief", text="Be brief.")
HOUSE = Constitution(name="house", version="1.0", principles=(KIND, BRIEF))
PROMPTS = [prompt(f"Question {i}?") for i in range(8)]
OPTIONS = {"resamples": 200, "seed": 3}


def answers(policy: str, text: str = "{policy} says {i}") -> list:
    """One answer a prompt; `text` may use the policy's name and the prompt's number."""
    return [
        candidate(p, text.format(policy=policy, i=i), policy_id=policy, logprob=-2.0 - i, token_ids=tuple(range(3 + i)))
        for i, p in enumerate(PROMPTS)
    ]


NEW, PREVIOUS, BASE = answers("new"), answers("previous"), answers("base")


def verdicts(new, old, p: float, principle: Principle = KIND) -> list:
    return [j for a, b in zip(new, old, strict=True) for j in both_orders(a, b, p, principle)]


# What is to be judged.


def test_comparisons_put_two_answers_beside_each_prompt_in_shards():
    shards = comparisons(PROMPTS, NEW, PREVIOUS, BASE, shard_prompts=5)
    assert [index for index, _, _ in shards] == [0, 1, 2, 3]
    assert [len(prompts) for _, prompts, _ in shards] == [5, 3, 5, 3]
    for number, (_, prompts, candidates) in enumerate(shards):
        old = "previous" if number < 2 else "base"
        assert [c.policy_id for c in candidates] == ["new", old] * len(prompts)
        assert [c.prompt_id for c in candidates[::2]] == [p.id for p in prompts]


def test_a_previous_policy_that_is_the_base_is_compared_once():
    assert comparisons(PROMPTS, NEW, BASE, BASE) == comparisons(PROMPTS, NEW, BASE)


def test_a_prompt_without_an_answer_on_one_side_is_left_out():
    failed = [replace(NEW[0], finish_reason="error", text=""), *NEW[1:]]
    ((_, prompts, candidates),) = comparisons(PROMPTS, failed, PREVIOUS)
    assert (len(prompts), len(candidates)) == (7, 14)
    second = candidate(PROMPTS[0], "again", 1, policy_id="new")
    assert first_answers([second, failed[0]])[PROMPTS[0].id] == second


def test_the_judge_stage_takes_these_shards():
    engine = FakeEngine(choose=lambda request: (0.9, 0.1))
    shards = comparisons(PROMPTS, NEW, PREVIOUS, shard_prompts=3)
    judged = dict(judge(shards, engine, HOUSE, Judge(principles="all"), judge_id="j", seed=1))
    assert {index: len(judgments) for index, judgments in judged.items()} == {0: 12, 1: 12, 2: 8}


def test_score_sums_the_log_probabilities_of_each_answer():
    engine = FakeEngine(score=lambda request: tuple(-0.5 for _ in request.token_ids), window=3)
    empty = candidate(PROMPTS[0], "", 9, token_ids=())
    shards = dict(score([(0, PROMPTS[:2], [empty, *NEW[:2]]), (4, PROMPTS[2:], NEW[2:])], engine, policy_id="base"))
    assert {index: [s.candidate_id for s in scored] for index, scored in shards.items()} == {
        0: [c.id for c in NEW[:2]],
        4: [c.id for c in NEW[2:]],
    }
    assert shards[0][1] == Scored(NEW[1].id, "base", -0.5 * len(NEW[1].token_ids))
    assert {request.messages for request in engine.asked} == {p.messages for p in PROMPTS}


# Win rates.


def test_the_win_rate_is_the_mean_probability_with_its_interval():
    pairs = enumerate(zip(NEW, PREVIOUS, strict=True), start=1)
    judgments = [j for i, (a, b) in pairs for j in both_orders(a, b, i / 10, KIND)]
    rate = win_rate(NEW, PREVIOUS, judgments, HOUSE, Pairs(), **OPTIONS)
    assert rate.rate == pytest.approx(0.45)
    assert rate.low < 0.45 < rate.high
    assert (rate.n, rate.wins, rate.ties, rate.losses) == (8, 3, 1, 4)
    assert rate == win_rate(NEW, PREVIOUS, judgments, HOUSE, Pairs(), **OPTIONS)
    mirrored = win_rate(PREVIOUS, NEW, judgments, HOUSE, Pairs(), **OPTIONS)
    assert mirrored.rate == pytest.approx(0.55)


def test_identical_texts_are_half_a_win_and_no_verdict_is_none():
    same = [replace(new, text=old.text) for new, old in zip(NEW[:3], PREVIOUS[:3], strict=True)]
    judgments = verdicts(NEW[3:6], PREVIOUS[3:6], 1.0)
    judgments += [compared(NEW[6], PREVIOUS[6], None, KIND), compared(PREVIOUS[6], NEW[6], 0.0, KIND)]
    rate = win_rate([*same, *NEW[3:]], PREVIOUS, judgments, HOUSE, Pairs(), **OPTIONS)
    assert (rate.n, rate.wins, rate.ties, rate.losses) == (6, 3, 3, 0)
    assert rate.rate == pytest.approx(0.75)
    assert win_rate(NEW, PREVIOUS, [], HOUSE, Pairs(), **OPTIONS) is None


def test_judgments_against_another_policy_do_not_count():
    judgments = verdicts(NEW, PREVIOUS, 0.9) + verdicts(NEW, BASE, 0.2)
    assert win_rate(NEW, PREVIOUS, judgments, HOUSE, Pairs(), **OPTIONS).rate == pytest.approx(0.9)
    assert win_rate(NEW, BASE, judgments, HOUSE, Pairs(), **OPTIONS).rate == pytest.approx(0.2)


def test_ratings_make_a_win_rate():
    judgments = [rated(c, 4.0, KIND) for c in NEW] + [rated(c, 3.0, KIND) for c in PREVIOUS]
    rate = win_rate(NEW, PREVIOUS, judgments, HOUSE, Pairs(rating_scale=2.0), **OPTIONS)
    assert rate.rate == pytest.approx(sigmoid(2.0))


def test_length_control_takes_away_what_length_alone_wins():
    """The judge prefers the longer answer and nothing else: at equal length the policies are even."""
    prompts = [prompt(f"Length {i}?") for i in range(60)]
    new = [candidate(p, f"n{i}", policy_id="new", token_ids=(0,) * (20 + i)) for i, p in enumerate(prompts)]
    old = [candidate(p, f"o{i}", policy_id="old", token_ids=(0,) * 30) for i, p in enumerate(prompts)]
    pairs = list(zip(new, old, strict=True))
    gaps = [len(a.token_ids) - len(b.token_ids) for a, b in pairs]
    judgments = [j for (a, b), gap in zip(pairs, gaps, strict=True) for j in both_orders(a, b, sigmoid(gap / 10), KIND)]
    rate = win_rate(new, old, judgments, HOUSE, Pairs(), **OPTIONS)
    assert rate.rate > 0.75
    assert rate.length_controlled == pytest.approx(0.5, abs=0.03)


def test_win_rates_by_principle():
    judgments = verdicts(NEW, PREVIOUS, 0.8, KIND) + verdicts(NEW[:2], PREVIOUS[:2], 0.3, BRIEF)
    rates = win_rates_by_principle(NEW, PREVIOUS, judgments, HOUSE, Pairs(), **OPTIONS)
    assert rates.keys() == {"kind", "brief"}
    assert (rates["kind"].rate, rates["kind"].n) == (pytest.approx(0.8), 8)
    assert (rates["brief"].rate, rates["brief"].n) == (pytest.approx(0.3), 2)


# Divergence and behaviour.


def test_kl_is_the_mean_log_ratio_over_the_policys_own_samples():
    sampled = [candidate(PROMPTS[i], "x", logprob=-float(i), token_ids=(1, 2)) for i in range(3)]
    silent = candidate(PROMPTS[3], "y", logprob=None)
    kl = kl_to_base([*sampled, silent], {c.id: -3.0 for c in [*sampled, silent]})
    assert kl == Kl(mean=2.0, standard_error=pytest.approx(3**-0.5), per_token=1.0, n=3)
    assert kl_to_base([silent], {}) is None
    assert kl_to_base(sampled[:1], {sampled[0].id: -1.0}).standard_error == 0.0


def test_behaviour_describes_answers_and_leaves_errors_out():
    described = behaviour(
        [
            candidate(PROMPTS[0], "a b c a b c", token_ids=(1,) * 6),
            candidate(PROMPTS[1], "I’m sorry, but I can’t help with that", token_ids=(1,) * 4, finish_reason="length"),
            candidate(PROMPTS[2], " ", token_ids=(1, 1)),
            candidate(PROMPTS[3], "", finish_reason="error"),
        ]
    )
    assert described.num_candidates == 3
    assert described.mean_tokens == 4.0
    assert described.truncated == described.empty == described.refusal == pytest.approx(1 / 3)
    assert described.repetition == pytest.approx(0.25 / 3)
    assert described.distinct_1 == pytest.approx(11 / 14)
    assert behaviour([]) is None


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("I cannot help you with that.", 1.0),
        ("No. I won't do this, it is cruel.", 1.0),
        ("I'm unable to share an address.", 1.0),
        ("I am sorry to hear that. Take a rest.", 0.0),
        ("Paris is the capital. " * 8 + "I cannot say more.", 0.0),
    ],
)
def test_refusals_are_seen_by_their_opening(text, refusal):
    assert behaviour([candidate(PROMPTS[0], text)]).refusal == refusal


# Judge health.


def health(*judgments, candidates=(*NEW, *PREVIOUS)) -> JudgeHealth:
    return judge_health([(candidates, judgments)], HOUSE)


def test_an_honest_judge_is_consistent():
    found = health(*verdicts(NEW, PREVIOUS, 0.9))
    assert (found.num_judgments, found.num_swapped, found.swap_consistency) == (16, 8, 1.0)
    assert found.first_preferred == 0.5
    assert found.longer_preferred is None


def test_a_judge_that_likes_the_first_is_seen():
    """With logit s * difference + b the orders disagree exactly where |s * difference| < |b|."""
    judgments = []
    for i, (a, b) in enumerate(zip(NEW, PREVIOUS, strict=True)):
        difference = 0.3 * (i + 0.5)
        judgments += [compared(a, b, sigmoid(difference + 1), KIND), compared(b, a, sigmoid(-difference + 1), KIND)]
    found = health(*judgments)
    assert found.swap_consistency == pytest.approx(sum(0.3 * (i + 0.5) > 1 for i in range(8)) / 8)
    assert found.first_preferred > 0.5
    always_first = [compared(x, y, 1.0, KIND) for a, b in zip(NEW, PREVIOUS, strict=True) for x, y in ((a, b), (b, a))]
    assert (health(*always_first).swap_consistency, health(*always_first).first_preferred) == (0.0, 1.0)


def test_a_judge_that_likes_length_is_seen():
    longer = [replace(c, token_ids=(0,) * 40) for c in NEW]
    found = judge_health([([*longer, *PREVIOUS], verdicts(longer, PREVIOUS, 0.7))], HOUSE)
    assert found.longer_preferred == 1.0
    ratings = [rated(c, 2.0, KIND) for c in longer] + [rated(c, 3.0, KIND) for c in PREVIOUS]
    assert judge_health([([*longer, *PREVIOUS], ratings)], HOUSE).longer_preferred == 0.0


def test_ties_and_invalid_verdicts_are_counted_apart():
    found = health(
        *both_orders(NEW[0], PREVIOUS[0], 0.5, KIND),
        compared(NEW[1], PREVIOUS[1], None, KIND),
        compared(PREVIOUS[1], NEW[1], 0.9, KIND),
    )
    assert (found.ties, found.invalid) == (0.5, 0.25)
    assert (found.num_swapped, found.swap_consistency) == (1, 1.0)


def test_the_health_of_shards_is_that_of_the_whole():
    judgments = verdicts(NEW, PREVIOUS, 0.6) + verdicts(NEW, PREVIOUS, 0.2, BRIEF)
    split = {NEW[i].prompt_id for i in range(3)}
    shards = [[j for j in judgments if (j.prompt_id in split) == side] for side in (True, False)]
    assert judge_health((([*NEW, *PREVIOUS], shard) for shard in shards), HOUSE) == health(*judgments)
    assert health() == JudgeHealth(0, 0.0, 0.0, 0, None, None, None)


# The gate and the report.


def measured_report(**fields) -> Report:
    values = {
        "win_rates": {"previous": WinRate(0.62, 0.55, 0.69, 200, 120, 10, 70)},
        "kl": Kl(3.0, 0.1, 0.2, 200),
        "length_ratio": 1.2,
    }
    report = make(settings=Campaign())
    return replace(report, **{**values, **fields})


def make(settings: Campaign, standard: Constitution = HOUSE, **heldout) -> Report:
    values = {
        "prompts": PROMPTS,
        "policy": NEW,
        "previous": PREVIOUS,
        "base": BASE,
        "judgments": verdicts(NEW, PREVIOUS, 0.8) + verdicts(NEW, BASE, 0.9),
        "base_logps": {c.id: c.logprob - 1.5 for c in NEW},
    }
    return make_report(
        Heldout(**{**values, **heldout}),
        HOUSE,
        standard,
        settings,
        round=2,
        policy=Checkpoint("p2", "p1", "policy", "rounds/002/policy", 2, "d2"),
        labelling=health(),
        candidates={"candidates": 32},
        examples="pairs",
        num_examples=7,
        discarded={"tie": 1},
        seconds={"generate": 1.5},
    )


def test_the_report_names_the_principles_that_judged_where_they_are_others():
    assert make(Campaign()).standard is None
    meant = replace(HOUSE, name="meant", principles=tuple(replace(p, text="Other words.") for p in HOUSE.principles))
    report = make(Campaign(), meant)
    assert report.standard == f"meant 1.0 ({meant.hash})" and report.constitution_hash == HOUSE.hash


def test_the_report_holds_every_measurement_and_survives_json():
    report = make(Campaign())
    assert report.win_rates["previous"].rate == pytest.approx(0.8)
    assert report.win_rates["base"].rate == pytest.approx(0.9)
    assert report.by_principle["base"]["kind"].rate == pytest.approx(0.9)
    assert report.kl.mean == pytest.approx(1.5)
    assert report.length_ratio == 1.0
    assert report.behaviour.keys() == {"base", "previous", "policy"}
    assert report.judges["evaluating"].num_judgments == 32
    assert report.gate.accepted
    assert (report.policy_id, report.parent_id, report.constitution) == ("p2", "p1", "house 1.0")
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report
    assert make(Campaign()) == report


def test_in_the_first_round_the_previous_policy_is_the_base():
    report = make(Campaign(), previous=BASE, judgments=verdicts(NEW, BASE, 0.7))
    assert report.win_rates["previous"] == report.win_rates["base"]


def test_samples_are_drawn_by_seed_and_show_all_three_policies():
    judged = verdicts(NEW, PREVIOUS, 0.8)
    heldout = Heldout(prompts=PROMPTS, policy=NEW, previous=PREVIOUS, base=BASE[:5], judgments=judged, base_logps={})
    samples = pick_samples(heldout, HOUSE, Pairs(), seed=1)
    assert samples == pick_samples(heldout, HOUSE, Pairs(), seed=1)
    assert {sample.prompt_id for sample in samples} == {p.id for p in PROMPTS[:5]}
    for sample in samples:
        number = sample.messages[0].content.removeprefix("Question ").removesuffix("?")
        assert sample.base == f"base says {number}"
        assert sample.previous == f"previous says {number}"
        assert sample.policy == f"new says {number}"
        assert sample.p_policy == pytest.approx(0.8)


def test_samples_that_changed_come_first():
    same = [
        replace(new, text=old.text) if i % 2 else new for i, (new, old) in enumerate(zip(NEW, PREVIOUS, strict=True))
    ]
    heldout = Heldout(prompts=PROMPTS, policy=same, previous=PREVIOUS, base=BASE, judgments=[], base_logps={})
    samples = pick_samples(heldout, HOUSE, Pairs(), seed=1)
    assert [sample.policy != sample.previous for sample in samples] == [True] * 4 + [False] * 2


def test_the_gate_accepts_within_its_limits_and_says_so():
    decision = gate(measured_report(), Accept())
    assert decision.accepted
    assert decision.reason == (
        "accepted: win rate against the previous policy 0.620 (95% interval 0.550 to 0.690, 200 prompts), "
        "its lower end above 0.5; KL to base 3 nats per response, within 20; length 1.2 times the base's, within 1.5"
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"win_rates": {"previous": WinRate(0.53, 0.48, 0.58, 9, 5, 0, 4)}}, "its lower end not above 0.5"),
        ({"win_rates": {}}, "the win rate against the previous policy was not measured"),
        ({"kl": Kl(25.0, 1.0, 0.5, 9)}, "KL to base 25 nats per response, above 20"),
        ({"kl": Kl(float("nan"), 1.0, 0.5, 9)}, "KL to base nan nats"),
        ({"kl": None}, "KL to base was not measured (accept.max_kl)"),
        ({"length_ratio": 1.7}, "length 1.7 times the base's, above 1.5"),
    ],
)
def test_the_gate_rejects_what_is_over_a_limit_or_not_measured(fields, words):
    decision = gate(measured_report(**fields), Accept())
    assert not decision.accepted
    assert decision.reason.startswith("rejected: ") and words in decision.reason
    assert ";" not in decision.reason


def test_a_limit_of_null_is_not_checked():
    report = measured_report(win_rates={}, kl=None, length_ratio=None)
    assert gate(report, Accept(win_rate_lower_bound=None, max_kl=None, max_length_ratio=None)).accepted


def test_a_policy_that_has_not_changed_is_not_an_improvement():
    same = [replace(c, text=o.text) for c, o in zip(NEW, PREVIOUS, strict=True)]
    report = make(Campaign(), policy=same, judgments=[])
    assert report.win_rates["previous"].rate == 0.5
    assert not report.gate.accepted


STOPPED = Guarded((Look(0, 0.5, 0.5, 0.5), Look(2, 0.6, 0.55, 0.65)), 2, "the reward is over-optimised", 6)


def test_a_policy_that_was_stopped_at_its_best_may_pass_and_the_gate_says_so():
    decision = gate(measured_report(), Accept(), STOPPED)
    assert decision.accepted
    assert "PPO was stopped in iteration 6 and the weights of iteration 2 kept (the reward" in decision.reason
    assert gate(measured_report(), Accept(), replace(STOPPED, stopped=None)) == gate(measured_report(), Accept())


def test_where_the_start_was_kept_there_is_no_new_policy_whatever_the_limits():
    free = Accept(win_rate_lower_bound=None, max_kl=None, max_length_ratio=None)
    decision = gate(measured_report(), free, replace(STOPPED, best=0))
    assert not decision.accepted
    for words in (
        "in iteration 6 and the weights that the round began with kept (the reward is over-optimised",
        "What to do",
        "selfalign pairs ls",
    ):
        assert words in decision.reason
