"""The steps of training on rollouts: what a trainer is handed when it asks, and a judge's look at where it goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfalign.constitution import Constitution
from selfalign.heldout import judge_heldout, sample_heldout, write_prompts
from selfalign.objective import hands_rewards
from selfalign.records import Candidate, Checkpoint, Guarded, Judgment, Look, Prompt, derived_seed
from selfalign.roles import Baseline, JudgeModel, policy_engine
from selfalign.stages import evaluate, generate, judge, prompts, report, reward, train
from selfalign.steps import Shards, Work, only, perform, records_of
from selfalign.store import Step
from selfalign.training import guards


def in_training(model: str, policy: Checkpoint, number: int) -> Checkpoint:
    """A folder of weights on the way."""
    digest = train.model_digest(Path(model))
    return Checkpoint(digest, policy.id, "policy", model, number, digest)


def hand_out(
    work: Work,
    number: int,
    iteration: int,
    data: train.Data,
    constitution: Constitution,
    current: Checkpoint,
    baseline: Baseline,
    rewarder: JudgeModel | None,
) -> dict[str, list[str]]:
    """What the trainer asks for, as folders of records: prompts, answers, and rewards where it does not find them.

    `current` is the policy in training, `rewarder` a judge that rewards in place of a reward model.
    """
    asked, answers = sample_rollouts(work, number, iteration, data, current, baseline)
    folders = {"prompts": [str(asked.path)], "candidates": [str(answers.path)]}
    if not hands_rewards(work.settings):
        return folders
    if rewarder is None:
        rewarded = score_rollouts(work, number, iteration, asked, answers, data)
    else:
        said = judge_rollouts(work, number, iteration, asked, answers, constitution, rewarder)
        rewarded = reward_rollouts(work, number, iteration, answers, said, constitution, rewarder)
    return folders | {"rewards": [str(rewarded.path)]}


def sample_rollouts(
    work: Work, number: int, iteration: int, data: train.Data, current: Checkpoint, baseline: Baseline
) -> tuple[Step, Step]:
    """Some of the round's prompts, and the answers of the policy in training to them.

    The weights are proven to be what the engine samples from, as after every reload.
    """
    settings, folder = work.settings, f"rounds/{number:03d}/rollouts/{iteration:04d}"
    seed = derived_seed(settings.seed, "rollouts", number)
    available = records_of(data.prompts[0], Prompt)
    drawn = prompts.draw(available, min(settings.ppo.prompts, len(available)), seed, iteration)
    asked = write_prompts(work, f"{folder}/prompts", drawn, number, told=False)
    sampling = replace(settings.generate, samples=settings.ppo.samples)

    def process(missing: list[int]) -> Shards:
        return generate.generate(
            only(missing, asked, Prompt), policy_engine(work, current, baseline), sampling,
            policy_id=current.id, seed=derived_seed(seed, iteration), by_token=True,
        )  # fmt: skip

    answers = perform(
        work, "generate", f"{folder}/candidates", process, after=[asked], inputs={"policy": current.digest},
        config=[sampling, seed], count=lambda _, rows: generate.count_candidates(rows), round=number, told=False,
    )  # fmt: skip
    return asked, answers


def score_rollouts(work: Work, number: int, iteration: int, asked: Step, answers: Step, data: train.Data) -> Step:
    """The rewards of the rollouts by the round's reward model, in the engine.

    Its weights are proven to be what the engine rewards with, as a policy's are.
    """
    model = data.reward_model

    def process(missing: list[int]) -> Shards:
        engine = work.workers.engine(model.path, trust_remote_code=work.settings.policy.trust_remote_code)
        reward.prove_loaded(engine, model, *rewarded_probes(data))
        shards = ((index, asked.read(Prompt, index), answers.read(Candidate, index)) for index in missing)
        return reward.score(shards, engine, model_id=model.id)

    return perform(
        work, "reward", f"rounds/{number:03d}/rollouts/{iteration:04d}/rewards", process,
        after=[asked, answers], inputs={"reward model": model.digest},
        count=lambda _, rows: {"rewards": len(rows)}, round=number, told=False,
    )  # fmt: skip


def rewarded_probes(data: train.Data) -> tuple[list[Prompt], list[Candidate]]:
    """Some of the candidates that the trainer of the reward model has rewarded, with their prompts."""
    return data.prompts[0].read(Prompt, 0), data.candidates[0].read(Candidate, 0)


def judge_rollouts(
    work: Work,
    number: int,
    iteration: int,
    asked: Step,
    answers: Step,
    constitution: Constitution,
    rewarder: JudgeModel,
) -> Step:
    """The labelling judge's ratings of the rollouts, each answer by itself; principles are drawn anew each iteration.

    Raises StageError where too many of its verdicts are invalid.
    """
    settings, seed = work.settings.judge, derived_seed(work.settings.seed, "judge", number, iteration)
    judge_id, open_judge = rewarder

    def process(missing: list[int]) -> Shards:
        shards = ((index, asked.read(Prompt, index), answers.read(Candidate, index)) for index in missing)
        return judge.judge(shards, open_judge(), constitution, settings, judge_id=judge_id, seed=seed, alone=True)

    said = perform(
        work, "judge", f"rounds/{number:03d}/rollouts/{iteration:04d}/judgments", process,
        after=[asked, answers],
        inputs={"constitution": judge.words_hash(constitution, settings), "judge": judge_id}, config=[settings, seed],
        count=lambda _, rows: judge.count_verdicts(rows), round=number, told=False,
    )  # fmt: skip
    judge.check_invalid_share(said.counts, settings.max_invalid)
    return said


def reward_rollouts(
    work: Work,
    number: int,
    iteration: int,
    answers: Step,
    said: Step,
    constitution: Constitution,
    rewarder: JudgeModel,
) -> Step:
    """The judge's ratings as rewards. An answer with an invalid verdict has none."""
    highest = work.settings.judge.highest_rating

    def process(missing: list[int]) -> Shards:
        for index in missing:
            sampled, verdicts = answers.read(Candidate, index), said.read(Judgment, index)
            yield index, reward.judged_rewards(sampled, verdicts, constitution, highest, rewarder[0])

    return perform(
        work, "reward", f"rounds/{number:03d}/rollouts/{iteration:04d}/rewards", process,
        after=[answers, said], inputs={"constitution": constitution.hash}, config=[highest],
        count=lambda _, rows: {"rewards": len(rows)}, round=number, told=False,
    )  # fmt: skip


