"""The steps of canaries: what the judge makes of replies without content, before its labels are trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from selfalign import config
from selfalign import constitution as constitutions
from selfalign.constitution import Constitution
from selfalign.engines.base import Engine
from selfalign.heldout import previous_answers
from selfalign.judging import perform_judging
from selfalign.records import CanaryReport, Candidate, Checkpoint, Judgment, Prompt, derived_seed
from selfalign.roles import Baseline, judge_models, trained_in
from selfalign.stages import canaries, judge, report, train
from selfalign.steps import NoGo, Shards, Work, perform, records_of
from selfalign.store import Step


def check_canaries(work: Work, number: int, constitution: Constitution, policy: Checkpoint, baseline: Baseline) -> None:
    """Let canaries meet the policy's held-out answers, and record and tell how many the judge prefers.

    Raises NoGo above `judge.max_canary_wins`. Nothing is asked where no judge labels what the round learns from.
    """
    if not work.settings.judge.canaries or not canaries.judged(work.settings):
        return
    met = meet_canaries(work, number, baseline)
    said = judge_canaries(work, number, met, constitution, policy, baseline)
    found = measure(work, number, records_of(met, Candidate), records_of(said, Judgment), constitution)
    if found is None:
        return
    stopped = canaries.why_no_go(found, work.settings.judge.max_canary_wins)
    report.write_canaries(work.run, replace(found, stopped=stopped))
    low, high = found.interval
    work.run.emit(
        "canaries", round=number, go=stopped is None, rate=found.rate, low=low, high=high,
        comparisons=found.num_comparisons,
    )  # fmt: skip
    if stopped is not None:
        raise NoGo(stopped)


def meet_canaries(work: Work, number: int, baseline: Baseline) -> Step:
    """The canaries of a round, each prompt's after the real answer that they meet."""
    settings, seed, answers = work.settings.judge, work.settings.seed, previous_answers(work, number, baseline)

    def process(missing: list[int]) -> Shards:
        met = canaries.meet(
            records_of(baseline.prompts, Prompt), records_of(answers, Candidate), settings, seed=seed
        )  # fmt: skip
        rows = [candidate for _, real, against in met for candidate in (real, *against)]
        yield from ((index, rows) for index in missing)

    return perform(
        work, "judge", f"rounds/{number:03d}/canaries/candidates", process,
        num_shards=1, after=[baseline.prompts, answers],
        config=[settings.canaries, settings.labels_pointwise, canaries.TEXTS, seed], round=number, told=False,
    )  # fmt: skip


def judge_canaries(
    work: Work, number: int, met: Step, constitution: Constitution, policy: Checkpoint, baseline: Baseline
) -> Step:
    """What the labelling judge says of canaries and real answers."""
    settings, seed = asked_of_all(work.settings.judge), judging_seed(work)
    candidates = records_of(met, Candidate)
    facing = {candidate.prompt_id for candidate in candidates}
    prompts = [prompt for prompt in records_of(baseline.prompts, Prompt) if prompt.id in facing]
    asked = canaries.shards(prompts, candidates, settings)

    def ask(missing: list[int], open_judge: Callable[[], Engine], member: config.Judge, judge_id: str) -> Shards:
        wanted = [asked[index] for index in missing]
        return judge.judge(wanted, open_judge(), constitution, member, judge_id=judge_id, seed=seed)

    return perform_judging(
        work, "judge", f"rounds/{number:03d}/canaries/judgments", ask, settings, policy, baseline,
        num_shards=len(asked), after=[met], inputs={"constitution": constitution.hash}, config=[seed],
        round=number, told=False, check=False,
    )  # fmt: skip


def asked_of_all(settings: config.Judge) -> config.Judge:
    """The settings of a judge to whom every pair is put that it is given."""
    return replace(settings, comparisons="all", budget=None)


def measure(
    work: Work, number: int, candidates: list[Candidate], judgments: list[Judgment], constitution: Constitution
) -> CanaryReport | None:
    seed = derived_seed(work.settings.seed, "canaries", number)
    return canaries.measure(candidates, judgments, constitution, work.settings.pairs, round=number, seed=seed)


def judge_again(work: Work, number: int, prompts: int) -> CanaryReport | None:
    """Put canaries before the judge of a finished round once more, on `prompts` prompts, and keep nothing of it."""
    settings = asked_of_all(replace(work.settings.judge, canaries=prompts))
    baseline = Baseline(
        train.base_checkpoint(work.settings.policy.model, work.settings.policy.revision),
        work.run.view("baseline/prompts"),
        work.run.view("baseline/candidates"),
    )
    policy = trained_in(work, number - 1, baseline) if number else baseline.policy
    constitution = constitutions.load(work.run.path / f"rounds/{number:03d}/constitution.yaml")
    answers = records_of(previous_answers(work, number, baseline), Candidate)
    met = canaries.meet(records_of(baseline.prompts, Prompt), answers, settings, seed=work.settings.seed)
    candidates = [candidate for _, real, against in met for candidate in (real, *against)]
    asked, seed = canaries.shards([prompt for prompt, *_ in met], candidates, settings), judging_seed(work)
    said: list[Judgment] = []
    for member, (judge_id, open_judge) in judge_models(work, settings, policy, baseline):
        answered = judge.judge(asked, open_judge(), constitution, member, judge_id=judge_id, seed=seed)
        said += [judgment for _, shard in answered for judgment in shard]
    return measure(work, number, candidates, said, constitution)


def judging_seed(work: Work) -> int:
    return derived_seed(work.settings.seed, "judge", "canaries")
