"""Which model is which: what every round is measured against, the policy, its judge, its reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from selfalign import config
from selfalign.engines.base import Engine
from selfalign.engines.hardware import has_fast_bf16, has_gpu
from selfalign.records import Candidate, Checkpoint, Prompt
from selfalign.stages import train
from selfalign.stages.judge.budget import EVENT, Budget, spent
from selfalign.stages.judge.cache import FILE, RememberingJudge
from selfalign.steps import Work
from selfalign.store import Step


@dataclass(frozen=True)
class Baseline:
    """What every round is measured against: the base policy and its answers to the held-out prompts."""

    policy: Checkpoint
    prompts: Step
    candidates: Step


JudgeModel = tuple[str, Callable[[], RememberingJudge]]  # the judge's identity, and how to get its engine


def policy_engine(work: Work, policy: Checkpoint, baseline: Baseline | None) -> Engine:
    """The engine with a policy in place; where we trained it, proven to hold these weights and not older ones."""
    engine = work.workers.engine(policy.path, trust_remote_code=work.settings.policy.trust_remote_code)
    if policy.round is not None and baseline is not None:
        proof = train.prove_loaded(engine, policy, probes(baseline), work.settings.engine.max_logprob_difference)
        work.run.emit("proof", round=policy.round, mean_abs_difference=proof.to_trained, bound=proof.bound)
    return engine


def probes(baseline: Baseline) -> list[train.ScoreRequest]:
    return train.make_probes(baseline.prompts.read(Prompt, 0), baseline.candidates.read(Candidate, 0))


def judge_model(work: Work, settings: config.Judge, policy: Checkpoint, baseline: Baseline) -> JudgeModel:
    """A judge by its settings: the policy itself, the base, another model, or an API.

    It remembers what it has answered, also in other runs of the same folder, where `settings.cache` says so.
    """
    judge_id, open_judge = _asked_judge(work, settings, policy, baseline)
    engine = work.settings.engine
    local = (engine.backend, engine.dtype, has_gpu(), has_fast_bf16())  # what the numbers hang on, beside the weights
    identity = (judge_id, settings.base_url, *(() if settings.model.startswith("openai:") else local))
    path, tell = work.run.path.parent / FILE if settings.cache else None, partial(_warn, work)
    return judge_id, lambda: RememberingJudge(open_judge, path, identity, tell, _budget(work, settings))


def _asked_judge(work: Work, settings: config.Judge, policy: Checkpoint, baseline: Baseline) -> JudgeModel:
    if settings.model.startswith("openai:"):
        return settings.model, lambda: work.workers.api(settings)
    if settings.model in ("self", "base"):
        own = policy if settings.model == "self" else baseline.policy
        return own.id, lambda: policy_engine(work, own, baseline)
    other = train.base_checkpoint(settings.model, settings.revision)
    return other.id, lambda: work.workers.engine(other.path, trust_remote_code=settings.trust_remote_code)


def _budget(work: Work, settings: config.Judge) -> Budget | None:
    if settings.price is None or not settings.model.startswith("openai:"):
        return None

    def note(prompt_tokens: int, answers: int, dollars: float) -> None:
        work.run.emit(EVENT, prompt_tokens=prompt_tokens, answers=answers, dollars=dollars)

    return Budget(settings.price, settings.max_cost, sum(spent(work.run.events()).values()), note)


def _warn(work: Work, message: str) -> None:
    work.run.emit("warning", message=message)


def reference_policy(work: Work, number: int, policy: Checkpoint, baseline: Baseline) -> train.Shares:
    """What training is regularised toward: one model, or several whose weights are averaged by these shares."""
    reference = work.settings.reference
    if reference == "base":
        return [(baseline.policy, 1.0)]
    if reference == "ema":
        trained = [trained_in(work, earlier, baseline) for earlier in range(number)]
        return train.averaged(baseline.policy, trained, work.settings.reference_decay)
    if reference in ("previous", "none") or int(reference) >= number:
        return [(policy, 1.0)]
    return [(trained_in(work, int(reference), baseline), 1.0)]


def trained_in(work: Work, number: int, baseline: Baseline) -> Checkpoint:
    step = work.run.view(f"rounds/{number:03d}/policy")
    return train.trained_checkpoint(step.path, step.digest, baseline.policy, number)
