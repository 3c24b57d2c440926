"""What every training job needs at hand: its data as tokens, its policy, and how groups are laid out on rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from selfalign.chat import encode_answer, encode_chat
from selfalign.records import derived_seed
from selfalign.training.batches import AttentionKinds, Extents, Layout, collate, plan_step
from selfalign.training.dataset import Encoder, GroupDataset, load_groups, probe_groups
from selfalign.training.job import TrainJob
from selfalign.training.loop import MicroBatch, emit
from selfalign.training.model import (
    ModelError,
    RewardScorer,
    Scorer,
    add_adapter,
    choose_layout,
    compute_dtype,
    load_model,
    load_reward_model,
)

CPU_MAX_TOKENS = 1024  # a CPU is as fast with so many positions as with twice as many, which cost a third more memory


class LaunchError(RuntimeError):
    """The trainer was started in a way that it cannot work in."""


@dataclass
class Setup:
    """What every part of a job needs: the data, the policy, and how its groups are laid out."""

    job: TrainJob
    accelerator: Accelerator
    tokenizer: PreTrainedTokenizerBase
    encoder: Encoder
    groups: GroupDataset
    dropped: dict[str, int]  # left out, by reason
    scorer: Scorer | RewardScorer
    dtype: torch.dtype
    layout: Layout

    @property
    def attention(self) -> AttentionKinds:
        return self.scorer.attention or AttentionKinds()

    @property
    def output(self) -> Path:
        return Path(self.job.output_dir)

    def micro_batches(self, indexes: np.ndarray) -> Iterator[MicroBatch]:
        """This process's share of some groups, packed, collated, and on the device."""
        accelerator = self.accelerator
        max_tokens = self.job.train.max_tokens_per_batch
        if accelerator.device.type == "cpu":
            max_tokens = min(max_tokens, CPU_MAX_TOKENS)
        extents = Extents.of(self.groups, self.layout)
        plan = plan_step(extents, indexes, max_tokens, accelerator.process_index, accelerator.num_processes)
        for rows, counts in plan:
            batch = collate(self.groups, rows, self.layout, self.attention)
            yield MicroBatch(batch.to(accelerator.device), counts)


def prepare(job: TrainJob) -> Setup:
    """Read the data, load the policy, wrap it with its adapter, and choose the layout of rows."""
    dtype = compute_dtype(job.train.dtype)
    precision = "bf16" if dtype == torch.bfloat16 else "no"
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision=precision)
    _check_processes(job, accelerator)
    tokenizer = AutoTokenizer.from_pretrained(job.policy_path, trust_remote_code=job.trust_remote_code)
    if job.reward_model is not None and not pad_apart(tokenizer) and accelerator.is_main_process:
        said = "no token to pad with but the one that ends answers: other programs must read its rewards row by row"
        emit("warning", message=f"round {job.round}: {job.policy_path} has {said}")
    encoder = make_encoder(job, tokenizer)
    if encoder.foreign and accelerator.is_main_process:
        said = (
            f"{job.policy_path} has another tokenizer than {job.sampler_path}: answers are encoded anew from their text"
        )
        emit("warning", message=f"round {job.round}: {said}")
    if job.algorithm == "ppo":
        groups, dropped = probe_groups(job, encoder), Counter[str]()
    else:
        groups, dropped = load_groups(job, encoder)
    if dropped and accelerator.is_main_process:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items()))
        emit("warning", message=f"round {job.round}: left out of training: {reasons}; {len(groups)} remain")
    scorer = fresh_scorer(job, dtype, tokenizer, accelerator)
    check_vocabulary(groups, scorer.whole, job.policy_path)
    layout = choose_layout(scorer, groups)
    accelerator.wait_for_everyone()
    return Setup(job, accelerator, tokenizer, encoder, groups, dict(dropped), scorer, dtype, layout)


def pad_apart(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Pad with another token than the one that ends answers; False where there is none.

    transformers reads a classifier at the last token that is not padding, which has to be the answer's own.
    """
    named = [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id, *tokenizer.all_special_ids]
    free = [token for token in named if token not in (None, tokenizer.eos_token_id)]
    pad = free[0] if free else tokenizer.eos_token_id
    if pad != tokenizer.pad_token_id:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    return bool(free)


def make_encoder(job: TrainJob, tokenizer: PreTrainedTokenizerBase) -> Encoder:
    ends, foreign = end_tokens(job.policy_path, tokenizer), False
    if job.sampler_path is not None:
        sampler = AutoTokenizer.from_pretrained(job.sampler_path, trust_remote_code=job.trust_remote_code)
        foreign = sampler.get_vocab() != tokenizer.get_vocab()
    return Encoder(
        lambda messages: encode_chat(tokenizer, messages),
        lambda messages, text: encode_answer(tokenizer, messages, text, ends),
        foreign,
    )


def fresh_scorer(
    job: TrainJob, dtype: torch.dtype, tokenizer: PreTrainedTokenizerBase, accelerator: Accelerator
) -> Scorer | RewardScorer:
    """The model as it is before the job's first step; what is drawn at random, a head or an adapter, is by its seed."""
    torch.manual_seed(derived_seed("adapter", job.seed, job.round))
    return make_scorer(job, weight_dtype(job, dtype), tokenizer).train().to(accelerator.device)


def make_scorer(job: TrainJob, dtype: torch.dtype, tokenizer: PreTrainedTokenizerBase) -> Scorer | RewardScorer:
    """The model that is trained, with its adapter and a head for what the algorithm asks of it."""
    trust = job.trust_remote_code
    if job.algorithm == "reward_model":
        model = load_reward_model(job.policy_path, dtype, tokenizer.pad_token_id, trust_remote_code=trust)
    else:
        model = load_model(job.policy_path, dtype, trust_remote_code=trust)
    if job.train.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model = add_adapter(model, job.adapter) if job.adapter else model
    if job.reward_model is not None:
        return RewardScorer(model, length_head=job.reward_model.length_head > 0)
    return Scorer(model)


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


def end_tokens(path: str, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end an answer: those of the model's generation settings, and the tokenizer's own."""
    try:
        named = GenerationConfig.from_pretrained(path).eos_token_id
    except OSError:
        named = None
    found = named if isinstance(named, list) else [named]
    return {token for token in (*found, tokenizer.eos_token_id) if token is not None}


def weight_dtype(job: TrainJob, dtype: torch.dtype) -> torch.dtype:
    """Trained weights are kept in float32, whatever the products run in; frozen ones in the products' dtype."""
    return dtype if job.adapter else torch.float32


def check_vocabulary(groups: GroupDataset, model: nn.Module, path: str) -> None:
    """Raise ModelError where the data holds tokens that the model does not know."""
    size = model.get_input_embeddings().num_embeddings
    highest = groups.highest_token()
    if highest >= size:
        raise ModelError(f"{path}: the data holds token {highest}, the model knows only {size}: another tokenizer's?")
