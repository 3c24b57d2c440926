"""What a trainer process is asked to do, as the JSON file it is started with. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from selfalign.config import Adapter, Ppo, RewardModel, Train
from selfalign.records import Message, digest

# Beside a reward model: rewards by candidate, of an ensemble how far its members are apart on each, and a HeldOut.
REWARDS_FILE, SPREADS_FILE, HELDOUT_FILE = "rewards.json", "spreads.json", "heldout.json"


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
class HeldOut:
    """What a reward model says of pairs that it was not trained on, and what those it was trained on look like.

    One entry a held-out pair. `prompt_ids`: to which prompt it belongs; `chosen` and `rejected`: its answers' rewards;
    `p_chosen`: the judge's soft label; `lengths`: by how many tokens the chosen answer is the longer one.
    `trained_p_chosen` and `trained_lengths` are the same of the pairs trained on.
    """

    prompt_ids: list[str]
    chosen: list[float]
    rejected: list[float]
    p_chosen: list[float]
    lengths: list[int]
    trained_p_chosen: list[float]
    trained_lengths: list[int]

    @property
    def gaps(self) -> list[float]:
        return [chosen - rejected for chosen, rejected in zip(self.chosen, self.rejected, strict=True)]


def is_held_out(prompt_id: str, share: float, seed: int) -> bool:
    """Whether a reward model is tested on a prompt's pairs in place of learning them; the same in every round."""
    return int(digest("holdout", seed, prompt_id, size=4), 16) < share * 2**32


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """One training run: a policy, what it is trained on, and where the trained policy goes.

    `reward_model` is set where a reward model is what is trained; `train` then says how steps are made, no more.
    `examples_dirs` hold what the algorithm reads: Pair for dpo and reward models; Ranking for kto, bco, sppo and
    ranking; Candidate for sft and raft. `rewards_dirs` hold rewards of candidates, where the loss reads them;
    `rewarded_dirs` hold the candidates that a reward model is to reward, beside the gold answers of all prompts. PPO
    has no examples: it asks for rollouts as it goes, and `reward_path` is the model that rewards them, unless
    `rewards_given`: then their rewards come with them. `rewarded_by` says whether that model is an ensemble, and how
    its members are combined.
    `reference` is a model, or several whose weights are averaged; empty, it is the policy as it is before training.
    `sampler_path` is the model in whose tokens the candidates are held, where that is not `policy_path` or its kin.
    `output_dir` is the folder of a step.
    """

    policy_path: str
    prompts_dirs: tuple[str, ...]
    candidates_dirs: tuple[str, ...]
    examples_dirs: tuple[str, ...]
    output_dir: str
    train: Train
    rewards_dirs: tuple[str, ...] = ()
    rewarded_dirs: tuple[str, ...] = ()
    sampler_path: str | None = None
    reference: tuple[ModelShare, ...] = ()
    reward_model: RewardModel | None = None
    reward_path: str | None = None
    rewards_given: bool = False
    rewarded_by: RewardModel | None = None
    ppo: Ppo | None = None
    temperature: float = 1.0  # of rollouts, and so of log-probabilities
    adapter: Adapter | None = None
    seed: int = 17
    round: int = 0
    probes: tuple[Probe, ...] = ()
    trust_remote_code: bool = False

    @property
    def algorithm(self) -> str:
        """That of `train`, or "reward_model", which no campaign can name."""
        return self.train.algorithm if self.reward_model is None else "reward_model"

    @property
    def section(self) -> str:
        """Where a campaign says how this job's steps are made."""
        return "train" if self.reward_model is None else "reward_model.train"

    def identity(self) -> str:
        """Hash of what decides the result, apart from the records read; neither folders nor processes do."""
        fields = msgspec.to_builtins(self)
        for name in [name for name in fields if name.endswith(("_dirs", "_dir"))]:
            del fields[name]
        for name in ("num_processes", "accelerate_config", "checkpoint_every"):
            del fields["train"][name]
        return digest("train_job", fields)


def write_job(job: TrainJob, path: Path) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(job), indent=2))


def read_job(path: Path) -> TrainJob:
    """Raises msgspec.ValidationError where a field is missing or of another type."""
    return msgspec.json.decode(path.read_bytes(), type=TrainJob)
