"""Losses of single answers and of rankings: hand values, naive loops, and optima known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from selfalign.training.losses import (
    bco_answer_loss,
    kto_answer_loss,
    plackett_luce_loss,
    sigmoid_loss,
    sppo_loss,
)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_kto_by_hand() -> None:
    found = kto_answer_loss(doubles(2.0, -1.0), torch.tensor([True, False]), 0.1, 0.5, 1.2, 0.9)
    assert found.tolist() == pytest.approx([1.2 * (1 - sigmoid(0.15)), 0.9 * (1 - sigmoid(0.15))])
    start = kto_answer_loss(doubles(0.0, 0.0), torch.tensor([True, False]), 0.1, 0.0)
    assert start.tolist() == [0.5, 0.5]


def test_bco_by_hand() -> None:
    found = bco_answer_loss(doubles(2.0, -1.0), torch.tensor([True, False]), 0.1, 0.05)
    assert found.tolist() == pytest.approx([-math.log(sigmoid(0.15)), -math.log(sigmoid(0.15))])


def test_sppo_by_hand() -> None:
    assert sppo_loss(doubles(0.3, 0.3), doubles(0.8, 0.5), 0.5).tolist() == pytest.approx([0.09, 0.09])
    assert sppo_loss(doubles(0.6), doubles(0.8), 0.5).item() == pytest.approx(0.0)  # u = eta (P - 1/2)


@pytest.mark.parametrize(
    "loss",
    [
        lambda u: kto_answer_loss(u, torch.tensor([True, False, True]), 0.3, 0.1),
        lambda u: bco_answer_loss(u, torch.tensor([True, False, True]), 0.3, 0.1),
        lambda u: sppo_loss(u, doubles(0.9, 0.4, 0.2), 0.3),
        lambda u: plackett_luce_loss(u, torch.tensor([3]), 0.3),
        lambda u: plackett_luce_loss(u, torch.tensor([1, 2]), 0.3),
    ],
)
def test_gradients_are_those_of_finite_differences(loss: Callable[[Tensor], Tensor]) -> None:
    assert torch.autograd.gradcheck(loss, (doubles(0.7, -0.2, 1.1).requires_grad_(),))


# Plackett-Luce.


def naive_plackett_luce(rewards: list[float]) -> float:
    """-log of the product of softmax choices among what is left."""
    total = 0.0
    for place in range(len(rewards)):
        left = [math.exp(reward) for reward in rewards[place:]]
        total -= math.log(left[0] / sum(left))
    return total


@given(st.lists(st.lists(st.floats(-8, 8), min_size=1, max_size=6), min_size=1, max_size=5))
def test_plackett_luce_is_the_naive_product(rankings: list[list[float]]) -> None:
    flat = doubles(*(reward for ranking in rankings for reward in ranking))
    found = plackett_luce_loss(flat, torch.tensor([len(ranking) for ranking in rankings]), 0.5)
    expected = [naive_plackett_luce([0.5 * reward for reward in ranking]) for ranking in rankings]
    assert found.tolist() == pytest.approx(expected, abs=1e-9)


@given(st.floats(-20, 20), st.floats(-20, 20), st.floats(0.05, 2))
def test_plackett_luce_of_two_is_dpo(better: float, worse: float, beta: float) -> None:
    found = plackett_luce_loss(doubles(better, worse), torch.tensor([2]), beta)
    torch.testing.assert_close(found[0], sigmoid_loss(beta * doubles(better - worse))[0])


def test_plackett_luce_starts_at_log_k_factorial_and_stays_finite_far_out() -> None:
    zeros = plackett_luce_loss(torch.zeros(9), torch.tensor([2, 3, 4]), 0.1)
    assert zeros.tolist() == pytest.approx([math.log(2), math.log(6), math.log(24)])
    far = torch.tensor([-900.0, 900.0, 0.0], requires_grad=True)
    loss = plackett_luce_loss(far, torch.tensor([3]), 1.0)
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(far.grad).all()


def test_plackett_luce_reaches_the_kl_regularised_optimum() -> None:
    """On all rankings of three actions, as often as rewards (1, 0, -1) make them, the best is pi_ref e^(r / beta)."""
    reference, reward, beta = doubles(0.2, 0.5, 0.3), doubles(1.0, 0.0, -1.0), 0.5
    orders = torch.tensor(list(permutations(range(3))))
    often = torch.exp(-plackett_luce_loss(reward[orders].flatten(), torch.full((6,), 3), 1.0))
    assert often.sum().item() == pytest.approx(1.0)

    def loss(policy: Tensor) -> Tensor:
        ratio = (policy.log() - reference.log())[orders].flatten()
        return (often * plackett_luce_loss(ratio, torch.full((6,), 3), beta)).sum()

    torch.testing.assert_close(minimise(loss, reference), doubles(0.732165, 0.247720, 0.020115), atol=2e-6, rtol=0)


def minimise(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """The policy over a few actions with the least loss, by L-BFGS."""
    theta = start.log().clone().requires_grad_()
    optimizer = torch.optim.LBFGS([theta], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-15)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(theta.softmax(0))
        value.backward()
        return value

    optimizer.step(closure)
    return theta.detach().softmax(0)


# Self-play.

ROCK_PAPER_SCISSORS = doubles(0.5, 0.0, 1.0, 1.0, 0.5, 0.0, 0.0, 1.0, 0.5).view(
    3, 3
)  # how often the row beats the column


def test_sppo_is_nearly_the_multiplicative_weights_update() -> None:
    policy, eta = doubles(0.5, 0.3, 0.2), 0.1
    rates = ROCK_PAPER_SCISSORS @ policy
    found = minimise(lambda p: (policy * sppo_loss(p.log() - policy.log(), rates, 1 / eta)).sum(), policy)
    exact = policy * torch.exp(eta * rates)
    torch.testing.assert_close(found, exact / exact.sum(), atol=1e-3, rtol=0)
    assert not torch.allclose(found, policy, atol=4e-3)


def test_the_average_policy_of_self_play_is_the_nash_point() -> None:
    policy, eta, rounds = doubles(0.5, 0.3, 0.2), 0.1, 1000
    total = torch.zeros(3, dtype=torch.float64)
    for _ in range(rounds):
        total += policy
        rates, before = ROCK_PAPER_SCISSORS @ policy, policy
        policy = minimise(lambda p, b=before, r=rates: (b * sppo_loss(p.log() - b.log(), r, 1 / eta)).sum(), before)
    torch.testing.assert_close(total / rounds, torch.full((3,), 1 / 3, dtype=torch.float64), atol=0.02, rtol=0)
