"""Canaries: which replies meet which answers, and what counts as a win; by hand, and with judges of a known taste."""

from __future__ import annotations

import pytest

from selfalign.calibration import wilson_interval
from selfalign.config import Campaign, Judge, Pairs, Train
from selfalign.constitution import Constitution, Principle
from selfalign.records import CanaryReport, Candidate
from selfalign.stages import judge
from selfalign.stages.canaries import TEXTS, canaries, is_canary, judged, measure, meet, shards, why_no_go
from tests.scripted import RESPONSE, RESPONSES
from tests.stages.world import FakeEngine, both_orders, candidate, compared, prompt, rated

GOOD = Principle(id="good", compare="Choose the better response.", text="Be good.")
BRIEF = Principle(id="brief", compare="Choose the briefer response.", text="Be brief.")
HOUSE = Constitution(name="house", version="1", principles=(GOOD,))
ASKED = [prompt(f"question {i}") for i in range(5)]
THREE = Judge(canaries=3)
ANSWERS = [candidate(p, f"a real answer {i}") for i, p in enumerate(ASKED)]


def met(settings: Judge = THREE) -> tuple[list, list[Candidate]]:
    found = meet(ASKED, ANSWERS, settings, seed=1)
    return [p for p, *_ in found], [c for _, real, against in found for c in (real, *against)]


def verdicts(choose, **settings) -> tuple[list[Candidate], list]:
    asked = Judge(canaries=3, **settings)
    prompts, candidates = met(asked)
    engine = FakeEngine(choose=choose)
    said = judge.judge(shards(prompts, candidates, asked), engine, HOUSE, asked, judge_id="j", seed=1)
    return candidates, [judgment for _, shard in said for judgment in shard]


def found(choose, **settings) -> CanaryReport | None:
    candidates, said = verdicts(choose, **settings)
    return measure(candidates, said, HOUSE, Pairs(), round=0, seed=1)


def test_every_canary_meets_the_real_answer_of_each_prompt() -> None:
    prompts, candidates = met()
    assert len(prompts) == 3 and len(candidates) == 3 * (1 + len(TEXTS))
    assert [is_canary(c) for c in candidates] == [False, *[True] * len(TEXTS)] * 3
    assert len({c.id for c in candidates}) == len(candidates)


def test_rounds_meet_the_same_prompts_and_only_answers_that_say_something() -> None:
    first = [p.id for p, *_ in meet(ASKED, ANSWERS, Judge(canaries=5), seed=1)]
    poor = [candidate(ASKED[0], " "), candidate(ASKED[1], "cut off", finish_reason="length"), *ANSWERS[2:]]
    later = [p.id for p, *_ in meet(ASKED, poor, Judge(canaries=5), seed=1)]
    assert later == [name for name in first if name not in (ASKED[0].id, ASKED[1].id)]
    assert first != [p.id for p, *_ in meet(ASKED, ANSWERS, Judge(canaries=5), seed=2)]


@pytest.mark.parametrize(("orders", "asked"), [(True, 2), (False, 1)])
def test_comparisons_are_of_a_canary_and_a_real_answer_alone(orders: bool, asked: int) -> None:
    candidates, said = verdicts(lambda request: (0.5, 0.5), both_orders=orders)
    real = {c.id for c in candidates if not is_canary(c)}
    assert len(said) == 3 * len(TEXTS) * asked
    assert all((judgment.first_id in real) != (judgment.second_id in real) for judgment in said)


def test_a_rating_is_asked_for_once_each() -> None:
    candidates, said = verdicts(lambda request: (0.2,) * 5, method="pointwise-logprob")
    assert sorted(judgment.first_id for judgment in said) == sorted(c.id for c in candidates)


