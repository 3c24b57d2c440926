"""Log-probabilities of chosen tokens from hidden states, without ever holding logits for every position."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LOGITS_BUDGET = 512 * 2**20  # bytes of logits held at a time; within it the backward pass needs no recomputation
Extra = Literal["collision", "entropy"]


@dataclass(frozen=True)
class Head:
    """What becomes of logits: scaled, then capped (Gemma 2: cap * tanh(logits / cap)), then cooled."""

    scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0  # logits are divided by it at last

    @staticmethod
    def of(config: Any) -> Head:
        """Read from a model's configuration: Cohere multiplies by logit_scale, Granite divides by logits_scaling."""
        multiplier = getattr(config, "logit_scale", None) or 1.0
        divisor = getattr(config, "logits_scaling", None) or 1.0
        return Head(multiplier / divisor, getattr(config, "final_logit_softcapping", None))


def token_logprobs(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    head: Head,
    budget: int = LOGITS_BUDGET,
) -> Tensor:
    """log softmax(head(hidden @ weight^T + bias))[target] for each of N rows, in float32. [N]

    The matrix product runs in the autocast dtype where autocast is on, the reductions in float32. Rows are taken in
    chunks of at most `budget` bytes of logits; where all rows fit one chunk its softmax is kept for the backward pass,
    otherwise each chunk is computed again there.
    """
    return _TokenLogprobs.apply(hidden_ND, weight_VD, bias_V, targets_N, head, budget, None)[0]


def token_logprobs_and_collision(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    head: Head,
    budget: int = LOGITS_BUDGET,
) -> tuple[Tensor, Tensor]:
    """As `token_logprobs`, and log sum_v p_v^2: the mean probability of a token drawn from p. Both [N]

    No gradient flows through the second.
    """
    return _TokenLogprobs.apply(hidden_ND, weight_VD, bias_V, targets_N, head, budget, "collision")


