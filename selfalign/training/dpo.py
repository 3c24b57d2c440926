"""Direct preference optimization of a policy on a round's pairs.

pairs -> reference log-probabilities (once, kept) -> optimizer steps -> the trained policy, and its word on the probes
"""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from selfalign.chat import ChatError, encode_chat
from selfalign.objective import REFERENCE_FREE, loss_terms, needs_reference
from selfalign.records import derived_seed, digest
from selfalign.store import StoreError, atomic_write, fsync_file, fsync_folder
from selfalign.training.batches import AttentionKinds, Layout, collate, num_steps, plan_step, row_lengths, step_indexes
from selfalign.training.checkpoint import (
    CheckpointError,
    Checkpoints,
    NonFiniteWeights,
    Progress,
    check_finite,
    full_state,
)
from selfalign.training.dataset import NoPairs, PairDataset, load_pairs
from selfalign.training.job import TrainJob
from selfalign.training.loop import Loop, MetricsLog, MicroBatch, NonFiniteStep, emit, make_optimizer
from selfalign.training.losses import PairLogps, kto_divergence, on_policy_weights, pair_loss, value_at_reference
from selfalign.training.model import (
    ModelError,
    PairScorer,
    add_adapter,
    choose_layout,
    completion_logprobs,
    compute_dtype,
    is_peft,
    load_model,
    merge_lora,
    save_adapter,
    save_model,
    sequence_logps,
    stored_dtype,
)

REFERENCE_FILE = "reference/logps.safetensors"  # not beside the weights: engines load every such file there
MISMATCHED_FILE = "reference/mismatched.safetensors"
PROBES_FILE = "probes.json"
DONE_FILE = "training.json"
CHECKPOINT_FOLDER = "checkpoint"
CPU_MAX_TOKENS = 2048  # a CPU is busy with fewer positions than this; more only leave its caches and cost memory
ADAPTER_FOLDER = "adapter"
DRIFT_NATS = 1.0  # a fall of the chosen answers' log-probability that is worth a word
METRICS = (
    "loss",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)


class WrongStart(RuntimeError):
    """The first loss is not what it must be while the policy is still the reference."""


class LaunchError(RuntimeError):
    """The trainer was started in a way that it cannot work in."""


REFUSALS = (
    ChatError,
    CheckpointError,
    LaunchError,
    ModelError,
    NoPairs,
    NonFiniteStep,
    NonFiniteWeights,
    StoreError,
    WrongStart,
)


@dataclass
class Setup:
    """What every part of a job needs: the data, the policy, and how its pairs are laid out."""

    job: TrainJob
    accelerator: Accelerator
    tokenizer: PreTrainedTokenizerBase
    pairs: PairDataset
    dropped: dict[str, int]  # pairs left out, by reason
    scorer: PairScorer
    dtype: torch.dtype
    layout: Layout

    @property
    def attention(self) -> AttentionKinds:
        return self.scorer.attention or AttentionKinds()

    @property
    def output(self) -> Path:
        return Path(self.job.output_dir)


def train_dpo(job: TrainJob, should_stop: Callable[[], bool] = lambda: False) -> None:
    """Train a policy and leave it in the job's output folder; a job that was cut off goes on from its last checkpoint.

    Raises ModelError, NoPairs, NonFiniteStep, WrongStart, CheckpointError, and Stopped when asked to stop.
    """
    output = Path(job.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    if _is_done(job):
        return
    setup = prepare(job)
    setup.accelerator.wait_for_everyone()
    before = probe_logprobs(setup, setup.scorer)
    model = setup.accelerator.prepare(setup.scorer)
    reference = reference_logps(setup, model) if needs_reference(job.train) else None
    optimizer = setup.accelerator.prepare(make_optimizer(model, job.train))
    task = DpoTask(setup, reference, mismatch(setup, model) if "kto" in loss_terms(job.train) else None)
    checkpoints = Checkpoints(output / CHECKPOINT_FOLDER, digest(job.identity(), setup.pairs.digest()))
    log = MetricsLog(output, job.round)
    loop = Loop(setup.accelerator, model, optimizer, task, job.train, job.seed, checkpoints, log, should_stop)
    progress = loop.run()
    if (warning := task.drift()) is not None and setup.accelerator.is_main_process:
        emit("warning", message=warning)
    del optimizer, loop
    finish(setup, model, before, progress)


def prepare(job: TrainJob) -> Setup:
    """Read the pairs, load the policy, wrap it with its adapter, and choose the layout of rows."""
    dtype = compute_dtype(job.train.dtype)
    precision = "bf16" if dtype == torch.bfloat16 else "no"
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision=precision)
    _check_processes(job, accelerator)
    tokenizer = AutoTokenizer.from_pretrained(job.policy_path, trust_remote_code=job.trust_remote_code)
    folders = (Path(job.prompts_dir), Path(job.candidates_dir), Path(job.pairs_dir))
    pairs, dropped = load_pairs(*folders, lambda messages: encode_chat(tokenizer, messages), job.train.max_length)
    if dropped and accelerator.is_main_process:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items()))
        emit("warning", message=f"round {job.round}: pairs left out of training: {reasons}; {len(pairs)} remain")
    model = load_model(job.policy_path, weight_dtype(job, dtype), trust_remote_code=job.trust_remote_code)
    _check_vocabulary(pairs, model, job.policy_path)
    if job.train.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    torch.manual_seed(derived_seed("adapter", job.seed, job.round))
    scorer = PairScorer(add_adapter(model, job.adapter) if job.adapter else model)
    scorer.train().to(accelerator.device)
    return Setup(job, accelerator, tokenizer, pairs, dict(dropped), scorer, dtype, choose_layout(scorer, pairs))


