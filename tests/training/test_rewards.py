"""Rewards at tokens: hand values, loops, and the published code's padded arithmetic."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from selfalign.training.advantages import gae
from selfalign.training.rewards import (
    clip_scores,
    penalise_unended,
    penalised_scores,
    replace_unended,
    shift_scores,
    token_rewards,
    truncate_after_end,
)
from selfalign.training.segments import sums

END, OTHER_END = 2, 3
SCORES = torch.tensor([1.5, -0.5, 4.0])
ENDED = torch.tensor([True, False, False])


@pytest.mark.parametrize(
    ("tokens", "kept", "ended"),
    [
        ((7, 8, END, 9, END), (7, 8, END), True),  # all after the first end goes, a second end too
        ((7, 8, 9), (7, 8, 9), False),
        ((END, 7), (END,), True),
        ((7, 8, END), (7, 8, END), True),
        ((7, OTHER_END, END), (7, OTHER_END), True),
        ((), (), False),
    ],
)
def test_truncation_after_the_first_end(tokens: tuple[int, ...], kept: tuple[int, ...], ended: bool) -> None:
    assert truncate_after_end(tokens, {END, OTHER_END}) == (kept, ended)
    assert truncate_after_end(kept, {END, OTHER_END}) == (kept, ended)


def test_answers_without_an_end() -> None:
    assert replace_unended(SCORES, ENDED, -1.0).tolist() == [1.5, -1.0, -1.0]
    assert penalise_unended(SCORES, ENDED, 1.0).tolist() == [1.5, -1.5, 3.0]


def test_a_replaced_score_need_not_be_finite() -> None:
    assert replace_unended(torch.tensor([float("nan")]), torch.tensor([False]), -1.0).tolist() == [-1.0]


def test_shift_and_clip() -> None:
    shifted = shift_scores(SCORES, torch.tensor([1.0, 2.0]))
    assert shifted.tolist() == [0.0, -2.0, 2.5]
    assert shift_scores(SCORES, SCORES).mean().item() == pytest.approx(0.0, abs=1e-6)
    assert clip_scores(shifted, 1.5).tolist() == [0.0, -1.5, 1.5]


def test_the_score_falls_on_the_last_token() -> None:
    kl = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    found = token_rewards(SCORES, kl, torch.tensor([3, 1, 2]), 0.5)
    assert found.tolist() == pytest.approx([-0.05, -0.1, 1.35, -0.7, -0.25, 3.7])


@given(st.lists(st.integers(0, 6), min_size=1, max_size=6), st.integers(0, 1000))
def test_rewards_of_tokens_add_up_to_those_of_answers(lengths: list[int], seed: int) -> None:
    """An empty answer has no token to hold its score, and takes nobody else's."""
    generator, sizes = torch.Generator().manual_seed(seed), torch.tensor(lengths)
    kl, scores = torch.randn(sum(lengths), generator=generator), torch.randn(len(lengths), generator=generator)
    found, expected = [], []
    for number, part in enumerate(kl.split(lengths)):
        rewards = [-0.05 * value for value in part.tolist()]
        if rewards:
            rewards[-1] += scores[number].item()
        expected += rewards
    found = token_rewards(scores, kl, sizes, 0.05)
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    totals, whole = sums(found, sizes), penalised_scores(scores, kl, sizes, 0.05)
    torch.testing.assert_close(totals[sizes > 0], whole[sizes > 0])


def padded_gae(
    scores: Tensor, kl: list[list[float]], values: list[list[float]], width: int, lam: float
) -> list[list[float]]:
    """N+'s layout: rows of `width`, the score one place after the end token where there is room, a value there too."""
    rows = []
    for number, row in enumerate(kl):
        rewards, row_values = [-0.05 * k for k in row] + [0.0] * (width - len(row)), values[number]
        rewards[len(row) if len(row) < width else len(row) - 1] += scores[number].item()
        advantage, found = 0.0, []
        for t in reversed(range(width)):
            following = row_values[t + 1] if t + 1 < len(row_values) else 0.0
            here = row_values[t] if t < len(row_values) else 0.0
            advantage = rewards[t] + following - here + lam * advantage
            found.append(advantage)
        rows.append(found[::-1][: len(row)])
    return rows


@pytest.mark.parametrize(
    ("lam", "after_end"),
    [
        (1.0, (0.3, -0.8)),  # lam = 1: whatever the values after the end are
        (0.95, (1.5, -0.5)),  # a value head that knows the score
    ],
)
def test_the_score_at_the_end_token_does_what_the_published_code_does(lam: float, after_end: tuple[float, ...]) -> None:
    """Rows of 5: answers of 3 and 1 tokens end and are padded, one of 5 fills its row."""
    lengths = [3, 1, 5]
    generator = torch.Generator().manual_seed(0)
    kl = torch.randn(9, generator=generator, dtype=torch.float64)
    values = torch.randn(9, generator=generator, dtype=torch.float64)
    rows = [part.tolist() for part in values.split(lengths)]
    padded = [[*rows[0], after_end[0]], [*rows[1], after_end[1]], rows[2]]
    expected = padded_gae(SCORES, [part.tolist() for part in kl.split(lengths)], padded, 5, lam)
    sizes = torch.tensor(lengths)
    found = gae(token_rewards(SCORES.double(), kl, sizes, 0.05), values, sizes, 1.0, lam).advantages
    assert found.tolist() == pytest.approx([value for row in expected for value in row], abs=1e-9)
