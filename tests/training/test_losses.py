"""Losses against hand values, finite differences, stationary points, and optima known in closed form."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from torch import Tensor

from selfalign.training.losses import LossName, PairLogps, ipo_loss, pair_loss, smooth_labels, value_at_reference

LOSSES: tuple[LossName, ...] = ("sigmoid", "ipo", "hinge")


def pairs_of(a: Tensor | float, c: Tensor | float) -> PairLogps:
    """Pairs with log-ratios a and c over answers of 4 and 8 tokens."""
    a, c = torch.as_tensor(a, dtype=torch.float64).reshape(-1), torch.as_tensor(c, dtype=torch.float64).reshape(-1)
    reference = torch.full_like(a, -7.0)
    return PairLogps(a - 7.0, c - 7.0, reference, reference, torch.full_like(a, 4.0), torch.full_like(a, 8.0))


def loss_of(name: LossName, a: float, c: float, p: float = 1.0, beta: float = 0.1, smoothing: float = 0.0) -> float:
    label = torch.tensor([p], dtype=torch.float64)
    return pair_loss(name, pairs_of(a, c), label, beta=beta, label_smoothing=smoothing).item()


@pytest.mark.parametrize(("name", "expected"), [("sigmoid", 0.693147), ("hinge", 1.0), ("ipo", 25.0)])
def test_value_at_zero_difference(name: LossName, expected: float) -> None:
    assert loss_of(name, 0.0, 0.0) == pytest.approx(expected, abs=1e-6)
    assert value_at_reference(name, 0.1) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("p", [0.5, 0.7, 1.0])
def test_value_at_zero_difference_is_the_same_for_soft_labels(name: LossName, p: float) -> None:
    assert loss_of(name, 0.0, 0.0, p) == pytest.approx(value_at_reference(name, 0.1), abs=1e-12)


@pytest.mark.parametrize(("name", "expected"), [("sigmoid", 0.554355), ("hinge", 0.7), ("ipo", 4.0)])
def test_worked_point(name: LossName, expected: float) -> None:
    assert loss_of(name, 2.0, -1.0) == pytest.approx(expected, abs=1e-6)


def test_worked_point_of_length_averaged_ipo() -> None:
    assert ipo_loss(pairs_of(2.0, -1.0), 0.1, length_average=True).item() == pytest.approx(19.140625, abs=1e-9)


def test_worked_point_of_conservative_dpo() -> None:
    assert loss_of("sigmoid", 2.0, -1.0, smoothing=0.1) == pytest.approx(0.584355, abs=1e-6)


def test_smoothing_a_hard_label_is_a_soft_label() -> None:
    assert loss_of("sigmoid", 2.0, -1.0, smoothing=0.1) == pytest.approx(loss_of("sigmoid", 2.0, -1.0, p=0.9))
    assert smooth_labels(torch.tensor(0.8), 0.1).item() == pytest.approx(0.74)


@pytest.mark.parametrize("name", LOSSES)
def test_a_swapped_pair_with_the_opposite_label_has_the_same_loss(name: LossName) -> None:
    assert loss_of(name, 0.8, -0.3, p=0.7) == pytest.approx(loss_of(name, -0.3, 0.8, p=0.3), abs=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_by_finite_differences(name: LossName) -> None:
    generator = torch.Generator().manual_seed(0)
    a, c = (torch.randn(6, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    p = torch.rand(6, generator=generator, dtype=torch.float64)

    def loss(a: Tensor, c: Tensor) -> Tensor:
        lengths = torch.ones_like(a)
        zero = torch.zeros_like(a)
        return pair_loss(name, PairLogps(a, c, zero, zero, lengths, lengths), p, beta=0.3, label_smoothing=0.05)

    assert torch.autograd.gradcheck(loss, (a, c))


@pytest.mark.parametrize("p", [0.6, 0.9, 0.3])
@pytest.mark.parametrize("name", LOSSES)
def test_stationary_points_of_soft_labels(name: LossName, p: float) -> None:
    beta = 0.5
    expected = {
        "sigmoid": math.log(p / (1 - p)) / beta,
        "ipo": (2 * p - 1) / (2 * beta),
        "hinge": math.copysign(1.0, p - 0.5) / beta,
    }[name]
    grid = torch.linspace(-6, 6, 24001, dtype=torch.float64)
    losses = pair_loss(name, pairs_of(grid, torch.zeros_like(grid)), torch.full_like(grid, p), beta=beta)
    assert grid[losses.argmin()].item() == pytest.approx(expected, abs=1e-3)


def test_conservative_dpo_is_least_at_the_logit_of_its_smoothing() -> None:
    grid = torch.linspace(0, 4, 40001, dtype=torch.float64)
    ones = torch.ones_like(grid)
    losses = pair_loss("sigmoid", pairs_of(grid, torch.zeros_like(grid)), ones, beta=1.0, label_smoothing=0.1)
    assert grid[losses.argmin()].item() == pytest.approx(2.1972, abs=1e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_many_pairs_equal_a_naive_loop(name: LossName) -> None:
    generator = torch.Generator().manual_seed(1)
    a, c, p = (torch.rand(32, generator=generator, dtype=torch.float64) * 4 - 2 for _ in range(3))
    p = torch.sigmoid(p)
    together = pair_loss(name, pairs_of(a, c), p, beta=0.7, label_smoothing=0.1)
    for i in range(32):
        q = 0.9 * p[i].item() + 0.1 * (1 - p[i].item())
        d = a[i].item() - c[i].item()
        hard = {
            "sigmoid": lambda d: math.log1p(math.exp(-0.7 * d)),
            "hinge": lambda d: max(0.0, 1 - 0.7 * d),
            "ipo": lambda d: (d - 1 / 1.4) ** 2,
        }[name]
        assert together[i].item() == pytest.approx(q * hard(d) + (1 - q) * hard(-d), rel=1e-12)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.loss"):
        pair_loss("nope", pairs_of(0.0, 0.0), torch.ones(1), beta=0.1)  # type: ignore[arg-type]


# Tabular policies --------------------------------------------------------------------------------------------------


def minimise(
    name: LossName,
    reference: Tensor,
    winners: Tensor,
    losers: Tensor,
    p: Tensor,
    beta: float,
    start: Tensor | None = None,
) -> Tensor:
    """The policy over a few actions that has the least mean loss on pairs of actions, by L-BFGS from `start`."""
    theta = (reference if start is None else start).log().clone().requires_grad_()
    optimizer = torch.optim.LBFGS([theta], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-15)
    ones = torch.ones(len(winners), dtype=torch.float64)

    def closure() -> Tensor:
        optimizer.zero_grad()
        logp, ref = theta.log_softmax(0), reference.log()
        pairs = PairLogps(logp[winners], logp[losers], ref[winners], ref[losers], ones, ones)
        loss = pair_loss(name, pairs, p, beta=beta).mean()
        loss.backward()
        return loss

    for _ in range(10):
        optimizer.step(closure)
    return theta.detach().softmax(0)


REFERENCE = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
REWARD = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
ORDERED = torch.tensor(list(permutations(range(3), 2)))


def dpo_optimum(reference: Tensor, beta: float, start: Tensor | None = None) -> Tensor:
    """DPO on all ordered pairs, labelled with their Bradley-Terry probabilities."""
    winners, losers = ORDERED.T
    labels = torch.sigmoid(REWARD[winners] - REWARD[losers])
    return minimise("sigmoid", reference, winners, losers, labels, beta, start)


@pytest.mark.parametrize(
    ("beta", "expected"),
    [(0.5, (0.732165, 0.247720, 0.020115)), (1.0, (0.471098, 0.433268, 0.095634))],
)
def test_dpo_reaches_the_kl_regularised_optimum(beta: float, expected: tuple[float, ...]) -> None:
    closed_form = REFERENCE * torch.exp(REWARD / beta)
    found = dpo_optimum(REFERENCE, beta)
    torch.testing.assert_close(found, closed_form / closed_form.sum(), atol=1e-6, rtol=0)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=2e-6, rtol=0)


def test_four_rounds_with_a_refreshed_reference_are_one_with_a_quarter_of_beta() -> None:
    policy = REFERENCE
    for _ in range(4):
        policy = dpo_optimum(policy, 2.0)
    torch.testing.assert_close(policy, dpo_optimum(REFERENCE, 0.5), atol=1e-6, rtol=0)


def test_a_fixed_reference_is_a_fixed_point_after_one_round() -> None:
    first = dpo_optimum(REFERENCE, 2.0)
    torch.testing.assert_close(dpo_optimum(REFERENCE, 2.0, start=first), first, atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    ("tau", "expected"),
    [(0.1, (0.96437, 0.03440, 0.00123)), (0.5, (0.56274, 0.28892, 0.14834)), (1.0, (0.44844, 0.32132, 0.23024))],
)
def test_ipo_bandit(tau: float, expected: tuple[float, ...]) -> None:
    uniform = torch.full((3,), 1 / 3, dtype=torch.float64)
    winners, losers = torch.tensor([[0, 1], [1, 2], [0, 2]]).T
    found = minimise("ipo", uniform, winners, losers, torch.ones(3, dtype=torch.float64), tau)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("tau", "expected"), [(0.1, 0.993307), (0.5, 0.731059), (1.0, 0.622459), (10.0, 0.512497)])
def test_ipo_bandit_of_two_actions(tau: float, expected: float) -> None:
    uniform = torch.full((2,), 0.5, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    found = minimise("ipo", uniform, torch.tensor([0]), torch.tensor([1]), one, tau)
    assert found[0].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["sigmoid", "ipo"])
def test_a_preference_cycle_leaves_the_policy_uniform(name: LossName) -> None:
    uniform = torch.full((3,), 1 / 3, dtype=torch.float64)
    winners, losers = torch.tensor([[0, 1], [1, 2], [2, 0]]).T
    found = minimise(name, uniform, winners, losers, torch.ones(3, dtype=torch.float64), 0.5)
    torch.testing.assert_close(found, uniform, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("p", "gap"), [(0.6, 0.405465), (0.8, 1.386294), (0.597558, 0.395300), (0.841816, 1.671803)])
def test_a_soft_label_caps_the_fitted_gap(p: float, gap: float) -> None:
    """Labels clamped to [0.4, 0.6] or [0.2, 0.8], or averaged over both orders, fit a gap of logit p and no more."""
    uniform = torch.full((2,), 0.5, dtype=torch.float64)
    label = torch.tensor([p], dtype=torch.float64)
    found = minimise("sigmoid", uniform, torch.tensor([0]), torch.tensor([1]), label, 1.0)
    assert (found[0].log() - found[1].log()).item() == pytest.approx(gap, abs=1e-5)