def token_logprobs_and_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    head: Head,
    budget: int = LOGITS_BUDGET,
) -> tuple[Tensor, Tensor]:
    """As `token_logprobs`, and the entropy -sum_v p_v log p_v of what each token is drawn from, in nats. Both [N]

    The gradient flows through both. Chunks have half as many rows: log p needs as much room as p.
    """
    return _TokenLogprobs.apply(hidden_ND, weight_VD, bias_V, targets_N, head, budget // 2, "entropy")


class _TokenLogprobs(torch.autograd.Function):
    """d log p_y / d logits = onehot(y) - p, so one [chunk, V] buffer serves as logits, softmax and gradient in turn.

    Beside the log-probabilities stands what else is asked of the distributions: `extra`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        head: Head,
        budget: int,
        extra: Extra | None,
    ) -> tuple[Tensor, Tensor]:
        rows = max(1, budget // (4 * weight.shape[0]))
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        with torch.autocast(device, enabled=False):
            bodies = hidden.to(dtype).split(rows)
            matrix = weight.to(dtype)
            parts, softmaxes, extras = [], [], []
            for body, target in zip(bodies, targets.split(rows), strict=True):
                logprobs, softmax = _chunk_logprobs(body, matrix, bias, target, head)
                parts.append(logprobs)
                softmaxes = [softmax]
                if extra is not None:
                    extras.append(_log_collision(softmax) if extra == "collision" else _entropy(softmax))
        ctx.head, ctx.rows, ctx.dtype = head, rows, dtype
        ctx.softmax = softmaxes[0] if len(parts) == 1 and any(ctx.needs_input_grad[:3]) else None
        nothing = hidden.new_zeros(0, dtype=torch.float32)
        found = torch.cat(extras) if extras else nothing
        if extra != "entropy":
            ctx.mark_non_differentiable(found)
        ctx.save_for_backward(hidden, weight, bias, targets, found if extra == "entropy" else None)
        return torch.cat(parts) if parts else nothing, found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, grad_entropy_N: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, entropy = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        matrix = weight.to(ctx.dtype)
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = None
        grad_bias = torch.zeros_like(bias) if wants_bias else None
        for start in range(0, len(targets), ctx.rows):
            chunk = slice(start, start + ctx.rows)
            body, target = hidden[chunk].to(ctx.dtype), targets[chunk]
            softmax = ctx.softmax
            if softmax is None:
                _, softmax = _chunk_logprobs(body, matrix, bias, target, ctx.head)
            grad, factor = grad_N[chunk, None], -grad_N[chunk, None]
            if entropy is not None:
                factor = _entropy_factor(softmax, entropy[chunk, None], grad_entropy_N[chunk, None]).add_(factor)
            grad_logits = _grad_logits(softmax, factor, grad, body, matrix, bias, target, ctx.head)
            if wants_bias:
                grad_bias += grad_logits.sum(0)
            grad_logits = grad_logits.to(ctx.dtype)
            if wants_hidden:
                grad_hidden[chunk] = grad_logits @ matrix
            if wants_weight:
                grad_weight = _add_product(grad_weight, grad_logits, body, weight.dtype)
        ctx.softmax = None
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


def _add_product(total: Tensor | None, grad_logits: Tensor, body: Tensor, dtype: torch.dtype) -> Tensor:
    """total + grad_logits^T @ body, in place after the first. [V, D]"""
    if total is None:
        return (grad_logits.t() @ body).to(dtype)
    if dtype == body.dtype:
        return total.addmm_(grad_logits.t(), body)
    return total.add_(grad_logits.t() @ body)


def _chunk_logits(body: Tensor, matrix: Tensor, bias: Tensor | None, head: Head) -> Tensor:
    """Scaled and capped logits in float32. [n, V]"""
    logits = F.linear(body, matrix, None if bias is None else bias.to(matrix.dtype)).float()
    if head.scale != 1.0:
        logits.mul_(head.scale)
    if head.softcap is not None:
        logits.div_(head.softcap).tanh_().mul_(head.softcap)
    if head.temperature != 1.0:
        logits.div_(head.temperature)
    return logits


def _chunk_logprobs(
    body: Tensor, matrix: Tensor, bias: Tensor | None, target: Tensor, head: Head
) -> tuple[Tensor, Tensor]:
    """Log-probabilities [n] of the targets, and the softmax [n, V], which takes over the memory of the logits.

    logsumexp = max(logits) - log(max(softmax)): softmax in place is one fused pass, several times as fast as
    torch.logsumexp on a CPU, and max(softmax) >= 1 / V, so its logarithm is exact to rounding.
    """
    logits = _chunk_logits(body, matrix, bias, head)
    picked = logits.gather(-1, target[:, None]).squeeze(-1)
    highest = logits.amax(-1)
    softmax = torch.softmax(logits, -1, out=logits)
    logsumexp = highest - softmax.amax(-1).log()
    return picked - logsumexp, softmax


def _log_collision(softmax: Tensor) -> Tensor:
    """log sum_v p_v^2. [n]"""
    return torch.linalg.vector_norm(softmax, dim=-1).log() * 2.0


def _entropy(softmax: Tensor) -> Tensor:
    """-sum_v p_v log p_v. [n]"""
    return torch.special.entr(softmax).sum(-1)


def _entropy_factor(softmax: Tensor, entropy: Tensor, grad: Tensor) -> Tensor:
    """-grad (log p + H): by it p is multiplied in d H / d logits = -p (log p + H). [n, V]

    `entropy` and `grad` are [n, 1]. No logarithm of a float32 is below -104 but that of an underflown 0.
    """
    return softmax.log().clamp_(min=-200.0).add_(entropy).mul_(-grad)


def _grad_logits(
    softmax: Tensor,
    factor: Tensor,
    grad: Tensor,
    body: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    target: Tensor,
    head: Head,
) -> Tensor:
    """grad * onehot + factor * softmax, back through cap and scale; overwrites `softmax`. [n, V]

    `grad` is [n, 1], `factor` too or [n, V].
    """
    grad_logits = softmax.mul_(factor)
    grad_logits.scatter_add_(-1, target[:, None], grad)
    if head.temperature != 1.0:
        grad_logits.div_(head.temperature)
    if head.softcap is not None:  # d cap tanh(u / cap) / du = 1 - tanh^2
        warm = _chunk_logits(body, matrix, bias, replace(head, temperature=1.0))
        grad_logits.mul_(1.0 - (warm / head.softcap) ** 2)
    if head.scale != 1.0:
        grad_logits.mul_(head.scale)
    return grad_logits
