"""What a campaign is counted to do, against counts made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfalign.cli.estimate import Needs, Speed, count_needs
from selfalign.cli.models import ModelSize
from selfalign.cli.plan import estimates
from selfalign.cli.targets import check_inputs
from selfalign.cli.workload import RoundWork, Workload, count_work, examples_per_prompt, phases
from selfalign.config import (
    Adapter,
    Campaign,
    Evaluate,
    EvaluateJudge,
    Generate,
    Judge,
    Optimizer,
    Pairs,
    Phase,
    Policy,
    Ppo,
    Replay,
    Revise,
    RewardModel,
    Train,
    load,
)
from selfalign.constitution import Constitution
from selfalign.constitution import load as load_constitution
from selfalign.progress import works_of
from selfalign.records import Message, Prompt
from tests.cli.conftest import Cli
from tests.cli.fabricate import RULES

PROMPTS = [Prompt.make((Message("user", f"q{i}"),), response="gold" if i < 4 else None) for i in range(10)]
HELDOUT = [Prompt.make((Message("user", f"h{i}"),)) for i in range(3)]


@pytest.fixture
def rules(tmp_path: Path) -> Constitution:
    (tmp_path / "rules.yaml").write_text(
        RULES + '  - {id: safe, text: "Safe.", kind: hard_constraint}\n  - {id: brief, text: "Brief."}\n'
    )
    return load_constitution(tmp_path / "rules.yaml")


def counted(rules: Constitution, **settings: Any) -> tuple[RoundWork, ...]:
    return count_work(Campaign(**settings), {"train": PROMPTS, "heldout": HELDOUT}, rules).rounds


@pytest.mark.parametrize(
    ("judge", "judgments"),
    [
        ({}, 6 * 2 * 2),  # one principle is drawn, and the hard constraint always asked
        ({"principles": "all"}, 6 * 2 * 3),
        ({"both_orders": False}, 6 * 2),
        ({"comparisons": "ring"}, 4 * 2 * 2),
        ({"comparisons": "random", "budget": 5}, 5 * 2 * 2),
        ({"comparisons": "active", "budget": 3}, 3 * 2 * 2),
        ({"method": "pairwise-cot", "samples": 3}, 6 * 2 * 2),
        ({"method": "pointwise-logprob"}, 4 * 2),
        ({"method": "pointwise-cot"}, 4 * 2),
        ({"method": "rubric"}, 4 * 2),
    ],
)
def test_judgments_of_a_prompt(judge: dict, judgments: int, rules: Constitution) -> None:
    assert counted(rules, judge=Judge(**judge))[0].judgments == 10 * judgments


@pytest.mark.parametrize(
    ("settings", "examples"),
    [
        ({}, 1),
        ({"pairs": Pairs(strategy="rso")}, 1),
        ({"pairs": Pairs(strategy="all")}, 6),
        ({"pairs": Pairs(strategy="all", max_per_prompt=2)}, 2),
        ({"pairs": Pairs(strategy="random")}, 1),
        ({"pairs": Pairs(strategy="random", max_per_prompt=4)}, 4),
        ({"pairs": Pairs(strategy="margin-buckets", buckets=4)}, 4),
        ({"pairs": Pairs(strategy="margin-buckets"), "generate": Generate(samples=2)}, 1),
        ({"pairs": Pairs(strategy="all"), "judge": Judge(comparisons="active", budget=3)}, 3),
        ({"train": Train(algorithm="kto")}, 1),
        ({"train": Train(algorithm="raft")}, 1),
    ],
)
def test_examples_of_a_prompt(settings: dict, examples: int) -> None:
    assert examples_per_prompt(Campaign(**settings)) == examples


def test_the_evaluation_is_counted_by_the_principles_that_it_judges_by(rules: Constitution) -> None:
    few = replace(rules, principles=rules.principles[:1])
    campaign = Campaign(judge=Judge(principles="all"))
    own, other = (
        count_work(campaign, {"train": PROMPTS, "heldout": HELDOUT}, rules, standard).rounds[1]
        for standard in (None, few)
    )
    assert own.judgments == other.judgments
    assert (own.heldout_judgments, other.heldout_judgments) == (3 * 2 * 2 * 3, 3 * 2 * 2)


def test_gold_answers_are_learned_without_sampling_or_judging(rules: Constitution) -> None:
    work = counted(rules, train=Train(algorithm="sft"))[0]
    assert (work.kind, work.candidates, work.judgments, work.examples) == ("demonstrations", 0, 0, 4)
    assert (work.trained_answers, work.passes) == (4, 3)  # no reference is asked


def test_reasons_are_counted_for_each_judgment_of_a_judge_that_gives_them(rules: Constitution) -> None:
    judge = Judge(method="pairwise-cot", samples=3)
    first, second = counted(rules, rounds=2, judge=judge)
    assert first.chains == 3 * (first.judgments + first.heldout_judgments) == 3 * (10 * 24 + 3 * 2 * 2)
    assert second.chains == 3 * (second.judgments + second.heldout_judgments)
    evaluate = Evaluate(judge=EvaluateJudge(method="pairwise-logprob"))
    assert counted(rules, rounds=1, judge=judge, evaluate=evaluate)[0].chains == 3 * 10 * 24
    assert counted(rules, rounds=1)[0].chains == 0


def test_plan_shows_reasons_and_worked_examples(cli: Cli, tmp_path: Path) -> None:
    example = 'examples: [{prompt: "Worked?", better: "Fine.", worse: "Poor.", critique: "It is poor."}]'
    (tmp_path / "rules.yaml").write_text(RULES.replace('kind."}', f'kind.", {example}}}'))
    judge = "judge: {method: pairwise-cot, examples: 1, cot_tokens: 100}\n"
    (tmp_path / "c.yaml").write_text(f"recipe: pocket\nname: c\nrounds: 1\nconstitution: rules.yaml\n{judge}")
    told = cli("plan", "c.yaml", "--offline", "--set", "engine.backend=transformers", cwd=tmp_path)
    shown = told.stdout
    assert "its reasons come as free text" in told.stderr
    assert "Worked?" in shown and "It is poor." in shown and '"reason": "your reasons' in shown
    assert "tokens of the judge's reasons" in shown


def test_spin_samples_and_asks_no_judge(rules: Constitution) -> None:
    work = counted(rules, pairs=Pairs(strategy="spin"))[0]
    assert (work.candidates, work.judgments, work.examples, work.trained_answers) == (40, 0, 4, 8)


def test_a_reward_model_reads_the_pairs_and_then_all_candidates(rules: Constitution) -> None:
    train = Train(loss={"sigmoid": 1.0, "distill": 1.0})
    model = RewardModel(train=Optimizer(epochs=2))
    assert counted(rules, train=train, reward_model=model)[0].reward_passes == 3 * 2 * 20 + 40
    model = RewardModel(train=Optimizer(epochs=2), length_head=1.0)
    assert counted(rules, train=train, reward_model=model)[0].reward_passes == 4 * 2 * 20 + 40
    assert counted(rules)[0].reward_passes == 0


@pytest.mark.parametrize(("data", "pairs"), [("last", [10, 10, 10]), ("all", [10, 20, 30]), (2, [10, 20, 20])])
def test_a_reward_model_reads_the_pairs_of_its_rounds(rules: Constitution, data: Any, pairs: list[int]) -> None:
    found = counted(rules, train=Train(reward_weight=True), reward_model=RewardModel(data=data))
    assert [work.reward_passes for work in found] == [3 * 2 * n + 40 for n in pairs]
    several = counted(rules, train=Train(reward_weight=True), reward_model=RewardModel(data=data, ensemble=4))
    assert [work.reward_passes for work in several] == [4 * work.reward_passes for work in found]


@pytest.mark.parametrize(
    ("advantage", "samples", "passes"),
    [
        ("gae", 1, 1 + 1 + 1 + 1 + 3 * 4 * 2),  # policy, critic, reference and reward model; then two are trained
        ("grpo", 3, 1 + 1 + 1 + 3 * 4),
    ],
)
def test_rollouts_are_sampled_scored_and_trained_on(
    advantage: Any, samples: int, passes: int, rules: Constitution
) -> None:
    ppo = Ppo(iterations=5, prompts=8, samples=samples, advantage=advantage)
    work = counted(rules, train=Train(algorithm="ppo"), ppo=ppo)[0]
    assert (work.rollout_prompts, work.rollouts) == (5 * 8, 5 * 8 * samples)
    assert (work.trained_answers, work.trained_prompts, work.passes) == (work.rollouts, 40, passes)
    assert work.generations == 40 + work.rollouts + 3
    assert work.reward_passes == 3 * 2 * 10 + 40
    few = counted(rules, train=Train(algorithm="ppo"), ppo=Ppo(iterations=5, prompts=64))[0]
    assert few.rollouts == 5 * 10  # no more prompts than the round has


def test_rollouts_that_the_judge_rewards_need_no_pairs(rules: Constitution) -> None:
    judge, ppo = Judge(method="pointwise-logprob"), Ppo(iterations=5, prompts=8, reward="judge")
    work = counted(rules, train=Train(algorithm="ppo"), judge=judge, ppo=ppo)[0]
    assert (work.candidates, work.judgments, work.examples, work.reward_passes) == (0, 0, 0, 0)
    assert (work.rollouts, work.rollout_judgments, work.passes) == (40, 40 * 2, 1 + 1 + 1 + 3 * 4 * 2)
    every = replace(judge, principles="all")
    panel = len(rules.active)
    assert counted(rules, train=Train(algorithm="ppo"), judge=every, ppo=ppo)[0].rollout_judgments == 40 * panel
    assert work.canary_judgments == 3 * 7 * 2  # the real answer of each held-out prompt, and six canaries
    assert work.verdicts == 40 * 2 + work.heldout_judgments + work.canary_judgments
    campaign = Campaign(rounds=1, train=Train(algorithm="ppo"), judge=judge, ppo=ppo)
    assert works_of(campaign) == ["roll out and judge"]


@pytest.mark.parametrize(
    ("judge", "judgments"),
    [
        ({}, 3 * 6 * 2 * 2),  # three held-out prompts are fewer than the eight asked for
        ({"both_orders": False}, 3 * 6 * 2),
        ({"canaries": 2, "principles": "all"}, 2 * 6 * 2 * 3),
        ({"canaries": 0}, 0),
    ],
)
def test_judgments_on_canaries(judge: dict, judgments: int, rules: Constitution) -> None:
    assert counted(rules, judge=Judge(**judge))[0].canary_judgments == judgments
    assert counted(rules, judge=Judge(**judge), pairs=Pairs(strategy="spin"))[0].canary_judgments == 0


@pytest.mark.parametrize(
    ("settings", "bytes_each"),
    [
        ({"train": Train()}, 16),
        ({"train": Train(algorithm="ppo")}, 16 + 4 + 4 + 16),  # policy, reference, reward model, critic
        ({"train": Train(algorithm="ppo"), "ppo": Ppo(advantage="rloo", samples=2)}, 16 + 4 + 4),
        ({"train": Train(algorithm="ppo"), "reward_model": RewardModel(scorer="engine")}, 16 + 4 + 16),
        ({"train": Train(algorithm="ppo"), "ppo": Ppo(reward="judge")}, 16 + 4 + 16),  # the critic is the policy's size
        ({"train": Train(algorithm="ppo"), "ppo": Ppo(reward="judge", advantage="rloo", samples=2)}, 16 + 4),
        ({"train": Train(algorithm="ppo"), "policy": Policy(adapter=Adapter())}, 4 + 4 + 16),
        ({"schedule": (Phase(rounds=2), Phase(rounds=1, train={"algorithm": "ppo"}))}, 16 + 4 + 4 + 16),
    ],
)
def test_memory_of_a_trainer(
    settings: dict, bytes_each: int, rules: Constitution, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selfalign.cli.estimate.gpu_memory", lambda: None)
    monkeypatch.setattr("selfalign.cli.estimate.model_folder", lambda model: Path(model))
    monkeypatch.setattr("selfalign.cli.estimate.read_size", lambda folder: ModelSize(1000, 4000))
    campaign = Campaign(**settings)
    needs = count_needs(campaign, count_work(campaign, {"train": PROMPTS, "heldout": HELDOUT}, rules))
    assert needs.trainer == 1000 * bytes_each
    assert needs.rollouts == (bytes_each != 16)


def test_a_trainer_that_waits_for_rollouts_shares_the_gpu() -> None:
    assert Needs(None, None, 40, 60, 80, "GPU").fits
    assert not Needs(None, None, 40, 60, 80, "GPU", rollouts=True).fits
    assert not Needs(None, None, 40, 60, 80, "CPU").fits


def test_the_bootstrap_is_round_0(rules: Constitution) -> None:
    campaign = Campaign(rounds=1, bootstrap="critique-revision", revise=Revise(num_prompts=5, steps=2))
    helpful = [Prompt.make((Message("user", f"help {i}"),)) for i in range(9)]
    first, second = count_work(campaign, {"train": PROMPTS, "heldout": HELDOUT, "helpful": helpful}, rules).rounds
    assert (first.candidates, first.revisions, first.judgments) == (5 + 3, 5 * 2 * 2, 0)
    assert (first.kind, first.examples) == ("demonstrations", 5 * 2 + 2)  # a quarter of ten, rounded to even
    assert first.generations == 8 + 20 + 3
    assert (second.kind, second.candidates, second.revisions) == ("pairs", 40, 0)


def test_phases_are_counted_each_and_replay_takes_from_its_own_kind(rules: Constitution) -> None:
    schedule = (Phase(rounds=2), Phase(rounds=1, train={"algorithm": "kto"}), Phase(rounds=1))
    rounds = counted(rules, rounds=4, schedule=schedule, replay=Replay(ratio=1.5))
    assert [work.kind for work in rounds] == ["pairs", "pairs", "rankings", "pairs"]
    assert [work.replayed for work in rounds] == [0, 10, 0, 15]
    assert [work.trained_answers for work in rounds] == [20, 40, 40, 50]
    assert [work.replayed for work in counted(rules, replay=Replay(rounds=1, ratio=9.0))] == [0, 10, 10]


def test_phases_have_their_rounds_and_settings() -> None:
    campaign = Campaign(
        rounds=3,
        bootstrap="critique-revision",
        schedule=(Phase(rounds=2), Phase(rounds=1, train={"beta": 0.5}, pairs={"strategy": "rso"})),
    )
    found = phases(campaign)
    assert [phase.name for phase in found] == ["round 0", "rounds 1 to 2", "round 3"]
    assert [phase.bootstraps for phase in found] == [True, False, False]
    assert found[2].changes == {"train.beta": 0.5, "pairs.strategy": "rso"}
    assert [phase.settings.train.algorithm for phase in found] == ["sft", "dpo", "dpo"]
    assert [phase.name for phase in phases(Campaign(rounds=1))] == ["round 0"]


def test_seconds_follow_the_counts() -> None:
    speed = Speed(
        9.0,
        sampled_tokens_per_second=100.0,
        tokens_per_answer=10.0,
        judgments_per_second=5.0,
        questions_read_per_second=5.0,
    )
    work = RoundWork(0, "pairs", candidates=20, revisions=40, judgments=10, heldout=5, heldout_judgments=5,
                     examples=3, trained_answers=6, passes=4, reward_passes=40)  # fmt: skip
    whole = Workload((work,), prompt_tokens=20.0, judge_tokens=40.0, exact_tokens=True)
    assert speed.seconds(work, whole) == pytest.approx(
        {
            "generate": 2.0,
            "revise": 4.0,
            "judge": 2.0,
            "reward": 40 * 30 / 200,
            "train": 4 * (60 + 60) / 200,
            "evaluate": 1.5,
        }
    )


def test_the_seconds_of_training_on_rollouts_are_those_of_sampling_too() -> None:
    speed = Speed(
        9.0,
        sampled_tokens_per_second=100.0,
        tokens_per_answer=10.0,
        judgments_per_second=5.0,
        questions_read_per_second=5.0,
    )
    work = RoundWork(0, "pairs", examples=3, rollout_prompts=4, rollouts=8, trained_answers=8, passes=5)
    whole = Workload((work,), prompt_tokens=20.0, judge_tokens=40.0, exact_tokens=True)
    assert speed.seconds(work, whole)["train"] == pytest.approx(0.8 + 5 * (80 + 80) / 200)


def test_plan_adds_up_the_seconds_of_all_rounds() -> None:
    campaign = Campaign(rounds=2, schedule=(Phase(rounds=1), Phase(rounds=1, train={"algorithm": "sft"})))
    speed = Speed(
        9.0,
        sampled_tokens_per_second=100.0,
        tokens_per_answer=10.0,
        judgments_per_second=5.0,
        questions_read_per_second=5.0,
    )
    rounds = RoundWork(0, "pairs", candidates=20, judgments=10), RoundWork(1, "demonstrations", heldout=5)
    whole = Workload(rounds, prompt_tokens=20.0, judge_tokens=40.0, exact_tokens=True)
    needs = Needs(None, None, None, None, 0, "CPU")
    rows = {row[0]: row[1:] for row in estimates(campaign, phases(campaign), whole, needs, speed)}
    assert rows["judgments"] == ("10", "0", "10")
    assert rows["generate, about"] == ("2.0 s", "0.0 s", "2.0 s")
    assert rows["evaluate, about"] == ("0.0 s", "0.5 s", "0.5 s")
    assert rows["time, about"] == ("4.0 s", "0.5 s", "14 s")  # with the start of the engine
    assert "revise, about" not in rows
    assert "replayed" not in rows


DEEP = """\
recipe: pocket
name: deep
rounds: 4
bootstrap: critique-revision
revise: {prompts: prompts/train/pocket.jsonl, num_prompts: 100, helpful: prompts/train/pocket.jsonl, steps: 2}
replay: {ratio: 0.5}
schedule:
  - {rounds: 3, train: {loss: {sigmoid: 1, nll: 0.2}, beta: 0.5}}
  - {rounds: 1, train: {algorithm: kto}}
