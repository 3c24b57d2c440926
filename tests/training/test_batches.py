"""How groups become rows: nothing lost, nothing seen that must not be, the token budget kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from selfalign.training.batches import (
    AttentionKinds,
    Extents,
    collate,
    micro_batches,
    num_steps,
    plan_step,
    share_of,
    step_indexes,
)
from selfalign.training.dataset import Group, GroupDataset

LENGTHS = st.lists(st.lists(st.integers(1, 9), min_size=2, max_size=5), min_size=1, max_size=12)


def dataset(lengths: list[tuple[int, ...]]) -> GroupDataset:
    """Groups of a prompt and its answers whose tokens are all different within a group."""
    groups = []
    for number, (prompt, *answers) in enumerate(lengths):
        tokens, parts = iter(range(1, 1 + prompt + sum(answers))), []
        for length in (prompt, *answers):
            parts.append([next(tokens) for _ in range(length)])
        labels = (0.5 + 0.01 * number, *[0.5 - 0.01 * number] * (len(answers) - 1))
        groups.append(Group(str(number), parts[0], tuple(parts[1:]), labels, 1.0 + number))
    return GroupDataset(groups)


def one_each(groups: GroupDataset) -> list[np.ndarray]:
    """Every group on a row of its own."""
    return [np.array([index]) for index in range(len(groups))]


def wide(*widths: int) -> Extents:
    """Groups in the shared layout that take so many positions."""
    return Extents(np.array(widths), np.ones(len(widths), dtype=int), "shared")


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
    assert batch.sources.tolist() == [1, 2, 1, 3, 4, 5, 4]
    assert batch.targets.tolist() == [3, 4, 5, 6, 2, 3, 4]
    assert batch.lengths.tolist() == [2, 2, 2, 1]
    assert batch.sizes.tolist() == [2, 2] and batch.answers.tolist() == [0, 1, 2, 3]
    assert (batch.masks["full_attention"][0, 0] == 0).int().tolist()[4:] == [[0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 1, 1]]


def test_answers_of_a_larger_group_see_the_prompt_and_not_each_other() -> None:
    batch = collate(dataset([(1, 2, 2, 2)]), [np.array([0])], "shared", AttentionKinds())
    assert batch.input_ids.tolist() == [[1, 2, 4, 6]] and batch.position_ids.tolist() == [[0, 1, 1, 1]]
    assert batch.sources.tolist() == [0, 1, 0, 2, 0, 3] and batch.targets.tolist() == [2, 3, 4, 5, 6, 7]
    seen = (batch.masks["full_attention"][0, 0] == 0).int().tolist()
    assert seen == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]]


def test_a_single_answer_is_a_row_as_any() -> None:
    shared = collate(dataset([(2, 3)]), [np.array([0])], "shared", AttentionKinds())
    plain = collate(dataset([(2, 3)]), [np.array([0])], "plain", AttentionKinds())
    assert shared.input_ids.tolist() == plain.input_ids.tolist() == [[1, 2, 3, 4]]
    assert shared.targets.tolist() == plain.targets.tolist() == [3, 4, 5]


def test_short_groups_fill_what_long_ones_leave_of_a_row() -> None:
    groups = micro_batches(wide(10, 7, 6, 4, 3, 3), np.arange(6), 20)
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
    groups = dataset(lengths)
    batch = collate(groups, one_each(groups), layout, AttentionKinds())
    before = batch.input_ids.flatten()[batch.sources]
    expected_before, expected_targets = [], []
    for index in range(len(groups)):
        prompt, answers = groups.parts(index)
        for answer in answers:
            expected_before += [prompt[-1], *answer[:-1]]
            expected_targets += [*answer]
    assert before.tolist() == [int(token) for token in expected_before]
    assert batch.targets.tolist() == [int(token) for token in expected_targets]
    assert batch.lengths.sum().item() == len(batch.sources)


@given(LENGTHS)
def test_every_row_of_a_mask_sees_something(lengths: list) -> None:
    groups = dataset(lengths)
    kinds = AttentionKinds(("full_attention", "sliding_attention"), window=2)
    batch = collate(groups, one_each(groups), "shared", kinds)
    for mask in batch.masks.values():
        assert (mask == 0).any(-1).all()


@given(LENGTHS, st.integers(1, 60), st.sampled_from(["shared", "plain"]))
def test_micro_batches_hold_every_group_once_within_the_budget(lengths: list, budget: int, layout: str) -> None:
    groups = dataset(lengths)
    extents = Extents.of(groups, layout)
    batches = micro_batches(extents, np.arange(len(groups)), budget)
    assert sorted(i for rows in batches for row in rows for i in row.tolist()) == list(range(len(groups)))
    for rows in batches:
        width = max(extents.widths[row].sum() for row in rows)
        assert width == max(extents.widths[row].max() for row in rows)
        assert len(rows) == 1 or width * sum(extents.rows[row[0]] for row in rows) <= budget
        assert collate(groups, rows, layout, AttentionKinds()).input_ids.shape[1] == width


@given(LENGTHS, st.integers(1, 5), st.integers(1, 40))
def test_processes_divide_a_step_and_make_as_many_passes(lengths: list, world_size: int, budget: int) -> None:
    extents, indexes = Extents.of(dataset(lengths), "shared"), np.arange(len(lengths))
    plans = [plan_step(extents, indexes, budget, rank, world_size) for rank in range(world_size)]
    assert len({len(plan) for plan in plans}) == 1
    counted = [row for plan in plans for rows, counts in plan if counts for row in rows]
    assert sorted(np.concatenate(counted).tolist()) == indexes.tolist()


def test_shares_have_about_the_same_work() -> None:
    extents = wide(9, 1, 8, 2, 7, 3, 6, 4)
    shares = [extents.widths[share_of(extents, np.arange(8), rank, 2)].sum() for rank in range(2)]
    assert shares == [21, 19] or shares == [22, 18]


def test_each_epoch_holds_every_group_once_in_another_order() -> None:
    epochs = [np.concatenate([step_indexes(10, 4, 7, 3 * epoch + step) for step in range(3)]) for epoch in range(2)]
    assert all(sorted(epoch.tolist()) == list(range(10)) for epoch in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()
    assert num_steps(10, 4, 2) == 6
    assert step_indexes(10, 4, 7, 5).tolist() == epochs[1][8:].tolist()


def test_labels_and_weights_follow_their_groups() -> None:
    groups = dataset([(1, 1, 1), (2, 2, 2), (3, 1, 2, 1)])
    batch = collate(groups, [np.array([2]), np.array([0])], "shared", AttentionKinds())
    torch.testing.assert_close(batch.labels, torch.tensor([0.52, 0.48, 0.48, 0.5, 0.5]))
    torch.testing.assert_close(batch.weight, torch.tensor([3.0, 1.0]))
    assert batch.indexes.tolist() == [2, 0] and batch.answers.tolist() == [4, 5, 6, 0, 1]


@given(LENGTHS)
def test_parts_are_what_was_put_in(lengths: list) -> None:
    groups = dataset(lengths)
    for index, (prompt, *answers) in enumerate(lengths):
        found_prompt, found = groups.parts(index)
        assert found_prompt.tolist() == list(range(1, 1 + prompt))
        assert [token for answer in found for token in answer] == list(range(1 + prompt, 1 + prompt + sum(answers)))
        assert list(map(len, found)) == answers


def test_tokens_count_the_prompt_of_every_sequence() -> None:
    assert dataset([(3, 3, 2), (1, 1, 1)]).num_tokens(np.array([0])) == 11
    assert dataset([(3, 3, 2), (2, 1, 1, 4)]).num_tokens(np.array([1, 0])) == 23


@pytest.mark.parametrize("layout", ["shared", "plain"])
def test_extents(layout: str) -> None:
    extents = Extents.of(dataset([(3, 3, 2), (2, 2, 1, 4)]), layout)
    assert extents.widths.tolist() == {"shared": [6, 6], "plain": [5, 5]}[layout]
    assert extents.rows.tolist() == {"shared": [1, 1], "plain": [2, 3]}[layout]


@given(LENGTHS)
def test_rows_with_room_behind_still_hold_the_rows_without(lengths: list) -> None:
    """The same tokens are scored, from the same inputs, in both layouts."""
    groups = dataset(lengths)
    for layout in ("shared", "plain"):
        rows = [np.array([index]) for index in range(len(groups))]
        narrow = collate(groups, rows, layout, AttentionKinds())
        found = collate(groups.with_room_behind(), rows, layout, AttentionKinds()).without_room_behind()
        for name in ("targets", "lengths", "answers", "sizes"):
            assert getattr(found, name).tolist() == getattr(narrow, name).tolist()
        for inputs in ("input_ids", "position_ids"):
            read, expected = (getattr(b, inputs).flatten()[b.sources].tolist() for b in (found, narrow))
            assert read == expected
