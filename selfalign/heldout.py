"""The steps on held-out prompts: a policy's answers, how likely the base finds them, what the judge says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from selfalign.constitution import Constitution
from selfalign.engines.base import Engine
from selfalign.records import Candidate, Checkpoint, Prompt, derived_seed
from selfalign.roles import Baseline, judge_model, policy_engine
from selfalign.stages import evaluate, generate, judge, train
from selfalign.steps import Shards, Work, only, perform, records_of
from selfalign.store import Step


def sample_heldout(
    work: Work,
    name: str,
    asked: Step,
    open_engine: Callable[[], Engine],
    policy: Checkpoint,
    number: int | None,
    *,
    told: bool = True,
) -> Step:
    """One answer of `policy` to each held-out prompt."""
    settings = replace(work.settings.generate, samples=1, temperature=work.settings.evaluate.temperature)
    seed = derived_seed(work.settings.seed, "heldout")

    def process(missing: list[int]) -> Shards:
        shards = only(missing, asked, Prompt)
        return generate.generate(shards, open_engine(), settings, policy_id=policy.id, seed=seed, logprobs=True)

    return perform(
        work, "evaluate", name, process,
        after=[asked], inputs={"policy": policy.digest}, config=[settings, seed],
        count=lambda _, rows: generate.count_candidates(rows), round=number, told=told,
    )  # fmt: skip


def score_heldout(work: Work, name: str, asked: Step, answers: Step, base: Checkpoint, number: int) -> Step:
    """How likely the base policy finds the new answers: what the KL divergence is estimated from."""

    def process(missing: list[int]) -> Shards:
        shards = ((index, asked.read(Prompt, index), answers.read(Candidate, index)) for index in missing)
        return evaluate.score(shards, policy_engine(work, base, None), policy_id=base.id)

    return perform(
        work, "evaluate", name, process, after=[asked, answers], inputs={"policy": base.digest}, round=number
    )


def judge_heldout(
    work: Work,
    name: str,
    answers: Step,
    earlier: Step,
    constitution: Constitution,
    policy: Checkpoint,
    baseline: Baseline,
    number: int,
    *,
    told: bool = True,
) -> Step:
    """Compare the new answers with the previous policy's and the base's, by a judge that may be another."""
    settings = train.evaluating_judge(work.settings)
    judge_id, open_judge = judge_model(work, settings, policy, baseline)
    opponents = {"previous": earlier, "base": baseline.candidates}
    shards = evaluate.comparisons(
        records_of(baseline.prompts, Prompt),
        records_of(answers, Candidate),
        *(records_of(opponents[name], Candidate) for name in work.settings.evaluate.against),
        shard_prompts=work.settings.generate.shard_prompts,
    )
    seed = derived_seed(work.settings.seed, "judge", "heldout")

    def process(missing: list[int]) -> Shards:
        engine = open_judge()
        for index in missing:  # one call a shard: a rating of the new answer serves the match with each opponent
            asked = [shards[index]]
            yield from judge.judge(asked, engine, constitution, settings, judge_id=judge_id, seed=seed)

    verdicts = perform(
        work, "evaluate", name, process,
        num_shards=len(shards), after=[answers, earlier, baseline.candidates],
        inputs={"constitution": judge.words_hash(constitution, settings), "judge": judge_id}, config=[settings, seed],
        count=lambda _, rows: judge.count_verdicts(rows), round=number, told=told,
    )  # fmt: skip
    judge.check_invalid_share(verdicts.counts, settings.max_invalid)
    return verdicts


def previous_answers(work: Work, number: int, baseline: Baseline) -> Step:
    """The held-out answers of the policy that this round started from."""
    earlier = work.run.view(f"rounds/{number - 1:03d}/heldout/candidates") if number else None
    return earlier or baseline.candidates


def write_prompts(work: Work, name: str, drawn: list[Prompt], number: int | None, *, told: bool = True) -> Step:
    size = work.settings.generate.shard_prompts
    shards = [drawn[start : start + size] for start in range(0, len(drawn), size)]
    return perform(
        work, "prompts", name, lambda missing: ((index, shards[index]) for index in missing),
        num_shards=len(shards), config=[prompt.id for prompt in drawn], round=number, told=told,
    )  # fmt: skip
