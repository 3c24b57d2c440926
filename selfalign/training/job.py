"""What a trainer process is asked to do, as the JSON file it is started with. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from selfalign.config import Adapter, Ppo, RewardModel, Train
from selfalign.records import Message, digest


@dataclass(frozen=True, slots=True)
class Probe:
    """A text whose log-probabilities the trainer writes down, so that an engine can be compared with it."""

    messages: tuple[Message, ...]
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelShare:
    """A model folder, and what its weights count in an average."""

    path: str
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """One training run: a policy, what it is trained on, and where the trained policy goes.

    `examples_dirs` hold what `train.algorithm` reads: Pair for dpo and reward_model; Ranking for kto, bco, sppo and
    ranking; Candidate for sft and raft. `rewards_dirs` hold rewards of candidates, where the loss reads them. PPO has
    no examples: it asks for rollouts as it goes, and `reward_path` is the model that rewards them.
    `reference` is a model, or several whose weights are averaged; empty, it is the policy as it is before training.
    `output_dir` is the folder of a step.
    """

    policy_path: str
    prompts_dirs: tuple[str, ...]
    candidates_dirs: tuple[str, ...]
    examples_dirs: tuple[str, ...]
    output_dir: str
    train: Train
    rewards_dirs: tuple[str, ...] = ()
    reference: tuple[ModelShare, ...] = ()
    reward_model: RewardModel | None = None
    reward_path: str | None = None
    ppo: Ppo | None = None
    temperature: float = 1.0  # of rollouts, and so of log-probabilities
    adapter: Adapter | None = None
    seed: int = 17
    round: int = 0
    probes: tuple[Probe, ...] = ()
    trust_remote_code: bool = False

    def identity(self) -> str:
        """Hash of what decides the result, apart from the records read; neither folders nor processes do."""
        fields = msgspec.to_builtins(self)
        for name in ("prompts_dirs", "candidates_dirs", "examples_dirs", "rewards_dirs", "output_dir"):
            del fields[name]
        for name in ("num_processes", "accelerate_config", "checkpoint_every"):
            del fields["train"][name]
        return digest("train_job", fields)


def write_job(job: TrainJob, path: Path) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(job), indent=2))


def read_job(path: Path) -> TrainJob:
    """Raises msgspec.ValidationError where a field is missing or of another type."""
    return msgspec.json.decode(path.read_bytes(), type=TrainJob)
