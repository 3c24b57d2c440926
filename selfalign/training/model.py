"""Models for training: loading, adapters, the scorers around them, and saving."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from selfalign.config import Adapter
from selfalign.training.batches import AttentionKinds, Batch, Layout, collate
from selfalign.training.dataset import Group, GroupDataset
from selfalign.training.scoring import Head, token_logprobs, token_logprobs_and_collision, token_logprobs_and_entropy

if TYPE_CHECKING:
    from peft import PeftModel

FAST_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
DROPOUT_ATTRIBUTES = ("dropout", "attention_dropout", "resid_dropout", "hidden_dropout", "activation_dropout")
PROBE_PROMPT, PROBE_ANSWER = 12, 6
ONE_GROUP = [np.zeros(1, dtype=np.int64)]


class ModelError(ValueError):
    """A model folder that cannot be trained: what, why, and what to do."""


def compute_dtype(setting: str) -> torch.dtype:
    """The dtype of matrix products. "auto": bfloat16 where the device has units for it, float32 elsewhere.

    A CPU without such units runs bfloat16 about a hundred times slower than float32.
    """
    if setting != "auto":
        return getattr(torch, setting)
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if FAST_BF16_FLAGS & cpu_flags() else torch.float32


def cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def load_model(path: str, dtype: torch.dtype, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """Load a causal language model from safetensors, with every dropout at 0. Raises ModelError."""
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be loaded as a causal language model from safetensors: {error}") from error
    turn_off_dropout(model)
    model.config.use_cache = False
    return model


def load_reward_model(
    path: str, dtype: torch.dtype, pad_token_id: int | None, *, trust_remote_code: bool = False
) -> PreTrainedModel:
    """Load a sequence classifier of one label, or put a new head on a causal language model; every dropout at 0.

    `pad_token_id` is written into its configuration; None leaves what is there.

    A new head has weights of standard deviation 1 / sqrt(hidden + 1) and no bias (Stiennon et al. 2020; Huang et al.
    2024, arXiv:2403.17031). Raises ModelError.
    """
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            path, num_labels=1, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be loaded as a reward model from safetensors: {error}") from error
    head = getattr(model, "score", None)
    if type(head) is not nn.Linear:
        raise ModelError(f"{type(model).__name__}: no plain head by the name of score; choose another architecture")
    known = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code).architectures or [""]
    if not known[0].endswith("ForSequenceClassification"):
        nn.init.normal_(head.weight, std=(head.in_features + 1) ** -0.5)
    model.config.pad_token_id = model.config.pad_token_id if pad_token_id is None else pad_token_id
    turn_off_dropout(model)
    model.config.use_cache = False
    return model


def stored_dtype(path: str, *, trust_remote_code: bool = False) -> torch.dtype:
    """The dtype in which the weights of a model folder are stored, by its configuration."""
    dtype = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code).dtype
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype or torch.float32


def turn_off_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in DROPOUT_ATTRIBUTES:
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def add_adapter(model: PreTrainedModel, adapter: Adapter) -> PeftModel:
    """Wrap the model with LoRA, B = 0: at first it computes what the model computes. Adapter weights are float32."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha if adapter.alpha is not None else 2 * adapter.rank,
        lora_dropout=adapter.dropout,
        target_modules=adapter.target_modules,
        task_type="SEQ_CLS" if hasattr(model, "score") else "CAUSAL_LM",  # a head of its own is trained whole
    )
    try:
        return get_peft_model(model, config, autocast_adapter_dtype=True)
    except ValueError as error:
        raise ModelError(f"policy.adapter.target_modules: {error}") from error


def attention_kinds(config: Any) -> AttentionKinds | None:
    """The kinds of attention of a model's layers, or None where a mask over pairs of positions cannot express them."""
    window = getattr(config, "sliding_window", None)
    if getattr(config, "use_sliding_window", True) is False:
        window = None
    layer_types = getattr(config, "layer_types", None)
    kinds = set(layer_types) if layer_types else {"sliding_attention" if window else "full_attention"}
    if not kinds <= {"full_attention", "sliding_attention"} or ("sliding_attention" in kinds and not window):
        return None
    return AttentionKinds(tuple(sorted(kinds)), window)