def _check_processes(job: TrainJob, accelerator: Accelerator) -> None:
    """Launchers start a single process in silence where they find no more devices; steps would be right, but slow."""
    asked, started = job.train.num_processes, accelerator.num_processes
    if job.train.accelerate_config is None and asked != started:
        raise LaunchError(
            f"train.num_processes is {asked}, but {started} was started; "
            "on CPUs start the trainer through torchrun (python -m torch.distributed.run)"
        )
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        raise LaunchError(f"{job.train.accelerate_config}: DeepSpeed cannot be used for training yet; use FSDP")


def weight_dtype(job: TrainJob, dtype: torch.dtype) -> torch.dtype:
    """Trained weights are kept in float32, whatever the products run in; frozen ones in the products' dtype."""
    return dtype if job.adapter else torch.float32


def _check_vocabulary(pairs: PairDataset, model: nn.Module, path: str) -> None:
    size = model.get_input_embeddings().num_embeddings
    highest = pairs.highest_token()
    if highest >= size:
        raise ModelError(f"{path}: the pairs hold token {highest}, the model knows only {size}: another tokenizer's?")


# Reference -------------------------------------------------------------------------------------------------------


def reference_logps(setup: Setup, model: nn.Module, file: str = REFERENCE_FILE) -> Tensor:
    """log pi_ref of both answers of every pair, computed once and kept in the step's folder. [N, 2] float32, CPU"""
    path, identity = setup.output / file, _reference_identity(setup)
    kept = _read_reference(path, identity, len(setup.pairs))
    if kept is not None:
        return kept
    if setup.job.reference_path is None:
        with setup.scorer.without_adapter():
            logps = score_all(setup, model)
    else:
        logps = _score_with_other(setup, setup.job.reference_path)
    if setup.accelerator.is_main_process:
        metadata = {"identity": identity, "pairs": msgspec.json.encode(setup.pairs.keys).decode()}
        path.parent.mkdir(exist_ok=True)
        atomic_write(path, save({"chosen": logps[:, 0].clone(), "rejected": logps[:, 1].clone()}, metadata))
    return logps


@dataclass(frozen=True)
class Mismatch:
    """Prompts with answers that belong to others, for KTO's estimate of the KL divergence, and their log pi_ref."""

    pairs: PairDataset
    reference: Tensor  # [N, 2]

    def divergence(self, setup: Setup, model: nn.Module, indexes: Tensor) -> Tensor:
        """z0 over some prompts, in one pass without gradient. []"""
        rows = [index[None] for index in indexes.cpu().numpy()]
        batch = collate(self.pairs, rows, setup.layout, setup.attention).to(setup.accelerator.device)
        with torch.no_grad(), setup.accelerator.autocast():
            chosen, rejected = sequence_logps(model(batch), batch)
        return kto_divergence(
            PairLogps(chosen, rejected, *self.reference[batch.indexes].unbind(1), *batch.lengths.chunk(2))
        )


def mismatch(setup: Setup, model: nn.Module) -> Mismatch:
    """Raises NoPairs where there is a single pair."""
    pairs = setup.pairs.mismatched(setup.job.train.max_length)
    logps = reference_logps(replace(setup, pairs=pairs), model, MISMATCHED_FILE)
    return Mismatch(pairs, logps.to(setup.accelerator.device))


