"""Advantages against hand values, plain loops and identities."""

from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from selfalign.training.advantages import (
    gae,
    group_normalised,
    has_contrast,
    leave_one_out,
    moments,
    returns_to_go,
    whiten,
    whiten_with,
)

REWARDS = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
VALUES = torch.tensor([0.5, 0.6, 0.7], dtype=torch.float64)
LENGTHS = st.lists(st.integers(0, 8), min_size=1, max_size=6)
GROUPS = st.lists(st.lists(st.floats(-5, 5, width=32), max_size=6), min_size=1, max_size=5)
ADVANTAGES = torch.tensor([0.46575, 0.385, 0.3], dtype=torch.float64)


@pytest.mark.parametrize(
    ("lam", "advantages", "returns"),
    [
        (0.95, (0.46575, 0.385, 0.3), (0.96575, 0.985, 1.0)),
        (0.0, (0.1, 0.1, 0.3), (0.6, 0.7, 1.0)),
        (1.0, (0.5, 0.4, 0.3), (1.0, 1.0, 1.0)),
    ],
)
def test_gae_by_hand(lam: float, advantages: tuple[float, ...], returns: tuple[float, ...]) -> None:
    found = gae(REWARDS, VALUES, torch.tensor([3]), 1.0, lam)
    assert found.advantages.tolist() == pytest.approx(advantages, abs=1e-12)
    assert found.returns.tolist() == pytest.approx(returns, abs=1e-12)


def naive_gae(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    advantage, found = 0.0, []
    for t in reversed(range(len(rewards))):
        following = values[t + 1] if t + 1 < len(values) else 0.0
        advantage = rewards[t] + gamma * following - values[t] + gamma * lam * advantage
        found.append(advantage)
    return found[::-1]


@given(LENGTHS, st.integers(0, 1000), st.sampled_from([1.0, 0.9]), st.sampled_from([0.0, 0.95, 1.0]))
def test_gae_of_ragged_answers(lengths: list[int], seed: int, gamma: float, lam: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, sum(lengths), generator=generator, dtype=torch.float64)
    expected = [
        advantage
        for r, v in zip(rewards.split(lengths), values.split(lengths), strict=True)
        for advantage in naive_gae(r.tolist(), v.tolist(), gamma, lam)
    ]
    found = gae(rewards, values, torch.tensor(lengths), gamma, lam)
    assert found.advantages.tolist() == pytest.approx(expected, abs=1e-9)
    torch.testing.assert_close(found.returns, found.advantages + values)


@given(LENGTHS, st.sampled_from([1.0, 0.9]))
def test_returns_to_go_are_gae_without_values(lengths: list[int], gamma: float) -> None:
    rewards, sizes = torch.randn(sum(lengths), dtype=torch.float64), torch.tensor(lengths)
    expected = gae(rewards, torch.zeros_like(rewards), sizes, gamma, 1.0).advantages
    torch.testing.assert_close(returns_to_go(rewards, sizes, gamma), expected)


def test_returns_to_go_by_hand() -> None:
    found = returns_to_go(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([3, 1]))
    assert found.tolist() == [6.0, 5.0, 3.0, 4.0]


def test_whitening_by_hand() -> None:
    assert whiten(ADVANTAGES).tolist() == pytest.approx((1.214143, 0.020933, -1.235076), abs=2e-6)
    assert whiten(ADVANTAGES, bessel=True).tolist() == pytest.approx((0.991344, 0.017092, -1.008436), abs=2e-6)


@given(st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=20))
def test_whitening_against_a_loop(values: list[float]) -> None:
    mean = statistics.fmean(values)
    for bessel, variance in ((False, statistics.pvariance(values)), (True, statistics.variance(values))):
        expected = [(value - mean) / (variance + 1e-8) ** 0.5 for value in values]
        given_values = torch.tensor(values, dtype=torch.float64)
        assert whiten(given_values, bessel=bessel).tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)
        kept = whiten(given_values, bessel=bessel, shift_mean=False)
        assert kept.tolist() == pytest.approx([value + mean for value in expected], rel=1e-5, abs=1e-5)


