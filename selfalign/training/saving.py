"""The end of a job: the model as a standard folder, what it says of the probes, and a note that the job is done."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from selfalign.chat import encode_chat
from selfalign.records import digest
from selfalign.store import atomic_write, fsync_file, fsync_folder, sha256_file
from selfalign.training.checkpoint import Progress, check_finite, full_state
from selfalign.training.job import TrainJob
from selfalign.training.model import (
    Scorer,
    completion_logprobs,
    is_peft,
    load_model,
    merge_lora,
    save_adapter,
    save_model,
    stored_dtype,
)
from selfalign.training.setup import Setup

PROBES_FILE = "probes.json"
DONE_FILE = "training.json"
CHECKPOINT_FOLDER = "checkpoint"
ADAPTER_FOLDER = "adapter"
BASE_FILE = "base.json"  # in the folder of a reward model's adapter


def is_done(job: TrainJob) -> bool:
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
    """The weights of the model that is kept, by their names in it; critics are not, nor heads beside its own."""
    state, aside = full_state(setup.accelerator, model), ("critic.", "heads.", "length_head.")
    kept = {name: weight for name, weight in state.items() if not name.startswith(aside)}
    return {name.removeprefix("actor.").removeprefix("model."): weight for name, weight in kept.items()}


def finish(setup: Setup, progress: Progress, files: Iterable[tuple[str, bytes]], stopped: str | None = None) -> None:
    """Write what is known of the model, and a note that the job is done; then drop what was only needed on the way.

    `stopped` says why training ended before its time, if it did.
    """
    if setup.accelerator.is_main_process:
        for name, content in files:
            atomic_write(setup.output / name, content)
        done = {"job": setup.job.identity(), "steps": progress.step, "num_tokens": progress.num_tokens}
        done |= {"groups": len(setup.groups), "dropped": setup.dropped, "layout": setup.layout}
        done |= {"stopped": stopped} if stopped is not None else {}
        atomic_write(setup.output / DONE_FILE, msgspec.json.encode(done))
        shutil.rmtree(setup.output / CHECKPOINT_FOLDER, ignore_errors=True)
    setup.accelerator.wait_for_everyone()


def write_model(setup: Setup, state: dict[str, Tensor], folder: Path) -> None:
    """Write a model folder: all weights in float32, or an adapter merged in the dtype of its base and kept beside."""
    scorer, job = setup.scorer, setup.job
    if is_peft(scorer.model):
        dtype = stored_dtype(job.policy_path, trust_remote_code=job.trust_remote_code)
        save_model(folder, scorer.whole, merge_lora(state, scorer.model, dtype), setup.tokenizer, dtype)
        save_adapter(folder / ADAPTER_FOLDER, scorer.model, state)
    else:
        save_model(folder, scorer.whole, state, setup.tokenizer, torch.float32)


def save_policy(setup: Setup, state: dict[str, Tensor]) -> None:
    """Write the model folder aside, then move its files in place, so that none is ever half there."""
    aside = setup.output / ".saving"
    shutil.rmtree(aside, ignore_errors=True)
    write_model(setup, state, aside)
    if is_peft(setup.scorer.model) and setup.job.algorithm == "reward_model":
        base = {"weights": weights_digest(setup.job.policy_path)}
        (aside / ADAPTER_FOLDER / BASE_FILE).write_bytes(msgspec.json.encode(base))
    _move(aside, setup.output)


def _move(aside: Path, output: Path) -> None:
    """Move the files of a folder in place, one by one, and remove it."""
    for path in sorted(path for path in aside.rglob("*") if path.is_file()):
        target = output / path.relative_to(aside)
        target.parent.mkdir(exist_ok=True)
        path.chmod(0o644)
        fsync_file(path)
        os.replace(path, target)
    fsync_folder(output)
    shutil.rmtree(aside)


def weights_digest(path: str) -> str:
    """What identifies the weights of a model: the contents of its folder, or its name where it is not in one."""
    folder = Path(path)
    if not folder.is_dir():
        return digest("weights", path)
    files = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    return digest("weights", [[file.name, sha256_file(file)] for file in files])


def saved_base(folder: Path) -> str | None:
    """The digest of the weights on which a reward model was trained, where an adapter is all that was."""
    try:
        return msgspec.json.decode((folder / ADAPTER_FOLDER / BASE_FILE).read_bytes())["weights"]
    except FileNotFoundError:
        return None


def keep_trained(setup: Setup, model: nn.Module, folder: Path | None) -> None:
    """Make the model of another folder the one of the step's: weights that were saved on the way, None the first ones.

    `model` is the one in training, which an adapter that changes nothing takes its shapes from.
    """
    state = policy_state(setup, model)
    if setup.accelerator.is_main_process:
        aside = setup.output / ".saving"
        shutil.rmtree(aside, ignore_errors=True)
        _copy_model(setup, folder or Path(setup.job.policy_path), aside)
        if folder is not None and is_peft(setup.scorer.model):
            shutil.copytree(folder / ADAPTER_FOLDER, aside / ADAPTER_FOLDER)
        elif is_peft(setup.scorer.model):
            unchanged = {name: torch.zeros_like(w) if ".lora_B." in name else w for name, w in state.items()}
            save_adapter(aside / ADAPTER_FOLDER, setup.scorer.model, unchanged)
        _move(aside, setup.output)
    setup.accelerator.wait_for_everyone()


def _copy_model(setup: Setup, folder: Path, output: Path) -> None:
    trust = setup.job.trust_remote_code
    model = load_model(str(folder), stored_dtype(str(folder), trust_remote_code=trust), trust_remote_code=trust)
    save_model(output, model, model.state_dict(), setup.tokenizer, model.dtype)


def remove_rollouts(setup: Setup) -> None:
    """Drop the weights that were kept on the way."""
    if setup.accelerator.is_main_process:
        for folder in setup.output.glob("rollout-*"):
            shutil.rmtree(folder, ignore_errors=True)


def saved_scorer(setup: Setup) -> Scorer:
    """The policy as saved, read back: merging and rounding are part of what an engine must agree with."""
    model = load_model(str(setup.output), setup.dtype, trust_remote_code=setup.job.trust_remote_code)
    return Scorer(model).to(setup.accelerator.device)
