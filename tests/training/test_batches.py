"""How pairs become rows: nothing lost, nothing seen that must not be, the token budget kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from selfalign.training.batches import (
    AttentionKinds,
    collate,
    micro_batches,
    num_steps,
    plan_step,
    row_lengths,
    share_of,
    step_indexes,
)
from selfalign.training.dataset import PairDataset, TokenPair

LENGTHS = st.lists(st.tuples(*[st.integers(1, 9)] * 3), min_size=1, max_size=12)


def dataset(lengths: list[tuple[int, int, int]]) -> PairDataset:
    """Pairs whose tokens are all different within a pair."""
    pairs = []
    for number, (prompt, chosen, rejected) in enumerate(lengths):
        tokens = list(range(1, 1 + prompt + chosen + rejected))
        parts = tokens[:prompt], tokens[prompt : prompt + chosen], tokens[prompt + chosen :]
        pairs.append(TokenPair(str(number), *parts, 0.5 + 0.01 * number, 1.0 + number))
    return PairDataset(pairs)


def one_each(pairs: PairDataset) -> list[np.ndarray]:
    """Every pair on a row of its own."""
    return [np.array([index]) for index in range(len(pairs))]


def test_shared_row_of_one_pair() -> None:
    batch = collate(dataset([(3, 3, 2)]), [np.array([0])], "shared", AttentionKinds())
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5, 7]]  # the last tokens, 6 and 8, are only targets
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 3]]
    assert batch.sources.tolist() == [2, 3, 4, 2, 5]
    assert batch.targets.tolist() == [4, 5, 6, 7, 8]
    assert batch.lengths.tolist() == [3, 2]
    seen = (batch.masks["full_attention"][0, 0] == 0).int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 0, 0, 1],
    ]


def test_two_pairs_on_one_row_cannot_see_each_other() -> None:
    pairs = dataset([(2, 2, 2), (1, 2, 1)])
    batch = collate(pairs, [np.array([0, 1])], "shared", AttentionKinds())
    assert batch.input_ids.tolist() == [[1, 2, 3, 5, 1, 2]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 2, 0, 1]]
    assert batch.sources.tolist() == [1, 2, 4, 5, 1, 3, 4]
    assert batch.targets.tolist() == [3, 4, 2, 3, 5, 6, 4]
    assert batch.lengths.tolist() == [2, 2, 2, 1]
    assert (batch.masks["full_attention"][0, 0] == 0).int().tolist()[4:] == [[0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 1, 1]]


def test_short_pairs_fill_what_long_ones_leave_of_a_row() -> None:
    widths = np.array([10, 7, 6, 4, 3, 3])
    groups = micro_batches(widths, np.arange(6), 20, "shared")
    assert [[row.tolist() for row in rows] for rows in groups] == [[[0], [1, 4]], [[2], [3], [5]]]


def test_sliding_window_counts_positions_and_not_places_in_the_row() -> None:
    kinds = AttentionKinds(("sliding_attention",), window=2)
    batch = collate(dataset([(3, 3, 2)]), [np.array([0])], "shared", kinds)
    last = (batch.masks["sliding_attention"][0, 0, 5] == 0).int().tolist()
    assert last == [0, 0, 1, 0, 0, 1]  # the rejected answer still sees the last token of the prompt


def test_plain_rows_of_one_pair() -> None:
    batch = collate(dataset([(3, 3, 2)]), [np.array([0])], "plain", AttentionKinds())
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5], [1, 2, 3, 7, 0]]
    assert batch.masks[""].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert batch.sources.tolist() == [2, 3, 4, 7, 8]
    assert batch.targets.tolist() == [4, 5, 6, 7, 8]


@given(LENGTHS, st.sampled_from(["shared", "plain"]))
def test_every_scored_token_is_predicted_from_the_token_before_it(lengths: list, layout: str) -> None:
    pairs = dataset(lengths)
    batch = collate(pairs, one_each(pairs), layout, AttentionKinds())
    before = batch.input_ids.flatten()[batch.sources]
    expected_before, expected_targets = [], []
    for side in (1, 2):
        for index in range(len(pairs)):
            parts = pairs.parts(index)
            expected_before += [parts[0][-1], *parts[side][:-1]]
            expected_targets += [*parts[side]]
    assert before.tolist() == [int(token) for token in expected_before]
    assert batch.targets.tolist() == [int(token) for token in expected_targets]
    assert batch.lengths.sum().item() == len(batch.sources)


@given(LENGTHS)
def test_every_row_of_a_mask_sees_something(lengths: list) -> None:
    pairs = dataset(lengths)
    kinds = AttentionKinds(("full_attention", "sliding_attention"), window=2)
    batch = collate(pairs, one_each(pairs), "shared", kinds)
    for mask in batch.masks.values():
        assert (mask == 0).any(-1).all()


@given(LENGTHS, st.integers(1, 60), st.sampled_from(["shared", "plain"]))
def test_micro_batches_hold_every_pair_once_within_the_budget(lengths: list, budget: int, layout: str) -> None:
    pairs = dataset(lengths)
    widths = row_lengths(pairs, layout)
    groups = micro_batches(widths, np.arange(len(pairs)), budget, layout)
    assert sorted(index for rows in groups for row in rows for index in row.tolist()) == list(range(len(pairs)))
    rows_per_pair = 1 if layout == "shared" else 2
    for rows in groups:
        width = max(widths[row].sum() for row in rows)
        assert width == max(widths[row].max() for row in rows)
        assert len(rows) == 1 or rows_per_pair * len(rows) * width <= budget


@given(LENGTHS, st.integers(1, 5), st.integers(1, 40))
def test_processes_divide_a_step_and_make_as_many_passes(lengths: list, world_size: int, budget: int) -> None:
    widths = row_lengths(dataset(lengths), "shared")
    indexes = np.arange(len(widths))
    plans = [plan_step(widths, indexes, budget, "shared", rank, world_size) for rank in range(world_size)]
    assert len({len(plan) for plan in plans}) == 1
    counted = [row for plan in plans for rows, counts in plan if counts for row in rows]
    assert sorted(np.concatenate(counted).tolist()) == indexes.tolist()


def test_shares_have_about_the_same_work() -> None:
    widths = np.array([9, 1, 8, 2, 7, 3, 6, 4])
    shares = [widths[share_of(widths, np.arange(8), rank, 2)].sum() for rank in range(2)]
    assert shares == [21, 19] or shares == [22, 18]


def test_each_epoch_holds_every_pair_once_in_another_order() -> None:
    epochs = [np.concatenate([step_indexes(10, 4, 7, 3 * epoch + step) for step in range(3)]) for epoch in range(2)]
    assert all(sorted(epoch.tolist()) == list(range(10)) for epoch in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()
    assert num_steps(10, 4, 2) == 6
    assert step_indexes(10, 4, 7, 5).tolist() == epochs[1][8:].tolist()


def test_labels_and_weights_follow_their_pairs() -> None:
    batch = collate(
        dataset([(1, 1, 1), (2, 2, 2), (3, 1, 2)]), [np.array([2]), np.array([0])], "shared", AttentionKinds()
    )
    torch.testing.assert_close(batch.p_chosen, torch.tensor([0.52, 0.5]))
    torch.testing.assert_close(batch.weight, torch.tensor([3.0, 1.0]))
    assert batch.indexes.tolist() == [2, 0]


def test_tokens_count_the_prompt_of_both_sequences() -> None:
    assert dataset([(3, 3, 2), (1, 1, 1)]).num_tokens(np.array([0])) == 11


@pytest.mark.parametrize("layout", ["shared", "plain"])
def test_row_lengths(layout: str) -> None:
    expected = {"shared": [6, 3], "plain": [5, 3]}[layout]
    assert row_lengths(dataset([(3, 3, 2), (2, 2, 1)]), layout).tolist() == expected
