"""The campaign as a whole, with a scripted policy, judge and trainer; everything that decides and records is real."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from selfalign.campaign import Outcome, run_campaign
from selfalign.engines.base import EngineError
from selfalign.records import Candidate, Judgment, Pair, Prompt
from selfalign.stages import StageError
from selfalign.steps import Interrupted
from selfalign.store import StepChanged
from tests.scripted import ScriptedWorkers, start, write_campaign

CHILD = Path(__file__).with_name("campaign_child.py")


def run(folder: Path, settings: Any, workers: ScriptedWorkers | None = None) -> Outcome:
    work = start(folder, settings, workers or ScriptedWorkers())
    with work.run.lock():
        return run_campaign(work)


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    lines = start(folder, None, ScriptedWorkers()).run.events()
    return [event for event in lines if event["event"] == name]


def test_each_round_starts_from_the_policy_that_the_one_before_made(tmp_path: Path) -> None:
    settings, workers = write_campaign(tmp_path), ScriptedWorkers()
    outcome = run(tmp_path, settings, workers)
    first, second = workers.jobs
    assert first.policy_path == str(tmp_path / "base") and not first.reference
    assert second.policy_path == first.output_dir and not second.reference
    assert outcome.policy.path == second.output_dir and outcome.policy.parent_id == outcome.reports[0].policy_id
    assert outcome.stopped is None
    rates = [report.win_rates for report in outcome.reports]
    assert rates[0]["base"].rate > 0.5 and rates[1]["base"].rate > rates[0]["base"].rate
    assert rates[0]["base"] == rates[0]["previous"]
    assert len(first.probes) == 8


def test_ratings_judge_the_match_with_each_opponent(tmp_path: Path) -> None:
    rating = {"judge__method": "pointwise-logprob", "pairs__min_margin": 0.1}
    rates = [report.win_rates for report in run(tmp_path, write_campaign(tmp_path, **rating)).reports]
    assert rates[0]["base"] == rates[0]["previous"]
    assert rates[1]["base"].rate > rates[0]["base"].rate > 0.5
    assert [rate.n for rate in rates[1].values()] == [24, 24]


def test_a_judge_that_gives_reasons_labels_softly_and_measures_as_it_means(tmp_path: Path) -> None:
    settings = write_campaign(tmp_path, judge__method="pairwise-cot", judge__samples=2, rounds=1)
    (report,) = run(tmp_path, settings).reports
    opened = start(tmp_path, settings, ScriptedWorkers()).run
    pairs = [pair for _, shard in opened.view("rounds/000/pairs").shards(Pair) for pair in shard]
    said = [one for _, shard in opened.view("rounds/000/judgments").shards(Judgment) for one in shard]
    assert {pair.p_chosen for pair in pairs} == {0.6} and {round(pair.margin, 9) for pair in pairs} == {0.8}
    assert {one.reason for one in said} == {"Kind words count."}
    assert {round(one.p_first, 9) for one in said} == {0.1, 0.5, 0.9}
    assert report.judges["labelling"].invalid_reasons == {}
    assert report.win_rates["base"].rate > 0.5


def test_shards_cover_the_prompts_and_counts_add_up(tmp_path: Path) -> None:
    settings = write_campaign(tmp_path)
    outcome = run(tmp_path, settings)
    opened = start(tmp_path, settings, ScriptedWorkers()).run
    drawn = [opened.view(f"rounds/00{number}/prompts") for number in range(2)]
    words = [{p.id for _, shard in step.shards(Prompt) for p in shard} for step in drawn]
    assert len(words[0]) == len(words[1]) == 20 and not words[0] & words[1]
    candidates = opened.view("rounds/000/candidates")
    assert candidates.num_shards == 3 and candidates.counts["candidates"] == 60
    assert {c.prompt_id for _, shard in candidates.shards(Candidate) for c in shard} == words[0]
    pairs = [pair for _, shard in opened.view("rounds/000/pairs").shards(Pair) for pair in shard]
    report = outcome.reports[0]
    assert report.num_examples == len(pairs) > 0
    assert report.num_examples + sum(report.discarded.values()) == 20
    assert {p.p_chosen for p in pairs} == {0.9}
    assert opened.verify() == []


def test_running_again_does_nothing_and_says_the_same(tmp_path: Path) -> None:
    settings = write_campaign(tmp_path)
    before = run(tmp_path, settings)
    again = ScriptedWorkers()
    assert run(tmp_path, settings, again) == before
    assert again.jobs == [] and again.served == []


def test_a_rejected_round_stops_the_campaign_and_keeps_the_last_good_policy(tmp_path: Path) -> None:
    settings = write_campaign(tmp_path, accept__win_rate_lower_bound=0.5, rounds=3)
    workers = ScriptedWorkers()
    workers.on_train = lambda: setattr(workers, "learns", -0.4 if workers.jobs else 0.5)
    outcome = run(tmp_path, settings, workers)
    assert [report.gate.accepted for report in outcome.reports] == [True, False]
    assert outcome.policy.path == workers.jobs[0].output_dir
    assert "win rate" in outcome.stopped and events(tmp_path, "campaign_stopped")[0]["round"] == 1
    assert run(tmp_path, settings).stopped == outcome.stopped


def test_a_stale_engine_is_caught_before_it_answers(tmp_path: Path) -> None:
    settings = write_campaign(tmp_path)
    with pytest.raises(EngineError, match="stale policy"):
        run(tmp_path, settings, ScriptedWorkers(stale=True))
    assert start(tmp_path, settings, ScriptedWorkers()).run.view("rounds/000/heldout/candidates").num_shards == 0
    assert run(tmp_path, settings).stopped is None
    proofs = events(tmp_path, "proof")
    assert proofs and all(proof["mean_abs_difference"] == 0 for proof in proofs)


def test_a_stop_finishes_the_shard_in_hand(tmp_path: Path) -> None:
    settings = write_campaign(tmp_path)
    work = start(tmp_path, settings, ScriptedWorkers())
    emit = work.run.emit

    def stop_at_second_shard(event: str, **fields: Any) -> None:
        emit(event, **fields)
        if event == "progress" and fields["step"] == "rounds/000/candidates" and fields["done"] == 2:
            work.stop.requested = True

    work.run.emit = stop_at_second_shard
    with work.run.lock(), pytest.raises(Interrupted):
        run_campaign(work)
    assert work.run.view("rounds/000/candidates").num_shards == 2
    assert not work.run.view("rounds/000/candidates").done
    assert run(tmp_path, settings).stopped is None
    resumed = [event for event in events(tmp_path, "stage_started") if event["step"] == "rounds/000/candidates"]
    assert [event["done"] for event in resumed] == [0, 2]


def test_an_edited_constitution_counts_from_the_next_round_on(tmp_path: Path) -> None:
    settings, workers = write_campaign(tmp_path), ScriptedWorkers()
    file = Path(settings.constitution)
    workers.on_train = lambda: file.write_text(file.read_text().replace("kinder", "gentler"))
    run(tmp_path, settings, workers)
    used = [(tmp_path / f"run/rounds/00{number}/constitution.yaml").read_text() for number in range(2)]
    assert "kinder" in used[0] and "gentler" in used[1]
    reports = run(tmp_path, settings).reports
    assert reports[0].constitution_hash != reports[1].constitution_hash


@pytest.mark.parametrize(
    ("reference", "expected"),
    [("previous", [None, None, None]), ("base", [None, "base", "base"]), (0, [None, None, 0])],
)
def test_the_reference_is_the_one_that_is_named(tmp_path: Path, reference: Any, expected: list[Any]) -> None:
    settings, workers = write_campaign(tmp_path, reference=reference, rounds=3), ScriptedWorkers(learns=0.2)
    run(tmp_path, settings, workers)
    paths = {"base": [str(tmp_path / "base")], 0: [workers.jobs[0].output_dir], None: []}
    assert [[share.path for share in job.reference] for job in workers.jobs] == [paths[name] for name in expected]


def test_changed_settings_are_refused(tmp_path: Path) -> None:
    run(tmp_path, write_campaign(tmp_path))
    with pytest.raises(StepChanged, match="temperature"):
        run(tmp_path, write_campaign(tmp_path, generate__temperature=0.7))


def test_no_pairs_is_an_error_that_counts_the_reasons(tmp_path: Path) -> None:
    settings = write_campaign(tmp_path, pairs__min_margin=0.99)
    with pytest.raises(StageError, match="below_margin"):
        run(tmp_path, settings)


def killed(stride: int, offsets: range) -> list[int]:
    """Sweep over places to die at, a child process for each offset; how many durable operations each one counted."""
    shared = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        folders = [Path(folder) / str(offset) for offset in offsets]
        commands = [
            [sys.executable, str(CHILD), str(path), str(i), str(stride)]
            for path, i in zip(folders, offsets, strict=True)
        ]
        children = [subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for c in commands]
        output = [child.communicate()[0] for child in children]
    assert all(child.returncode == 0 for child in children), "\n".join(output)
    return [int(text.split()[0]) for text in output]


def test_killed_at_some_writes_it_resumes_to_the_same_result() -> None:
    assert min(killed(stride=37, offsets=range(3, 4))) > 100


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_any_write_it_resumes_to_the_same_result() -> None:
    assert min(killed(stride=4, offsets=range(1, 5))) > 100
