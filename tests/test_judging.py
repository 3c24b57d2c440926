"""The judge of whole campaigns: what it is asked once, and what it may cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfalign import config
from selfalign.campaign import run_campaign
from selfalign.engines.base import Choice, ChoiceRequest
from selfalign.records import Judgment
from selfalign.stages import StageError, report
from selfalign.steps import Work
from selfalign.store import Run
from tests.scripted import KindEngine, ScriptedWorkers, write_campaign


class Counting(ScriptedWorkers):
    """Counts what its judge is asked; behind an API too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.asked = 0

    def engine(self, model: str, *, trust_remote_code: bool = False) -> KindEngine:
        engine = super().engine(model)
        choose = type(engine).choose

        def counted(requests: Iterable[ChoiceRequest]) -> Iterator[Choice]:
            for choice in choose(engine, requests):
                self.asked += 1
                yield choice

        engine.choose = counted
        return engine

    def api(self, judge: config.Judge) -> KindEngine:
        return self.engine(self.served[0])


def judged_campaign(folder: Path, name: str, workers: Counting, **settings: Any) -> Work:
    settings = write_campaign(folder, rounds=1, name=name, **settings)
    run = Run.create(folder / name, config.to_yaml(settings))
    work = Work(run, settings, workers)
    with run.lock():
        run_campaign(work)
    return work


def judgments_of(work: Work, *names: str) -> list[Judgment]:
    steps = (work.run.view(f"rounds/000/{name}") for name in names or ("judgments", "heldout/judgments"))
    return [replace(row, seconds=0.0) for step in steps for _, rows in step.shards(Judgment) for row in rows]


def test_campaigns_of_one_folder_ask_their_judge_only_what_is_new(tmp_path: Path) -> None:
    first, second, forgetful = Counting(), Counting(), Counting()
    said = judgments_of(judged_campaign(tmp_path, "first", first))
    assert judgments_of(judged_campaign(tmp_path, "second", second)) == said
    assert (first.asked, second.asked) == (len(said), 0)
    labels = judgments_of(judged_campaign(tmp_path, "third", forgetful, judge__cache=False), "judgments")
    assert labels == said[: len(labels)]
    assert forgetful.asked == len(said)
    assert (tmp_path / ".judgments.sqlite").is_file()


def test_an_api_judge_is_paid_until_its_limit_and_no_question_twice(tmp_path: Path) -> None:
    api = {"judge.model": "openai:some", "judge.price.input": 1.0, "judge.price.output": 2.0}
    whole = judged_campaign(tmp_path / "whole", "whole", workers := Counting(), **api)
    (outcome,) = report.read(whole.run)
    assert outcome.dollars == pytest.approx(workers.asked * (5 * 1.0 + 2.0) / 1e6)
    assert "dollars" in (whole.run.path / "rounds/000/report.md").read_text()
    limit = 0.8 * outcome.dollars
    with pytest.raises(StageError, match=r"judge\.max_cost"):
        judged_campaign(tmp_path / "short", "short", short := Counting(), **api, **{"judge.max_cost": limit})
    assert 0 < short.asked < workers.asked
    judged_campaign(tmp_path / "short", "longer", longer := Counting(), **api, **{"judge.max_cost": 10 * limit})
    assert short.asked + longer.asked == workers.asked
