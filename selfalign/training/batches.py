"""From pairs to tensors: which pairs make a step, how they share rows, and what may attend to what.

In the shared layout a pair is one segment, prompt | chosen | rejected: the prompt is computed once. Positions of the
rejected answer start again at the prompt's length, chosen and rejected cannot see each other, and a row may hold
several segments that cannot see each other either. In the plain layout a pair is two rows, as for any model. The last
token of an answer predicts nothing: it is a target, never an input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from selfalign.training.dataset import PairDataset

Layout = Literal["shared", "plain"]
Rows = list[np.ndarray]  # pair numbers, row by row; in the plain layout one pair stands for two rows

PROMPT, CHOSEN, REJECTED, PADDING = 0, 1, 2, 3


@dataclass(frozen=True)
class AttentionKinds:
    """The kinds of attention of a model's layers: "full_attention", "sliding_attention" with its window in tokens."""

    kinds: tuple[str, ...] = ("full_attention",)
    window: int | None = None


@dataclass
class Batch:
    """A micro-batch of B pairs on R rows of L positions; N scored tokens in 2B sequences: B chosen, then B rejected."""

    input_ids: Tensor  # [R, L] int64
    position_ids: Tensor  # [R, L] int64
    masks: dict[str, Tensor]  # kind of attention -> [R, 1, L, L], 0 or the lowest float; plain layout: {"": [R, L]}
    sources: Tensor  # [N] int64: which of the R * L hidden states predicts each scored token
    targets: Tensor  # [N] int64
    lengths: Tensor  # [2B] int64: scored tokens of each sequence
    p_chosen: Tensor  # [B] float32
    weight: Tensor  # [B] float32
    indexes: Tensor  # [B] int64: pair numbers

    def to(self, device: torch.device) -> Batch:
        moved = {
            name: value.to(device, non_blocking=True) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return Batch(**moved, masks={kind: mask.to(device, non_blocking=True) for kind, mask in self.masks.items()})


def num_steps(num_pairs: int, batch_size: int, epochs: int) -> int:
    return epochs * -(-num_pairs // batch_size)


def step_indexes(num_pairs: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Pair numbers of optimizer step `step` (from 0): each epoch is a fresh permutation, the last step may be smaller.

    Depends on nothing but its arguments, so a resumed run needs no state of a sampler.
    """
    per_epoch = -(-num_pairs // batch_size)
    epoch, position = divmod(step, per_epoch)
    order = np.random.default_rng([seed, epoch]).permutation(num_pairs)
    return order[position * batch_size : (position + 1) * batch_size]


def row_lengths(pairs: PairDataset, layout: Layout) -> np.ndarray:
    """Positions that each pair takes in a row; in the plain layout in the longer of its two. [N]"""
    prompt, chosen, rejected = pairs.lengths.T
    if layout == "shared":
        return prompt + chosen + rejected - 2
    return prompt + np.maximum(chosen, rejected) - 1


def micro_batches(lengths: np.ndarray, indexes: np.ndarray, max_tokens: int, layout: Layout) -> list[Rows]:
    """Split pairs, longest first, into groups whose padded rows hold at most `max_tokens` positions.

    The first pair of a group sets the width of its rows. In the shared layout shorter pairs fill what is left of each
    row (first fit, decreasing), so that little is padding. A pair longer than the budget has a group of its own.
    """
    ordered = indexes[np.argsort(-lengths[indexes], kind="stable")]
    groups = []
    while len(ordered):
        width = int(lengths[ordered[0]])
        if layout == "shared":
            rows, ordered = _first_fit(lengths, ordered, width, max(1, max_tokens // width))
        else:
            size = max(1, max_tokens // (2 * width))
            rows, ordered = [ordered[i : i + 1] for i in range(min(size, len(ordered)))], ordered[size:]
        groups.append(rows)
    return groups


def _first_fit(lengths: np.ndarray, ordered: np.ndarray, width: int, num_rows: int) -> tuple[Rows, np.ndarray]:
    """Put each pair in the first of `num_rows` rows that has room; return the rows that were used, and what is left."""
    rows: list[list[int]] = [[] for _ in range(num_rows)]
    room = [width] * num_rows
    left = []
    for index in ordered.tolist():
        length = int(lengths[index])
        row = next((number for number, free in enumerate(room) if free >= length), None)
        if row is None:
            left.append(index)
        else:
            rows[row].append(index)
            room[row] -= length
    return [np.array(row) for row in rows if row], np.array(left, dtype=ordered.dtype)


def share_of(lengths: np.ndarray, indexes: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """The pairs of one process: every `world_size`-th by length, so that all have about the same work."""
    return indexes[np.argsort(-lengths[indexes], kind="stable")][rank::world_size]


def plan_step(
    lengths: np.ndarray, indexes: np.ndarray, max_tokens: int, layout: Layout, rank: int, world_size: int
) -> list[tuple[Rows, bool]]:
    """The micro-batches of one process in one optimizer step, and whether each counts.

    Sharded models need as many forward passes in every process, so a process that has fewer repeats the step's
    shortest pair, not counted.
    """
    plans = [
        micro_batches(lengths, share_of(lengths, indexes, other, world_size), max_tokens, layout)
        for other in range(world_size)
    ]
    filler = [indexes[np.argmin(lengths[indexes])][None]]
    missing = max(len(plan) for plan in plans) - len(plans[rank])
    return [(filler, False)] * missing + [(group, True) for group in plans[rank]]


def collate(pairs: PairDataset, rows: Rows, layout: Layout, attention: AttentionKinds) -> Batch:
    """Lay the pairs out on rows."""
    return (
        _collate_shared(pairs, rows, attention) if layout == "shared" else _collate_plain(pairs, np.concatenate(rows))
    )


def _collate_shared(pairs: PairDataset, rows: Rows, attention: AttentionKinds) -> Batch:
    lengths = row_lengths(pairs, "shared")
    shape = len(rows), max(int(lengths[row].sum()) for row in rows)
    input_ids, position_ids = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    part, owner = np.full(shape, PADDING, dtype=np.int8), np.full(shape, -1, dtype=np.int32)
    sources: list[list[np.ndarray]] = [[], []]
    targets: list[list[np.ndarray]] = [[], []]
    for row, indexes in enumerate(rows):
        start = 0
        for index in indexes:
            prompt, chosen, rejected = pairs.parts(index)
            answer = start + len(prompt)
            other = answer + len(chosen) - 1  # where the rejected answer begins
            end = other + len(rejected) - 1
            input_ids[row, start:end] = np.concatenate([prompt, chosen[:-1], rejected[:-1]])
            position_ids[row, start:other] = np.arange(other - start)
            position_ids[row, other:end] = np.arange(len(prompt), len(prompt) + end - other)
            part[row, start:answer], part[row, answer:other], part[row, other:end] = PROMPT, CHOSEN, REJECTED
            owner[row, start:end] = index
            first = row * shape[1]
            last = first + answer - 1  # the last prompt position predicts the first token of both answers
            sources[0].append(np.arange(last, last + len(chosen)))
            sources[1].append(np.concatenate([[last], np.arange(first + other, first + end)]))
            targets[0].append(chosen)
            targets[1].append(rejected)
            start = end
    positions = torch.from_numpy(position_ids)
    masks = shared_masks(torch.from_numpy(part), torch.from_numpy(owner), positions, attention)
    return _batch(pairs, np.concatenate(rows), input_ids, positions, masks, sources, targets)


def _collate_plain(pairs: PairDataset, indexes: np.ndarray) -> Batch:
    size, width = len(indexes), int(row_lengths(pairs, "plain")[indexes].max())
    input_ids = np.zeros((2 * size, width), dtype=np.int64)
    filled = np.zeros((2 * size, width), dtype=np.int64)
    sources: list[list[np.ndarray]] = [[], []]
    targets: list[list[np.ndarray]] = [[], []]
    for number, index in enumerate(indexes):
        prompt, *answers = pairs.parts(index)
        for side, answer in enumerate(answers):
            row, end = side * size + number, len(prompt) + len(answer) - 1
            input_ids[row, :end] = np.concatenate([prompt, answer[:-1]])
            filled[row, :end] = 1
            sources[side].append(np.arange(row * width + len(prompt) - 1, row * width + end))
            targets[side].append(answer)
    positions = torch.arange(width).expand(2 * size, width)
    return _batch(pairs, indexes, input_ids, positions, {"": torch.from_numpy(filled)}, sources, targets)


def _batch(
    pairs: PairDataset,
    indexes: np.ndarray,
    input_ids: np.ndarray,
    positions: Tensor,
    masks: dict[str, Tensor],
    sources: list[list[np.ndarray]],
    targets: list[list[np.ndarray]],
) -> Batch:
    labels = torch.from_numpy(pairs.labels[indexes]).float()
    return Batch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=positions,
        masks=masks,
        sources=torch.from_numpy(np.concatenate(sources[0] + sources[1])),
        targets=torch.from_numpy(np.concatenate(targets[0] + targets[1]).astype(np.int64)),
        lengths=torch.from_numpy(pairs.lengths[indexes][:, 1:].T.reshape(-1).copy()),
        p_chosen=labels[:, 0].contiguous(),
        weight=labels[:, 1].contiguous(),
        indexes=torch.from_numpy(indexes.astype(np.int64)),
    )


def shared_masks(part: Tensor, owner: Tensor, positions: Tensor, attention: AttentionKinds) -> dict[str, Tensor]:
    """Additive masks of the shared layout, by kind of attention; `part`, `owner` (pair) and `positions` are [R, L].

    Each mask is [R, 1, L, L]. A token sees itself, what came before it in its own part, and its own pair's prompt; with
    sliding attention only what is less than a window back, counted in positions and not in places of the row. Padding
    sees padding, so that no row of scores is empty. Floats, because a boolean mask would be turned into floats again in
    every layer.
    """
    causal = torch.ones(part.shape[1], part.shape[1], dtype=torch.bool).tril()
    same_pair = owner[:, None, :] == owner[:, :, None]
    seen = causal & same_pair & ((part[:, None, :] == PROMPT) | (part[:, None, :] == part[:, :, None]))
    masks = {}
    for kind in attention.kinds:
        allowed = seen
        if kind == "sliding_attention":
            allowed = seen & (positions[:, :, None] - positions[:, None, :] < attention.window)
        lowest = torch.finfo(torch.float32).min
        masks[kind] = torch.zeros(allowed.shape).masked_fill_(~allowed, lowest)[:, None]
    return masks