class Backbone(nn.Module):
    """A transformers model, with or without an adapter, that is asked for the hidden states of a batch."""

    def __init__(self, model: PreTrainedModel | PeftModel) -> None:
        super().__init__()
        self.model = model
        self.attention = attention_kinds(self.whole.config.get_text_config())
        self._no_split_modules = self.whole._no_split_modules  # where FSDP's automatic wrapping looks

    @property
    def whole(self) -> PreTrainedModel:
        """The transformers model, inside its adapter if it has one."""
        return self.model.get_base_model() if is_peft(self.model) else self.model

    def hidden_states(self, batch: Batch, places: Tensor) -> Tensor:
        """What a head would be applied to, at some of the R * L positions. [places, D]"""
        masks = batch.masks
        mask = masks if len(masks) > 1 else next(iter(masks.values()))
        states = self.whole.base_model(
            input_ids=batch.input_ids, attention_mask=mask, position_ids=batch.position_ids, use_cache=False
        ).last_hidden_state
        return states.flatten(0, 1)[places]

    @contextmanager
    def under(self, *adapters: str) -> Iterator[None]:
        """The base under these of its adapters; under none, it is the model as it was before any training.

        peft's own switches decide at once which adapters are trained; here that stays as it is.
        """
        layers = self._adapted_layers()
        before = self.adapters
        for layer in layers:
            layer._active_adapter = list(adapters)
        try:
            yield
        finally:
            for layer in layers:
                layer._active_adapter = list(before)

    @property
    def adapters(self) -> list[str]:
        """The adapters under which the base is now."""
        return next((layer.active_adapters for layer in self._adapted_layers()), [])

    def _adapted_layers(self) -> list[Any]:
        if not is_peft(self.model):
            return []
        from peft.tuners.tuners_utils import BaseTunerLayer

        return [module for module in self.model.modules() if isinstance(module, BaseTunerLayer)]

    def recompute_as_now(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """For gradient checkpointing: the backward pass computes under the adapters of the forward pass."""
        return nullcontext(), self.under(*self.adapters)


class Scorer(Backbone):
    """A causal language model that answers with the log-probability of every scored token of a batch."""

    def __init__(self, model: PreTrainedModel | PeftModel) -> None:
        super().__init__(model)
        self.head = Head.of(self.whole.config.get_text_config())
        head = self.whole.get_output_embeddings()
        if type(head) is not nn.Linear or self.whole.base_model is self.whole:
            raise ModelError(
                f"{type(self.whole).__name__}: no plain output layer over a base model was found; "
                "keep the output layer out of policy.adapter.target_modules, or choose another architecture"
            )

    def forward(
        self, batch: Batch, *, with_collision: bool = False, with_entropy: bool = False, temperature: float = 1.0
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Log-probabilities of the batch's targets in nats, float32. [N]

        On demand there is log sum_v p_v^2 beside them, or else the entropy of what they are drawn from, both [N].
        """
        head, made = self.whole.get_output_embeddings(), replace(self.head, temperature=temperature)
        score = token_logprobs_and_collision if with_collision else token_logprobs
        score = token_logprobs_and_entropy if with_entropy else score
        return score(self.hidden_states(batch, batch.sources), head.weight, head.bias, batch.targets, made)

    @torch.no_grad()
    def expected(self, group: GroupDataset) -> Tensor:
        """What `forward` should say of a single group, by the model's own full forward pass, one row at a time. [N]"""
        prompt, answers = group.parts(0)
        results = []
        for answer in answers:
            tokens = torch.from_numpy(np.concatenate([prompt, answer]).astype(np.int64)).to(self.whole.device)
            logits = self.whole(input_ids=tokens[None], use_cache=False).logits[0, len(prompt) - 1 : -1]
            results.append(logits.float().log_softmax(-1).gather(-1, tokens[len(prompt) :, None]).squeeze(-1))
        return torch.cat(results)


class BothHeads(NamedTuple):
    """What the two heads make of a batch's answers, both [S], and the cosine of their weights, []."""

    rewards: Tensor
    lengths: Tensor
    cosine: Tensor


class RewardScorer(Backbone):
    """A sequence classifier of one label that answers with the reward of every answer of a batch.

    The reward is read at an answer's last token. A batch scores the token behind each position, so its answers carry
    one more token than they have (`GroupDataset.with_room_behind`), which is never read. `length_head` adds a head for
    what length alone explains; it is trained beside the classifier's own and is no part of the saved model.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, *, length_head: bool = False) -> None:
        super().__init__(model)
        self.length_head = None
        if length_head:
            size = self.whole.score.in_features
            self.length_head = nn.Linear(size, 1, bias=False, dtype=torch.float32)
            nn.init.normal_(self.length_head.weight, std=(size + 1) ** -0.5)

    def forward(self, batch: Batch, *, both_heads: bool = False) -> Tensor | BothHeads:
        """Rewards, float32, [S]; on demand those of the length head beside them."""
        states, own = self.hidden_states(batch, last_sources(batch)), self.whole.score.weight
        rewards = scalars(states, own)
        if not both_heads:
            return rewards
        with torch.autocast(states.device.type, enabled=False):
            cosine = nn.functional.cosine_similarity(own.float(), self.length_head.weight).squeeze(0)
        return BothHeads(rewards, scalars(states, self.length_head.weight), cosine)

    @torch.no_grad()
    def expected(self, group: GroupDataset) -> Tensor:
        """What `forward` should say of a single group, by the model's own forward pass, one row at a time. [S]"""
        prompt, answers = group.parts(0)
        rows = [np.concatenate([prompt, answer[:-1]]).astype(np.int64) for answer in answers]
        logits = [self.whole(torch.from_numpy(row)[None].to(self.whole.device), use_cache=False).logits for row in rows]
        return torch.cat(logits).float().squeeze(-1)


def is_peft(model: nn.Module) -> bool:
    return hasattr(model, "peft_config")


def sequence_logps(token_logps_N: Tensor, batch: Batch) -> Tensor:
    """Sums over the tokens of each answer. [S]"""
    return torch.segment_reduce(token_logps_N, "sum", lengths=batch.lengths)


def choose_layout(scorer: Scorer | RewardScorer, groups: GroupDataset) -> Layout:
    """The shared layout, if this model can do it: layouts are compared with the model's own logits on a short group.

    Raises ModelError where even plain rows differ: then the scorer does not know what the model does to its logits.
    """
    probe = _short_group(groups)
    expected = scorer.expected(probe)
    tolerance = 1e-3 if next(scorer.parameters()).dtype == torch.float32 else 0.15
    if scorer.attention is not None and _layout_agrees(scorer, probe, "shared", expected, tolerance):
        return "shared"
    if _layout_agrees(scorer, probe, "plain", expected, tolerance):
        warnings.warn(
            f"{type(scorer.whole).__name__} cannot share a prompt between its answers: "
            "prompts are computed twice, training is slower",
            stacklevel=2,
        )
        return "plain"
    raise ModelError(
        f"{type(scorer.whole).__name__}: log-probabilities from its hidden states differ from its own logits; "
        "this architecture cannot be trained yet"
    )


def _short_group(groups: GroupDataset) -> GroupDataset:
    """The last tokens of the first group's prompt and the first of its answers; a single answer stands twice."""
    prompt, answers = groups.parts(0)
    first, last = (answer[:PROBE_ANSWER] for answer in (answers[0], answers[-1]))
    return GroupDataset([Group.pair("probe", prompt[-PROBE_PROMPT:], first, last)])


@torch.no_grad()
def _layout_agrees(
    scorer: Scorer | RewardScorer, group: GroupDataset, layout: Layout, expected: Tensor, tolerance: float
) -> bool:
    batch = collate(group, ONE_GROUP, layout, scorer.attention or AttentionKinds())
    try:
        found = scorer(batch.to(expected.device))
    except (TypeError, ValueError, RuntimeError, IndexError, KeyError) as error:
        if layout == "plain":
            raise
        warnings.warn(f"{type(scorer.whole).__name__} takes no mask over pairs of positions: {error}", stacklevel=3)
        return False
    return (found - expected).abs().mean().item() <= tolerance


def merge_lora(state: Mapping[str, Tensor], model: PeftModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """The base model's state dict with W + scaling B A computed in float32, then stored in `dtype`.

    `state` is the adapted model's full state dict; weights that share memory (tied embeddings) still do afterwards.
    """
    prefix = "base_model.model."
    merged: dict[str, Tensor] = {}
    stored: dict[int, Tensor] = {}
    for name, weight in state.items():
        if ".lora_" in name or ".original_module." in name or not name.startswith(prefix):
            continue
        name = name.replace(".modules_to_save.default.", ".")
        stem, found, leaf = name.removeprefix(prefix).rpartition(".base_layer.")
        plain = f"{stem}.{leaf}" if found else leaf
        if f"{prefix}{stem}.lora_A.default.weight" in state and leaf == "weight":
            weight = weight.float() + _delta(state, model, prefix + stem)
        elif weight.data_ptr() in stored:
            merged[plain] = stored[weight.data_ptr()]
            continue
        pointer = weight.data_ptr()
        merged[plain] = stored[pointer] = weight.to(dtype) if weight.is_floating_point() else weight
    return merged


def _delta(state: Mapping[str, Tensor], model: PeftModel, name: str) -> Tensor:
    """scaling B A in float32, transposed for layers that store [in, out] (GPT-2's Conv1D)."""
    layer = model.get_submodule(name)
    low, high = (state[f"{name}.lora_{side}.default.weight"].float() for side in "AB")
    delta = layer.scaling["default"] * (high @ low)
    return delta.t() if layer.fan_in_fan_out else delta


def save_model(
    folder: Path,
    model: PreTrainedModel,
    state: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype,
) -> None:
    """Write a standard transformers folder: safetensors, configuration, generation settings, tokenizer, template."""
    model.config.dtype = dtype
    use_cache, model.config.use_cache = model.config.use_cache, True
    model.save_pretrained(folder, state_dict=dict(state))
    model.config.use_cache = use_cache
    tokenizer.save_pretrained(folder)


def save_adapter(folder: Path, model: PeftModel, state: Mapping[str, Tensor]) -> None:
    """Write the LoRA weights alone, as peft reads them."""
    model.save_pretrained(folder, state_dict=dict(state), safe_serialization=True, selected_adapters=["default"])


def add_saved_adapter(model: PeftModel, folder: Path, name: str, *, trained: bool) -> Tensor:
    """Put a saved reward model's adapter beside those of the same base, without dropout; returns its head. [1, D]

    One that is trained is kept in float32, another in the dtype of the base. Raises ModelError where it does not fit.
    """
    from peft import LoraConfig, set_peft_model_state_dict

    config = LoraConfig.from_pretrained(str(folder))
    config.task_type, config.modules_to_save, config.lora_dropout = "CAUSAL_LM", None, 0.0
    state = load_file(folder / "adapter_model.safetensors")
    head = state.pop("base_model.model.score.weight")
    model.add_adapter(name, config, autocast_adapter_dtype=trained)
    odd = set_peft_model_state_dict(model, state, adapter_name=name).unexpected_keys
    if odd:
        raise ModelError(f"{folder}: this adapter is not one of {type(model.get_base_model()).__name__}: {odd[0]}")
    for parameter_name, parameter in model.named_parameters():
        if f".{name}." in parameter_name:
            parameter.requires_grad_(trained)
    return head


class ValueScorer(Backbone):
    """A sequence classifier of one label, read before every scored token: what is still to come."""

    def forward(self, batch: Batch) -> Tensor:
        """Values, float32. [N]"""
        return scalars(self.hidden_states(batch, batch.sources), self.whole.score.weight)


def last_sources(batch: Batch) -> Tensor:
    """Where the reward of each answer is read, in answers with room behind them. [S]"""
    return batch.sources[batch.lengths.cumsum(0) - 1]


def scalars(states: Tensor, head: Tensor) -> Tensor:
    """What a head [1, D] makes of hidden states [n, D], in float32 whatever the products run in. [n]"""
    with torch.autocast(states.device.type, enabled=False):
        return torch.nn.functional.linear(states.float(), head.float()).squeeze(-1)


@torch.no_grad()
def completion_logprobs(
    scorer: nn.Module, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], device: torch.device
) -> list[list[float]]:
    """Log-probabilities of each answer's tokens after its prompt, in nats, on plain rows."""
    results = []
    for prompt, answer in zip(prompts, answers, strict=True):
        group = GroupDataset([Group("", prompt, (answer,), (1.0,))])
        batch = collate(group, ONE_GROUP, "plain", AttentionKinds())
        results.append(scorer(batch.to(device)).tolist())
    return results
