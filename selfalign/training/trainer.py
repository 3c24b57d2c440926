"""A training job from its first line to its last.

examples -> reference log-probabilities (once, kept) -> optimizer steps -> the trained policy and its word on probes
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
from torch import nn

from selfalign.chat import ChatError
from selfalign.objective import loss_terms, needs_reference
from selfalign.records import digest
from selfalign.store import StoreError
from selfalign.training.answers import AnswerTask, check_balance
from selfalign.training.checkpoint import (
    CheckpointError,
    Checkpoints,
    NonFiniteWeights,
    Progress,
)
from selfalign.training.dataset import GroupDataset, NothingToTrainOn
from selfalign.training.dpo import DpoTask
from selfalign.training.job import TrainJob
from selfalign.training.length_head import LengthHeadTask
from selfalign.training.loop import Loop, MetricsLog, NonFiniteStep, emit, make_optimizer
from selfalign.training.model import (
    ModelError,
)
from selfalign.training.ppo import PpoTask
from selfalign.training.ppo_models import load_models
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
from selfalign.training.rollouts import Asking, OverOptimised
from selfalign.training.saving import (
    CHECKPOINT_FOLDER,
    DONE_FILE,
    PROBES_FILE,
    finish,
    is_done,
    keep_trained,
    probe_logprobs,
    remove_rollouts,
    save_trained,
    saved_scorer,
)
from selfalign.training.setup import LaunchError, Setup, fresh_scorer, prepare
from selfalign.training.sft import SftTask
from selfalign.training.task import GroupTask

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
    if is_done(job):
        return
    train_model = {"reward_model": train_reward_model, "ppo": train_on_rollouts}.get(job.algorithm, train_policy)
    train_model(prepare(job), should_stop)  # nobody else holds the setup, so that an ensemble can let go of a model


def train_policy(setup: Setup, should_stop: Callable[[], bool]) -> None:
    before = probe_logprobs(setup, setup.scorer)
    model = setup.accelerator.prepare(setup.scorer)
    task = make_task(setup, model)
    progress = run_steps(setup, model, task, should_stop)
    warn(setup, task.drift())
    save_trained(setup, model)
    after = probe_logprobs(setup, saved_scorer(setup) if setup.job.adapter else model)
    finish(setup, progress, [(PROBES_FILE, msgspec.json.encode({"before": before, "after": after}))])


def train_reward_model(setup: Setup, should_stop: Callable[[], bool]) -> None:
    setup, pairs = hold_out(setup)
    if setup.job.reward_model.ensemble == 1:
        train_single(setup, pairs, should_stop)
    else:
        train_ensemble(setup, pairs, should_stop)


def train_single(setup: Setup, pairs: GroupDataset, should_stop: Callable[[], bool]) -> None:
    model = setup.accelerator.prepare(setup.scorer)
    task = (LengthHeadTask if setup.job.reward_model.length_head else RewardTask)(setup, None)
    progress = run_steps(setup, model, task, should_stop)
    save_trained(setup, model)
    finish(setup, progress, Results(held_out(setup, model, pairs), reward_candidates(setup, model)).files())


def train_ensemble(setup: Setup, pairs: GroupDataset, should_stop: Callable[[], bool]) -> None:
    """Train one member after the other, each in a folder of its own, and write what they say together."""
    whole, settings = setup.job, setup.job.reward_model
    jobs = [member(whole, number) for number in range(settings.ensemble)]
    for job in jobs:
        if not is_done(job):
            Path(job.output_dir).mkdir(exist_ok=True)
            setup.job, setup.scorer = job, fresh_scorer(job, setup.dtype, setup.tokenizer, setup.accelerator)
            train_single(setup, pairs, should_stop)
            setup.accelerator.free_memory()
    setup.job, folders = whole, [Path(job.output_dir) for job in jobs]
    done = [msgspec.json.decode((folder / DONE_FILE).read_bytes()) for folder in folders]
    progress = Progress(sum(one["steps"] for one in done), sum(one["num_tokens"] for one in done))
    finish(setup, progress, together([Results.read(folder) for folder in folders], settings).files())


def train_on_rollouts(setup: Setup, should_stop: Callable[[], bool]) -> None:
    job, before = setup.job, probe_logprobs(setup, setup.scorer)
    models = load_models(setup)
    model = models.trained
    task = PpoTask(setup, models, Asking(setup, model, before))
    job = replace(job, train=replace(job.train, checkpoint_every=1))  # the loop waits for an iteration's end
    stopped = None
    try:
        progress = run_steps(replace(setup, job=job), model, task, should_stop)
        save_trained(setup, model)
    except OverOptimised as guard:
        stopped = f"{guard.reason}; the weights of iteration {guard.best_iteration} are kept"
        warn(setup, f"round {job.round}: {stopped}")
        progress = Progress(guard.iteration * task.per_iteration, 0)
        keep_trained(setup, model, guard.best)
    remove_rollouts(setup)
    after = probe_logprobs(setup, saved_scorer(setup))
    finish(setup, progress, [(PROBES_FILE, msgspec.json.encode({"before": before, "after": after}))], stopped)


def run_steps(setup: Setup, model: nn.Module, task: GroupTask, should_stop: Callable[[], bool]) -> Progress:
    job, output = setup.job, setup.output
    optimizer = setup.accelerator.prepare(make_optimizer(model, job.train))
    checkpoints = Checkpoints(output / CHECKPOINT_FOLDER, digest(job.identity(), setup.groups.digest()))
    log = MetricsLog(output, job.round)
    return Loop(
        setup.accelerator, model, optimizer, task, job.train, job.seed, checkpoints, log, should_stop, job.section
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
