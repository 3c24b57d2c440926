"""Rollouts: asked for with the weights as they are, read from their records, and scored token by token."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from selfalign.chat import encode_chat
from selfalign.records import Candidate, Prompt, Reward
from selfalign.store import read_records
from selfalign.training.batches import Batch
from selfalign.training.dataset import Group, GroupDataset, NothingToTrainOn
from selfalign.training.guards import has_limits
from selfalign.training.loop import Stopped, emit
from selfalign.training.saving import PROBES_FILE, policy_state, probe_logprobs, write_model
from selfalign.training.segments import spread
from selfalign.training.setup import Setup


@dataclass(frozen=True)
class Rollouts:
    """One iteration's answers, M of them with T tokens, and all that is known of them before the first step.

    `old` and `reference` are log-probabilities in nats at the temperature of sampling. `advantages` are of tokens, [T],
    RLOO's of answers, [M].
    """

    groups: GroupDataset
    places: Tensor  # [M + 1]: where each answer's tokens begin
    old: Tensor  # [T]
    reference: Tensor  # [T]
    advantages: Tensor
    values: Tensor | None = None  # [T]
    returns: Tensor | None = None  # [T]
    weights: Tensor | None = None  # of the policy's loss, where another engine sampled: as `advantages`
    summary: dict[str, float] = field(default_factory=dict)  # metrics of the iteration

    def tokens_of(self, batch: Batch) -> Tensor:
        """The numbers of the batch's scored tokens. [N]"""
        starts = self.places[batch.answers] - (batch.lengths.cumsum(0) - batch.lengths)
        return spread(starts, batch.lengths) + torch.arange(int(batch.lengths.sum()), device=starts.device)


class Handed(NamedTuple):
    """What the trainer was handed: folders of records. Without `rewards` it finds the rewards itself."""

    prompts: Sequence[str]
    candidates: Sequence[str]
    rewards: Sequence[str] | None = None

    def asked(self) -> dict[str, Prompt]:
        """The prompts, by id."""
        return {p.id: p for folder in self.prompts for p in read_records(Path(folder), Prompt)}


class OverOptimised(Exception):
    """What is rewarded is no longer worth following, by the judge or by a limit; `best` holds the weights to keep.

    None stands for the first.
    """

    def __init__(self, reason: str, iteration: int, best: Path | None) -> None:
        super().__init__(reason)
        self.reason, self.iteration, self.best = reason, iteration, best
        self.best_iteration = int(best.name.rpartition("-")[2]) if best else 0


@dataclass
class Asking:
    """Ask whoever started the trainer for rollouts of the present weights: an event on stdout, a line on stdin."""

    setup: Setup
    model: nn.Module
    before: list[list[float]]  # log-probabilities of the probes under the weights last asked about
    best: int | None = None  # the iteration that the judge likes best so far, where one looks

    def __call__(self, iteration: int, scores: Sequence[float]) -> Handed:
        """What is trained on in an iteration. `scores` are the mean rewards of the iterations before.

        Weights that may turn out to have been the best stay on disk. Raises Stopped where nobody answers any more, and
        OverOptimised where the judge says that the reward is no longer worth following.
        """
        accelerator, folder = self.setup.accelerator, self.folder(iteration)
        if iteration:
            self._write(folder)
        reply = [None]
        if accelerator.is_main_process:
            emit("rollouts_wanted", iteration=iteration, model=str(folder) if iteration else None, scores=[*scores])
            reply = [sys.stdin.readline()]
        (line,) = broadcast_object_list(reply)
        if not line:
            raise Stopped
        found = msgspec.json.decode(line)
        self.best = found["best"]
        self._keep(iteration)
        if found["stop"] is not None:
            raise OverOptimised(found["stop"], iteration, self.folder(found["best"]) if found["best"] else None)
        return Handed(found["prompts"], found["candidates"], found.get("rewards"))

    def folder(self, iteration: int) -> Path:
        return self.setup.output / f"rollout-{iteration:04d}"

    def before_limit(self, iteration: int) -> Path | None:
        """The weights to keep where an iteration's rollouts are past a limit; None: the first.

        The best that the judge knows of, or where none looks or those very weights are the best, the ones before them.
        """
        kept = iteration - 1 if self.best in (None, iteration) else self.best
        return self.folder(kept) if kept > 0 else None

    def _keep(self, iteration: int) -> None:
        """Remove all weights on the way but the best so far, and where there are limits, the last two."""
        kept = {self.best} | ({iteration - 1, iteration} if has_limits(self.setup.job.ppo) else set())
        if self.setup.accelerator.is_main_process:
            for folder in self.setup.output.glob("rollout-*"):
                if folder not in {self.folder(number) for number in kept - {None}}:
                    shutil.rmtree(folder, ignore_errors=True)
        self.setup.accelerator.wait_for_everyone()

    def _write(self, folder: Path) -> None:
        """The present weights as a model folder, with what they say of the probes."""
        setup = self.setup
        state = policy_state(setup, self.model)
        after = probe_logprobs(setup, setup.scorer)
        if setup.accelerator.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
            write_model(setup, state, folder)
            (folder / PROBES_FILE).write_bytes(msgspec.json.encode({"before": self.before, "after": after}))
        self.before = after