def test_whitened_rewards_keep_their_mean() -> None:
    rewards = torch.tensor([-0.1, -0.2, 3.0, -0.3, 1.0])
    white = whiten(rewards, shift_mean=False)
    assert white.mean().item() == pytest.approx(rewards.mean().item(), abs=1e-6)
    assert white.std(correction=0).item() == pytest.approx(1.0, abs=1e-6)


def test_processes_whiten_alike() -> None:
    whole = torch.randn(37, generator=torch.Generator().manual_seed(0))
    parts = whole.split([20, 0, 17])
    total = sum(moments(part) for part in parts)
    for bessel in (False, True):
        expected = whiten(whole, bessel=bessel)
        found = torch.cat([whiten_with(part, total, bessel=bessel) for part in parts])
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_whitening_of_little_is_finite() -> None:
    for bessel in (False, True):
        assert whiten(torch.tensor([0.3]), bessel=bessel).tolist() == [0.0]
        assert whiten(torch.full((9,), 0.1), bessel=bessel).abs().max().item() < 1e-3
        assert whiten(torch.zeros(0), bessel=bessel).tolist() == []


def test_whitening_far_from_zero_keeps_its_scale() -> None:
    """Sums of squares in float32 would be all rounding here."""
    values = 1e4 + torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert whiten(values).std(correction=0).item() == pytest.approx(1.0, abs=1e-3)
    assert whiten(values).dtype is torch.float32


def test_groups_by_hand() -> None:
    rewards, sizes = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64), torch.tensor([4])
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(leave_one_out(rewards, sizes), 2 / 3 * signs)
    torch.testing.assert_close(group_normalised(rewards, sizes), 0.865875 * signs, atol=1e-6, rtol=0)


@given(GROUPS)
def test_groups_against_a_loop(groups: list[list[float]]) -> None:
    loo, grpo, contrast = [], [], []
    for group in groups:
        differ = len(set(group)) > 1
        contrast.append(differ)
        for place, reward in enumerate(group):
            rest = group[:place] + group[place + 1 :]
            loo.append(reward - statistics.fmean(rest) if differ else 0.0)
            grpo.append((reward - statistics.fmean(group)) / (statistics.stdev(group) + 1e-4) if differ else 0.0)
    rewards, sizes = flat_groups(groups)
    assert leave_one_out(rewards, sizes).tolist() == pytest.approx(loo, abs=1e-9)
    assert group_normalised(rewards, sizes).tolist() == pytest.approx(grpo, abs=1e-6)
    assert has_contrast(rewards, sizes).tolist() == contrast


def flat_groups(groups: list[list[float]]) -> tuple[Tensor, Tensor]:
    rewards = torch.tensor([reward for group in groups for reward in group], dtype=torch.float64)
    return rewards, torch.tensor([len(group) for group in groups])


@given(st.integers(2, 9))
def test_leave_one_out_is_the_stretched_distance_to_the_mean(k: int) -> None:
    rewards = torch.randn(k, dtype=torch.float64)
    expected = k / (k - 1) * (rewards - rewards.mean())
    torch.testing.assert_close(leave_one_out(rewards, torch.tensor([k])), expected)


def test_groups_without_contrast_teach_nothing_and_can_be_counted() -> None:
    """Equal rewards, which float32 does not average exactly; an answer alone; a group that lost all its answers."""
    rewards, sizes = torch.tensor([0.1, 0.1, 0.1, 7.0, 1.0, 0.0]), torch.tensor([3, 1, 0, 2])
    for found in (leave_one_out(rewards, sizes), group_normalised(rewards, sizes)):
        assert found[:4].tolist() == [0.0] * 4
        assert found[4] > 0 > found[5]
    assert (~has_contrast(rewards, sizes)).sum().item() == 3


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
def test_a_reward_that_is_not_finite_takes_its_group_and_no_other(broken: float) -> None:
    rewards, sizes = torch.tensor([1.0, broken, 0.5, 1.0, 0.0]), torch.tensor([3, 2])
    assert has_contrast(rewards, sizes).tolist() == [False, True]
    for found in (leave_one_out(rewards, sizes), group_normalised(rewards, sizes)):
        assert found[:3].tolist() == [0.0] * 3
        assert found[3] > 0 > found[4]