def _reference_identity(setup: Setup) -> str:
    model = setup.job.reference_path or setup.job.policy_path
    return digest("reference", model, setup.pairs.digest(), str(setup.dtype), setup.job.train.ld_alpha)


def _read_reference(path: Path, identity: str, size: int) -> Tensor | None:
    """Log-probabilities kept by an earlier run of the same job, or None."""
    try:
        with safe_open(path, "pt") as file:
            if file.metadata().get("identity") != identity:
                return None
            logps = torch.stack([file.get_tensor("chosen"), file.get_tensor("rejected")], dim=1)
    except (FileNotFoundError, SafetensorError):
        return None
    return logps if logps.shape == (size, 2) and torch.isfinite(logps).all() else None


def _score_with_other(setup: Setup, path: str) -> Tensor:
    """Load another model for as long as it takes to score the pairs. One whole copy in each process."""
    reference = load_model(path, setup.dtype, trust_remote_code=setup.job.trust_remote_code)
    _check_vocabulary(setup.pairs, reference, path)
    scorer = PairScorer(reference).to(setup.accelerator.device)
    logps = score_all(setup, scorer)
    del reference, scorer
    gc.collect()
    return logps


@torch.no_grad()
def score_all(setup: Setup, model: nn.Module) -> Tensor:
    """Sequence log-probabilities of all pairs, each process its share. [N, 2] float32 on the CPU"""
    accelerator, pairs = setup.accelerator, setup.pairs
    result = torch.zeros(len(pairs), 2, dtype=torch.float32, device=accelerator.device)
    for micro in micro_batches(setup, np.arange(len(pairs))):
        with accelerator.autocast():
            logps = torch.stack(sequence_logps(model(micro.batch), micro.batch, setup.job.train.ld_alpha), dim=1)
        if micro.counts:
            result[micro.batch.indexes] = logps
    return accelerator.reduce(result, "sum").cpu()


def micro_batches(setup: Setup, indexes: np.ndarray) -> Iterator[MicroBatch]:
    """This process's share of the pairs, packed, collated, and on the device."""
    accelerator = setup.accelerator
    lengths = row_lengths(setup.pairs, setup.layout)
    rank, world = accelerator.process_index, accelerator.num_processes
    max_tokens = setup.job.train.max_tokens_per_batch
    if accelerator.device.type == "cpu":
        max_tokens = min(max_tokens, CPU_MAX_TOKENS)
    for rows, counts in plan_step(lengths, indexes, max_tokens, setup.layout, rank, world):
        yield MicroBatch(collate(setup.pairs, rows, setup.layout, setup.attention).to(accelerator.device), counts)


# Steps -----------------------------------------------------------------------------------------------------------


