"""Scopes by the judge's own word: what it is asked, what it answers for, and what is recorded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from selfalign.campaign import run_campaign
from selfalign.config import Judge
from selfalign.constitution import AppliesWhen, Constitution, Principle
from selfalign.engines.base import Choice, ChoiceRequest
from selfalign.preferences import ratings, read_prompt
from selfalign.records import Judgment
from selfalign.stages.judge import judge
from selfalign.steps import records_of
from tests.scripted import KindEngine, ScriptedWorkers, start, write_campaign
from tests.stages.world import FakeEngine, candidate, prompt

KIND = Principle(id="kind", text="Be kind.")
RISK = Principle(id="risk", text="Be careful.", applies_when=AppliesWhen(ask="Is anyone in danger?"))
CITY = Principle(id="city", text="Praise.", applies_when=AppliesWhen(ask="Is it a city?", prompt_tags=("city",)))
HOUSE = Constitution(name="house", version="1", principles=(KIND, RISK, CITY))
SAFE, FIRE = prompt("How are you?"), prompt("My house is on fire")
ANSWERS = [candidate(p, text, i) for p in (SAFE, FIRE) for i, text in enumerate(["fine", "well"])]


def is_scope(request: ChoiceRequest) -> bool:
    return "Answer a question about a conversation" in request.messages[0].content


def truthful(request: ChoiceRequest) -> tuple[float, ...]:
    """A judge that says yes with .9 where there is fire, and to all else what its first label says."""
    text = request.messages[0].content
    if not is_scope(request):
        return (0.8, *[0.2 / (len(request.labels) - 1)] * (len(request.labels) - 1))
    yes = 0.9 if "fire" in text else 0.1
    return (yes, 1 - yes) if re.search(r"^A: yes$", text, re.MULTILINE) else (1 - yes, yes)


def asked(choose=truthful, prompts=(SAFE, FIRE), **settings) -> tuple[list[Judgment], FakeEngine]:
    engine = FakeEngine(choose=choose)
    options = Judge(**{"principles": "all", "applicability": "ask", **settings})
    ((_, said),) = judge(
        [(0, list(prompts), ANSWERS[: 2 * len(prompts)])], engine, HOUSE, options, judge_id="j", seed=1
    )
    return said, engine


def test_a_principle_is_asked_for_where_the_judge_says_that_it_applies() -> None:
    said, engine = asked()
    used = {(one.prompt_id, one.principle_id) for one in said if one.verdict != "not_applicable"}
    assert used == {(SAFE.id, "kind"), (FIRE.id, "kind"), (FIRE.id, "risk")}
    assert sum(map(is_scope, engine.asked)) == 2 * 2  # two prompts in both orders; the city's tag is on neither
    (no,) = [one for one in said if one.verdict == "not_applicable"]
    assert (no.prompt_id, no.principle_id, no.p_first, no.raw) == (SAFE.id, "risk", None, "p(applies) 0.100")
    assert len({one.id for one in said}) == len(said)


def test_without_asking_the_tags_alone_decide() -> None:
    said, engine = asked(applicability="tags")
    assert {one.principle_id for one in said} == {"kind", "risk"} and not any(map(is_scope, engine.asked))


@pytest.mark.parametrize("answer", [None, (0.9, 0.1), (0.5, 0.5)])
def test_a_judge_of_two_minds_leaves_a_principle_in(answer: tuple[float, float] | None) -> None:
    """Who always says A says yes once and no once."""
    said, _ = asked(lambda request: answer if is_scope(request) else truthful(request))
    assert not [one for one in said if one.verdict == "not_applicable"]
    assert {one.principle_id for one in said if one.prompt_id == SAFE.id} == {"kind", "risk"}


def test_the_draw_and_the_whole_keep_to_what_applies() -> None:
    for _ in range(2):
        drawn, _ = asked(principles="sample", prompts=(SAFE,))
        assert {one.principle_id for one in drawn if one.verdict != "not_applicable"} == {"kind"}
    _, engine = asked(principles="whole", prompts=(SAFE,))
    questions = [request.messages[0].content for request in engine.asked if not is_scope(request)]
    assert questions and all("Be kind." in text and "Be careful." not in text for text in questions)


def test_what_does_not_apply_sways_no_reading() -> None:
    said, _ = asked(method="pointwise-logprob")
    (no,) = [one for one in said if one.verdict == "not_applicable" and one.rating is None]
    assert no.second_id == "" and set(ratings(said, HOUSE)) == {one.id for one in ANSWERS}
    safe = [one for one in said if one.prompt_id == SAFE.id]
    ((_, readings),) = read_prompt(safe, HOUSE).pairs.items()
    assert [reading.principle.id for reading in readings] == ["kind"]
    pairwise = [one for one in asked()[0] if one.prompt_id == SAFE.id]
    assert [reading.principle.id for reading in next(iter(read_prompt(pairwise, HOUSE).pairs.values()))] == ["kind"]


def test_in_waves_the_judge_is_asked_too() -> None:
    said, _ = asked(comparisons="active", budget=1)
    assert [one.principle_id for one in said if one.verdict == "not_applicable"] == ["risk"]


def test_a_campaign_asks_for_scopes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = KindEngine.choose

    def choose(self, requests):
        for request in requests:
            if not is_scope(request):
                yield from plain(self, [request])
                continue
            yes = "A: yes" in request.messages[0].content
            yield Choice(request.id, (0.0, 1.0) if yes else (1.0, 0.0), "", 5, 0.0)

    monkeypatch.setattr(KindEngine, "choose", choose)
    settings = write_campaign(tmp_path, judge__applicability="ask", judge__principles="all", rounds=1)
    rule = '  - {id: risk, text: "Be careful.", applies_when: {ask: "Is anyone in danger?"}}\n'
    (tmp_path / "constitution.yaml").write_text((tmp_path / "constitution.yaml").read_text() + rule)
    work = start(tmp_path, settings, ScriptedWorkers())
    with work.run.lock():
        assert run_campaign(work).stopped is None
    said = records_of(work.run.view("rounds/000/judgments"), Judgment)
    assert {one.principle_id for one in said if one.verdict == "not_applicable"} == {"risk"}
    assert {one.principle_id for one in said if one.verdict != "not_applicable"} == {"kind"}
    assert work.run.view("rounds/000/judgments").counts["not_applicable"] == 20