def judged_rollouts(work: Work, number: int) -> Iterator[tuple[list[Candidate], list[Judgment]]]:
    """What the judge rewarded in a round, shard by shard, with its verdicts."""
    for answers, said, _ in _judged(work, number):
        yield from ((answers.read(Candidate, index), verdicts) for index, verdicts in said.shards(Judgment))


def count_rewarded(work: Work, number: int) -> dict[str, Any]:
    """The rollouts that a round was trained on, as fields of its report: a judge rewarded some and left out others."""
    counts = [(answers.counts["candidates"], given.counts["rewards"]) for answers, _, given in _judged(work, number)]
    rewarded = sum(given for _, given in counts)
    left_out = sum(answers for answers, _ in counts) - rewarded
    discarded = {"without_reward": left_out} if left_out else {}
    return {"examples": "rollouts", "num_examples": rewarded, "discarded": discarded}


def _judged(work: Work, number: int) -> Iterator[list[Step]]:
    """The answers, judgments and rewards of each iteration that a judge rewarded."""
    for iteration in range(work.settings.ppo.iterations):
        folder = f"rounds/{number:03d}/rollouts/{iteration:04d}"
        steps = [work.run.view(f"{folder}/{name}") for name in ("candidates", "judgments", "rewards")]
        if all(step is not None and step.done for step in steps):
            yield steps


def guard_policy(
    work: Work,
    number: int,
    iteration: int,
    current: Checkpoint,
    scores: Sequence[float],
    standard: Constitution,
    policy: Checkpoint,
    baseline: Baseline,
    readings: dict[int, guards.Reading],
) -> dict[str, Any]:
    """Which iteration the evaluating judge likes best so far, and why to stop, if it turns against the reward.

    It looks every `ppo.guard_every` iterations, at held-out prompts, by the principles of `standard`. `readings`
    remembers by iteration what it saw; what is missing there after an interruption is read from the records. `scores`
    are the mean rewards so far. What was seen is written into the round's folder.
    """
    every, folder = work.settings.ppo.guard_every, f"rounds/{number:03d}/rollouts"
    if every is None:
        return {"best": None, "stop": None}
    looks = range(0, iteration + 1, every)
    if iteration in looks:
        look(work, f"{folder}/{iteration:04d}/heldout", number, current, standard, policy, baseline)
    for at in looks:
        if at not in readings:
            readings[at] = read_look(work, f"{folder}/{at:04d}/heldout", standard, baseline)
    best = looks[guards.best_iterate([readings[at] for at in looks])]
    if iteration in looks:
        work.run.emit("guard", round=number, iteration=iteration, win_rate=readings[iteration]._asdict(), best=best)
    scored = [at for at in looks if at < len(scores)]
    stop = guards.overoptimised([scores[at] for at in scored], [readings[at] for at in scored], scored)
    if iteration in looks or stop is not None:
        seen = tuple(Look(at, *readings[at]) for at in looks)
        report.write_guard(work.run, number, Guarded(seen, best, stop, iteration if stop is not None else None))
    return {"best": best, "stop": stop}


def look(
    work: Work,
    folder: str,
    number: int,
    current: Checkpoint,
    standard: Constitution,
    policy: Checkpoint,
    baseline: Baseline,
) -> None:
    """Held-out answers of the policy in training, and what the judge says of them beside the base's."""
    asked = guarded_prompts(work, number, baseline)
    answers = sample_heldout(
        work, f"{folder}/candidates", asked, lambda: policy_engine(work, current, baseline), current, number, told=False
    )
    judge_heldout(
        work, f"{folder}/judgments", answers, baseline.candidates, standard, policy, baseline, number, told=False
    )


def read_look(work: Work, folder: str, standard: Constitution, baseline: Baseline) -> guards.Reading:
    """The win rate against the base; where the judge gave no valid verdict, an even one that says nothing."""
    answers, said = (work.run.view(f"{folder}/{name}") for name in ("candidates", "judgments"))
    options = {"resamples": work.settings.evaluate.bootstrap, "seed": derived_seed(work.settings.seed, "guard")}
    rate = evaluate.win_rate(
        records_of(answers, Candidate), records_of(baseline.candidates, Candidate), records_of(said, Judgment),
        standard, work.settings.pairs, **options,
    )  # fmt: skip
    return guards.Reading(0.5, 0.0, 1.0) if rate is None else guards.Reading(rate.rate, rate.low, rate.high)


def guarded_prompts(work: Work, number: int, baseline: Baseline) -> Step:
    """The held-out prompts that the guard looks at: the first of them, as many as are asked for."""
    first = records_of(baseline.prompts, Prompt)[: work.settings.ppo.guard_prompts]
    return write_prompts(work, f"rounds/{number:03d}/rollouts/guard/prompts", first, number, told=False)