def test_a_judge_that_reads_lets_none_win_and_one_that_likes_it_short_lets_some() -> None:
    def sound(request):
        first, _ = RESPONSES.search(request.messages[-1].content).groups()
        return (0.9, 0.1) if "real" in first else (0.1, 0.9)

    def shorter(request):
        first, second = RESPONSES.search(request.messages[-1].content).groups()
        return (0.9, 0.1) if len(first) < len(second) else (0.1, 0.9)

    assert found(sound).rate == 0 and found(sound).num_comparisons == 3 * len(TEXTS)
    liked = found(shorter)
    won = {one.name: one.rate for one in liked.by_canary}
    assert won == {"constant": 0, "colon": 1, "opener": 0, "verdict": 0, "padding": 0, "blank": 1}
    assert liked.rate == pytest.approx(2 / 6) and liked.interval == pytest.approx((2 / 6, 2 / 6))


def test_a_judge_without_a_view_gives_every_canary_half() -> None:
    assert found(lambda request: (0.7, 0.3)).rate == 0.5  # the first, whatever it is: both orders make a tie
    rating = found(lambda request: (0, 0, 0, 0, 1.0), method="pointwise-logprob")
    assert rating.rate == 0.5 and [one.rate for one in rating.by_canary] == [0.5] * len(TEXTS)


def test_a_rated_canary_wins_where_its_rating_is_above_the_real_answers() -> None:
    def rate(request):
        text = RESPONSE.search(request.messages[-1].content).group(1)
        return (0, 0, 0, 0, 1.0) if text == ":" else (0, 0, 0, 1.0, 0) if "real" in text else (1.0, 0, 0, 0, 0)

    won = {one.name: one.rate for one in found(rate, method="pointwise-logprob").by_canary}
    assert won == {**dict.fromkeys(TEXTS, 0), "colon": 1}


def test_wins_are_counted_by_hand() -> None:
    real = ANSWERS[0]
    first, second, third, *_ = canaries(ASKED[0], Judge())
    said = [*both_orders(first, real, 0.9, GOOD), *both_orders(second, real, 0.2, GOOD)]
    said += [compared(third, real, 0.9, GOOD), compared(real, third, None, GOOD)]  # invalid in one order says nothing
    report = measure([real, first, second, third], said, HOUSE, Pairs(), round=2, seed=1)
    assert (report.rate, report.num_comparisons, report.num_prompts, report.round) == (0.5, 2, 1, 2)
    assert [(one.name, one.rate, one.num_comparisons) for one in report.by_canary] == [
        ("constant", 1, 1),
        ("colon", 0, 1),
    ]
    assert report.by_canary[0].interval == wilson_interval(1, 1)
    assert measure([real, third], said[-2:], HOUSE, Pairs(), round=2, seed=1) is None
    assert measure([real, first], [], HOUSE, Pairs(), round=2, seed=1) is None


def test_principles_decide_as_they_do_when_pairs_are_built() -> None:
    """Under the first tier the real answer wins, whatever a lower one says."""
    low = Principle(id="brief", compare="Briefer?", text="Be brief.", tier=2)
    house = Constitution(name="house", version="1", principles=(GOOD, low))
    real, canary = ANSWERS[0], next(canaries(ASKED[0], Judge()))
    said = [rated(real, 4.0, GOOD), rated(canary, 2.0, GOOD), rated(real, 1.0, low), rated(canary, 5.0, low)]
    assert measure([real, canary], said, house, Pairs(), round=0, seed=1).rate == 0


def test_the_limit_is_on_the_share_over_all() -> None:
    blind = found(lambda request: (0.7, 0.3))
    assert why_no_go(blind, 0.5) is None
    reason, _, fix = why_no_go(blind, 0.25).partition("\n")
    assert "50.0% of 18 comparisons" in reason and "judge.max_canary_wins" in reason and "judge.model" in fix


def test_canaries_meet_a_judge_alone_that_labels() -> None:
    asked = {
        "dpo": Train(),
        "kto": Train(algorithm="kto"),
        "sft": Train(algorithm="sft"),
        "ppo": Train(algorithm="ppo"),
    }
    assert {name: judged(Campaign(train=train)) for name, train in asked.items()} == {
        "dpo": True, "kto": True, "sft": False, "ppo": True,
    }  # fmt: skip
    assert not judged(Campaign(pairs=Pairs(strategy="spin")))
