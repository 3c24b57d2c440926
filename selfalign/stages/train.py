"""Train: what a trainer process is asked to do, and the proof that its result has reached the engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from selfalign import resources
from selfalign.config import Campaign, Judge, Train
from selfalign.engines.base import Engine, EngineError, ScoreRequest
from selfalign.objective import hands_rewards
from selfalign.records import Candidate, Checkpoint, CheckpointKind, Prompt, digest
from selfalign.store import Step, sha256_file
from selfalign.training.job import ModelShare, Probe, TrainJob

NUM_PROBES = 8
PROBES_FILE = "probes.json"
_BOUNDS = {"float32": 1e-3}  # nats per token; two correct float32 implementations differ by about 1e-6
_BOUND = 0.05  # of two correct ones in 16 bits, whose products round differently


def base_checkpoint(model: str, revision: str | None) -> Checkpoint:
    """A model that we did not train. A folder is identified by its contents, a Hub model by name and revision."""
    path = resources.model(model)
    contents = model_digest(Path(path)) if Path(path).is_dir() else f"{model}@{revision or 'main'}"
    return Checkpoint(digest("policy", contents), None, "policy", path, None, contents)


def trained_checkpoint(
    folder: Path, manifest_digest: str, parent: Checkpoint, number: int, kind: CheckpointKind = "policy"
) -> Checkpoint:
    return Checkpoint(digest(kind, manifest_digest), parent.id, kind, str(folder), number, manifest_digest)


def model_digest(folder: Path) -> str:
    """One digest over the files that make a model what it is: weights, configuration, tokenizer, chat template."""
    suffixes = {".safetensors", ".json", ".jinja", ".model", ".txt"}
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in suffixes)
    return digest("model", [[path.name, sha256_file(path)] for path in files], size=16)


def evaluating_judge(settings: Campaign) -> Judge:
    """The judge of the evaluation: the labelling judge, but for the fields that `evaluate.judge` sets.

    A calibration is how pairs are read; what is evaluated are the judge's own words.
    """
    given = {name: value for name, value in asdict(settings.evaluate.judge).items() if value is not None}
    return replace(settings.judge, calibration=None, **given)


@dataclass(frozen=True)
class Data:
    """The finished steps that a training job reads: what it trains on, and where prompts and answers are found."""

    prompts: Sequence[Step]
    candidates: Sequence[Step]
    examples: Sequence[Step]
    rewards: Sequence[Step] = ()
    reward_model: Checkpoint | None = None

    @property
    def steps(self) -> list[Step]:
        return [*self.prompts, *self.candidates, *self.examples, *self.rewards]

    def folders(self) -> dict[str, tuple[str, ...]]:
        """As the fields of a job."""
        parts = {"prompts": self.prompts, "candidates": self.candidates, "examples": self.examples}
        named = {**parts, "rewards": self.rewards}
        return {f"{name}_dirs": tuple(str(step.path) for step in steps) for name, steps in named.items()}


Shares = Sequence[tuple[Checkpoint, float]]


def averaged(base: Checkpoint, policies: Sequence[Checkpoint], decay: float) -> Shares:
    """What each policy so far counts in ref_n = decay ref_(n-1) + (1 - decay) policy_n, ref_0 being the base.

    `policies` are those that rounds started from after the base, the oldest first. The shares sum to 1.
    """
    count = len(policies)
    newer = [(policy, (1.0 - decay) * decay ** (count - 1 - i)) for i, policy in enumerate(policies)]
    return [(base, decay**count), *newer]


def make_job(
    settings: Campaign,
    number: int,
    output: Path,
    data: Data,
    *,
    policy: Checkpoint,
    reference: Shares,
    probes: Sequence[ScoreRequest],
) -> TrainJob:
    """What the trainer of a round is to do. `output` is the folder of the policy step."""
    own = [checkpoint.id for checkpoint, _ in reference] == [policy.id]
    return TrainJob(
        policy_path=policy.path,
        **data.folders(),
        output_dir=str(output),
        train=settings.train,
        ppo=settings.ppo if settings.train.algorithm == "ppo" else None,
        reward_path=data.reward_model.path if data.reward_model else None,
        rewards_given=hands_rewards(settings),
        rewarded_by=settings.reward_model if data.reward_model and settings.train.algorithm == "ppo" else None,
        temperature=settings.generate.temperature,
        reference=() if own else tuple(ModelShare(checkpoint.path, share) for checkpoint, share in reference),
        adapter=settings.policy.adapter,
        seed=settings.seed,
        round=number,
        probes=tuple(Probe(probe.messages, probe.token_ids) for probe in probes),
        trust_remote_code=settings.policy.trust_remote_code,
    )


def make_reward_job(
    settings: Campaign,
    number: int,
    output: Path,
    data: Data,
    *,
    rewarded: Sequence[Step],
    start: Checkpoint,
    sampler: Checkpoint,
) -> TrainJob:
    """What the trainer of a round's reward model is to do, from the model `start` on.

    `rewarded` are the candidates to reward, `sampler` is the policy that they were sampled from.
    """
    return TrainJob(
        policy_path=start.path,
        **data.folders(),
        rewarded_dirs=tuple(str(step.path) for step in rewarded),
        sampler_path=None if settings.reward_model.model in ("base", "policy") else sampler.path,
        output_dir=str(output),
        train=Train(**vars(settings.reward_model.train)),
        adapter=settings.reward_model.adapter,
        reward_model=settings.reward_model,
        seed=settings.seed,
        round=number,
        trust_remote_code=settings.policy.trust_remote_code,
    )


def make_probes(prompts: Sequence[Prompt], candidates: Sequence[Candidate]) -> list[ScoreRequest]:
    """Fixed texts on which trainer and engine are compared: the base policy's first answers to held-out prompts."""
    messages = {prompt.id: prompt.messages for prompt in prompts}
    usable = [candidate for candidate in candidates if candidate.token_ids][:NUM_PROBES]
    return [ScoreRequest(candidate.id, messages[candidate.prompt_id], candidate.token_ids) for candidate in usable]


