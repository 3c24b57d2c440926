"""The reference: how likely a frozen model finds every answer, computed once and kept in the step's folder."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from selfalign.records import digest
from selfalign.store import atomic_write
from selfalign.training.batches import Batch, collate
from selfalign.training.job import ModelShare, TrainJob
from selfalign.training.losses import kto_divergence, length_desensitised
from selfalign.training.model import Scorer, load_model, sequence_logps
from selfalign.training.setup import Setup, check_vocabulary

REFERENCE_FILE = "reference/logps.safetensors"  # not beside the weights: engines load every such file there
MISMATCHED_FILE = "reference/mismatched.safetensors"


class WrongStart(RuntimeError):
    """The first loss is not what it must be while the policy is still the reference."""


def reference_logps(setup: Setup, model: nn.Module, file: str = REFERENCE_FILE) -> Tensor:
    """log pi_ref of every answer. [M] float32, CPU"""
    path, identity = setup.output / file, _identity(setup)
    kept = _read(path, identity, setup.groups.num_answers)
    if kept is not None:
        return kept
    if setup.job.reference:
        logps = _score_with_other(setup, setup.job.reference)
    else:
        with setup.scorer.under():
            logps = score_all(setup, model)
    if setup.accelerator.is_main_process:
        metadata = {"identity": identity, "groups": msgspec.json.encode(setup.groups.keys).decode()}
        path.parent.mkdir(exist_ok=True)
        atomic_write(path, save({"logps": logps}, metadata))
    return logps


def answer_logps(token_logps_N: Tensor, batch: Batch, ld_alpha: float | None) -> Tensor:
    """Sums over the tokens of each answer, length-desensitised where an alpha is given. [S]"""
    if ld_alpha is not None:
        token_logps_N = length_desensitised(token_logps_N, batch.lengths, ld_alpha)
    return sequence_logps(token_logps_N, batch)


@dataclass(frozen=True)
class Mismatch:
    """Prompts with answers that belong to others, for KTO's estimate of the KL divergence, and their log pi_ref."""

    setup: Setup  # its groups are the mismatched ones
    reference: Tensor  # [M]

    def divergence(self, model: nn.Module, indexes: Tensor) -> Tensor:
        """z0 over some prompts, in one pass without gradient. []"""
        setup = self.setup
        rows = [index[None] for index in indexes.cpu().numpy()]
        batch = collate(setup.groups, rows, setup.layout, setup.attention).to(setup.accelerator.device)
        with torch.no_grad(), setup.accelerator.autocast():
            logps = sequence_logps(model(batch), batch)
        return kto_divergence(logps - self.reference[batch.answers])


def mismatch(setup: Setup, model: nn.Module) -> Mismatch:
    """Raises NothingToTrainOn where there is a single prompt."""
    other = replace(setup, groups=setup.groups.mismatched(setup.job.train.max_length))
    return Mismatch(other, reference_logps(other, model, MISMATCHED_FILE).to(setup.accelerator.device))


def _identity(setup: Setup) -> str:
    job = setup.job
    models = [[share.path, share.weight] for share in job.reference] or [[job.policy_path, 1.0]]
    return digest("reference", models, setup.groups.digest(), str(setup.dtype), job.train.ld_alpha)


def _read(path: Path, identity: str, size: int) -> Tensor | None:
    """Log-probabilities kept by an earlier run of the same job, or None."""
    try:
        with safe_open(path, "pt") as file:
            if file.metadata().get("identity") != identity:
                return None
            logps = file.get_tensor("logps")
    except (FileNotFoundError, SafetensorError):
        return None
    return logps if logps.shape == (size,) and torch.isfinite(logps).all() else None


def _score_with_other(setup: Setup, models: Sequence[ModelShare]) -> Tensor:
    """Load another model for as long as it takes to score the answers. One whole copy in each process."""
    trust = setup.job.trust_remote_code
    reference = load_model(models[0].path, setup.dtype, trust_remote_code=trust)
    if len(models) > 1:
        average_weights(reference, models, trust_remote_code=trust)
    check_vocabulary(setup.groups, reference, models[0].path)
    scorer = Scorer(reference).to(setup.accelerator.device)
    logps = score_all(setup, scorer)
    del reference, scorer
    gc.collect()
    return logps


@torch.no_grad()
def average_weights(model: nn.Module, models: Sequence[ModelShare], *, trust_remote_code: bool = False) -> None:
    """Put into `model` the weighted mean of several models' weights, summed in float32, one model in memory beside it.

    Raises ModelError for a model that cannot be loaded, RuntimeError for one of another shape.
    """
    total = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in model.named_parameters()}
    for share in models:
        other = load_model(share.path, torch.float32, trust_remote_code=trust_remote_code)
        for name, weight in other.named_parameters():
            total[name].add_(weight, alpha=share.weight)
        del other
    for name, weight in model.named_parameters():
        weight.copy_(total[name])


@torch.no_grad()
def score_all(setup: Setup, model: nn.Module) -> Tensor:
    """Log-probabilities of all answers, each process its share. [M] float32 on the CPU"""
    accelerator, groups = setup.accelerator, setup.groups
    result = torch.zeros(groups.num_answers, dtype=torch.float32, device=accelerator.device)
    for micro in setup.micro_batches(np.arange(len(groups))):
        with accelerator.autocast():
            logps = answer_logps(model(micro.batch), micro.batch, setup.job.train.ld_alpha)
        if micro.counts:
            result[micro.batch.answers] = logps
    return accelerator.reduce(result, "sum").cpu()


# The first step.


def is_own_reference(job: TrainJob) -> bool:
    paths = {os.path.realpath(share.path) for share in job.reference}
    return paths <= {os.path.realpath(job.policy_path)}


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
