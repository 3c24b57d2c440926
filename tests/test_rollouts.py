"""Rollouts that come to the trainer with their rewards: a judge's ratings, or a reward model's word in the engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from selfalign.campaign import run_campaign
from selfalign.cli import main
from selfalign.cli.examples import held
from selfalign.config import Campaign, ConfigError
from selfalign.engines.base import Choice, ChoiceRequest, EngineError, Rewarded, ScoreRequest
from selfalign.records import Candidate, Judgment, Reward
from selfalign.stages import StageError
from selfalign.steps import Interrupted, Work
from selfalign.store import Step
from selfalign.store.branch import branch
from tests.scripted import RESPONSE, KindEngine, ScriptedWorkers, start, write_campaign
from tests.test_campaign import run

JUDGED = {
    "train__algorithm": "ppo", "ppo__reward": "judge", "judge__method": "pointwise-logprob", "ppo__iterations": 3,
    "ppo__prompts": 8, "rounds": 1,
}  # fmt: skip


def judged(folder: Path, **overrides: Any) -> Campaign:
    return write_campaign(folder, **{**JUDGED, **overrides})


def step(folder: Path, name: str) -> Step:
    return start(folder, None, ScriptedWorkers()).run.view(name)


def rows(folder: Path, name: str, record_type: type) -> list[Any]:
    return [row for _, shard in step(folder, name).shards(record_type) for row in shard]


def unable_to_judge(monkeypatch: pytest.MonkeyPatch, *endings: str) -> None:
    """A judge without a verdict on answers whose numbers end so."""
    choose = KindEngine.choose

    def some(self: KindEngine, requests: Iterable[ChoiceRequest]) -> Iterator[Choice]:
        for request in requests:
            answer = RESPONSE.search(request.messages[-1].content)
            if len(request.labels) > 2 and answer.group(1).endswith(endings):
                yield Choice(request.id, None, "none of the labels", 5, 0.0)
            else:
                yield from choose(self, [request])

    monkeypatch.setattr(KindEngine, "choose", some)


def test_the_judge_rewards_every_rollout_by_itself(tmp_path: Path) -> None:
    workers, settings = ScriptedWorkers(learns=0.4), judged(tmp_path)
    outcome = run(tmp_path, settings, workers)
    assert outcome.stopped is None and outcome.reports[0].win_rates["base"].rate > 0.6
    assert workers.reward_jobs == [] and workers.jobs[0].reward_path is None
    for iteration, handed in enumerate(workers.rollouts):
        folder = f"rounds/000/rollouts/{iteration:04d}"
        assert handed["rewards"] == [str(step(tmp_path, f"{folder}/rewards").path)]
        answers = {c.id: c for c in rows(tmp_path, f"{folder}/candidates", Candidate)}
        rewards = rows(tmp_path, f"{folder}/rewards", Reward)
        assert {r.candidate_id for r in rewards} == answers.keys() and len(rewards) == 8
        judges = {j.judge_id for j in rows(tmp_path, f"{folder}/judgments", Judgment)}
        assert judges == {r.model_id for r in rewards}
        for r in rewards:  # 0.8 on four of five and 0.2 on two: (3.6 - 1) / 4 = 0.65 of the way from -1 to 1
            kind = answers[r.candidate_id].text.startswith("kind")
            assert r.reward == pytest.approx(0.3 if kind else -0.3)
    for name in ("candidates", "judgments"):
        assert step(tmp_path, f"rounds/000/{name}").counts[name] == 0
    assert step(tmp_path, "rounds/000/pairs").counts["pairs"] == 0
    assert step(tmp_path, "rounds/000/reward_model") is None
    again = ScriptedWorkers()
    assert run(tmp_path, settings, again) == outcome and again.rollouts == [] and again.served == []


def test_answers_of_the_same_words_share_a_judgment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate = KindEngine.generate

    def alike(self: KindEngine, requests: Any, sampling: Any) -> Any:
        for made in generate(self, requests, sampling):
            yield type(made)(made.id, made.text[:4], made.token_ids, made.finish_reason, made.logprob, 5)

    monkeypatch.setattr(KindEngine, "generate", alike)
    run(tmp_path, judged(tmp_path, ppo__advantage="rloo", ppo__samples=4))
    folder = "rounds/000/rollouts/0000"
    answers = rows(tmp_path, f"{folder}/candidates", Candidate)
    distinct = {(c.prompt_id, c.text) for c in answers}
    assert len(rows(tmp_path, f"{folder}/judgments", Judgment)) == len(distinct) < len(answers) == 32
    assert len(rows(tmp_path, f"{folder}/rewards", Reward)) == 32


def test_what_the_judge_gives_no_verdict_on_has_no_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unable_to_judge(monkeypatch, "7", "8")
    outcome = run(tmp_path, judged(tmp_path, judge__max_invalid=1))
    left_out = 0
    for iteration in range(3):
        folder = f"rounds/000/rollouts/{iteration:04d}"
        answers = rows(tmp_path, f"{folder}/candidates", Candidate)
        without = {c.id for c in answers if c.text.endswith(("7", "8"))}
        given = {r.candidate_id for r in rows(tmp_path, f"{folder}/rewards", Reward)}
        assert given == {c.id for c in answers} - without
        left_out += len(without)
    report = outcome.reports[0]
    assert left_out > 0 and report.discarded == {"without_reward": left_out}
    assert (report.examples, report.num_examples) == ("rollouts", 24 - left_out)
    assert report.judges["labelling"].num_judgments == 24
    assert report.judges["labelling"].invalid == pytest.approx(left_out / 24)


def test_too_many_invalid_verdicts_stop_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unable_to_judge(monkeypatch, *"123456789")
    with pytest.raises(StageError, match=r"more than judge\.max_invalid allows"):
        run(tmp_path, judged(tmp_path, judge__max_invalid=0.2))
    assert step(tmp_path, "rounds/000/rollouts/0000/rewards") is None


@pytest.mark.parametrize("stop_in", ["judgments", "rewards", "candidates"])
def test_stopped_in_an_iteration_it_ends_the_same(stop_in: str, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", judged(tmp_path / "whole", generate__shard_prompts=4))
    folder, workers = tmp_path / "cut", ScriptedWorkers()
    settings = judged(folder, generate__shard_prompts=4)
    work = start(folder, settings, workers)
    make = work.run.step

    def stopping(name: str, **options: Any) -> Step:
        work.stop.requested |= name == f"rounds/000/rollouts/0001/{stop_in}"
        return make(name, **options)

    work.run.step = stopping
    with work.run.lock(), pytest.raises(Interrupted):
        run_campaign(work)
    resumed = run(folder, settings)
    assert [report.win_rates for report in resumed.reports] == [report.win_rates for report in whole.reports]
    for name in ("judgments", "rewards"):
        first, second = (step(path, f"rounds/000/rollouts/0001/{name}") for path in (tmp_path / "whole", folder))
        assert second.done and second.digest == first.digest


def test_a_round_that_the_judge_rewards_is_reported_verified_and_branched(tmp_path: Path) -> None:
    settings = judged(tmp_path)
    outcome = run(tmp_path, settings, ScriptedWorkers(learns=0.1))
    opened = start(tmp_path, settings, ScriptedWorkers()).run
    assert opened.verify() == []
    page, card = ((opened.path / f"rounds/000/{name}.md").read_text() for name in ("report", "model_card"))
    for text in (page, card):
        assert "| trained on | 24 rollouts |" in text and "| reward | judge: base, its expected rating" in text
        assert "reward model" not in text and "rounds/000/rollouts/0002/rewards" in text
    assert "Scores of the judge, by iteration" in page and "24 rollouts" in (opened.path / "report.md").read_text()
    with opened.lock():
        branched = branch(opened, 0, tmp_path / "branched")
    assert branched.verify() == [] and branched.view("rounds/000/rollouts/0002/rewards").done
    with branched.lock():
        again = run_campaign(Work(branched, settings, ScriptedWorkers(learns=0.1)))
    assert [report.win_rates for report in again.reports] == [report.win_rates for report in outcome.reports]
    assert held(opened) == {}  # no examples to list
    for command in (["report"], ["verify"], ["pairs", "ls"], ["status"]):
        assert main([*command, str(opened.path)]) == 0


def test_a_phase_that_the_judge_rewards_follows_one_of_pairs(tmp_path: Path) -> None:
    phases = "[{rounds: 1}, {rounds: 1, train: {algorithm: ppo}}]"
    workers = ScriptedWorkers(learns=0.2)
    outcome = run(tmp_path, judged(tmp_path, schedule=phases, rounds=2, train__algorithm="dpo"), workers)
    assert [report.examples for report in outcome.reports] == ["pairs", "rollouts"] and workers.reward_jobs == []


# A reward model in the engine.


def scored(folder: Path, **overrides: Any) -> Campaign:
    asked = {"train__algorithm": "ppo", "ppo__iterations": 3, "ppo__prompts": 8, "rounds": 1}
    return write_campaign(folder, **{**asked, "reward_model__scorer": "engine", **overrides})


def test_the_engine_scores_rollouts_with_the_reward_model(tmp_path: Path) -> None:
    workers, settings = ScriptedWorkers(learns=0.4), scored(tmp_path)
    outcome = run(tmp_path, settings, workers)
    (job,) = workers.jobs
    assert job.rewards_given and job.reward_path == workers.reward_jobs[0].output_dir in workers.served
    for iteration, handed in enumerate(workers.rollouts):
        folder = f"rounds/000/rollouts/{iteration:04d}"
        assert handed["rewards"] == [str(step(tmp_path, f"{folder}/rewards").path)]
        rewards = {r.candidate_id: r.reward for r in rows(tmp_path, f"{folder}/rewards", Reward)}
        answers = rows(tmp_path, f"{folder}/candidates", Candidate)
        assert rewards == {c.id: float(c.text.startswith("kind")) for c in answers}
    assert outcome.reports[0].examples == "pairs"
    again = ScriptedWorkers()
    assert run(tmp_path, settings, again) == outcome and again.served == []


def test_an_engine_that_holds_another_reward_model_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(self: KindEngine, requests: Iterable[ScoreRequest]) -> Iterator[Rewarded]:
        for request in requests:
            yield Rewarded(request.id, float(request.token_ids[-1] == 4))

    with monkeypatch.context() as patched, pytest.raises(EngineError, match="does not reward as"):
        patched.setattr(KindEngine, "reward", other)
        run(tmp_path, scored(tmp_path))
    assert run(tmp_path, scored(tmp_path)).stopped is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"train__algorithm": "dpo", "ppo__iterations": 20, "ppo__prompts": 64}, "has any that a reward model rewards"),
        ({"ppo__reward": "judge", "judge__method": "pointwise-logprob"}, "has any that a reward model rewards"),
        ({"reward_model__ensemble": 2}, "no ensemble"),
    ],
)
def test_scorers_of_nothing_are_refused(settings: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        scored(tmp_path, **settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"judge__method": "pairwise-logprob"}, "rewards no single one"),
        ({"reward_model__holdout": 0.2}, r"the judge gives the rewards \(ppo\.reward\)"),
        ({"reward_model__ensemble": 4}, r"the judge gives the rewards \(ppo\.reward\)"),
        ({"pairs__strategy": "all"}, "there are no pairs"),
        ({"train__algorithm": "dpo"}, "no round trains by PPO"),
    ],
)
def test_settings_that_nothing_reads_are_refused(settings: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        judged(tmp_path, **settings)
