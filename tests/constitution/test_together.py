"""A whole constitution as one principle: what it says, and what becomes of a judgment by it."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfalign.campaign import run_campaign
from selfalign.config import Judge
from selfalign.constitution import AppliesWhen, Constitution, Principle, by_id, whole
from selfalign.preferences import ratings, read_prompt
from selfalign.records import WHOLE, Judgment, Pair
from selfalign.stages.judge import judge
from selfalign.steps import records_of
from tests.scripted import ScriptedWorkers, start, write_campaign
from tests.stages.world import FakeEngine, candidate, prompt

LOW = Principle(id="low", text="Be brief.", tier=2)
KIND = Principle(id="kind", text="Be kind.")
SAFE = Principle(id="safe", text="Be safe.", kind="hard_constraint")
CITY = Principle(id="city", text="Praise the city.", applies_when=AppliesWhen(prompt_tags=("city",)))
UNUSED = Principle(id="unused", text="Be odd.", weight=0)
HOUSE = Constitution(name="house", version="1", principles=(LOW, KIND, SAFE, CITY, UNUSED))
ASK = prompt("How are you?")
A, B = candidate(ASK, "fine", 0), candidate(ASK, "well", 1)


def test_constraints_come_first_then_tiers_and_what_does_not_apply_is_left_out() -> None:
    said = whole(HOUSE, ASK).comparison()
    assert said.splitlines()[1:] == ["1. Be safe.", "2. Be kind.", "3. Be brief."]
    assert "named earlier comes first" in said
    assert whole(HOUSE, prompt("Where?", tags=("city",))).norm().splitlines()[-1] == "4. Be brief."


def test_without_tiers_none_is_said_to_come_first() -> None:
    assert "earlier" not in whole(Constitution(name="h", version="1", principles=(KIND,)), ASK).norm()
    assert whole(Constitution(name="h", version="1", principles=(UNUSED,)), ASK) is None


def asked(method: str) -> tuple[list[Judgment], FakeEngine]:
    engine = FakeEngine(choose=lambda request: (0.9, *[0.1 / (len(request.labels) - 1)] * (len(request.labels) - 1)))
    settings = Judge(principles="whole", method=method)
    ((_, said),) = judge([(0, [ASK], [A, B])], engine, HOUSE, settings, judge_id="j", seed=1)
    return said, engine


@pytest.mark.parametrize(("method", "questions"), [("pairwise-logprob", 2), ("pointwise-logprob", 2)])
def test_all_principles_make_one_question(method: str, questions: int) -> None:
    said, engine = asked(method)
    assert len(said) == questions and {one.principle_id for one in said} == {WHOLE}
    assert len({one.id for one in said}) == questions
    assert all("Be safe." in r.messages[0].content and "Be brief." in r.messages[0].content for r in engine.asked)


def test_a_judgment_by_the_whole_is_read_like_any_other() -> None:
    assert read_prompt(asked("pairwise-logprob")[0], HOUSE).decision(A.id, B.id, 0.1) == pytest.approx(0.0)
    assert set(ratings(asked("pointwise-logprob")[0], HOUSE)) == {A.id, B.id}
    assert set(by_id(HOUSE)) == {WHOLE, "low", "kind", "safe", "city", "unused"}


def test_an_edited_principle_is_another_question() -> None:
    edited = Constitution(name="house", version="2", principles=(LOW, Principle(id="kind", text="Be kinder."), SAFE))
    assert whole(HOUSE, ASK).hash != whole(edited, ASK).hash


def test_a_campaign_is_labelled_by_the_whole(tmp_path: Path) -> None:
    work = start(tmp_path, write_campaign(tmp_path, judge__principles="whole", rounds=1), ScriptedWorkers())
    with work.run.lock():
        assert run_campaign(work).stopped is None
    said = records_of(work.run.view("rounds/000/judgments"), Judgment)
    assert {one.principle_id for one in said} == {WHOLE} and records_of(work.run.view("rounds/000/pairs"), Pair)