def load_rollouts(setup: Setup, handed: Handed) -> tuple[GroupDataset, list[Candidate], list[float] | None]:
    """The sampled answers by prompt, labelled 1 where they ended; their records and rewards in the same order.

    Rewards are None where none were handed over. What is left out (errors, empty answers, those without a reward, those
    that exceed `max_length` with their prompt) is counted and told. Raises NothingToTrainOn where nothing is left.
    """
    asked, rewards = handed.asked(), _rewards(handed)
    grouped: dict[str, list[Candidate]] = {}
    dropped: Counter[str] = Counter()
    for candidate in (c for folder in handed.candidates for c in read_records(Path(folder), Candidate)):
        if (reason := _unusable(candidate, rewards)) is not None:
            dropped[reason] += 1
        else:
            grouped.setdefault(candidate.prompt_id, []).append(candidate)
    groups, kept = [], []
    for prompt_id, answers in grouped.items():
        tokens = encode_chat(setup.tokenizer, asked[prompt_id].messages)
        fitting = [a for a in answers if len(tokens) + len(a.token_ids) <= setup.job.train.max_length]
        dropped["too_long"] += len(answers) - len(fitting)
        if fitting:
            ended = tuple(float(a.finish_reason == "stop") for a in fitting)
            groups.append(Group(prompt_id, tokens, tuple(a.token_ids for a in fitting), ended))
            kept += fitting
    if not groups:
        raise NothingToTrainOn(f"no rollout of {len(grouped)} prompts can be trained on: {dict(+dropped)}")
    if +dropped and setup.accelerator.is_main_process:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted((+dropped).items()))
        emit("warning", message=f"round {setup.job.round}: rollouts left out: {reasons}; {len(kept)} remain")
    return GroupDataset(groups), kept, None if rewards is None else [rewards[c.id] for c in kept]


def _rewards(handed: Handed) -> dict[str, float] | None:
    """The rewards handed over, by candidate."""
    if handed.rewards is None:
        return None
    return {r.candidate_id: r.reward for folder in handed.rewards for r in read_records(Path(folder), Reward)}


def _unusable(candidate: Candidate, rewards: Mapping[str, float] | None) -> str | None:
    """Why an answer cannot be trained on, if it cannot."""
    if candidate.finish_reason == "error":
        return "error"
    if not candidate.token_ids:
        return "empty"
    return None if rewards is None or candidate.id in rewards else "without_reward"


def sampler_logprobs(candidates: Sequence[Candidate], temperature: float) -> Tensor | None:
    """What the engine that sampled says of each token, in nats. [T]

    None where that is not known of all answers, or not comparable: engines speak of temperature 1.
    """
    if temperature != 1.0 or any(len(c.logprobs) != len(c.token_ids) for c in candidates):
        return None
    return torch.tensor([logprob for c in candidates for logprob in c.logprobs], dtype=torch.float32)
