"""Preference losses: pure functions of sequence log-probabilities. B pairs in, B losses out; no model, no state.

Notation: for a prompt x with chosen answer w and rejected answer l,
    a = log pi(w|x) - log pi_ref(w|x),   c = log pi(l|x) - log pi_ref(l|x),   d = a - c,   z = beta d.
All log-probabilities are sums over the tokens of an answer, in nats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

LossName = Literal["sigmoid", "ipo", "hinge"]


@dataclass(frozen=True)
class PairLogps:
    """Sequence log-probabilities of B pairs, and the lengths of the answers in tokens; every field is [B]."""

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_lengths: Tensor
    rejected_lengths: Tensor

    @property
    def chosen_log_ratio(self) -> Tensor:
        """a, [B]."""
        return self.chosen - self.reference_chosen

    @property
    def rejected_log_ratio(self) -> Tensor:
        """c, [B]."""
        return self.rejected - self.reference_rejected

    @property
    def difference(self) -> Tensor:
        """d = a - c, [B]."""
        return self.chosen_log_ratio - self.rejected_log_ratio

    def swap(self) -> PairLogps:
        """The same pairs with the opposite label."""
        return PairLogps(
            chosen=self.rejected,
            rejected=self.chosen,
            reference_chosen=self.reference_rejected,
            reference_rejected=self.reference_chosen,
            chosen_lengths=self.rejected_lengths,
            rejected_lengths=self.chosen_lengths,
        )


def sigmoid_loss(pairs: PairLogps, beta: float) -> Tensor:
    """DPO: -log sigmoid(z). Rafailov et al. 2023 (arXiv:2305.18290), eq. 7. [B]"""
    return -F.logsigmoid(beta * pairs.difference)


def hinge_loss(pairs: PairLogps, beta: float) -> Tensor:
    """max(0, 1 - z). RSO, Liu et al. 2023 (arXiv:2309.06657), eq. 8: the normalised hinge of SLiC. [B]"""
    return F.relu(1.0 - beta * pairs.difference)


def ipo_loss(pairs: PairLogps, beta: float, *, length_average: bool = False) -> Tensor:
    """(d - 1 / (2 tau))^2 with tau = beta. Azar et al. 2023 (arXiv:2310.12036), eq. 17. [B]

    The paper's log-ratios are of whole answers, hence sums. `length_average` divides each by its number of tokens,
    as some trainers do; 1 / (2 tau) is then a target in nats per token.
    """
    chosen, rejected = pairs.chosen_log_ratio, pairs.rejected_log_ratio
    if length_average:
        chosen, rejected = chosen / pairs.chosen_lengths, rejected / pairs.rejected_lengths
    return (chosen - rejected - 1.0 / (2.0 * beta)) ** 2


def hard_loss(name: LossName, pairs: PairLogps, beta: float) -> Tensor:
    """The loss of each pair if its chosen answer is better for certain. [B]"""
    if name == "sigmoid":
        return sigmoid_loss(pairs, beta)
    if name == "ipo":
        return ipo_loss(pairs, beta)
    if name == "hinge":
        return hinge_loss(pairs, beta)
    raise ValueError(f"train.loss: no loss is named {name!r}")


def smooth_labels(p_chosen: Tensor, label_smoothing: float) -> Tensor:
    """The probability that the chosen answer is better, if labels are flipped with probability epsilon.

    p (1 - epsilon) + (1 - p) epsilon; with p = 1 this is conservative DPO (Mitchell 2023, cDPO, eq. 3).
    """
    return p_chosen * (1.0 - label_smoothing) + (1.0 - p_chosen) * label_smoothing


def pair_loss(
    name: LossName, pairs: PairLogps, p_chosen: Tensor, *, beta: float, label_smoothing: float = 0.0
) -> Tensor:
    """The expected loss under the soft label: p loss(w > l) + (1 - p) loss(l > w). [B]

    For "sigmoid" this is the cross-entropy to the label, least at z = logit p; for "ipo" least at
    d = (2 p - 1) / (2 tau); for "hinge" at z = 1 where p > 1/2.
    """
    p = smooth_labels(p_chosen, label_smoothing)
    return p * hard_loss(name, pairs, beta) + (1.0 - p) * hard_loss(name, pairs.swap(), beta)


def value_at_reference(name: LossName, beta: float) -> float:
    """The loss of any pair, whatever its label, while the policy is still the reference: log 2 for "sigmoid"."""
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    return pair_loss(name, PairLogps(zero, zero, zero, zero, one, one), one, beta=beta).item()
