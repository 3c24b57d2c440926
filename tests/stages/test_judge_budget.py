"""What an API judge costs, and that asking ends before it costs more than it may."""

from __future__ import annotations

import pytest

from selfalign.config import Price
from selfalign.engines.base import ChoiceRequest
from selfalign.records import Message
from selfalign.stages import StageError
from selfalign.stages.judge.budget import Budget, dollars, spent
from selfalign.stages.judge.cache import FILE, RememberingJudge
from tests.stages.world import FakeEngine

PRICE = Price(input=2.0, output=8.0)
EACH = dollars(PRICE, 7, 1)  # FakeEngine says that a prompt has 7 tokens


def requests(count: int) -> list[ChoiceRequest]:
    return [ChoiceRequest(str(i), (Message("user", f"question {i}"),), ("A", "B")) for i in range(count)]


def judge(path, limit, *, before=0.0, window=8, noted=None):
    engine = FakeEngine(choose=lambda request: (0.25, 0.75), window=window)
    noted = [] if noted is None else noted
    budget = Budget(PRICE, limit, before, lambda *spending: noted.append(spending))
    return engine, budget, RememberingJudge(lambda: engine, path, ["j"], print, budget)


def test_the_price_of_tokens():
    assert dollars(PRICE, 1_000_000, 0) == 2.0
    assert dollars(PRICE, 500_000, 250_000) == pytest.approx(3.0)


@pytest.mark.parametrize("window", [1, 8, 64])
@pytest.mark.parametrize("remembers", [True, False])
def test_asking_ends_before_the_limit_and_says_what_was_spent(tmp_path, window, remembers):
    limit, noted, answered = 60 * EACH, [], []
    engine, budget, judging = judge(tmp_path / FILE if remembers else None, limit, window=window, noted=noted)
    with pytest.raises(StageError, match=r"judge.max_cost.*are spent"):
        answered += judging.choose(requests(200))
    assert 50 <= len(engine.asked) <= 60
    assert budget.spent == pytest.approx(len(engine.asked) * EACH)
    assert budget.spent <= limit
    assert sum(spending[2] for spending in noted) == pytest.approx(budget.spent)
    if remembers:
        engine, budget, judging = judge(tmp_path / FILE, limit, before=0.0, window=window)
        with pytest.raises(StageError):
            list(judging.choose(requests(200)))
        assert judging.known >= 50, "what was paid for is not paid for again"


def test_earlier_spending_counts_and_known_answers_cost_nothing(tmp_path):
    engine, _, judging = judge(tmp_path / FILE, None)
    assert len(list(judging.choose(requests(20)))) == 20
    engine, budget, judging = judge(tmp_path / FILE, 5 * EACH, before=5 * EACH)
    assert len(list(judging.choose(requests(20)))) == 20
    assert (engine.asked, budget.spent) == ([], 5 * EACH)
    with pytest.raises(StageError):
        list(judging.choose(requests(21)))
    assert engine.asked == []


def test_an_answer_that_never_came_costs_nothing():
    budget = Budget(PRICE, 1.0, 0.0, lambda *_: None)
    (request,) = requests(1)
    assert budget.admits(request)
    budget.settle(request.id, 0, 1)
    assert budget.spent == 0.0


def test_spending_is_told_by_round_however_often_the_campaign_was_resumed():
    events = [
        {"event": "round_started", "round": 0}, {"event": "judge_spent", "dollars": 0.5},
        {"event": "round_started", "round": 1}, {"event": "judge_spent", "dollars": 0.25},
        {"event": "round_started", "round": 0}, {"event": "round_started", "round": 1},
        {"event": "judge_spent", "dollars": 0.125},
    ]  # fmt: skip
    assert spent(events) == {0: 0.5, 1: 0.375}