class DpoTask:
    """Steps of `batch_size` pairs; a step's loss is the mean over its pairs of weight x loss.

    `reference`: [N, 2], or None where no term of the loss has one; rewards are then beta times log-probabilities.
    """

    def __init__(self, setup: Setup, reference: Tensor | None, mismatch: Mismatch | None = None) -> None:
        self.setup, self.settings = setup, setup.job.train
        self.terms = loss_terms(self.settings)
        self.referenced, self.mismatch = reference is not None, mismatch
        kept = reference if reference is not None else torch.zeros(len(setup.pairs), 2)
        self.reference = kept.to(setup.accelerator.device)
        self.total_steps = num_steps(len(setup.pairs), self.settings.batch_size, self.settings.epochs)
        self.metric_names = METRICS + (tuple(f"loss/{name}" for name in self.terms) if len(self.terms) > 1 else ())
        self.metric_names += ("wpo/weights",) if self.settings.wpo else ()
        self.history: list[dict[str, float]] = []

    def resume(self, metrics: Sequence[dict[str, float]]) -> None:
        self.history = list(metrics)

    def indexes(self, step: int) -> np.ndarray:
        return step_indexes(len(self.setup.pairs), self.settings.batch_size, self.setup.job.seed, step)

    def micro_batches(self, step: int) -> Iterator[MicroBatch]:
        return micro_batches(self.setup, self.indexes(step))

    def num_tokens(self, step: int) -> int:
        return self.setup.pairs.num_tokens(self.indexes(step))

    def shift(self, model: nn.Module, batch: Any) -> Tensor | float:
        """What answers are compared with: KTO's z0, or BCO's delta, the mean reward over the steps so far."""
        if self.mismatch is not None:
            return self.mismatch.divergence(self.setup, model, batch.indexes)
        if "bco" not in self.terms or not self.history:
            return 0.0
        return fmean(0.5 * (step["rewards/chosen"] + step["rewards/rejected"]) for step in self.history)

    def loss(self, model: nn.Module, micro: MicroBatch, step: int) -> tuple[Tensor, Tensor]:
        """Sum of weight x loss over the micro-batch's pairs, divided by the pairs of the whole step."""
        batch, scale = micro.batch, float(micro.counts) / len(self.indexes(step))
        with self.setup.accelerator.autocast():
            found = model(batch, with_collision=True) if self.settings.wpo else (model(batch),)
        pairs, shift = self.pair_logps(found[0], batch), self.shift(model, batch)
        wpo = (
            on_policy_weights(found[0], found[1], batch.lengths) if self.settings.wpo else torch.ones_like(batch.weight)
        )
        losses = {
            name: share * pair_loss(name, pairs, batch.p_chosen, self.settings, shift=shift)
            for name, share in self.terms.items()
        }
        parts = {name: (batch.weight * wpo * term).sum() * scale for name, term in losses.items()}
        loss = sum(parts.values())
        return loss, self.sums(loss.detach(), pairs, scale, parts, wpo)

    def pair_logps(self, token_logps: Tensor, batch: Any) -> PairLogps:
        chosen, rejected = sequence_logps(token_logps, batch, self.settings.ld_alpha)
        reference_chosen, reference_rejected = self.reference[batch.indexes].unbind(1)
        chosen_lengths, rejected_lengths = batch.lengths.chunk(2)
        return PairLogps(chosen, rejected, reference_chosen, reference_rejected, chosen_lengths, rejected_lengths)

    def sums(self, loss: Tensor, pairs: PairLogps, scale: float, parts: dict[str, Tensor], wpo: Tensor) -> Tensor:
        """This micro-batch's part of every metric, in the order of `metric_names`; stays on the device."""
        with torch.no_grad():
            chosen = self.settings.beta * pairs.chosen_log_ratio
            rejected = self.settings.beta * pairs.rejected_log_ratio
            columns = [chosen, rejected, (chosen > rejected).float(), chosen - rejected, pairs.chosen, pairs.rejected]
            columns += [wpo] if self.settings.wpo else []
            means = torch.stack(columns).sum(1) * scale
            own = [part.detach() for part in parts.values()] if len(parts) > 1 else []
            return torch.cat([loss.reshape(1), means[:6], *(part.reshape(1) for part in own), means[6:]])

    def metrics(self, step: int, sums: dict[str, float]) -> dict[str, float]:
        """Raises WrongStart if the first loss is not that of a policy that is its own reference."""
        if step == 0 and self.referenced and is_own_reference(self.setup.job):
            self._check_start(sums)
        self.history.append(sums)
        return sums

    def _check_start(self, sums: dict[str, float]) -> None:
        """Compare the first loss with its value at zero difference: log 2 for "sigmoid", hard labels or soft."""
        p_chosen, weight = torch.from_numpy(self.setup.pairs.labels[self.indexes(0)]).unbind(1)
        each = value_at_reference(self.settings, p_chosen)
        wpo = sums.get(
            "wpo/weights", 1.0
        )  # a mean: exact where pairs start at one loss, as all but EXO's and SPPO's do
        free = [sums[f"loss/{name}"] for name in self.terms if name in REFERENCE_FREE]
        expected = (each * weight).mean().item() * wpo
        check_start(sums["loss"] - sum(free), expected, weight.mean().item() * wpo, self.setup.dtype)

    def drift(self) -> str | None:
        """A warning where the last steps left the chosen answers less likely than before, though the margin grew.

        The failure that the NLL term of iterative RPO was made for (Pang et al. 2024).
        """
        last = self.history[-max(1, len(self.history) // 10) :]
        if not last or not self.referenced:
            return None
        chosen, margin = (fmean(step[f"rewards/{name}"] for step in last) for name in ("chosen", "margins"))
        nats = chosen / self.settings.beta
        if margin <= 0 or nats > -DRIFT_NATS:
            return None
        return (
            f"round {self.setup.job.round}: chosen answers became less likely ({nats:.1f} nats each) while the margin "
            "grew; if quality falls, add the likelihood of the chosen answer (train.loss: {sigmoid: 1, nll: 0.2}) or "
            "raise train.beta"
        )


def is_own_reference(job: TrainJob) -> bool:
    return job.reference_path is None or os.path.realpath(job.reference_path) == os.path.realpath(job.policy_path)


def check_start(loss: float, expected: float, mean_weight: float, dtype: torch.dtype) -> None:
    """Raises WrongStart where the first loss is not the expected one."""
    tolerance = (1e-3 if dtype == torch.float32 else 5e-2) * max(abs(expected), mean_weight)
    if abs(loss - expected) > tolerance:
        raise WrongStart(
            f"training step 1: the loss is {loss:.6f}, but with a policy that is still its own reference it must be "
            f"{expected:.6f}\nthe reference log-probabilities are not those of this policy: most likely its weights or "
            f"tokenizer changed after {REFERENCE_FILE} was written, or the model has dropout or noise of its own\n"
            f"nothing was trained; remove {REFERENCE_FILE} from the step's folder and run the same command again"
        )


# The end ---------------------------------------------------------------------------------------------------------


def probe_logprobs(setup: Setup, model: nn.Module) -> list[list[float]]:
    """The model's own log-probabilities of the job's probe texts."""
    prompts = [encode_chat(setup.tokenizer, probe.messages) for probe in setup.job.probes]
    answers = [probe.token_ids for probe in setup.job.probes]
    with setup.accelerator.autocast():
        return completion_logprobs(model, prompts, answers, setup.accelerator.device)


def finish(setup: Setup, model: nn.Module, before: list[list[float]], progress: Progress) -> None:
    """Save the policy, compare-texts and a note that the job is done; then drop what was only needed on the way.

    A policy trained in all its weights is saved in float32, the dtype it was trained in: most updates are smaller than
    bfloat16 can tell apart, and the next round would start without them. A merged adapter is saved in the dtype in
    which the base is stored, and the adapter itself beside it.
    """
    accelerator, job = setup.accelerator, setup.job
    state = full_state(accelerator, model)
    if accelerator.is_main_process:
        check_finite(state)
        save_policy(setup, {name.removeprefix("model."): weight for name, weight in state.items()})
    accelerator.wait_for_everyone()
    del state
    after = probe_logprobs(setup, _saved_scorer(setup) if job.adapter else model)
    if accelerator.is_main_process:
        atomic_write(setup.output / PROBES_FILE, msgspec.json.encode({"before": before, "after": after}))
        done = {"job": job.identity(), "steps": progress.step, "num_tokens": progress.num_tokens}
        done |= {"pairs": len(setup.pairs), "dropped": setup.dropped, "layout": setup.layout}
        atomic_write(setup.output / DONE_FILE, msgspec.json.encode(done))
        shutil.rmtree(setup.output / CHECKPOINT_FOLDER, ignore_errors=True)
    accelerator.wait_for_everyone()


def save_policy(setup: Setup, state: dict[str, Tensor]) -> None:
    """Write the model folder aside, then move its files in place, so that none is ever half there."""
    aside = setup.output / ".saving"
    shutil.rmtree(aside, ignore_errors=True)
    scorer, job = setup.scorer, setup.job
    if is_peft(scorer.model):
        dtype = stored_dtype(job.policy_path, trust_remote_code=job.trust_remote_code)
        save_model(aside, scorer.causal, merge_lora(state, scorer.model, dtype), setup.tokenizer, dtype)
        save_adapter(aside / ADAPTER_FOLDER, scorer.model, state)
    else:
        save_model(aside, scorer.causal, state, setup.tokenizer, torch.float32)
    for path in sorted(path for path in aside.rglob("*") if path.is_file()):
        target = setup.output / path.relative_to(aside)
        target.parent.mkdir(exist_ok=True)
        path.chmod(0o644)
        fsync_file(path)
        os.replace(path, target)
    fsync_folder(setup.output)
    shutil.rmtree(aside)


def _saved_scorer(setup: Setup) -> PairScorer:
    """The policy as saved, read back: merging and rounding are part of what an engine must agree with."""
    model = load_model(str(setup.output), setup.dtype, trust_remote_code=setup.job.trust_remote_code)
    return PairScorer(model).to(setup.accelerator.device)


def _is_done(job: TrainJob) -> bool:
    """Whether this very job was finished before."""
    try:
        return msgspec.json.decode((Path(job.output_dir) / DONE_FILE).read_bytes())["job"] == job.identity()
    except FileNotFoundError:
        return False