@dataclass(frozen=True)
class Proof:
    """Mean absolute difference, in nats per token, between the engine's log-probabilities and the trainer's.

    `to_trained` compares with the policy after training, `to_previous` with the policy before it.
    """

    to_trained: float
    to_previous: float
    bound: float

    @property
    def holds(self) -> bool:
        """The engine is within the bound of the new policy, and no closer to the old one."""
        return self.to_trained <= self.bound and self.to_trained <= self.to_previous


def prove_loaded(engine: Engine, checkpoint: Checkpoint, probes: Sequence[ScoreRequest], bound: float | None) -> Proof:
    """Compare the engine with what the trainer wrote beside the checkpoint. `bound` None goes by the engine's dtype.

    Raises EngineError when the engine answers from other weights than those of the checkpoint.
    """
    bound = bound or _BOUNDS.get(engine.dtype, _BOUND)
    recorded = json.loads((Path(checkpoint.path) / PROBES_FILE).read_text(encoding="utf-8"))
    scores = {score.id: score.logprobs for score in engine.score(probes)}
    engine_logprobs = [scores[probe.id] for probe in probes]
    proof = Proof(
        to_trained=mean_abs_difference(engine_logprobs, recorded["after"]),
        to_previous=mean_abs_difference(engine_logprobs, recorded["before"]),
        bound=bound,
    )
    if not proof.holds:
        raise EngineError(stale_message(checkpoint, proof))
    return proof


def mean_abs_difference(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> float:
    """Mean of |ours - theirs| over all tokens. Raises ValueError where the shapes differ; NaN counts as infinite."""
    gaps = [abs(a - b) for row, other in zip(ours, theirs, strict=True) for a, b in zip(row, other, strict=True)]
    mean = sum(gaps) / max(len(gaps), 1)
    return mean if mean == mean else float("inf")


def stale_message(checkpoint: Checkpoint, proof: Proof) -> str:
    return (
        f"stale policy: the engine does not hold {checkpoint.path}\n"
        f"its log-probabilities differ from the trainer's by {proof.to_trained:.4g} nats per token "
        f"(bound {proof.bound:g}), from the previous policy's by {proof.to_previous:.4g}\n"
        "samples from it would be another policy's; nothing was sampled\n"
        "run the same command again for a fresh engine; if it stays, compare engine.dtype with train.dtype, "
        "or raise engine.max_logprob_difference"
    )
