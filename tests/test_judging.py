"""Panels: every judge answers every question, votes are averaged, and what two judges share is measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfalign import config
from selfalign.campaign import run_campaign
from selfalign.constitution import Constitution, Principle
from selfalign.constitution import load as load_constitution
from selfalign.judge_card import alpha, kappa, measure
from selfalign.preferences import pair_key, read_prompt
from selfalign.records import Judgment, Pair
from selfalign.stages import StageError
from selfalign.stages.train import evaluating_judge
from selfalign.steps import records_of
from selfalign.store import Run
from tests import scripted
from tests.scripted import ScriptedWorkers, start, write_campaign, write_model
from tests.stages.world import both_orders, candidate, compared, prompt, rated

GOOD = Principle(id="good", compare="Choose the better response.", text="Be good.")
HOUSE = Constitution(name="house", version="1", principles=(GOOD,))
ASK = prompt("How are you?")
A, B, C = (candidate(ASK, text, i) for i, text in enumerate(["fine", "well", "so so"]))


def by(judge: str, *said: Judgment) -> list[Judgment]:
    fields = [{name: getattr(one, name) for name in one.__dataclass_fields__} for one in said]
    return [Judgment(**{**found, "judge_id": judge, "id": f"{judge} {found['id']}"}) for found in fields]


def lead(said: list[Judgment], a=A, b=B) -> float | None:
    return read_prompt(said, HOUSE).decision(a.id, b.id, 0.1)


def test_each_judge_has_one_vote() -> None:
    """.9 and .6 make .75, whichever orders they were asked in."""
    said = [*by("x", *both_orders(A, B, 0.9, GOOD)), *by("y", compared(A, B, 0.6, GOOD))]
    assert lead(said) == pytest.approx(0.5)
    assert lead(by("x", *both_orders(A, B, 0.9, GOOD))) == pytest.approx(0.8)


def test_a_judge_that_is_invalid_in_one_order_has_no_vote() -> None:
    said = by("y", compared(A, B, 0.1, GOOD), compared(B, A, None, GOOD))
    assert lead([*by("x", *both_orders(A, B, 0.9, GOOD)), *said]) == pytest.approx(0.8)
    assert lead(said) is None


def test_ratings_are_compared_within_each_judge() -> None:
    """A strict judge and a mild one agree that A is better by 1; C was rated by the mild one alone."""
    said = [*by("strict", rated(A, 2.0, GOOD), rated(B, 1.0, GOOD))]
    said += by("mild", rated(A, 5.0, GOOD), rated(B, 4.0, GOOD), rated(C, 4.5, GOOD))
    assert lead(said) == pytest.approx(1.0)
    assert lead(said, A, C) == pytest.approx(0.5)
    assert read_prompt(said, HOUSE).ratings(A.id, B.id, 0.1) == pytest.approx((3.5, 2.5))


def test_alpha_leaves_out_pairs_of_one_judge() -> None:
    truth = {("a", str(i)): 1 if i % 2 else -1 for i in range(60)}
    some = {pair: value for pair, value in truth.items() if int(pair[1]) < 40}
    assert alpha([truth, some]) == pytest.approx(1.0)
    assert alpha([truth, {pair: -value for pair, value in truth.items()}]) < -0.9
    assert alpha([truth, {}]) is None


def test_kappa_of_two_judges() -> None:
    one = {("a", str(i)): 1 if i % 2 else -1 for i in range(40)}
    other = {pair: value if int(pair[1]) < 30 else -value for pair, value in one.items()}
    assert kappa(one, one) == pytest.approx(1.0)
    assert kappa(one, other) == pytest.approx(0.5)  # 3/4 alike, 1/2 by chance
    assert kappa(one, {}) is None


# In a campaign.


class Judges(ScriptedWorkers):
    """A panel whose second judge, `contrary`, prefers what is rude."""

    def engine(self, model: str, *, trust_remote_code: bool = False):
        engine = super().engine(model)
        if Path(model).name != "contrary":
            return engine

        class Contrary(scripted.KindEngine):
            def choose(self, requests):
                for choice in super().choose(requests):
                    yield type(choice)(choice.id, choice.probabilities[::-1], "", 5, 0.0)

        self.used = [*getattr(self, "used", []), model]
        return Contrary(model)


def campaign(folder: Path, **overrides) -> config.Campaign:
    write_model(folder / "contrary", 0.5)
    panel = json.dumps([{"model": str(folder / "contrary")}])
    return write_campaign(folder, judge__panel=panel, judge__max_canary_wins=1, rounds=1, **overrides)


def ran(folder: Path, settings: config.Campaign, workers: ScriptedWorkers) -> Run:
    work = start(folder, settings, workers)
    with work.run.lock():
        run_campaign(work)
    return work.run


def test_a_panel_answers_all_questions_and_its_labels_are_the_mean(tmp_path: Path) -> None:
    settings = campaign(tmp_path, pairs__min_margin=0, judge__canaries=0, evaluate__judge__model="base")
    with pytest.raises(StageError):  # two judges who always contradict each other leave nothing to learn
        ran(tmp_path, settings, Judges())
    run = start(tmp_path, None, ScriptedWorkers()).run
    alone = [records_of(run.view(f"rounds/000/panel/{place}/judgments"), Judgment) for place in range(2)]
    said = records_of(run.view("rounds/000/judgments"), Judgment)
    assert len(said) == len(alone[0]) + len(alone[1]) and len({one.id for one in said}) == len(said)
    asked = [sorted((one.first_id, one.second_id, one.principle_id) for one in judge) for judge in alone]
    assert asked[0] == asked[1] and len({one.judge_id for one in said}) == 2
    pairs = {(one.prompt_id, *pair_key(one.first_id, one.second_id)) for one in said}
    house = load_constitution(run.path / "rounds/000/constitution.yaml")
    for prompt_id, a, b in pairs:
        mine = [one for one in said if one.prompt_id == prompt_id]
        assert read_prompt(mine, house).decision(a, b, 0.0) == pytest.approx(0.0)
    kind, contrary = measure(run, 0)
    (kappa_with,) = kind.kappa_with.values()
    assert kappa_with < 0.5 and kind.panel_alpha == contrary.panel_alpha < 0.5  # they agree on ties alone
    assert kind.health.swap_consistency == contrary.health.swap_consistency == 1.0


def test_a_panel_runs_to_a_report_and_again_for_nothing(tmp_path: Path) -> None:
    write_model(tmp_path / "other", 0.9)
    panel = json.dumps([{"model": str(tmp_path / "other")}, {"model": "self"}])
    settings = write_campaign(tmp_path, judge__panel=panel, rounds=2)
    run = ran(tmp_path, settings, ScriptedWorkers())
    assert run.verify() == []
    assert {one.p_chosen for one in records_of(run.view("rounds/000/pairs"), Pair)} == {0.9}
    members = [len(list((run.path / f"rounds/00{number}/panel").iterdir())) for number in range(2)]
    assert members == [2, 3]  # in round 0 the policy is the base, which is asked once
    assert "Krippendorff's alpha of the panel" in (run.path / "rounds/001/report.md").read_text()
    assert "kappa with" in (run.path / "rounds/000/report.html").read_text()
    again = ScriptedWorkers()
    ran(tmp_path, settings, again)
    assert again.served == []


def test_a_judge_of_the_panel_that_gives_no_verdicts_stops_the_round(tmp_path: Path) -> None:
    class Mute(Judges):
        def engine(self, model: str, *, trust_remote_code: bool = False):
            engine = super().engine(model)
            if Path(model).name == "contrary":
                engine.choose = lambda requests: (scripted.Choice(one.id, None, "no", 5, 0.0) for one in requests)
            return engine

    with pytest.raises(StageError, match=r"judge.max_invalid"):
        ran(tmp_path, campaign(tmp_path), Mute())


def test_an_evaluating_judge_of_its_own_judges_alone(tmp_path: Path) -> None:
    assert evaluating_judge(campaign(tmp_path, evaluate__judge__model="base")).panel == ()
    assert len(evaluating_judge(campaign(tmp_path)).panel) == 1


@pytest.mark.parametrize(
    ("panel", "more", "why"),
    [
        ('[{"model": "base"}]', {}, "sits on the panel twice"),
        ('[{"model": "other", "base_url": "http://x"}]', {}, "not reached over an API"),
        ('[{"model": "other"}]', {"judge__comparisons": "active", "judge__budget": 2}, "of its own"),
        ('[{"revision": "x"}]', {}, "model"),
    ],
)
def test_panels_that_make_no_sense_are_refused(tmp_path: Path, panel: str, more: dict, why: str) -> None:
    with pytest.raises(config.ConfigError, match=why):
        write_campaign(tmp_path, judge__panel=panel, **more)
