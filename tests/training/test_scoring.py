"""Log-probabilities of tokens from hidden states, against a naive log-softmax over the whole vocabulary."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from selfalign.training.scoring import Head, token_logprobs, token_logprobs_and_collision, token_logprobs_and_entropy

HEADS = [Head(), Head(scale=0.25), Head(softcap=2.0), Head(scale=3.0, softcap=1.5)]


def naive(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, head: Head) -> Tensor:
    logits = torch.nn.functional.linear(hidden, weight, bias) * head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    return (logits / head.temperature).log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)


def tensors(rows: int = 7, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 6, generator=generator).requires_grad_()
    weight = torch.randn(11, 6, generator=generator).requires_grad_()
    bias = torch.randn(11, generator=generator).requires_grad_()
    return hidden, weight, bias, torch.randint(0, 11, (rows,), generator=generator)


@pytest.mark.parametrize("budget", [2**20, 4 * 11 * 3, 1], ids=["one chunk", "chunks of three", "chunks of one"])
@pytest.mark.parametrize("head", HEADS, ids=str)
def test_values_and_gradients_equal_a_naive_log_softmax(head: Head, budget: int) -> None:
    hidden, weight, bias, targets = tensors()
    coefficients = torch.linspace(-1, 1, 7)
    found = token_logprobs(hidden, weight, bias, targets, head, budget)
    expected = naive(hidden, weight, bias, targets, head)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    ours = torch.autograd.grad((found * coefficients).sum(), (hidden, weight, bias))
    theirs = torch.autograd.grad((expected * coefficients).sum(), (hidden, weight, bias))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("budget", [2**20, 4 * 11 * 3], ids=["one chunk", "chunks of three"])
@pytest.mark.parametrize("head", HEADS, ids=str)
def test_the_collision_probability_equals_a_naive_sum(head: Head, budget: int) -> None:
    hidden, weight, bias, targets = tensors()
    found, collision = token_logprobs_and_collision(hidden, weight, bias, targets, head, budget)
    logits = torch.nn.functional.linear(hidden, weight, bias) * head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    torch.testing.assert_close(collision, logits.softmax(-1).square().sum(-1).log(), atol=1e-5, rtol=1e-5)
    assert not collision.requires_grad
    ours = torch.autograd.grad(found.sum(), (hidden, weight))
    theirs = torch.autograd.grad(naive(hidden, weight, bias, targets, head).sum(), (hidden, weight))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def naive_entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None, head: Head) -> Tensor:
    every = torch.arange(len(weight)).expand(len(hidden), -1).reshape(-1)
    rows = hidden.repeat_interleave(len(weight), 0)
    logprobs = naive(rows, weight, bias, every, head).reshape(len(hidden), -1)
    return -(logprobs.exp() * logprobs).sum(-1)


@pytest.mark.parametrize("budget", [2**20, 2 * 4 * 11 * 3, 1], ids=["one chunk", "chunks of three", "chunks of one"])
@pytest.mark.parametrize("head", [*HEADS, Head(temperature=0.7), Head(3.0, 1.5, 0.5)], ids=str)
def test_entropies_and_their_gradients_equal_a_naive_full_softmax(head: Head, budget: int) -> None:
    hidden, weight, bias, targets = tensors()
    coefficients, prices = torch.linspace(-1, 1, 7), torch.linspace(2, -1, 7)
    logprobs, entropies = token_logprobs_and_entropy(hidden, weight, bias, targets, head, budget)
    expected = naive_entropy(hidden, weight, bias, head)
    torch.testing.assert_close(entropies, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logprobs, naive(hidden, weight, bias, targets, head), atol=1e-5, rtol=1e-5)
    ours = torch.autograd.grad((logprobs * coefficients + entropies * prices).sum(), (hidden, weight, bias))
    naively = naive(hidden, weight, bias, targets, head) * coefficients + expected * prices
    theirs = torch.autograd.grad(naively.sum(), (hidden, weight, bias))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("head", [Head(), Head(3.0, 1.5, 0.5)], ids=str)
def test_the_gradient_of_the_entropy_is_its_slope(head: Head) -> None:
    """Finite differences along random directions; the head works in float32, hence the wide step."""
    hidden, weight, bias, targets = tensors()
    generator = torch.Generator().manual_seed(1)

    def total(at: Tensor) -> Tensor:
        return token_logprobs_and_entropy(at, weight.detach(), bias.detach(), targets, head)[1].double().sum()

    (gradient,) = torch.autograd.grad(total(hidden), hidden)
    for _ in range(5):
        direction = torch.randn(hidden.shape, generator=generator)
        step = 1e-2 * direction / direction.norm()
        slope = (total(hidden.detach() + step) - total(hidden.detach() - step)) / 2
        torch.testing.assert_close((gradient * step).double().sum(), slope, atol=2e-5, rtol=1e-2)


def test_a_certain_distribution_has_no_entropy_and_no_gradient_of_it() -> None:
    """Probabilities that underflow to 0 neither add to the entropy nor spoil the gradient."""
    hidden, weight = torch.ones(2, 1, requires_grad=True), torch.tensor([[500.0], [0.0], [-500.0]], requires_grad=True)
    logprobs, entropies = token_logprobs_and_entropy(hidden, weight, None, torch.tensor([0, 1]), Head())
    torch.testing.assert_close(logprobs, torch.tensor([0.0, -500.0]))
    torch.testing.assert_close(entropies, torch.zeros(2))
    (1e3 * entropies).sum().backward()
    assert not hidden.grad.any() and not weight.grad.any()


def test_an_improbable_token_keeps_its_log_probability() -> None:
    """A softmax underflows at about -103 nats in float32; the log-probability must not."""
    hidden, weight = torch.tensor([[1.0]]), torch.tensor([[500.0], [0.0], [-500.0]])
    found = token_logprobs(hidden.expand(3, 1), weight, None, torch.tensor([0, 1, 2]), Head())
    torch.testing.assert_close(found, torch.tensor([0.0, -500.0, -1000.0]))


def test_frozen_output_weights_get_no_gradient() -> None:
    hidden, weight, _, targets = tensors()
    frozen = weight.detach()
    token_logprobs(hidden, frozen, None, targets, Head()).sum().backward()
    assert hidden.grad is not None
    assert frozen.grad is None


def test_bfloat16_autocast_is_close_to_float32() -> None:
    hidden, weight, bias, targets = tensors()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = token_logprobs(hidden, weight, bias, targets, Head(), 4 * 11 * 3)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, naive(hidden, weight, bias, targets, Head()), atol=0.1, rtol=0.02)
    found.sum().backward()
    assert weight.grad.dtype == torch.float32


def test_head_is_read_from_the_configuration() -> None:
    assert Head.of(SimpleNamespace()) == Head()
    assert Head.of(SimpleNamespace(final_logit_softcapping=30.0)) == Head(softcap=30.0)
    assert Head.of(SimpleNamespace(logits_scaling=8.0)) == Head(scale=0.125)
    assert Head.of(SimpleNamespace(logit_scale=0.0625)) == Head(scale=0.0625)
