"""From groups to tensors: which groups make a step, how they share rows, and what may attend to what.

In the shared layout a group is one segment, prompt | answer | answer ...: the prompt is computed once. Positions of
each answer start again at the prompt's length, answers cannot see each other, and a row may hold several segments that
cannot see each other either. In the plain layout each answer is a row with its prompt, as for any model. The last token
of an answer predicts nothing: it is a target, never an input.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from selfalign.training.dataset import GroupDataset

Layout = Literal["shared", "plain"]
Rows = list[np.ndarray]  # group numbers, row by row; in the plain layout one group stands for as many rows as answers

PROMPT, PADDING = 0, -1  # answers are parts 1, 2, ...


@dataclass(frozen=True)
class AttentionKinds:
    """The kinds of attention of a model's layers: "full_attention", "sliding_attention" with its window in tokens."""

    kinds: tuple[str, ...] = ("full_attention",)
    window: int | None = None


@dataclass
class Batch:
    """A micro-batch of B groups on R rows of L positions; N scored tokens in S sequences, group by group."""

    input_ids: Tensor  # [R, L] int64
    position_ids: Tensor  # [R, L] int64
    masks: dict[str, Tensor]  # kind of attention -> [R, 1, L, L], 0 or the lowest float; plain layout: {"": [R, L]}
    sources: Tensor  # [N] int64: which of the R * L hidden states predicts each scored token
    targets: Tensor  # [N] int64
    lengths: Tensor  # [S] int64: scored tokens of each sequence
    labels: Tensor  # [S] float32
    rewards: Tensor  # [S] float32
    answers: Tensor  # [S] int64: answer numbers
    sizes: Tensor  # [B] int64: sequences of each group
    weight: Tensor  # [B] float32
    indexes: Tensor  # [B] int64: group numbers

    def to(self, device: torch.device) -> Batch:
        moved = {
            name: value.to(device, non_blocking=True) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return Batch(**moved, masks={kind: mask.to(device, non_blocking=True) for kind, mask in self.masks.items()})

    def without_room_behind(self) -> Batch:
        """The same rows, of which no answer's last token is scored: the one that `with_room_behind` put there."""
        kept = torch.ones_like(self.sources, dtype=torch.bool)
        kept[self.lengths.cumsum(0) - 1] = False
        return replace(self, sources=self.sources[kept], targets=self.targets[kept], lengths=self.lengths - 1)


def num_steps(num_groups: int, batch_size: int, epochs: int) -> int:
    return epochs * -(-num_groups // batch_size)


def step_indexes(num_groups: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Group numbers of optimizer step `step` (from 0): each epoch is a fresh permutation, the last step may be smaller.

    Depends on nothing but its arguments, so a resumed run needs no state of a sampler.
    """
    per_epoch = -(-num_groups // batch_size)
    epoch, position = divmod(step, per_epoch)
    order = np.random.default_rng([seed, epoch]).permutation(num_groups)
    return order[position * batch_size : (position + 1) * batch_size]


@dataclass(frozen=True)
class Extents:
    """How much room each group takes: `rows` rows of `widths` positions. Both [N]"""

    widths: np.ndarray
    rows: np.ndarray
    layout: Layout

    @staticmethod
    def of(groups: GroupDataset, layout: Layout) -> Extents:
        if layout == "shared":
            widths = groups.prompt_lengths + groups.total_answer_lengths() - groups.sizes
            return Extents(widths, np.ones_like(groups.sizes), layout)
        return Extents(groups.prompt_lengths + groups.longest_answers() - 1, groups.sizes, layout)

    def longest_first(self, indexes: np.ndarray) -> np.ndarray:
        return indexes[np.argsort(-self.widths[indexes], kind="stable")]


def micro_batches(extents: Extents, indexes: np.ndarray, max_tokens: int) -> list[Rows]:
    """Split groups, longest first, into batches whose padded rows hold at most `max_tokens` positions.

    The first group of a batch sets the width of its rows. In the shared layout shorter groups fill what is left of each
    row (first fit, decreasing), so that little is padding. A group longer than the budget has a batch of its own.
    """
    ordered = extents.longest_first(indexes)
    batches = []
    while len(ordered):
        most_rows = max(1, max_tokens // int(extents.widths[ordered[0]]))
        if extents.layout == "shared":
            rows, ordered = _first_fit(extents.widths, ordered, most_rows)
        else:
            size = max(1, int(np.searchsorted(np.cumsum(extents.rows[ordered]), most_rows, side="right")))
            rows, ordered = list(ordered[:size, None]), ordered[size:]
        batches.append(rows)
    return batches


def _first_fit(lengths: np.ndarray, ordered: np.ndarray, num_rows: int) -> tuple[Rows, np.ndarray]:
    """Put each group in the first of `num_rows` rows that has room; return the used rows, and what is left."""
    rows: list[list[int]] = [[] for _ in range(num_rows)]
    room = [int(lengths[ordered[0]])] * num_rows
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


def share_of(extents: Extents, indexes: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """The groups of one process: every `world_size`-th by length, so that all have about the same work."""
    return extents.longest_first(indexes)[rank::world_size]


def plan_step(
    extents: Extents, indexes: np.ndarray, max_tokens: int, rank: int, world_size: int
) -> list[tuple[Rows, bool]]:
    """The micro-batches of one process in one optimizer step, and whether each counts.

    Sharded models need as many forward passes in every process, so a process that has fewer repeats the step's
    shortest group, not counted.
    """
    plans = [
        micro_batches(extents, share_of(extents, indexes, other, world_size), max_tokens) for other in range(world_size)
    ]
    filler = [indexes[np.argmin(extents.widths[indexes])][None]]
    missing = max(len(plan) for plan in plans) - len(plans[rank])
    return [(filler, False)] * missing + [(rows, True) for rows in plans[rank]]


def collate(groups: GroupDataset, rows: Rows, layout: Layout, attention: AttentionKinds) -> Batch:
    """Lay the groups out on rows."""
    if layout == "shared":
        return _collate_shared(groups, rows, attention)
    return _collate_plain(groups, np.concatenate(rows))


def _collate_shared(groups: GroupDataset, rows: Rows, attention: AttentionKinds) -> Batch:
    widths = Extents.of(groups, "shared").widths
    shape = len(rows), max(int(widths[row].sum()) for row in rows)
    input_ids, position_ids = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    part, owner = np.full(shape, PADDING, dtype=np.int16), np.full(shape, -1, dtype=np.int32)
    sources: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    for row, indexes in enumerate(rows):
        start = 0
        for index in indexes:
            prompt, answers = groups.parts(index)
            end = start + len(prompt)
            input_ids[row, start:end], position_ids[row, start:end] = prompt, np.arange(len(prompt))
            part[row, start:end] = PROMPT
            last = row * shape[1] + end - 1  # the last prompt position predicts the first token of every answer
            for number, answer in enumerate(answers, start=1):
                begin, end = end, end + len(answer) - 1
                input_ids[row, begin:end] = answer[:-1]
                position_ids[row, begin:end] = np.arange(len(prompt), len(prompt) + end - begin)
                part[row, begin:end] = number
                own = np.arange(row * shape[1] + begin, row * shape[1] + end)
                sources.append(np.concatenate([[last], own]))
                targets.append(answer)
            owner[row, start:end] = index
            start = end
    positions = torch.from_numpy(position_ids)
    masks = shared_masks(torch.from_numpy(part), torch.from_numpy(owner), positions, attention)
    return _batch(groups, np.concatenate(rows), input_ids, positions, masks, sources, targets)


def _collate_plain(groups: GroupDataset, indexes: np.ndarray) -> Batch:
    extents = Extents.of(groups, "plain")
    shape = int(extents.rows[indexes].sum()), int(extents.widths[indexes].max())
    input_ids, filled = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    sources: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    for index in indexes:
        prompt, answers = groups.parts(index)
        for answer in answers:
            row, end = len(targets), len(prompt) + len(answer) - 1
            input_ids[row, :end] = np.concatenate([prompt, answer[:-1]])
            filled[row, :end] = 1
            sources.append(np.arange(row * shape[1] + len(prompt) - 1, row * shape[1] + end))
            targets.append(answer)
    positions = torch.arange(shape[1]).expand(shape)
    return _batch(groups, indexes, input_ids, positions, {"": torch.from_numpy(filled)}, sources, targets)


def _batch(
    groups: GroupDataset,
    indexes: np.ndarray,
    input_ids: np.ndarray,
    positions: Tensor,
    masks: dict[str, Tensor],
    sources: list[np.ndarray],
    targets: list[np.ndarray],
) -> Batch:
    answers = groups.answers_of(indexes)
    return Batch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=positions,
        masks=masks,
        sources=torch.from_numpy(np.concatenate(sources)),
        targets=torch.from_numpy(np.concatenate(targets).astype(np.int64)),
        lengths=torch.from_numpy(groups.answer_lengths[answers]),
        labels=torch.from_numpy(groups.labels[answers]).float(),
        rewards=torch.from_numpy(groups.rewards[answers]).float(),
        answers=torch.from_numpy(answers),
        sizes=torch.from_numpy(groups.sizes[indexes]),
        weight=torch.from_numpy(groups.weights[indexes]).float(),
        indexes=torch.from_numpy(indexes.astype(np.int64)),
    )


def shared_masks(part: Tensor, owner: Tensor, positions: Tensor, attention: AttentionKinds) -> dict[str, Tensor]:
    """Additive masks of the shared layout, by kind of attention; `part`, `owner` (group) and `positions` are [R, L].

    Each mask is [R, 1, L, L]. A token sees itself, what came before it in its own part, and its own group's prompt;
    with sliding attention only what is less than a window back, counted in positions and not in places of the row.
    Padding sees padding, so that no row of scores is empty. Floats, because a boolean mask would be turned into floats
    again in every layer.
    """
    causal = torch.ones(part.shape[1], part.shape[1], dtype=torch.bool).tril()
    same_group = owner[:, None, :] == owner[:, :, None]
    seen = causal & same_group & ((part[:, None, :] == PROMPT) | (part[:, None, :] == part[:, :, None]))
    masks = {}
    for kind in attention.kinds:
        allowed = seen
        if kind == "sliding_attention":
            allowed = seen & (positions[:, :, None] - positions[:, None, :] < attention.window)
        lowest = torch.finfo(torch.float32).min
        masks[kind] = torch.zeros(allowed.shape).masked_fill_(~allowed, lowest)[:, None]
    return masks
