"""Mid-training checkpoints: all or nothing on disk, exact on resume, safetensors and JSON only.

    output_dir/checkpoint/step-000010/{weights.safetensors, optimizer.safetensors, checkpoint.json}

Random state is not stored because none is kept: data order and adapter dropout are derived from seed and step.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from selfalign.store import atomic_write, fsync_file, fsync_folder, sha256_file

WEIGHTS, OPTIMIZER, MANIFEST = "weights.safetensors", "optimizer.safetensors", "checkpoint.json"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be resumed from: which file, why, and what to do."""


class NonFiniteWeights(RuntimeError):
    """Weights that hold NaN or infinity, and are therefore not written."""


@dataclass(frozen=True)
class Progress:
    """How far training is: optimizer steps made, and tokens read in them."""

    step: int = 0
    num_tokens: int = 0


@dataclass(frozen=True)
class Manifest:
    job: str
    progress: Progress
    digests: dict[str, str]


class Checkpoints:
    """The checkpoints of one job under `folder`; only the newest is kept."""

    def __init__(self, folder: Path, job_id: str) -> None:
        self.folder, self.job_id = folder, job_id

    def save(self, accelerator: Accelerator, model: nn.Module, optimizer: Any, progress: Progress) -> None:
        """Commit the trainable weights and the optimizer's moments. All processes must call it."""
        weights, moments = training_state(accelerator, model, optimizer)
        if accelerator.is_main_process:
            check_finite(weights)
            self._commit(weights, moments, progress)
        accelerator.wait_for_everyone()

    def _commit(self, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor], progress: Progress) -> None:
        final = self.folder / f"step-{progress.step:06d}"
        temporary = self.folder / f".{final.name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(contiguous(weights), temporary / WEIGHTS)
        save_file(contiguous(moments), temporary / OPTIMIZER)
        for name in (WEIGHTS, OPTIMIZER):
            fsync_file(temporary / name)
        digests = {name: sha256_file(temporary / name) for name in (WEIGHTS, OPTIMIZER)}
        atomic_write(temporary / MANIFEST, msgspec.json.encode(Manifest(self.job_id, progress, digests)))
        fsync_folder(temporary)
        os.rename(temporary, final)
        fsync_folder(self.folder)
        for older in self._committed():
            if older != final:
                shutil.rmtree(older)

    def load(self, accelerator: Accelerator, model: nn.Module, optimizer: Any) -> Progress:
        """Put the newest checkpoint in place and say how far it was; Progress() where there is none.

        Raises CheckpointError where a file is missing or damaged, or belongs to another job.
        """
        committed = self._committed()
        if not committed:
            return Progress()
        folder = committed[-1]
        manifest = self._verified(folder)
        restore_state(accelerator, model, optimizer, load_file(folder / WEIGHTS), load_file(folder / OPTIMIZER))
        return manifest.progress

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _committed(self) -> list[Path]:
        return sorted(self.folder.glob("step-*")) if self.folder.is_dir() else []

    def _verified(self, folder: Path) -> Manifest:
        remedy = f"Remove {self.folder} to train from the start."
        try:
            manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
        except (OSError, msgspec.MsgspecError) as error:
            raise CheckpointError(f"{folder / MANIFEST}: cannot be read ({error}). {remedy}") from error
        if manifest.job != self.job_id:
            raise CheckpointError(
                f"{folder}: this checkpoint is of another job ({manifest.job}, not {self.job_id}): "
                f"its settings, model or pairs differ. {remedy}"
            )
        for name in (WEIGHTS, OPTIMIZER):
            path = folder / name
            if not path.is_file():
                raise CheckpointError(f"{path}: missing, so training cannot go on exactly as it was. {remedy}")
            if sha256_file(path) != manifest.digests.get(name):
                raise CheckpointError(f"{path}: its SHA-256 is not the one recorded; the file is damaged. {remedy}")
        return manifest


def check_finite(weights: Mapping[str, Tensor]) -> None:
    """Raises NonFiniteWeights, naming the first tensor with NaN or infinity."""
    for name, weight in weights.items():
        if weight.is_floating_point() and not torch.isfinite(weight).all():
            raise NonFiniteWeights(f"{name} holds NaN or infinity; nothing was written. Lower the learning rate.")


def contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def is_sharded(accelerator: Accelerator) -> bool:
    return accelerator.distributed_type == DistributedType.FSDP


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def training_state(
    accelerator: Accelerator, model: nn.Module, optimizer: Any
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Trainable weights, and the optimizer's moments as NAME.exp_avg, NAME.exp_avg_sq and NAME.step."""
    if is_sharded(accelerator):
        return _sharded_state(model, optimizer)
    parameters = trainable(accelerator.unwrap_model(model))
    state = optimizer.state
    moments = {
        f"{name}.{moment}": state[parameter][moment]
        for name, parameter in parameters.items()
        if parameter in state
        for moment in MOMENTS
    }
    return dict(parameters), moments


def restore_state(
    accelerator: Accelerator, model: nn.Module, optimizer: Any, weights: dict[str, Tensor], moments: dict[str, Tensor]
) -> None:
    """Put weights and moments in place, in place of whatever is there. Raises CheckpointError where names differ."""
    if is_sharded(accelerator):
        _restore_sharded(model, optimizer, weights, moments)
        return
    parameters = trainable(accelerator.unwrap_model(model))
    if parameters.keys() != weights.keys():
        odd = sorted(parameters.keys() ^ weights.keys())
        raise CheckpointError(f"the checkpoint's weights are not this model's: {odd[0]} is in one of them only")
    inner = getattr(optimizer, "optimizer", optimizer)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
            if f"{name}.step" in moments:
                inner.state[parameter] = {
                    moment: moments[f"{name}.{moment}"].to(parameter.device) for moment in MOMENTS
                }


def full_state(accelerator: Accelerator, model: nn.Module) -> dict[str, Tensor]:
    """All weights of the wrapped model by name, on the main process; elsewhere possibly empty. All must call it."""
    if not is_sharded(accelerator):
        return dict(accelerator.unwrap_model(model).state_dict())
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def _sharded_state(model: nn.Module, optimizer: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    from torch.distributed.checkpoint import state_dict as dcp

    options = dcp.StateDictOptions(full_state_dict=True, cpu_offload=True, flatten_optimizer_state_dict=True)
    inner = getattr(optimizer, "optimizer", optimizer)
    weights = dcp.get_model_state_dict(model, options=options)
    names = {name.replace("_fsdp_wrapped_module.", "") for name in trainable(model)}
    flat = dcp.get_optimizer_state_dict(model, inner, options=options)
    moments = {
        name.removeprefix("state."): value
        for name, value in flat.items()
        if name.startswith("state.") and isinstance(value, Tensor)
    }
    return {name: weight for name, weight in weights.items() if name in names}, moments


def _restore_sharded(model: nn.Module, optimizer: Any, weights: dict[str, Tensor], moments: dict[str, Tensor]) -> None:
    from torch.distributed.checkpoint import state_dict as dcp

    options = dcp.StateDictOptions(full_state_dict=True, flatten_optimizer_state_dict=True, strict=False)
    inner = getattr(optimizer, "optimizer", optimizer)
    dcp.set_model_state_dict(model, weights, options=options)
    groups = dcp.get_optimizer_state_dict(model, inner, options=options)
    groups.update({f"state.{name}": value for name, value in moments.items()})
    dcp.set_optimizer_state_dict(model, inner, groups, options=options)
