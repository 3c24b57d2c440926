"""Ragged sequences laid flat: [N] values over S sequences, one after the other, `lengths_S` of them to each.

Nothing is padded. There is at least one sequence; any of them may be empty.
"""

from __future__ import annotations

import torch
from torch import Tensor


def owners(lengths_S: Tensor) -> Tensor:
    """The number of the sequence that each place belongs to. [N] int64"""
    return torch.repeat_interleave(torch.arange(len(lengths_S), device=lengths_S.device), lengths_S)


def spread(values_S: Tensor, lengths_S: Tensor) -> Tensor:
    """Each sequence's value at all of its places. [N]"""
    return torch.repeat_interleave(values_S, lengths_S)


def tokens_left(lengths_S: Tensor) -> Tensor:
    """How many places of its sequence follow each place: 0 at the last one. [N] int64"""
    ends_N = spread(lengths_S.cumsum(0), lengths_S)
    return ends_N - 1 - torch.arange(len(ends_N), device=ends_N.device)


def sums(values_N: Tensor, lengths_S: Tensor) -> Tensor:
    """The sum of each sequence, 0 for an empty one. [S]"""
    return torch.segment_reduce(values_N, "sum", lengths=lengths_S)


def means(values_N: Tensor, lengths_S: Tensor) -> Tensor:
    """The mean of each sequence, 0 for an empty one. [S]"""
    return sums(values_N, lengths_S) / lengths_S.clamp(min=1)


def discounted_sums(values_N: Tensor, lengths_S: Tensor, discount: float) -> Tensor:
    """y_t = x_t + discount y_(t+1) within each sequence: sum_j discount^j x_(t+j). [N]

    Windows of 1, 2, 4, ... places are joined, so that N places take log2 of the longest length passes, not one pass a
    place (Hillis & Steele 1986). What a sequence gets does not depend on which others lie beside it, to the last bit.
    """
    left_N = tokens_left(lengths_S)
    longest = int(lengths_S.max())
    total_N, window = values_N, 1
    while window < longest:
        next_window = torch.where(left_N[:-window] >= window, total_N[window:], 0.0)
        total_N = torch.cat([total_N[:-window] + discount**window * next_window, total_N[-window:]])
        window *= 2
    return total_N
