"""Operations on ragged flat sequences against plain loops over lists."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from selfalign.training.segments import discounted_sums, means, owners, spread, sums, tokens_left

Ragged = list[list[float]]
NUMBERS = st.floats(-10, 10, allow_nan=False, width=32)
RAGGED = st.lists(st.lists(NUMBERS, max_size=9), min_size=1, max_size=6)


def flat(sequences: Ragged) -> tuple[Tensor, Tensor]:
    """[N] values and [S] lengths."""
    values = [value for sequence in sequences for value in sequence]
    return torch.tensor(values, dtype=torch.float64), torch.tensor([len(s) for s in sequences], dtype=torch.int64)


@given(RAGGED)
def test_places_know_their_sequence(sequences: Ragged) -> None:
    _, lengths = flat(sequences)
    assert owners(lengths).tolist() == [number for number, s in enumerate(sequences) for _ in s]
    assert tokens_left(lengths).tolist() == [len(s) - 1 - place for s in sequences for place in range(len(s))]
    values = torch.arange(len(sequences)) * 2.0
    assert spread(values, lengths).tolist() == [2.0 * number for number, s in enumerate(sequences) for _ in s]


@given(RAGGED)
def test_sums_and_means(sequences: Ragged) -> None:
    values, lengths = flat(sequences)
    assert sums(values, lengths).tolist() == pytest.approx([sum(s) for s in sequences])
    assert means(values, lengths).tolist() == pytest.approx([sum(s) / max(1, len(s)) for s in sequences])


@given(RAGGED, st.sampled_from([0.0, 0.5, 0.95, 1.0]))
def test_discounted_sums(sequences: Ragged, discount: float) -> None:
    expected = []
    for sequence in sequences:
        behind, found = 0.0, []
        for value in reversed(sequence):
            behind = value + discount * behind
            found.append(behind)
        expected += found[::-1]
    assert discounted_sums(*flat(sequences), discount).tolist() == pytest.approx(expected, abs=1e-9)


def test_discounted_sums_of_a_sequence_do_not_depend_on_its_neighbours() -> None:
    generator = torch.Generator().manual_seed(0)
    long, short = torch.randn(700, generator=generator), torch.randn(13, generator=generator)
    alone = discounted_sums(short, torch.tensor([13]), 0.97)
    together = discounted_sums(torch.cat([long, short, long]), torch.tensor([700, 13, 700]), 0.97)
    assert torch.equal(together[700:713], alone)


def test_what_is_not_finite_stays_in_its_sequence() -> None:
    values = torch.tensor([1.0, 2.0, float("inf"), 3.0, float("nan"), 5.0, 6.0])
    found = discounted_sums(values, torch.tensor([2, 1, 2, 2]), 1.0)
    assert found[:2].tolist() == [3.0, 2.0]
    assert found[5:].tolist() == [11.0, 6.0]


def test_gradients_pass() -> None:
    values = torch.randn(6, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([3, 0, 1, 2])
    assert torch.autograd.gradcheck(lambda x: discounted_sums(x, lengths, 0.9), values)
    assert torch.autograd.gradcheck(lambda x: means(x, lengths), values)
