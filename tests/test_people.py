"""People hold a campaign's judge against what they see, and a calibration made of that reaches the pairs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfalign import labels
from selfalign.campaign import Outcome, run_campaign
from selfalign.compared import Comparison, comparisons, human_agreement, labelled, principles_of
from selfalign.judge_calibration import JudgeCalibration
from selfalign.labelling import queue
from selfalign.recalibrate import recalibrate
from selfalign.records import Label, Pair
from selfalign.store import Run
from tests.scripted import ScriptedWorkers, start, write_campaign


def run(folder: Path, settings: Any) -> Outcome:
    work = start(folder, settings, ScriptedWorkers())
    with work.run.lock():
        return run_campaign(work)


def gold(one: Comparison, labeller: str = "gold") -> Label:
    """What a person says who sees what is kind, as the scripted judge does."""
    kind = [answer.id for answer in (one.a, one.b) if answer.text.startswith("kind")]
    verdict = "preferred" if len(kind) == 1 else "tie"
    winner = kind[0] if len(kind) == 1 else None
    return Label(labeller, one.prompt.id, one.a.id, one.b.id, verdict, winner, round=one.round, stratum="random")


def against(label: Label) -> Label:
    other = {label.left_id: label.right_id, label.right_id: label.left_id}
    return replace(label, preferred_id=other.get(label.preferred_id))


def compared(folder: Path, settings: Any, number: int = 0, source: Any = "training") -> list[Comparison]:
    return list(comparisons(Run.open(folder / "run"), number, source, settings))


def pairs(folder: Path, name: str) -> list[Pair]:
    step = Run.open(folder / "run").view(name)
    return [pair for _, rows in step.shards(Pair) for pair in rows]


# What can be labelled.


def test_what_the_judge_compared_can_be_labelled(tmp_path: Path) -> None:
    settings = write_campaign(tmp_path)
    run(tmp_path, settings)
    training, heldout = (compared(tmp_path, settings, 1, source) for source in ("training", "heldout"))
    assert len({one.prompt.id for one in training}) == 20
    assert heldout and {one.prompt.messages[0].content.split()[0] for one in heldout} == {"heldout"}
    for one in training + heldout:
        assert one.a.id < one.b.id and one.a.text != one.b.text and len(one.judgments) == 2
        kinder = one.a.text.startswith("kind") - one.b.text.startswith("kind")
        assert one.p_a == pytest.approx(0.5 + 0.4 * kinder) and one.swap_gap == 0
    assert compared(tmp_path, settings, 7) == []


def test_a_rating_judge_can_be_held_against_people_too(tmp_path: Path) -> None:
    settings = write_campaign(tmp_path, judge__method="pointwise-logprob", pairs__min_margin=0.1)
    run(tmp_path, settings)
    found = compared(tmp_path, settings)
    about = [(gold(one), one) for one in found]
    assert human_agreement(about)["labelling"].kappa == 1.0
    with pytest.raises(ValueError, match="no label is on a pair"):
        recalibrate(about, {0: principles_of(Run.open(tmp_path / "run"), 0)}, 0.0, 0.1)


def test_a_lead_too_small_to_make_a_pair_of_is_a_tie(tmp_path: Path) -> None:
    run(tmp_path, write_campaign(tmp_path, rounds=1))
    for min_margin, says in ((0.79, {-1.0, 1.0, 0.0}), (0.81, {0.0})):
        settings = write_campaign(tmp_path, rounds=1, pairs__min_margin=min_margin)
        assert {one.says for one in compared(tmp_path, settings)} == says


def test_agreement_is_told_by_judge(tmp_path: Path) -> None:
    settings = write_campaign(tmp_path)
    run(tmp_path, settings)
    training, heldout = (compared(tmp_path, settings, 0, source) for source in ("training", "heldout"))
    said = [gold(one) for one in training] + [against(gold(one)) for one in heldout]
    opened = Run.open(tmp_path / "run")
    found = human_agreement(labelled(opened, said, settings))
    assert found["labelling"].kappa == 1.0 and found["labelling"].num_pairs == len(training)
    assert found["evaluating"].kappa < 0
    nowhere = Label("ann", "p", "a", "b", "tie", round=0)
    assert labelled(opened, [nowhere], settings) == []
    assert labelled(opened, [gold(compared(tmp_path, settings, 1)[0])], settings, up_to=0) == []


# The gate.


def gated(folder: Path, says: Any, count: int | None = None) -> tuple[str, Outcome]:
    """The reason of a gate before there are labels, and the outcome once there are."""
    settings = write_campaign(folder, accept__min_kappa=0.4, rounds=1)
    before = run(folder, settings).reports[0].gate
    assert not before.accepted
    found = [one for one, _ in queue(compared(folder, settings), 17)][:count]
    labels.write(folder / "run", "ann", [replace(says(one), labeller="ann") for one in found])
    return before.reason, run(folder, settings)


def test_the_gate_refuses_without_labels_and_accepts_once_people_agree(tmp_path: Path) -> None:
    reason, outcome = gated(tmp_path, gold)
    assert "no labels by people" in reason and "selfalign label" in reason
    (report,) = outcome.reports
    assert report.gate.accepted and outcome.stopped is None
    assert "its lower end at or above 0.4" in report.gate.reason
    assert report.humans["labelling"].labellers == ("ann",)
    assert "kappa" in (tmp_path / "run/report.md").read_text()


def test_the_gate_refuses_a_judge_with_whom_people_do_not_agree(tmp_path: Path) -> None:
    _, outcome = gated(tmp_path, lambda one: against(gold(one)))
    assert not outcome.reports[0].gate.accepted
    assert "its lower end below 0.4" in outcome.stopped


def test_a_few_labels_are_not_enough_for_the_gate(tmp_path: Path) -> None:
    _, outcome = gated(tmp_path, gold, count=12)
    assert "only 12 labels by people" in outcome.stopped and "30 are needed" in outcome.stopped


def test_pairs_chosen_because_they_are_hard_do_not_count_at_the_gate(tmp_path: Path) -> None:
    _, outcome = gated(tmp_path, lambda one: replace(gold(one), stratum="margin"))
    assert "no labels by people on pairs drawn at random" in outcome.stopped


def test_a_campaign_that_does_not_ask_reads_no_labels(tmp_path: Path) -> None:
    settings = write_campaign(tmp_path, rounds=1)
    before = run(tmp_path, settings)
    (tmp_path / "run/labels").mkdir()
    (tmp_path / "run/labels/ann.jsonl").write_text('{"broken": 1}\n')
    assert run(tmp_path, settings) == before


# The calibration.


def spoil(one: Comparison) -> Comparison:
    """The comparison as a judge tells it that is too sure by 2 and likes the first by 1 (log-odds)."""
    undone = JudgeCalibration(temperature=0.5, bias=-0.5)  # (logit + .5) / .5 = 2 logit + 1
    return replace(one, judgments=tuple(replace(j, p_first=undone.apply(j.p_first)) for j in one.judgments))


def test_a_spoiled_judge_is_put_right(tmp_path: Path) -> None:
    settings = write_campaign(tmp_path, rounds=1)
    run(tmp_path, settings)
    found = compared(tmp_path, settings)
    about = []
    for place, one in enumerate(found):  # people agree with nine tenths of what the judge says
        label = gold(one)
        about.append((against(label) if place % 10 == 0 else label, spoil(one)))
    constitutions = {0: principles_of(Run.open(tmp_path / "run"), 0)}
    result = recalibrate(about, constitutions, 0.0, settings.pairs.min_margin)
    assert result.calibration.bias == pytest.approx(1.0, abs=0.25)
    assert result.calibration.temperature == pytest.approx(2.0, rel=0.35)
    assert result.after.ece < result.before.ece and result.after.nll < result.before.nll
    assert result.num_labels == len(found) and result.num_verdicts == 2 * len(found)
    assert result.after.accuracy.value >= result.before.accuracy.value > 0.8


def test_a_calibration_reaches_the_pairs_and_only_them(tmp_path: Path) -> None:
    plain, mended = tmp_path / "plain", tmp_path / "mended"
    file = tmp_path / "calibration.json"
    file.write_text(JudgeCalibration(temperature=2.0, bias=0.0).to_json())
    for folder in (plain, mended):
        folder.mkdir()
    run(plain, write_campaign(plain, rounds=1))
    settings = write_campaign(mended, rounds=1, judge__calibration=str(file))
    report = run(mended, settings).reports[0]
    # logit .9 = ln 9, halved ln 3: p = .75
    assert {pair.p_chosen for pair in pairs(plain, "rounds/000/pairs")} == {0.9}
    assert {round(pair.p_chosen, 9) for pair in pairs(mended, "rounds/000/pairs")} == {0.75}
    assert "calibration" in Run.open(mended / "run").view("rounds/000/pairs").inputs
    said = {p for one in compared(mended, settings) for j in one.judgments for p in [j.p_first]}
    assert said <= {0.5 + 0.4 * lead for lead in (-1, 0, 1)}  # verdicts stand as they were said
    assert report.win_rates["base"].rate == json.loads(
        (plain / "run/rounds/000/report.json").read_text()
    )["win_rates"]["base"]["rate"]  # fmt: skip


def test_a_changed_calibration_makes_other_pairs_from_the_next_round_on(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(JudgeCalibration(temperature=2.0, bias=0.0).to_json())
    settings = write_campaign(tmp_path, judge__calibration=str(file))

    class Editing(ScriptedWorkers):
        def train(self, *arguments: Any) -> None:
            file.write_text(JudgeCalibration(temperature=1.0, bias=0.0).to_json())
            super().train(*arguments)

    work = start(tmp_path, settings, Editing())
    with work.run.lock():
        run_campaign(work)
    assert {round(pair.p_chosen, 9) for pair in pairs(tmp_path, "rounds/000/pairs")} == {0.75}
    assert {round(pair.p_chosen, 9) for pair in pairs(tmp_path, "rounds/001/pairs")} == {0.9}
    first, second = (Run.open(tmp_path / "run").view(f"rounds/00{n}/pairs").inputs for n in (0, 1))
    assert first["calibration"] != second["calibration"]
    assert Run.open(tmp_path / "run").verify() == []
    assert run(tmp_path, settings).stopped is None  # and running again changes nothing
