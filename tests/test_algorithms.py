"""Campaigns of every algorithm: what each reads, what it makes of it, and that a crash changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from selfalign.campaign import run_campaign
from selfalign.cli import main
from selfalign.config import ConfigError, RewardModel, in_round
from selfalign.constitution import load
from selfalign.engines.base import EngineError
from selfalign.progress import STAGES, Progress
from selfalign.records import GOLD, Candidate, Judgment, Pair, Prompt, Ranking, Revision, Reward
from selfalign.stages import StageError
from selfalign.stages.report import not_to_follow, read_guard
from selfalign.steps import Interrupted, Work
from selfalign.store import Step
from selfalign.store.branch import branch
from selfalign.training.job import is_held_out
from tests.scripted import CONSTITUTION, ScriptedWorkers, preferred_texts, start, write_campaign, write_rewards
from tests.test_campaign import events, run

RANKED = ["kto", "bco", "sppo", "ranking"]


def step(folder: Path, name: str) -> Step:
    return start(folder, None, ScriptedWorkers()).run.view(name)


def rows(folder: Path, name: str, record_type: type) -> list[Any]:
    return [row for _, shard in step(folder, name).shards(record_type) for row in shard]


@pytest.mark.parametrize("algorithm", RANKED)
def test_rankings_hold_the_kind_answers_first(algorithm: str, tmp_path: Path) -> None:
    workers = ScriptedWorkers()
    outcome = run(tmp_path, write_campaign(tmp_path, train__algorithm=algorithm), workers)
    assert outcome.stopped is None and outcome.reports[-1].win_rates["base"].rate > 0.6
    texts = {c.id: c.text for c in rows(tmp_path, "rounds/000/candidates", Candidate)}
    found = rows(tmp_path, "rounds/000/rankings", Ranking)
    assert len(found) == outcome.reports[0].num_examples > 5 and outcome.reports[0].examples == "rankings"
    for ranking in found:
        kind = [texts[name].startswith("kind") for name in ranking.candidate_ids]
        assert kind == sorted(kind, reverse=True)
        assert (ranking.desirable == tuple(kind)) == (algorithm in ("kto", "bco"))
    assert workers.jobs[0].examples_dirs == (str(step(tmp_path, "rounds/000/rankings").path),)


def test_raft_learns_the_best_of_each_prompt(tmp_path: Path) -> None:
    workers = ScriptedWorkers()
    outcome = run(tmp_path, write_campaign(tmp_path, train__algorithm="raft"), workers)
    learned = rows(tmp_path, "rounds/000/demonstrations", Candidate)
    sampled = rows(tmp_path, "rounds/000/candidates", Candidate)
    best = {c.prompt_id: c.text for c in learned}
    assert all(
        best[c.prompt_id].startswith("kind") for c in sampled if c.text.startswith("kind") and c.prompt_id in best
    )
    assert len(best) == len(learned) == outcome.reports[0].num_examples > 5
    assert sorted(preferred_texts(workers.jobs[0])) == sorted(best.values())


def test_sft_learns_gold_answers_and_asks_nobody(tmp_path: Path) -> None:
    workers = ScriptedWorkers()
    outcome = run(tmp_path, write_campaign(tmp_path, train__algorithm="sft"), workers)
    assert outcome.reports[0].num_examples == 20
    found = rows(tmp_path, "rounds/000/demonstrations", Candidate)
    assert {c.policy_id for c in found} == {GOLD} and not any(c.token_ids for c in found)
    assert step(tmp_path, "rounds/000/candidates").counts["candidates"] == 0
    assert step(tmp_path, "rounds/000/judgments").counts["judgments"] == 0


def test_spin_prefers_gold_answers_without_a_judge(tmp_path: Path) -> None:
    run(tmp_path, write_campaign(tmp_path, pairs__strategy="spin"))
    golds = {p.gold().id for p in rows(tmp_path, "rounds/000/prompts", Prompt)}
    assert {pair.chosen_id for pair in rows(tmp_path, "rounds/000/pairs", Pair)} == golds
    assert step(tmp_path, "rounds/000/judgments").counts["judgments"] == 0


@pytest.mark.parametrize("strategy", ["best-random", "all", "random", "rso", "margin-buckets"])
def test_every_strategy_makes_pairs_that_a_campaign_learns_from(strategy: str, tmp_path: Path) -> None:
    softly = {"pairs__rso_beta": 4} if strategy == "rso" else {}  # else only kind answers are ever drawn
    outcome = run(tmp_path, write_campaign(tmp_path, pairs__strategy=strategy, generate__samples=4, **softly))
    assert outcome.reports[-1].win_rates["base"].rate > 0.6


# Earlier rounds.


def test_replay_adds_pairs_of_earlier_rounds_and_the_texts_they_name(tmp_path: Path) -> None:
    workers = ScriptedWorkers(learns=0.1)
    run(tmp_path, write_campaign(tmp_path, rounds=3, replay__ratio=0.5, replay__rounds="last"), workers)
    own = [rows(tmp_path, f"rounds/00{number}/pairs", Pair) for number in range(3)]
    assert step(tmp_path, "rounds/000/replay/pairs") is None and len(workers.jobs[0].examples_dirs) == 1
    for number in (1, 2):
        again = rows(tmp_path, f"rounds/00{number}/replay/pairs", Pair)
        assert len(again) == round(0.5 * len(own[number])) == len(set(again))
        assert set(again) <= set(own[number - 1])
        assert len(preferred_texts(workers.jobs[number])) == len(own[number]) + len(again)


def test_an_averaged_reference_counts_every_policy_so_far(tmp_path: Path) -> None:
    workers = ScriptedWorkers(learns=0.1)
    run(tmp_path, write_campaign(tmp_path, rounds=4, reference="ema", reference_decay=0.8), workers)
    paths = [str(tmp_path / "base"), *(job.output_dir for job in workers.jobs)]
    shares = [[(share.path, round(share.weight, 4)) for share in job.reference] for job in workers.jobs]
    assert shares[0] == []
    assert shares[1] == [(paths[0], 0.8), (paths[1], 0.2)]
    assert shares[3] == [(paths[0], 0.512), (paths[1], 0.128), (paths[2], 0.16), (paths[3], 0.2)]


# Phases.


def scheduled(folder: Path, **overrides: Any) -> Any:
    phases = "[{rounds: 1, train: {algorithm: sft}}, {rounds: 2, train: {beta: 0.3}, pairs: {min_margin: 0.2}}]"
    return write_campaign(folder, rounds=3, schedule=phases, **overrides)


def test_each_phase_has_settings_of_its_own(tmp_path: Path) -> None:
    settings, workers = scheduled(tmp_path), ScriptedWorkers(learns=0.1)
    outcome = run(tmp_path, settings, workers)
    assert [job.train.algorithm for job in workers.jobs] == ["sft", "dpo", "dpo"]
    assert [job.train.beta for job in workers.jobs] == [0.1, 0.3, 0.3]
    assert [report.examples for report in outcome.reports] == ["demonstrations", "pairs", "pairs"]
    assert in_round(settings, 0).pairs.min_margin == 0.1 and in_round(settings, 2).pairs.min_margin == 0.2


@pytest.mark.parametrize(
    ("phases", "words"),
    [
        ("[{rounds: 1}]", "its phases are 1 rounds, and the campaign has 2"),
        ("[{rounds: 2, train: {bata: 0.3}}]", 'unknown setting "schedule.0.train.bata"'),
        ("[{rounds: 2, train: {beta: -1}}]", "schedule.0.train.beta is -1, not a number above 0"),
        ("[{train: {beta: 1}}]", "schedule.0 needs rounds"),
        ("[{rounds: 2, train: {algorithm: kto, loss: ipo}}]", "kto has a loss of its own"),
        ("[2]", "schedule.0 has no settings under it"),
    ],
)
def test_phases_that_make_no_sense_are_refused(phases: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words.replace("[", r"\[").replace(".", r"\.")):
        write_campaign(tmp_path, schedule=phases)


# The bootstrap.


def bootstrapped(folder: Path, **overrides: Any) -> Any:
    settings = {"bootstrap": "critique-revision", "revise__steps": 2, "rounds": 1, "revise__num_prompts": 12}
    helpful = folder / "helpful.jsonl"
    folder.mkdir(exist_ok=True)
    helpful.write_text("".join(f'{{"prompt": "help with {i}"}}\n' for i in range(10)))
    return write_campaign(folder, **{**settings, "revise__helpful": str(helpful), **overrides})


def test_the_bootstrap_is_round_zero(tmp_path: Path) -> None:
    workers = ScriptedWorkers(learns=0.3)
    settings = bootstrapped(tmp_path)
    outcome = run(tmp_path, settings, workers)
    assert [report.round for report in outcome.reports] == [0, 1]
    assert [job.train.algorithm for job in workers.jobs] == ["sft", "dpo"]
    assert workers.jobs[1].policy_path == workers.jobs[0].output_dir
    assert outcome.reports[0].win_rates["base"].rate > 0.5
    assert outcome.reports[1].parent_id == outcome.reports[0].policy_id


def test_revisions_of_all_steps_and_helpful_answers_are_learned(tmp_path: Path) -> None:
    workers = ScriptedWorkers()
    outcome = run(tmp_path, bootstrapped(tmp_path), workers)
    made = [rows(tmp_path, f"rounds/000/steps/{number}/revisions", Revision) for number in (1, 2)]
    assert [len(revisions) for revisions in made] == [12, 12]
    assert all(revision.text.startswith("kind") for revisions in made for revision in revisions)
    learned = rows(tmp_path, "rounds/000/demonstrations", Candidate)
    ids = {revision.id for revisions in made for revision in revisions}
    helpful = {c.id for c in rows(tmp_path, "rounds/000/helpful/candidates", Candidate)}
    kept = [c for c in learned if c.id in ids]
    assert {c.id for c in learned} <= ids | helpful and len(learned) - len(kept) == round(0.25 * len(kept))
    assert outcome.reports[0].num_examples == len(learned)
    assert len(preferred_texts(workers.jobs[0])) == len(learned)


def stopping(work: Work, at: int) -> Callable[..., None]:
    """Ask for a stop after so many shards."""
    emit, shards = work.run.emit, count(1)

    def emit_and_count(event: str, **fields: Any) -> None:
        emit(event, **fields)
        work.stop.requested |= event == "progress" and next(shards) >= at

    return emit_and_count


def test_a_bootstrap_that_is_stopped_anywhere_ends_the_same(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", bootstrapped(tmp_path / "whole"))
    for stop_at in (2, 5, 9):
        folder = tmp_path / str(stop_at)
        settings = bootstrapped(folder)
        work = start(folder, settings, ScriptedWorkers())
        work.run.emit = stopping(work, stop_at)
        with work.run.lock(), pytest.raises(Interrupted):
            run_campaign(work)
        resumed = run(folder, settings)
        assert [report.win_rates for report in resumed.reports] == [report.win_rates for report in whole.reports]
        assert rows(folder, "rounds/000/demonstrations", Candidate) is not None


def test_a_bootstrap_without_a_revision_to_learn_says_why(tmp_path: Path) -> None:
    settings = bootstrapped(tmp_path)
    Path(settings.constitution).write_text(Path(settings.constitution).read_text() + "    weight: 0\n")
    with pytest.raises(StageError, match="no revision is left"):
        run(tmp_path, settings)


def test_settings_of_the_bootstrap_alone_are_refused_without_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="read by the bootstrap alone"):
        write_campaign(tmp_path, revise__steps=2)
    with pytest.raises(ConfigError, match=r'unknown setting "revise\.train\.algorithm"'):
        write_campaign(tmp_path, bootstrap="critique-revision", revise__train__algorithm="dpo")


# With a reward model.


def test_a_reward_model_rewards_what_the_policy_is_trained_on(tmp_path: Path) -> None:
    workers = ScriptedWorkers(learns=0.1)
    settings = write_campaign(tmp_path, train__loss="{sigmoid: 1, distill: 0.5}", replay__ratio=0.5)
    run(tmp_path, settings, workers)
    assert [job.policy_path for job in workers.reward_jobs] == [str(tmp_path / "base")] * 2
    rewards = {row.candidate_id: row.reward for row in rows(tmp_path, "rounds/001/rewards", Reward)}
    pairs = rows(tmp_path, "rounds/001/pairs", Pair) + rows(tmp_path, "rounds/001/replay/pairs", Pair)
    assert all(rewards[pair.chosen_id] == 1.0 for pair in pairs)
    assert workers.jobs[1].rewards_dirs == (str(step(tmp_path, "rounds/001/rewards").path),)


@pytest.mark.parametrize(
    ("data", "rounds"), [("last", [[0], [1], [2]]), ("all", [[0], [1, 0], [2, 0, 1]]), (2, [[0], [1, 0], [2, 1]])]
)
def test_a_reward_model_learns_the_pairs_of_the_rounds_asked_for(data: Any, rounds: Any, tmp_path: Path) -> None:
    workers = ScriptedWorkers(learns=0.1)
    settings = write_campaign(tmp_path, rounds=3, train__reward_weight=True, reward_model__data=data)
    assert run(tmp_path, settings, workers).stopped is None

    def folders(part: str, numbers: list[int]) -> tuple[str, ...]:
        return tuple(str(tmp_path / f"run/rounds/{number:03d}/{part}") for number in numbers)

    for job, numbers in zip(workers.reward_jobs, rounds, strict=True):
        assert job.examples_dirs == folders("pairs", numbers)
        assert job.prompts_dirs == folders("prompts", numbers)
        assert job.candidates_dirs == folders("candidates", numbers)
        assert job.rewarded_dirs == folders("candidates", numbers[:1])


def test_replayed_pairs_are_not_learned_twice_by_the_reward_model(tmp_path: Path) -> None:
    workers = ScriptedWorkers(learns=0.1)
    settings = write_campaign(tmp_path, train__reward_weight=True, replay__ratio=0.5, reward_model__data="all")
    run(tmp_path, settings, workers)
    names = [Path(folder).parent.name for folder in workers.reward_jobs[1].candidates_dirs]
    assert names == ["001", "000"]
    assert [Path(folder).name for folder in workers.reward_jobs[1].examples_dirs] == ["pairs", "pairs"]
    assert len(workers.reward_jobs[1].rewarded_dirs) == 2  # replayed answers are rewarded too


def test_gold_answers_of_prompts_held_out_are_compared_with_sampled_ones(tmp_path: Path) -> None:
    workers, settings = ScriptedWorkers(), write_campaign(tmp_path, train__reward_weight=True, rounds=1)
    outcome = run(tmp_path, settings, workers)
    assert outcome.stopped is None
    opened = start(tmp_path, None, workers).run
    share, seed = settings.reward_model.holdout, settings.seed
    sampled = [c for c in rows(tmp_path, "rounds/000/candidates", Candidate) if is_held_out(c.prompt_id, share, seed)]
    found = opened.read_json("rounds/000/reward_report.json")["gold"]
    expected = sum(0.5 if c.text.startswith("kind") else 1.0 for c in sampled) / len(sampled)
    assert found["share"] == pytest.approx(expected) and found["num_answers"] == len(sampled)
    (event,) = [event for event in opened.events() if event["event"] == "reward_model"]
    assert event["gold"] == found["share"] and event["gold_low"] <= event["gold"] <= event["gold_high"]
    assert "gold answers above sampled ones" in (opened.path / "rounds/000/report.md").read_text()


def test_a_reward_model_that_is_no_better_than_chance_stops_the_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.scripted.write_rewards", lambda job: write_rewards(job, right=5))
    workers, settings = ScriptedWorkers(), write_campaign(tmp_path, train__reward_weight=True)
    for _ in range(2):  # the same command again finds the same
        outcome = run(tmp_path, settings, workers)
        assert outcome.stopped.startswith("no-go: held-out accuracy 0.500") and outcome.reports == ()
        assert outcome.policy.path == str(tmp_path / "base") and workers.jobs == []
    assert len(workers.reward_jobs) == 1
    opened = start(tmp_path, None, workers).run
    events = list(opened.events())
    assert [event["go"] for event in events if event["event"] == "reward_model"] == [False, False]
    assert events[-1]["event"] == "campaign_stopped" and events[-1]["reason"] == outcome.stopped
    assert opened.verify() == [] and [found.round for found in not_to_follow(opened)] == [0]
    for page in ("report.md", "report.html", "rounds/000/report.html"):
        text = (opened.path / page).read_text()
        assert "Round 0 was stopped before its policy was trained" in text and "What to do: train on more pairs" in text


def test_a_later_round_that_is_stopped_keeps_the_policy_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.scripted.write_rewards", lambda job: write_rewards(job, right=9 - 5 * job.round))
    outcome = run(tmp_path, write_campaign(tmp_path, train__reward_weight=True))
    assert [report.round for report in outcome.reports] == [0] and "accuracy 0.400" in outcome.stopped
    assert outcome.policy.id == outcome.reports[0].policy_id
    run_page, first = ((tmp_path / "run" / name).read_text() for name in ("report.md", "rounds/000/report.md"))
    assert "Round 1 was stopped" in run_page and "Verdict: go: held-out accuracy 0.900" in run_page
    assert "accuracy of length alone | 0.500" in first


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"train__algorithm": "reward_model"}, "not one of dpo, kto, bco, sppo, ranking, raft, sft, ppo"),
        ({"reward_model__holdout": 0.2}, "no round asks for rewards"),
        ({"train__reward_weight": True, "reward_model__combine": "min"}, "there is only one reward model"),
        (
            {"train__reward_weight": True, "reward_model__length_head": 1, "reward_model__train__batch_size": 1},
            "steps of one pair tell nothing of length",
        ),
        (
            {"train__reward_weight": True, "reward_model__ensemble": 4, "reward_model__variance_weight": 1},
            "`combine: mean` does not read it",
        ),
    ],
)
def test_reward_models_that_nobody_asks_for_are_refused(settings: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        write_campaign(tmp_path, **settings)


# On rollouts.


def test_ppo_samples_the_policy_as_it_is_at_each_iteration(tmp_path: Path) -> None:
    workers = ScriptedWorkers(learns=0.4)
    settings = write_campaign(tmp_path, train__algorithm="ppo", ppo__iterations=3, ppo__prompts=8, rounds=1)
    settings = replace(settings, reward_model=RewardModel(ensemble=2, combine="min"))
    outcome = run(tmp_path, settings, workers)
    assert outcome.stopped is None and outcome.reports[0].win_rates["base"].rate > 0.6
    names = [f"rounds/000/rollouts/{iteration:04d}/candidates" for iteration in range(3)]
    sampled = [rows(tmp_path, name, Candidate) for name in names]
    assert [len(candidates) for candidates in sampled] == [8, 8, 8]
    assert len({candidates[0].policy_id for candidates in sampled}) == 3
    assert all(c.logprobs == (-1.0,) * 4 for candidates in sampled for c in candidates)
    assert {c.logprobs for c in rows(tmp_path, "rounds/000/heldout/candidates", Candidate)} == {()}
    asked = [{c.prompt_id for c in candidates} for candidates in sampled]
    assert not asked[0] & asked[1]  # every prompt of the round before any comes again
    assert workers.jobs[0].reward_path == workers.reward_jobs[0].output_dir
    assert workers.jobs[0].rewarded_by == settings.reward_model
    again = ScriptedWorkers()
    assert run(tmp_path, settings, again) == outcome and again.rollouts == []


def test_a_judge_that_turns_against_the_reward_stops_the_policy_at_its_best(tmp_path: Path) -> None:
    """The scripted reward rises whatever happens; here every iteration makes the policy ruder."""
    workers = ScriptedWorkers(learns=-2.0)
    asked = {"ppo__iterations": 12, "ppo__prompts": 8, "ppo__guard_every": 1, "rounds": 1}
    outcome = run(tmp_path, write_campaign(tmp_path, train__algorithm="ppo", **asked), workers)
    assert "the reward is over-optimised" in workers.stopped and len(workers.rollouts) < 12
    looks = events(tmp_path, "guard")
    assert looks[0]["win_rate"]["mean"] == pytest.approx(0.5) and looks[-1]["win_rate"]["mean"] < 0.4
    assert looks[-1]["best"] <= 1 and outcome.reports[0].win_rates["base"].rate > 0.4
    page = (tmp_path / "run/rounds/000/report.md").read_text()
    assert "| ended early | the reward is over" in page and "since iteration 0 it rose from 0 to" in page
    guarded = read_guard(start(tmp_path, None, workers).run, 0)
    assert [look.rate for look in guarded.looks] == [look["win_rate"]["mean"] for look in looks]
    assert (guarded.best, guarded.stopped) == (looks[-1]["best"], workers.stopped)
    page = (tmp_path / "run/rounds/000/report.html").read_text()
    assert "Training was stopped in iteration" in page and ">kept: " in page and ">stopped<" in page


def test_a_reward_that_leads_nowhere_ends_the_campaign_with_the_policy_it_began_with(tmp_path: Path) -> None:
    workers = ScriptedWorkers(learns=-6.0)
    asked = {"ppo__iterations": 12, "ppo__prompts": 8, "ppo__guard_every": 1}
    settings = write_campaign(tmp_path, train__algorithm="ppo", **asked)
    outcome = run(tmp_path, settings, workers)
    assert "and the weights that the round began with kept (the reward is over-optimised" in outcome.stopped
    assert "What to do" in outcome.stopped
    assert len(outcome.reports) == 1 and outcome.policy.path == str(tmp_path / "base")
    assert outcome.reports[0].win_rates["base"].rate == 0.5
    assert run(tmp_path, settings, ScriptedWorkers()).stopped == outcome.stopped


def test_the_evaluation_and_the_guard_may_judge_by_other_principles(tmp_path: Path) -> None:
    meant = tmp_path / "meant.yaml"
    meant.write_text(CONSTITUTION.replace("name: kindness", "name: meant").replace("the kinder", "what is the kinder"))
    settings = write_campaign(
        tmp_path, train__algorithm="ppo", ppo__iterations=3, ppo__prompts=8, ppo__guard_every=1, rounds=1,
        evaluate__constitution=str(meant),
    )  # fmt: skip
    report = run(tmp_path, settings).reports[0]
    labelling, evaluating = (load(tmp_path / f"run/rounds/000/{name}.yaml") for name in ("constitution", "evaluation"))
    said = {
        name: {row.principle_hash for row in rows(tmp_path, f"rounds/000/{name}", Judgment)}
        for name in ("judgments", "heldout/judgments", "rollouts/0002/heldout/judgments")
    }
    assert said["judgments"] == {labelling.principles[0].hash}
    assert said["heldout/judgments"] == said["rollouts/0002/heldout/judgments"] == {evaluating.principles[0].hash}
    assert report.win_rates["base"].n == 24 and report.judges["evaluating"].num_judgments
    assert report.constitution_hash == labelling.hash and report.standard == f"meant 1.0.0 ({evaluating.hash})"
    for name in ("report", "model_card"):
        assert "judged by" in (tmp_path / f"run/rounds/000/{name}.md").read_text()


def test_a_run_with_rollouts_is_reported_verified_and_branched(tmp_path: Path) -> None:
    settings = write_campaign(tmp_path, train__algorithm="ppo", ppo__iterations=3, ppo__prompts=8)
    outcome = run(tmp_path, settings, ScriptedWorkers(learns=0.1))
    opened = start(tmp_path, settings, ScriptedWorkers()).run
    assert opened.verify() == []
    assert set(outcome.reports[0].seconds) == {*STAGES} - {"revise"}
    sampled = step(tmp_path, "rounds/000/candidates").counts["seconds"]
    assert outcome.reports[0].seconds["generate"] == sampled  # rollouts are part of the training's time
    page, card = ((opened.path / f"rounds/000/{name}.md").read_text() for name in ("report", "model_card"))
    for text in (page, card):
        assert "| trained on | 24 rollouts |" in text and "from 40 pairs, accuracy 0.900 (" in text
        assert "PPO (gae, KL coefficient 0.05), learning rate 5e-06, 3 iterations of" in text
        assert "rounds/000/rollouts/0002/candidates" in text and "rollouts/0002/prompts" not in text
    assert "Scores of the reward model, by iteration: score 0 (0) to 0.4 (2); with the KL penalty" in page
    assert "tags: [selfalign, ppo," in card
    with opened.lock():
        branched = branch(opened, 0, tmp_path / "branched")
    assert branched.verify() == [] and branched.view("rounds/000/rollouts/0002/candidates").done
    assert main(["verify", str(branched.path)]) == main(["report", str(opened.path)]) == 0
    with branched.lock():
        again = run_campaign(Work(branched, settings, ScriptedWorkers(learns=0.1)))
    assert [report.win_rates for report in again.reports] == [report.win_rates for report in outcome.reports]
    progress = Progress.of(opened.events())
    assert progress.stages[0, "train"].finished and progress.stages[0, "train"].metrics["iteration"] == 2
    assert progress.stages[0, "generate"].counts["candidates"] == 60


def test_an_engine_that_keeps_old_weights_is_caught_between_iterations(tmp_path: Path) -> None:
    settings = write_campaign(tmp_path, train__algorithm="ppo", ppo__iterations=3, ppo__prompts=8, rounds=1)
    with pytest.raises(EngineError, match="stale policy"):
        run(tmp_path, settings, ScriptedWorkers(stale=True))
    assert step(tmp_path, "rounds/000/rollouts/0000/candidates").done
    assert not step(tmp_path, "rounds/000/rollouts/0001/candidates").done
    assert run(tmp_path, settings).stopped is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ppo__iterations": 3}, "no round trains by PPO"),
        ({"train__algorithm": "ppo", "reference": "ema"}, "averages none"),
        ({"train__algorithm": "ppo", "policy__adapter": {"rank": 4, "dropout": 0.1}}, "differ by chance"),
        ({"train__algorithm": "ppo", "ppo__stop_disagreement": 2}, "nobody to disagree with"),
        ({"train__algorithm": "ppo", "ppo__sampler_clip": 2, "generate__temperature": 0.7}, "at temperature 1"),
        ({"train__algorithm": "ppo", "ppo__advantage": "rloo"}, "compares the answers to one prompt"),
    ],
)
def test_settings_of_ppo_that_make_no_sense_are_refused(settings: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        write_campaign(tmp_path, **settings)


def test_a_phase_of_ppo_follows_one_of_dpo(tmp_path: Path) -> None:
    phases = "[{rounds: 1}, {rounds: 1, train: {algorithm: ppo}}]"
    workers = ScriptedWorkers(learns=0.2)
    settings = write_campaign(tmp_path, schedule=phases, ppo__iterations=2, ppo__prompts=8)
    outcome = run(tmp_path, settings, workers)
    assert [job.train.algorithm for job in workers.jobs] == ["dpo", "ppo"]
    assert workers.jobs[1].policy_path == workers.jobs[0].output_dir and len(workers.rollouts) == 2
    assert step(tmp_path, "rounds/000/reward_model") is None and len(workers.reward_jobs) == 1
    assert [report.examples for report in outcome.reports] == ["pairs", "pairs"]
