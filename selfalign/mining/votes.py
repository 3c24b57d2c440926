"""What a judge makes of preferences by each rule alone, in both orders, and what rules are worth together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from selfalign.config import Judge
from selfalign.constitution import Constitution, Principle
from selfalign.engines.base import Engine
from selfalign.mining.evidence import MiningError, Preference
from selfalign.mining.proposals import Told
from selfalign.preferences import p_of
from selfalign.records import Candidate, Prompt, digest
from selfalign.stages.judge import judge

SHARD = 16  # pairs between two words of progress
SUREST = 0.98  # of one rule on one pair: none outvotes all others by being certain
DECISIVE = 0.1  # of |2p - 1|: below, a rule or a set of rules leaves a pair undecided, as `pairs.min_margin` does
LEAST_GAIN = 0.01  # of accuracy on the pairs learnt from, below which no further rule is taken


@dataclass(frozen=True)
class Votes:
    """What a judge says of N pairs by each of K rules.

    `p` [K, N, 2]: the probability that the preferred answer is the better one, where it is shown first and where it is
    shown second; nan for no valid verdict.
    """

    p: np.ndarray

    def __getitem__(self, pairs: Sequence[int]) -> Votes:
        """The votes on some of the pairs."""
        return Votes(self.p[:, list(pairs)])

    @property
    def invalid(self) -> float:
        """The share of verdicts that are none."""
        return float(np.isnan(self.p).mean())

    @property
    def log_odds(self) -> np.ndarray:
        """Of the mean of both orders [K, N], at most those of `SUREST`.

        0 where one verdict is missing, for the other would carry the judge's liking for a position.
        """
        p = np.clip(np.nan_to_num(self.p.mean(axis=2), nan=0.5), 1 - SUREST, SUREST)
        return np.log(p) - np.log1p(-p)

    @property
    def decisive(self) -> np.ndarray:
        """Which pairs each rule decides [K, N]."""
        return decided(self.log_odds) != 0

    def consistency(self) -> np.ndarray:
        """Of the pairs with both verdicts, the share on which these favour the same answer [K]; nan for no pair."""
        valid = ~np.isnan(self.p).any(axis=2)
        same = ((self.p > 0.5).all(axis=2) | (self.p < 0.5).all(axis=2)) & valid
        return np.divide(same.sum(1), valid.sum(1), out=np.full(len(self.p), np.nan), where=valid.any(1))


def vote(
    rules: Sequence[str], pairs: Sequence[Preference], engine: Engine, settings: Judge, *, seed: int, told: Told
) -> Votes:
    """Put every pair before the judge by every rule, in both orders.

    Raises MiningError where more than `max_invalid` of its verdicts are none.
    """
    principles = tuple(Principle(id=str(k), compare=rule) for k, rule in enumerate(rules))
    constitution = Constitution(name="candidates", version="0.0.0", principles=principles)
    told("vote", 0, len(pairs))
    found = ask(constitution, pairs, engine, settings, seed=seed, told=lambda done: told("vote", done, len(pairs)))
    if found.invalid > settings.max_invalid:
        raise MiningError(
            f"the model gave no valid verdict on {found.invalid:.0%} of the questions: it does not answer by the "
            f"labels {' and '.join(settings.labels_pairwise)}, or the pairs are longer than its context. Name another "
            "by --model"
        )
    return found


def ask(
    constitution: Constitution,
    pairs: Sequence[Preference],
    engine: Engine,
    settings: Judge,
    *,
    seed: int,
    told: Callable[[int], None],
) -> Votes:
    """Put every pair before the judge in both orders, by each of the active principles that applies to its prompt.

    No principle shows its worked examples. `told` hears how many pairs are done. A principle that does not apply to a
    pair has nan there.
    """
    settings = replace(
        settings,
        method="pairwise-logprob",
        both_orders=True,
        principles="all",
        comparisons="all",
        tie_margin=0.0,
        examples=0,
        calibration=None,
    )
    rows = {principle.id: k for k, principle in enumerate(constitution.active)}
    places = {_prompt(pair).id: n for n, pair in enumerate(pairs)}
    p = np.full((len(rows), len(pairs), 2), np.nan)
    done = 0
    for _, judgments in judge(_shards(pairs), engine, constitution, settings, judge_id="mining", seed=seed):
        for judgment in judgments:
            if judgment.verdict != "invalid":
                second = int(judgment.first_id != "chosen")
                p[rows[judgment.principle_id], places[judgment.prompt_id], second] = p_of(judgment, "chosen")
        done += len({judgment.prompt_id for judgment in judgments})
        told(done)
    return Votes(p)


def _shards(pairs: Sequence[Preference]) -> list[tuple[int, list[Prompt], list[Candidate]]]:
    shards = []
    for start in range(0, len(pairs), SHARD):
        prompts = [(_prompt(pair), pair) for pair in pairs[start : start + SHARD]]
        texts = [(prompt, name, getattr(pair, name)) for prompt, pair in prompts for name in ("chosen", "rejected")]
        answers = [Candidate(name, prompt.id, "", 0, 0, text, (), "stop") for prompt, name, text in texts]
        shards.append((start, [prompt for prompt, _ in prompts], answers))
    return shards


def _prompt(pair: Preference) -> Prompt:
    """The prompt of a pair under an id of the pair's own: answers of different pairs are not to be compared."""
    return replace(pair.prompt, id=digest("pair", pair.id))


def joint(log_odds: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
    """The log-odds [N] of a set of rules together: their sum, as if each were a witness of its own."""
    return log_odds[list(chosen)].sum(axis=0)


def decided(log_odds: np.ndarray) -> np.ndarray:
    """Log-odds, with 0 where they say too little to decide: |2p - 1| below `DECISIVE`."""
    return np.where(np.abs(np.tanh(log_odds / 2)) < DECISIVE, 0.0, log_odds)


def share_right(log_odds: np.ndarray) -> float:
    """How often the preferred answer is found, an undecided pair counting half."""
    return float(((np.sign(decided(log_odds)) + 1) / 2).mean())


def choose(log_odds: np.ndarray, *, most: int) -> list[int]:
    """Rules taken one by one, each the one that makes the set so far right most often, by their log-odds [K, N].

    It ends at `most`, or where the best gains less than `LEAST_GAIN`. Of rules that gain the same the one with the
    higher likelihood is taken, then the earlier one. A set of none is right half the time.
    """
    chosen: list[int] = []
    right = 0.5
    while len(chosen) < min(most, len(log_odds)):
        left = [k for k in range(len(log_odds)) if k not in chosen]
        worth = {k: _worth(joint(log_odds, [*chosen, k])) for k in left}
        best = max(left, key=lambda k: worth[k])
        if worth[best][0] < right + LEAST_GAIN:
            break
        chosen.append(best)
        right = worth[best][0]
    return chosen


def _worth(log_odds: np.ndarray) -> tuple[float, float]:
    return round(share_right(log_odds), 9), round(float(-np.logaddexp(0.0, -log_odds).mean()), 9)