"""


def test_plan_shows_a_line_for_each_phase(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "deep.yaml").write_text(DEEP)
    shown = cli("plan", "deep.yaml", "--offline", cwd=tmp_path).stdout
    lines = {" ".join(line.split()) for line in shown.splitlines()}
    assert "round 0 demonstrations sft – critique and revision in 2 steps, with 0.25 helpful answers for each" in lines
    assert "rounds 1 to 3 pairs dpo sigmoid + 0.2 nll train.beta 0.5" in lines
    assert "round 4 rankings kto – –" in lines
    assert "critiques and revisions 400 0 0 400" in lines
    assert "replayed 0 128 0 256" in lines


def test_plan_names_the_advantage_of_ppo_and_counts_its_rollouts(cli: Cli, tmp_path: Path) -> None:
    ppo = "train: {algorithm: ppo}\nppo: {iterations: 3, prompts: 10, samples: 1}\nreward_model: {holdout: 0.2}\n"
    (tmp_path / "ppo.yaml").write_text(f"recipe: pocket\nname: deep\nrounds: 2\n{ppo}")
    shown = cli("plan", "ppo.yaml", "--offline", cwd=tmp_path).stdout
    lines = {" ".join(line.split()) for line in shown.splitlines()}
    assert "rounds 0 to 1 pairs ppo gae –" in lines
    assert "rollouts 30 60" in lines


def test_the_prompts_of_the_bootstrap_are_read_and_kept_apart_from_the_held_out(tmp_path: Path) -> None:
    (tmp_path / "deep.yaml").write_text(DEEP)
    found = check_inputs(load(tmp_path / "deep.yaml"))
    assert set(found) == {"train", "heldout", "revise", "helpful"}
    held_out = DEEP.replace("revise: {prompts: prompts/train/", "revise: {prompts: prompts/heldout/")
    (tmp_path / "wrong.yaml").write_text(held_out)
    with pytest.raises(Exception, match="held-out prompts are training prompts too"):
        check_inputs(load(tmp_path / "wrong.yaml"))
