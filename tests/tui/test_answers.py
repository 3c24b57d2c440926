"""One prompt, and what every policy of a run answers to it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from selfalign.records import Prompt
from selfalign.store import Run
from selfalign.tui.answers import Answers, answers_of, answers_to
from tests.tui.evaluated import evaluate


@pytest.fixture
def run(tmp_path: Path, made: Path) -> Run:
    shutil.copytree(made / "sample", tmp_path / "sample")
    return Run.open(tmp_path / "sample")


def test_a_held_out_prompt_has_an_answer_of_every_policy_with_what_the_judge_says(run: Run) -> None:
    asked = evaluate(run, ["one", "two", "three"], 2)
    found = answers_to(run, asked[2].id)
    assert [one.name for one in found] == ["base", "round 0", "round 1"]
    assert [one.first.text for one in found if one.first] == [f"To three says {one.name}." for one in found]
    assert [(one.p_previous, one.p_base) for one in found] == [
        (None, None), (pytest.approx(0.7), pytest.approx(0.7)), (pytest.approx(0.7), pytest.approx(0.7))
    ]  # fmt: skip
    assert answers_of(run) is answers_of(run)
    assert answers_of(run).answered(1) == [prompt.id for prompt in asked]
    assert answers_of(run).prompt(asked[1].id) == asked[1]


def test_a_training_prompt_has_the_samples_of_the_policy_its_round_began_with(run: Run) -> None:
    prompt = next(iter(run.view("rounds/001/prompts").read(Prompt, 0)))
    (found,) = answers_to(run, prompt.id)
    assert (found.name, len(found.samples), found.p_previous) == ("round 0", 2, None)
    assert answers_to(run, "nobody") == []


def test_what_is_damaged_says_so_and_hides_nothing_else(run: Run) -> None:
    asked = evaluate(run, ["one", "two", "three"], 2)
    (run.path / "rounds/000/heldout/candidates/part-00000.parquet").write_bytes(b"PAR1 not any more")
    base, first, second = Answers(run).to(asked[0].id)
    assert "SHA-256 does not match" in first.trouble and first.first is None
    assert base.first and second.first
    assert len(Answers(run).to(asked[2].id)) == 3
    shutil.rmtree(run.path / "rounds/001/heldout/judgments")
    assert [one.p_base for one in Answers(run).to(asked[2].id)] == [None, pytest.approx(0.7), None]


def test_a_round_under_way_has_the_answers_it_has_written_so_far(run: Run) -> None:
    asked = evaluate(run, ["one", "two", "three"], 1)
    found = Answers(run)
    assert found.answered(1) == []
    with run.lock():
        step = run.step("rounds/001/heldout/candidates", inputs={}, config={})
        step.write(0, [one.samples[0] for p in asked[:2] for one in found.to(p.id)[:1]])
        assert found.answered(1) == [prompt.id for prompt in asked[:2]]
        assert [len(found.to(prompt.id)) for prompt in asked] == [3, 3, 2]
