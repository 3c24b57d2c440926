"""A training job from its first line to its last.

examples -> reference log-probabilities (once, kept) -> optimizer steps -> the trained policy and its word on probes
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from transformers import PreTrainedModel

from selfalign.chat import ChatError, encode_chat
from selfalign.objective import loss_terms, needs_reference
from selfalign.records import digest
from selfalign.store import StoreError, atomic_write, fsync_file, fsync_folder
from selfalign.training.answers import AnswerTask, check_balance
from selfalign.training.checkpoint import (
    CheckpointError,
    Checkpoints,
    NonFiniteWeights,
    Progress,
    check_finite,
    full_state,
)
from selfalign.training.dataset import GroupDataset, NothingToTrainOn
from selfalign.training.dpo import DpoTask
from selfalign.training.job import TrainJob
from selfalign.training.loop import Loop, MetricsLog, NonFiniteStep, Stopped, emit, make_optimizer
from selfalign.training.model import (
    ModelError,
    RewardScorer,
    Scorer,
    ValueScorer,
    completion_logprobs,
    is_peft,
    load_model,
    load_reward_model,
    merge_lora,
    save_adapter,
    save_model,
    stored_dtype,
)
from selfalign.training.ppo import ActorCritic, PpoTask
from selfalign.training.ranking import RankingTask
from selfalign.training.reference import WrongStart, mismatch, reference_logps
from selfalign.training.reward_model import (
    NonFiniteReward,
    Results,
    RewardTask,
    held_out,
    hold_out,
    member,
    reward_candidates,
    together,
)
from selfalign.training.setup import LaunchError, Setup, fresh_scorer, prepare
from selfalign.training.sft import SftTask
from selfalign.training.task import GroupTask

PROBES_FILE = "probes.json"
DONE_FILE = "training.json"
CHECKPOINT_FOLDER = "checkpoint"
ADAPTER_FOLDER = "adapter"
REFUSALS = (
    ChatError,
    CheckpointError,
    LaunchError,
    ModelError,
    NothingToTrainOn,
    NonFiniteReward,
    NonFiniteStep,
    NonFiniteWeights,
    StoreError,
    WrongStart,
)


def train(job: TrainJob, should_stop: Callable[[], bool] = lambda: False) -> None:
    """Train a policy and leave it in the job's output folder; a job that was cut off goes on from its last checkpoint.

    Raises ModelError, NothingToTrainOn, NonFiniteStep, WrongStart, CheckpointError, and Stopped when asked to stop.
    """
    output = Path(job.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    if _is_done(job):
        return
    train_model = {"reward_model": train_reward_model, "ppo": train_on_rollouts}.get(job.train.algorithm, train_policy)
    train_model(prepare(job), should_stop)  # nobody else holds the setup, so that an ensemble can let go of a model


def train_policy(setup: Setup, should_stop: Callable[[], bool]) -> None:
    before = probe_logprobs(setup, setup.scorer)
    model = setup.accelerator.prepare(setup.scorer)
    task = make_task(setup, model)
    progress = run_steps(setup, model, task, should_stop)
    warn(setup, task.drift())
    save_trained(setup, model)
    after = probe_logprobs(setup, _saved_scorer(setup) if setup.job.adapter else model)
    finish(setup, progress, [(PROBES_FILE, msgspec.json.encode({"before": before, "after": after}))])


def train_reward_model(setup: Setup, should_stop: Callable[[], bool]) -> None:
    setup, pairs = hold_out(setup)
    if setup.job.reward_model.ensemble == 1:
        train_single(setup, pairs, should_stop)
    else:
        train_ensemble(setup, pairs, should_stop)


def train_single(setup: Setup, pairs: GroupDataset, should_stop: Callable[[], bool]) -> None:
    model = setup.accelerator.prepare(setup.scorer)
    progress = run_steps(setup, model, RewardTask(setup, None), should_stop)
    save_trained(setup, model)
    finish(setup, progress, Results(held_out(setup, model, pairs), reward_candidates(setup, model)).files())


def train_ensemble(setup: Setup, pairs: GroupDataset, should_stop: Callable[[], bool]) -> None:
    """Train one member after the other, each in a folder of its own, and write what they say together."""
    whole, settings = setup.job, setup.job.reward_model
    jobs = [member(whole, number) for number in range(settings.ensemble)]
    for job in jobs:
        if not _is_done(job):
            Path(job.output_dir).mkdir(exist_ok=True)
            setup.job, setup.scorer = job, fresh_scorer(job, setup.dtype, setup.tokenizer, setup.accelerator)
            train_single(setup, pairs, should_stop)
            setup.accelerator.free_memory()
    setup.job, folders = whole, [Path(job.output_dir) for job in jobs]
    done = [msgspec.json.decode((folder / DONE_FILE).read_bytes()) for folder in folders]
    progress = Progress(sum(one["steps"] for one in done), sum(one["num_tokens"] for one in done))
    finish(setup, progress, together([Results.read(folder) for folder in folders], settings).files())


def train_on_rollouts(setup: Setup, should_stop: Callable[[], bool]) -> None:
    job, accelerator = setup.job, setup.accelerator
    before = probe_logprobs(setup, setup.scorer)
    reward, critic = reward_models(setup)
    model = accelerator.prepare(ActorCritic(setup.scorer, critic, job.temperature))
    reference = None if job.adapter else ActorCritic(frozen_policy(setup), None, job.temperature)
    task = PpoTask(setup, model, reference, reward, Asking(setup, model, before))
    job = replace(job, train=replace(job.train, checkpoint_every=1))  # the loop waits for an iteration's end
    progress = run_steps(replace(setup, job=job), model, task, should_stop)
    save_trained(setup, model)
    after = probe_logprobs(setup, _saved_scorer(setup))
    finish(setup, progress, [(PROBES_FILE, msgspec.json.encode({"before": before, "after": after}))])


def reward_models(setup: Setup) -> tuple[RewardScorer, ValueScorer | None]:
    """The reward model, frozen, and for GAE a critic that begins as a copy of it (Huang et al. 2024)."""
    job, device = setup.job, setup.accelerator.device

    def load(dtype: torch.dtype) -> PreTrainedModel:
        return load_reward_model(job.reward_path, dtype, None, trust_remote_code=job.trust_remote_code)

    reward = RewardScorer(load(setup.dtype)).to(device).requires_grad_(False)
    critic = ValueScorer(load(torch.float32)).to(device) if job.ppo.advantage == "gae" else None
    return reward, critic


def frozen_policy(setup: Setup) -> Scorer:
    """The policy as it is before training: what the KL is measured from, where all weights are trained."""
    path = setup.job.reference[0].path if setup.job.reference else setup.job.policy_path
    model = load_model(path, setup.dtype, trust_remote_code=setup.job.trust_remote_code)
    return Scorer(model).to(setup.accelerator.device).requires_grad_(False)


@dataclass
class Asking:
    """Ask whoever started the trainer for rollouts of the present weights: an event on stdout, a line on stdin."""

    setup: Setup
    model: nn.Module
    before: list[list[float]]  # log-probabilities of the probes under the weights last asked about

    def __call__(self, iteration: int) -> tuple[list[str], list[str]]:
        """Folders of prompts and of candidates. Raises Stopped where nobody answers any more."""
        accelerator, folder = self.setup.accelerator, self.setup.output / f"rollout-{iteration:04d}"
        if iteration:
            self._write(folder)
        reply = [None]
        if accelerator.is_main_process:
            emit("rollouts_wanted", iteration=iteration, model=str(folder) if iteration else None)
            reply = [sys.stdin.readline()]
            shutil.rmtree(folder, ignore_errors=True)
        (line,) = broadcast_object_list(reply)
        if not line:
            raise Stopped
        found = msgspec.json.decode(line)
        return found["prompts"], found["candidates"]

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


def run_steps(setup: Setup, model: nn.Module, task: GroupTask, should_stop: Callable[[], bool]) -> Progress:
    job, output = setup.job, setup.output
    optimizer = setup.accelerator.prepare(make_optimizer(model, job.train))
    checkpoints = Checkpoints(output / CHECKPOINT_FOLDER, digest(job.identity(), setup.groups.digest()))
    log = MetricsLog(output, job.round)
    return Loop(
        setup.accelerator, model, optimizer, task, job.train, job.seed, checkpoints, log, should_stop
    ).run()  # fmt: skip


def make_task(setup: Setup, model: nn.Module) -> GroupTask:
    """The algorithm's task, with the reference log-probabilities that it needs."""
    settings = setup.job.train
    if settings.algorithm in ("kto", "bco"):
        warn(setup, check_balance(setup.groups, settings))
    reference = reference_logps(setup, model) if needs_reference(settings) else None
    if settings.algorithm == "dpo":
        return DpoTask(setup, reference, mismatch(setup, model) if "kto" in loss_terms(settings) else None)
    if settings.algorithm == "ranking":
        return RankingTask(setup, reference)
    if settings.algorithm in ("sft", "raft"):
        return SftTask(setup, reference)
    return AnswerTask(setup, reference, mismatch(setup, model) if settings.algorithm == "kto" else None)


