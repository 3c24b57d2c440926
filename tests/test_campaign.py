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
from selfalign.stages.canaries import is_canary
from selfalign.stages.report import not_to_follow
from selfalign.steps import Interrupted, StoppedAfterRound, Work, records_of
from selfalign.store import Run, StepChanged
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


def test_canaries_are_judged_every_round_and_never_trained_on(tmp_path: Path) -> None:
    settings, workers = write_campaign(tmp_path, judge__canaries=4), ScriptedWorkers()
    assert run(tmp_path, settings, workers).stopped is None
    opened = start(tmp_path, settings, workers).run
    met = [records_of(opened.view(f"rounds/00{number}/canaries/candidates"), Candidate) for number in range(2)]
    assert [len(one) for one in met] == [4 * 7] * 2 and {c.prompt_id for c in met[0]} == {c.prompt_id for c in met[1]}
    canaries = {c.id for c in (*met[0], *met[1]) if is_canary(c)}
    trained = [pair for number in range(2) for pair in records_of(opened.view(f"rounds/00{number}/pairs"), Pair)]
    assert canaries.isdisjoint(name for pair in trained for name in (pair.chosen_id, pair.rejected_id))
    read = [folder for job in workers.jobs for folder in (*job.candidates_dirs, *job.examples_dirs)]
    assert read and not any("/canaries/" in folder for folder in read)
    told = events(tmp_path, "canaries")
    assert [(event["round"], event["go"], event["rate"], event["comparisons"]) for event in told] == [
        (0, True, 0.0, 24),
        (1, True, 0.0, 24),
    ]
    assert "Canaries, replies without content" in (opened.path / "rounds/001/report.md").read_text()
    assert opened.verify() == []


def test_a_judge_that_falls_for_canaries_stops_the_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.scripted.merit", lambda text: 0)  # to this judge all is alike
    settings, workers = write_campaign(tmp_path), ScriptedWorkers()
    for _ in range(2):  # the same command again finds the same
        outcome = run(tmp_path, settings, workers)
        assert "judge.max_canary_wins" in outcome.stopped and outcome.reports == () and workers.jobs == []
    opened = start(tmp_path, settings, workers).run
    assert [found.round for found in not_to_follow(opened)] == [0] and opened.verify() == []
    for page in ("report.md", "report.html", "rounds/000/report.html"):
        assert "its judge falls for canaries" in (opened.path / page).read_text()


def test_without_canaries_none_are_judged(tmp_path: Path) -> None:
    settings = write_campaign(tmp_path, judge__canaries=0)
    assert run(tmp_path, settings).stopped is None
    assert start(tmp_path, settings, ScriptedWorkers()).run.view("rounds/000/canaries/candidates") is None


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


def stop_asked_in_training(work: Work, workers: ScriptedWorkers, round: int) -> None:
    """Let somebody ask, while a model is trained, for a stop at the end of a round."""
    workers.on_train = lambda: work.run.ask_stop(round) if len(workers.jobs) == round else None


def test_a_stop_after_a_round_ends_it_and_the_next_run_goes_on_alike(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", write_campaign(tmp_path / "whole", rounds=3), ScriptedWorkers(0.1))
    settings, workers = write_campaign(tmp_path, rounds=3), ScriptedWorkers(0.1)
    work = start(tmp_path, settings, workers)
    stop_asked_in_training(work, workers, 1)
    with work.run.lock(), pytest.raises(StoppedAfterRound, match="after round 1"):
        run_campaign(work)
    assert work.run.rounds() == [0, 1] and work.run.stop_asked() is None
    assert [event["round"] for event in events(tmp_path, "stopped_after_round")] == [1]
    assert work.run.verify() == []
    again = run(tmp_path, settings, ScriptedWorkers(0.1))
    assert [one.win_rates for one in again.reports] == [one.win_rates for one in whole.reports]
    assert len(events(tmp_path, "stopped_after_round")) == 1


def test_a_stop_after_the_last_round_is_its_end(tmp_path: Path) -> None:
    settings, workers = write_campaign(tmp_path, rounds=1), ScriptedWorkers()
    work = start(tmp_path, settings, workers)
    stop_asked_in_training(work, workers, 0)
    with work.run.lock():
        assert run_campaign(work).stopped is None
    assert events(tmp_path, "campaign_done") and not events(tmp_path, "stopped_after_round")


def test_a_crash_neither_loses_a_stop_after_a_round_nor_repeats_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, workers = write_campaign(tmp_path, rounds=3), ScriptedWorkers(0.1)
    work = start(tmp_path, settings, workers)
    stop_asked_in_training(work, workers, 1)
    emit = work.run.emit

    def die(event: str, **fields: Any) -> None:
        emit(event, **fields)
        if event == "gate" and fields["round"] == 1:
            raise KeyboardInterrupt

    work.run.emit = die
    with work.run.lock(), pytest.raises(KeyboardInterrupt):
        run_campaign(work)
    monkeypatch.setattr(Run, "withdraw_stop", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):  # it dies again, having said that it stops, with the wish still there
        run(tmp_path, settings, ScriptedWorkers(0.1))
    assert [event["round"] for event in events(tmp_path, "stopped_after_round")] == [1]
    assert work.run.rounds() == [0, 1] and (work.run.path / "stop.json").exists()
    monkeypatch.undo()
    assert run(tmp_path, settings, ScriptedWorkers(0.1)).stopped is None
    assert len(events(tmp_path, "stopped_after_round")) == 1


@pytest.mark.parametrize("content", ["", "{}", '{"round": 0, "id": "x"}', "\x00"])
def test_what_is_no_wish_to_stop_stops_nothing(tmp_path: Path, content: str) -> None:
    opened = start(tmp_path, write_campaign(tmp_path), ScriptedWorkers()).run
    (opened.path / "stop.json").write_text(content)
    assert opened.stop_asked() is None and opened.verify() == []


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
