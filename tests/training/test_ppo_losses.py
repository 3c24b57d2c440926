"""Losses of PPO and its kin: hand values, plain loops, gradients, and what must hold at the first minibatch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from selfalign.training.ppo_losses import (
    answer_mean,
    entropy_bonus,
    grpo_loss,
    policy_loss,
    policy_statistics,
    sampler_weights,
    token_mean,
    truncated_share,
    value_clipfrac,
    value_loss,
)

LOG_RATIOS = st.floats(-3, 3, width=32)
ADVANTAGE = st.floats(-4, 4, width=32)


def logs(*ratios: float) -> Tensor:
    return torch.tensor(ratios, dtype=torch.float64).log()


def zeros(size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.float64)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.1, 2.0, -2.2, -2.0),
        (1.5, 2.0, -2.4, 0.0),  # gained enough
        (0.5, 2.0, -1.0, -2.0),  # must come back
        (1.5, -2.0, 3.0, 2.0),  # must come back
        (0.5, -2.0, 1.6, 0.0),  # lost enough
        (5.0, -2.0, 10.0, 2.0),
    ],
)
def test_policy_loss_by_hand(ratio: float, advantage: float, loss: float, gradient: float) -> None:
    """`gradient` is by the ratio."""
    r = torch.tensor([ratio], dtype=torch.float64, requires_grad=True)
    found = policy_loss(r.log(), zeros(1), torch.tensor([advantage], dtype=torch.float64), 0.2)
    assert found.item() == pytest.approx(loss)
    assert torch.autograd.grad(found, r)[0].item() == pytest.approx(gradient)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (5.0, -2.0, 6.0, 0.0),  # at most -c A
        (2.0, -2.0, 4.0, 2.0),
        (0.5, -2.0, 1.6, 0.0),
        (5.0, 2.0, -2.4, 0.0),  # positive advantages are as before
        (0.1, 2.0, -0.2, -2.0),
    ],
)
def test_dual_clip_by_hand(ratio: float, advantage: float, loss: float, gradient: float) -> None:
    r = torch.tensor([ratio], dtype=torch.float64, requires_grad=True)
    found = policy_loss(r.log(), zeros(1), torch.tensor([advantage], dtype=torch.float64), 0.2, dual_clip=3.0)
    assert found.item() == pytest.approx(loss)
    assert torch.autograd.grad(found, r)[0].item() == pytest.approx(gradient)


@given(st.lists(st.tuples(LOG_RATIOS, ADVANTAGE), min_size=1, max_size=12))
def test_policy_loss_and_statistics_against_a_loop(tokens: list[tuple[float, float]]) -> None:
    losses, clips = [], 0
    for log_ratio, advantage in tokens:
        ratio = math.exp(log_ratio)
        clipped = min(max(ratio, 0.8), 1.2)
        losses.append(max(-advantage * ratio, -advantage * clipped))
        clips += -advantage * clipped > -advantage * ratio
    log_ratios, advantages = torch.tensor(tokens, dtype=torch.float64).unbind(1)
    old = torch.full_like(log_ratios, -2.5)
    assert policy_loss(old + log_ratios, old, advantages, 0.2).tolist() == pytest.approx(losses)
    found = policy_statistics(old + log_ratios, old, advantages, 0.2)
    count = len(tokens)
    assert found.clipfrac.item() == pytest.approx(clips / count)
    assert found.ratio.item() == pytest.approx(sum(math.exp(x) for x, _ in tokens) / count)
    assert found.approxkl.item() == pytest.approx(0.5 * sum(x * x for x, _ in tokens) / count, abs=1e-12)
    assert found.approxkl_k3.item() == pytest.approx(sum(math.exp(x) - 1 - x for x, _ in tokens) / count, abs=1e-9)


def test_the_first_minibatch() -> None:
    """Before any step: ratio 1, nothing clipped, no KL, and the gradient of sum A log pi."""
    generator = torch.Generator().manual_seed(0)
    logits, advantages = torch.randn(20, 7, generator=generator), torch.randn(20, generator=generator)
    taken = torch.randint(7, (20, 1), generator=generator)
    gradients = []
    for vanilla in (True, False):
        leaf = logits.clone().requires_grad_()
        logprobs = leaf.log_softmax(1).gather(1, taken)[:, 0]
        old = logprobs.detach()
        terms = -advantages * logprobs if vanilla else policy_loss(logprobs, old, advantages, 0.2, dual_clip=3.0)
        gradients.append(torch.autograd.grad(token_mean(terms), leaf)[0])
    torch.testing.assert_close(gradients[1], gradients[0])
    found = policy_statistics(logprobs, old, advantages, 0.2)
    assert [value.item() for value in found] == [0.0, 0.0, 0.0, 1.0]
    values, returns = torch.randn(2, 20, generator=generator)
    torch.testing.assert_close(value_loss(values, values, returns, 0.2), 0.5 * (values - returns) ** 2)
    assert value_clipfrac(values, values, returns, 0.2).item() == 0.0


def test_the_ratio_of_whole_answers() -> None:
    """RLOO: two answers with log-ratios 0.1 and -2."""
    found = policy_loss(torch.tensor([-4.9, -9.0]), torch.tensor([-5.0, -7.0]), torch.tensor([1.0, -1.0]), 0.2)
    assert found.tolist() == pytest.approx([-math.exp(0.1), 0.8])


@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
@pytest.mark.parametrize("dual_clip", [None, 3.0])
def test_a_ratio_beyond_float_is_finite_in_loss_and_gradient(advantage: float, dual_clip: float | None) -> None:
    logprobs = torch.tensor([-1.0], requires_grad=True)
    found = policy_loss(logprobs, torch.tensor([-500.0]), torch.tensor([advantage]), 0.2, dual_clip)
    (gradient,) = torch.autograd.grad(found, logprobs)
    assert torch.isfinite(found)
    assert torch.isfinite(gradient)


@pytest.mark.parametrize(
    ("value", "expected", "gradient"),
    [
        (1.1, 0.5 * 0.9**2, -0.9),  # within the range: the usual square
        (1.8, 0.5 * 0.8**2, 0.0),  # moved far enough: its target lies further, but the clipped error is the larger
        (0.5, 0.5 * 1.5**2, -1.5),  # moved away: free to come back
        (2.5, 0.5 * 0.8**2, 0.0),
        (3.5, 0.5 * 1.5**2, 1.5),
    ],
)
def test_value_loss_by_hand(value: float, expected: float, gradient: float) -> None:
    """The old value is 1, the return 2, the range 0.2."""
    new = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    old, returns = torch.ones(1, dtype=torch.float64), torch.full((1,), 2.0, dtype=torch.float64)
    found = value_loss(new, old, returns, 0.2)
    assert found.item() == pytest.approx(expected)
    assert torch.autograd.grad(found, new)[0].item() == pytest.approx(gradient)
    assert value_clipfrac(new, old, returns, 0.2).item() == float(gradient == 0.0)


def test_entropy_bonus() -> None:
    """Less loss the more undecided; here of 2 and 4 equal choices."""
    assert entropy_bonus(logs(2, 4), 0.01).tolist() == pytest.approx([-0.01 * math.log(2), -0.01 * math.log(4)])


def test_sampler_weights() -> None:
    old = torch.tensor([0.5, 0.5, -1.0, 300.0], requires_grad=True)
    found = sampler_weights(old, torch.tensor([0.5, 0.0, 0.0, -300.0]), cap=1.5)
    assert found.tolist() == pytest.approx([1.0, 1.5, math.exp(-1), 1.5])
    assert not found.requires_grad
    assert truncated_share(old, torch.tensor([0.5, 0.0, 0.0, -300.0]), cap=1.5).item() == 0.5


def test_sampler_weights_undo_the_samplers_error() -> None:
    """With weights, what a wrong sampler drew gives the gradient of the right policy, here in exact expectation."""
    logits = torch.tensor([0.3, -0.2, 0.4], dtype=torch.float64, requires_grad=True)
    logp, advantages = logits.log_softmax(0), torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    sampler = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    terms = sampler_weights(logp, sampler.log(), cap=10.0) * policy_loss(logp, logp.detach(), advantages, 0.2)
    found = torch.autograd.grad((sampler * terms).sum(), logits, retain_graph=True)[0]
    expected = torch.autograd.grad(-(logp.exp() * advantages).sum(), logits)[0]
    torch.testing.assert_close(found, expected)


def test_grpo_loss_by_hand() -> None:
    """Ratio 1.5 with A = 2 is clipped at 1.2; r = pi_ref / pi = 2, so k3 = 2 - 1 - log 2 and k2 = (log 2)^2 / 2."""
    arguments = logs(0.3), logs(0.2), logs(0.6), torch.tensor([2.0], dtype=torch.float64), 0.2
    assert grpo_loss(*arguments, 0.0).item() == pytest.approx(-2.4)
    assert grpo_loss(*arguments, 0.04).item() == pytest.approx(-2.4 + 0.04 * (1 - math.log(2)))
    assert grpo_loss(*arguments, 0.04, "k2").item() == pytest.approx(-2.4 + 0.02 * math.log(2) ** 2)


TERMS, LENGTHS = torch.tensor([3.0, 1.0, 2.0, 6.0]), torch.tensor([3, 1])


def test_normalisations_by_hand() -> None:
    assert token_mean(TERMS).item() == 3.0
    assert answer_mean(TERMS, LENGTHS).item() == 4.0  # (2 + 6) / 2
    assert token_mean(TERMS, 2 * 8).item() == 0.75  # by the longest allowed answer


def test_micro_batches_add_up_to_the_step() -> None:
    parts = [(TERMS[:3], LENGTHS[:1]), (TERMS[3:], LENGTHS[1:])]
    assert sum(token_mean(terms, 4) for terms, _ in parts).item() == pytest.approx(token_mean(TERMS).item())
    by_answers = sum(answer_mean(terms, lengths, 2) for terms, lengths in parts)
    assert by_answers.item() == pytest.approx(answer_mean(TERMS, LENGTHS).item())