def warn(setup: Setup, message: str | None) -> None:
    if message is not None and setup.accelerator.is_main_process:
        emit("warning", message=message)


def _is_done(job: TrainJob) -> bool:
    """Whether this very job was finished before."""
    try:
        return msgspec.json.decode((Path(job.output_dir) / DONE_FILE).read_bytes())["job"] == job.identity()
    except FileNotFoundError:
        return False


def probe_logprobs(setup: Setup, model: nn.Module) -> list[list[float]]:
    """The model's own log-probabilities of the job's probe texts."""
    prompts = [encode_chat(setup.tokenizer, probe.messages) for probe in setup.job.probes]
    answers = [probe.token_ids for probe in setup.job.probes]
    with setup.accelerator.autocast():
        return completion_logprobs(model, prompts, answers, setup.accelerator.device)


# The end.


def save_trained(setup: Setup, model: nn.Module) -> None:
    """Save the model in the step's folder.

    One trained in all its weights is saved in float32, the dtype it was trained in: most updates are smaller than
    bfloat16 can tell apart, and the next round would start without them. A merged adapter is saved in the dtype in
    which the base is stored, and the adapter itself beside it.
    """
    state = policy_state(setup, model)
    if setup.accelerator.is_main_process:
        check_finite(state)
        save_policy(setup, state)
    setup.accelerator.wait_for_everyone()


