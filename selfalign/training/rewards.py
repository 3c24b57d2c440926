"""From the scores of answers to a reward at each token: end tokens, shifting, clipping, and the price of the KL.

S answers are scored; their N tokens lie flat, answer by answer (`segments`). Order of use: truncate, score, shift,
clip, see to a missing end token, put a reward at each token, whiten (`advantages`). Without the clipping that is the
order of Huang et al. 2024, "The N+ implementation details of RLHF with PPO" (arXiv:2403.17031), here N+.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from selfalign.training.segments import spread, sums, tokens_left


class Truncated(NamedTuple):
    tokens: tuple[int, ...]
    ended: bool  # whether the last token is an end token


def truncate_after_end(tokens: Sequence[int], end_ids: Collection[int]) -> Truncated:
    """An answer up to and with its first end token; the whole answer where there is none."""
    for place, token in enumerate(tokens):
        if token in end_ids:
            return Truncated(tuple(tokens[: place + 1]), True)
    return Truncated(tuple(tokens), False)


def replace_unended(scores_S: Tensor, ended_S: Tensor, value: float) -> Tensor:
    """`value` is the score of every answer without an end token, whatever it was (N+: -1). [S]

    A good answer that was cut and a bad one are worth the same. `value` is on the scale of shifted and clipped scores.
    """
    return torch.where(ended_S, scores_S, value)


def penalise_unended(scores_S: Tensor, ended_S: Tensor, penalty: float) -> Tensor:
    """`penalty`, in units of the score, less for every answer without an end token. [S] TRL's `missing_eos_penalty`."""
    return torch.where(ended_S, scores_S, scores_S - penalty)


def shift_scores(scores_S: Tensor, reference_scores: Tensor) -> Tensor:
    """Scores on a scale where answers of the reference average 0. [S]

    A reward model fixes differences only; where its zero lies matters to whatever compares a score with a constant: the
    score of an answer without an end token, clipping, values that start at 0. Ziegler et al. 2019 (arXiv:1909.08593).
    """
    return scores_S - reference_scores.mean()


def clip_scores(scores_S: Tensor, bound: float) -> Tensor:
    """Scores within [-bound, bound], after `shift_scores`. [S] Zheng et al. 2023 (arXiv:2307.04964)."""
    return scores_S.clamp(-bound, bound)


def token_rewards(scores_S: Tensor, kl_N: Tensor, lengths_S: Tensor, kl_coef: float) -> Tensor:
    """-kl_coef KL at each token, and the score of the answer at its last one; KL in nats a token. [N]

    Ziegler et al. 2019, eq. 2, token by token; the sum over an answer is `penalised_scores`. Where an answer ended, N+
    puts the score one step later, with a value of its own after the end token. To know the score there the value head
    has to learn the reward model; with lam = 1 that value cancels and both are the same.
    """
    scores_N = torch.where(tokens_left(lengths_S) == 0, spread(scores_S, lengths_S), 0.0)
    return scores_N - kl_coef * kl_N


def penalised_scores(scores_S: Tensor, kl_N: Tensor, lengths_S: Tensor, kl_coef: float) -> Tensor:
    """score - kl_coef sum_t KL_t: the reward of whole answers, for RLOO. [S]

    Ahmadian et al. 2024 (arXiv:2402.14740), section 2; what has no score gives nothing but the price.
    """
    return scores_S - kl_coef * sums(kl_N, lengths_S)
