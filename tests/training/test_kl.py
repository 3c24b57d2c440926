"""KL estimators against Schulman's table and exact gradients; the controller against hand values."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from selfalign.training.kl import Estimator, KLController, bounded_exp, kl_estimates, past_target
from selfalign.training.segments import sums

REFERENCE = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log()
LOGITS = torch.tensor([0.4, -0.7, 0.1], dtype=torch.float64)


@pytest.mark.parametrize(
    ("mean", "stds", "biases"),
    [(0.1, (20.0, 1.4177, 1.4166), (0.0, 0.0025, 0.0)), (1.0, (2.0, 1.7321, 1.6950), (0.0, 0.25, 0.0))],
)
def test_schulmans_table(mean: float, stds: tuple[float, ...], biases: tuple[float, ...]) -> None:
    """q = N(0, 1) is sampled, p = N(mean, 1); standard deviation and bias are relative to KL(q || p) = mean^2 / 2."""
    draws = torch.randn(4_000_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    true = mean**2 / 2
    for estimator, std, bias in zip(("k1", "k2", "k3"), stds, biases, strict=True):
        found = kl_estimates(-0.5 * draws**2, -0.5 * (draws - mean) ** 2, estimator)
        error = 4 * std / math.sqrt(len(draws))
        assert found.mean().item() / true - 1 == pytest.approx(bias, abs=error)
        assert found.std().item() / true == pytest.approx(std, rel=0.01)


def test_hand_values() -> None:
    logprobs, reference = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    expected = {"k1": math.log(2), "k2": math.log(2) ** 2 / 2, "k3": 0.5 - 1 + math.log(2)}
    for estimator, value in expected.items():
        assert kl_estimates(logprobs, reference, estimator).item() == pytest.approx(value, abs=1e-6)


def test_of_sequences() -> None:
    logprobs, reference = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([-1.5, -1.0, -3.5])
    assert sums(kl_estimates(logprobs, reference, "k1"), torch.tensor([2, 1])).tolist() == [-0.5, 0.5]


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_nothing_between_equals(estimator: Estimator) -> None:
    logprobs = torch.randn(9)
    assert torch.equal(kl_estimates(logprobs, logprobs.clone(), estimator), torch.zeros(9))


def test_k3_is_never_negative_and_exact_near_the_reference() -> None:
    gap = torch.logspace(-6, 1, 50)
    both = torch.cat([gap, -gap])
    found = kl_estimates(both, torch.zeros(100), "k3")
    assert (found >= 0).all()
    assert found[30].item() == pytest.approx((both[30].double().neg().expm1() + both[30].double()).item(), rel=1e-4)


def test_k3_far_from_the_reference_is_finite_and_pulls_back() -> None:
    logprobs = torch.tensor([-500.0], requires_grad=True)
    found = kl_estimates(logprobs, torch.tensor([-1.0]), "k3")
    found.backward()
    assert torch.isfinite(found)
    assert -math.inf < logprobs.grad.item() < 0


def test_bounded_exp_is_exp_within_and_a_line_beyond() -> None:
    t = torch.tensor([-700.0, 0.0, 19.0, 20.0, 21.0, 1e4], dtype=torch.float64, requires_grad=True)
    found = bounded_exp(t)
    assert torch.equal(found[:4], t[:4].exp())
    assert found[4].item() == pytest.approx(2 * math.exp(20))
    (gradient,) = torch.autograd.grad(found.sum(), t)
    assert gradient[4:].tolist() == pytest.approx([math.exp(20)] * 2)


def test_an_unknown_estimator_is_refused() -> None:
    with pytest.raises(ValueError, match="k1, k2 or k3"):
        kl_estimates(LOGITS, LOGITS, "k4")


def gradient_of(objective: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(objective, logits)[0]


def exact_gradients() -> tuple[Tensor, Tensor]:
    """Of KL(pi || pi_ref) and of KL(pi_ref || pi) by the logits."""
    logits = LOGITS.clone().requires_grad_()
    logp = logits.log_softmax(0)
    reverse, forward = (logp.exp() * (logp - REFERENCE)).sum(), (REFERENCE.exp() * (REFERENCE - logp)).sum()
    return torch.autograd.grad(reverse, logits, retain_graph=True)[0], gradient_of(forward, logits)


def test_expected_gradients_of_the_estimators_in_the_loss() -> None:
    """Where samples come from the policy and the gradient flows through the estimate, as in GRPO."""
    reverse, forward = exact_gradients()
    for estimator, expected in (("k1", torch.zeros_like(reverse)), ("k2", reverse), ("k3", forward)):
        logits = LOGITS.clone().requires_grad_()
        logp = logits.log_softmax(0)
        loss = (logp.detach().exp() * kl_estimates(logp, REFERENCE, estimator)).sum()
        torch.testing.assert_close(gradient_of(loss, logits), expected, atol=1e-12, rtol=0)


def test_expected_gradients_of_the_estimators_in_the_reward() -> None:
    """Where the estimate is a number that the score function multiplies, as in PPO and RLOO."""
    reverse, forward = exact_gradients()
    for estimator, expected in (("k1", reverse), ("k3", reverse - forward)):
        logits = LOGITS.clone().requires_grad_()
        logp = logits.log_softmax(0)
        loss = (logp.exp() * kl_estimates(logp.detach(), REFERENCE, estimator)).sum()
        torch.testing.assert_close(gradient_of(loss, logits), expected, atol=1e-12, rtol=0)


def test_a_fixed_coefficient_stays() -> None:
    controller = KLController(0.05)
    assert controller.update(100.0, 512) == controller


@pytest.mark.parametrize(
    ("kl", "coef"),
    [(6.0, 0.15), (6.6, 0.15 * 1.00512), (60.0, 0.15 * 1.01024), (0.0, 0.15 * 0.98976), (-3.0, 0.15 * 0.98976)],
)
def test_an_adaptive_coefficient_follows_ziegler(kl: float, coef: float) -> None:
    controller = KLController(0.15, target=6.0, horizon=10_000)
    assert controller.update(kl, 512).coef == pytest.approx(coef)
    assert controller.coef == 0.15


def test_an_adaptive_coefficient_settles_where_the_target_is() -> None:
    """With a KL that falls with the coefficient, KL = 1 / coef, the target is reached."""
    controller = KLController(0.15, target=4.0, horizon=2_000)
    for _ in range(200):
        controller = controller.update(1 / controller.coef, 512)
    assert 1 / controller.coef == pytest.approx(4.0, rel=1e-3)


@pytest.mark.parametrize("kl", [math.nan, math.inf])
def test_a_kl_that_is_not_finite_is_refused(kl: float) -> None:
    with pytest.raises(ValueError, match="KL to the reference"):
        KLController(0.15, target=6.0).update(kl, 1)


def test_early_stop() -> None:
    assert not past_target(1e9, None)
    assert not past_target(0.02, 0.02)
    assert past_target(0.021, 0.02)
    assert past_target(math.nan, 0.02)
