"""Rollouts: asked for with the weights as they are, read from their records, and scored token by token."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from selfalign.chat import encode_chat
from selfalign.records import Candidate, Prompt
from selfalign.store import read_records
from selfalign.training.batches import Batch
from selfalign.training.dataset import Group, GroupDataset, NothingToTrainOn
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
    summary: tuple[float, ...] = ()  # in the order of ITERATION

    def tokens_of(self, batch: Batch) -> Tensor:
        """The numbers of the batch's scored tokens. [N]"""
        starts = self.places[batch.answers] - (batch.lengths.cumsum(0) - batch.lengths)
        return spread(starts, batch.lengths) + torch.arange(int(batch.lengths.sum()), device=starts.device)


class OverOptimised(Exception):
    """The judge has turned against what the reward model asks for; `best` holds the weights to keep, None the first."""

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

    def __call__(self, iteration: int, scores: Sequence[float]) -> tuple[list[str], list[str]]:
        """Folders of prompts and of candidates. `scores` are the mean rewards of the iterations before.

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
        self._keep(found["best"])
        if found["stop"] is not None:
            raise OverOptimised(found["stop"], iteration, self.folder(found["best"]) if found["best"] else None)
        return found["prompts"], found["candidates"]

    def folder(self, iteration: int) -> Path:
        return self.setup.output / f"rollout-{iteration:04d}"

    def _keep(self, best: int | None) -> None:
        """Remove all weights on the way but the best so far; without a guard there are none to keep."""
        if self.setup.accelerator.is_main_process:
            for folder in self.setup.output.glob("rollout-*"):
                if best is None or folder != self.folder(best):
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


def load_rollouts(setup: Setup, folders: Sequence[str], prompts: Sequence[str]) -> tuple[GroupDataset, list[Candidate]]:
    """The sampled answers by prompt, labelled 1 where they ended, and their records in the same order.

    What is left out (errors, empty answers, those that exceed `max_length` with their prompt) is counted and told.
    Raises NothingToTrainOn where nothing is left.
    """
    asked = {p.id: p for folder in prompts for p in read_records(Path(folder), Prompt)}
    grouped: dict[str, list[Candidate]] = {}
    dropped: Counter[str] = Counter()
    for candidate in (c for folder in folders for c in read_records(Path(folder), Candidate)):
        if candidate.finish_reason == "error" or not candidate.token_ids:
            dropped["error" if candidate.finish_reason == "error" else "empty"] += 1
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
    return GroupDataset(groups), kept
