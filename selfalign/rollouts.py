"""The steps of training on rollouts: what a trainer is handed when it asks, and a judge's look at where it goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfalign.constitution import Constitution
from selfalign.heldout import judge_heldout, sample_heldout, write_prompts
from selfalign.records import Candidate, Checkpoint, Guarded, Judgment, Look, Prompt, derived_seed
from selfalign.roles import Baseline, policy_engine
from selfalign.stages import evaluate, generate, prompts, report, train
from selfalign.steps import Shards, Work, only, perform, records_of
from selfalign.store import Step
from selfalign.training import guards


def in_training(model: str, policy: Checkpoint, number: int) -> Checkpoint:
    """A folder of weights on the way."""
    digest = train.model_digest(Path(model))
    return Checkpoint(digest, policy.id, "policy", model, number, digest)


def sample_rollouts(
    work: Work, number: int, iteration: int, data: train.Data, current: Checkpoint, baseline: Baseline
) -> dict[str, list[str]]:
    """Answers of the policy in training to some of the round's prompts, as folders of records.

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
            policy_id=current.id, seed=derived_seed(seed, iteration), logprobs=True,
        )  # fmt: skip

    answers = perform(
        work, "generate", f"{folder}/candidates", process, after=[asked], inputs={"policy": current.digest},
        config=[sampling, seed], count=lambda _, rows: generate.count_candidates(rows), round=number, told=False,
    )  # fmt: skip
    return {"prompts": [str(asked.path)], "candidates": [str(answers.path)]}


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
    are the reward model's means so far. What was seen is written into the round's folder.
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
