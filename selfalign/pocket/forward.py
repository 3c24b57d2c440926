"""A lean forward pass through Llama for training on a CPU: shared prefixes, and logits only where there is loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM


def new_model(vocab_size: int, pad: int, end: int) -> LlamaForCausalLM:
    """About 2.1 M parameters; the head size 64 is one that vLLM has CPU attention kernels for."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=3,
            num_key_value_heads=3,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            pad_token_id=pad,
            bos_token_id=None,
            eos_token_id=end,
            rms_norm_eps=1e-6,
        )
    )


@dataclass(frozen=True)
class Batch:
    """Rows of one shared prefix and any number of branches that do not see each other.

    ids_BT, positions_BT; mask_B1TT is additive; where_N indexes the flattened positions of each branch's last token,
    and starts_B that of each row's first.
    """

    ids_BT: Tensor
    positions_BT: Tensor
    mask_B1TT: Tensor
    where_N: Tensor
    starts_B: Tensor


def make_batch(rows: Sequence[tuple[list[int], list[list[int]]]], pad: int) -> Batch:
    """Lay out (prefix, branches) rows; the loss positions are the last of each branch, row by row."""
    length = max(len(prefix) + sum(map(len, branches)) for prefix, branches in rows)
    ids = torch.full((len(rows), length), pad)
    positions = torch.zeros(len(rows), length, dtype=torch.long)
    segments = torch.full((len(rows), length), -1)
    where = []
    for row, (prefix, branches) in enumerate(rows):
        at = len(prefix)
        ids[row, :at], positions[row, :at], segments[row, :at] = torch.tensor(prefix), torch.arange(at), 0
        for number, branch in enumerate(branches, start=1):
            end = at + len(branch)
            ids[row, at:end] = torch.tensor(branch)
            positions[row, at:end] = torch.arange(len(prefix), len(prefix) + len(branch))
            segments[row, at:end] = number
            where.append(row * length + end - 1)
            at = end
    return Batch(ids, positions, _mask(segments), torch.tensor(where), torch.arange(len(rows)) * length)


def _mask(segments_BT: Tensor) -> Tensor:
    length = segments_BT.shape[1]
    keys, queries = segments_BT[:, None, :], segments_BT[:, :, None]
    allowed = ((keys == 0) | (keys == queries)) & torch.ones(length, length, dtype=torch.bool).tril()
    return torch.zeros(allowed.shape).masked_fill_(~allowed, float("-inf"))[:, None]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def _norm(x: Tensor, module: torch.nn.Module) -> Tensor:
    return F.rms_norm(x, module.weight.shape, module.weight, module.variance_epsilon)  # type: ignore[arg-type, union-attr]


def _attend(layer: torch.nn.Module, x_BTD: Tensor, mask: Tensor | None, cos: Tensor, sin: Tensor) -> Tensor:
    attention = layer.self_attn
    shape = (*x_BTD.shape[:2], -1, attention.head_dim)
    query, key, value = (
        p(x_BTD).view(shape).transpose(1, 2) for p in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
    return out.transpose(1, 2).reshape(x_BTD.shape)


def logits_at(
    model: LlamaForCausalLM, ids_BT: Tensor, positions_BT: Tensor, mask: Tensor | None, where_N: Tensor
) -> Tensor:
    """Logits [N, V] of the tokens after the flattened positions `where_N`; no mask means plain causal rows."""
    return logits_and_hidden(model, ids_BT, positions_BT, mask, where_N)[0]


def logits_and_hidden(
    model: LlamaForCausalLM, ids_BT: Tensor, positions_BT: Tensor, mask: Tensor | None, where_N: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Logits [N, V] at the flattened positions `where_N`, and what enters each layer, [B * T, D], at all of them.

    The last layer's projections after attention are computed at `where_N` only.
    """
    trunk = model.model
    cos, sin = (t[:, None] for t in trunk.rotary_emb(torch.empty(0), positions_BT))
    x = trunk.embed_tokens(ids_BT)
    hidden: list[Tensor] = []
    for number, layer in enumerate(trunk.layers):
        attended = _attend(layer, _norm(x, layer.input_layernorm), mask, cos, sin)
        hidden.append(x.flatten(0, 1))
        if number == len(trunk.layers) - 1:
            x, attended = hidden[-1][where_N], attended.flatten(0, 1)[where_N]
        x = x + layer.self_attn.o_proj(attended)
        x = x + layer.mlp(_norm(x, layer.post_attention_layernorm))
    return model.lm_head(_norm(x, trunk.norm)), hidden