def policy_state(setup: Setup, model: nn.Module) -> dict[str, Tensor]:
    """The weights of the model that is kept, by their names in it; a critic is not."""
    state = full_state(setup.accelerator, model)
    kept = {name.removeprefix("actor."): weight for name, weight in state.items() if not name.startswith("critic.")}
    return {name.removeprefix("model."): weight for name, weight in kept.items()}


def finish(setup: Setup, progress: Progress, files: Iterable[tuple[str, bytes]]) -> None:
    """Write what is known of the model, and a note that the job is done; then drop what was only needed on the way."""
    if setup.accelerator.is_main_process:
        for name, content in files:
            atomic_write(setup.output / name, content)
        done = {"job": setup.job.identity(), "steps": progress.step, "num_tokens": progress.num_tokens}
        done |= {"groups": len(setup.groups), "dropped": setup.dropped, "layout": setup.layout}
        atomic_write(setup.output / DONE_FILE, msgspec.json.encode(done))
        shutil.rmtree(setup.output / CHECKPOINT_FOLDER, ignore_errors=True)
    setup.accelerator.wait_for_everyone()


def write_model(setup: Setup, state: dict[str, Tensor], folder: Path) -> None:
    """Write a model folder: all weights in float32, or an adapter merged in the dtype of its base."""
    scorer, job = setup.scorer, setup.job
    if is_peft(scorer.model):
        dtype = stored_dtype(job.policy_path, trust_remote_code=job.trust_remote_code)
        save_model(folder, scorer.whole, merge_lora(state, scorer.model, dtype), setup.tokenizer, dtype)
    else:
        save_model(folder, scorer.whole, state, setup.tokenizer, torch.float32)


def save_policy(setup: Setup, state: dict[str, Tensor]) -> None:
    """Write the model folder aside, then move its files in place, so that none is ever half there."""
    aside = setup.output / ".saving"
    shutil.rmtree(aside, ignore_errors=True)
    write_model(setup, state, aside)
    if is_peft(setup.scorer.model):
        save_adapter(aside / ADAPTER_FOLDER, setup.scorer.model, state)
    for path in sorted(path for path in aside.rglob("*") if path.is_file()):
        target = setup.output / path.relative_to(aside)
        target.parent.mkdir(exist_ok=True)
        path.chmod(0o644)
        fsync_file(path)
        os.replace(path, target)
    fsync_folder(setup.output)
    shutil.rmtree(aside)


def _saved_scorer(setup: Setup) -> Scorer:
    """The policy as saved, read back: merging and rounding are part of what an engine must agree with."""
    model = load_model(str(setup.output), setup.dtype, trust_remote_code=setup.job.trust_remote_code)
    return Scorer(model).to(setup.accelerator.device)
