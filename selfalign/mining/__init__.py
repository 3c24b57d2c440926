"""Inverse constitutional AI (Findeis et al. 2024, arXiv:2406.06560): from preferences to principles that explain them.

`evidence` the preferences, and their split · `proposals` what a model says may explain each · `clusters` nearly equal
ones put together · `votes` what a judge makes of each rule, and which to take together · `draft` the constitution ·
`examples` whether a judge agrees with those that a constitution states already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfalign.calibration import Accuracy, Comparison, accuracy, explains_as_well, fit_length_baseline
from selfalign.config import Judge
from selfalign.engines.base import Engine
from selfalign.mining.clusters import Cluster, cluster
from selfalign.mining.evidence import MiningError, Preference, Split, read, split
from selfalign.mining.proposals import REFUSED, UNUSABLE, Proposals, Told, propose
from selfalign.mining.votes import Votes, choose, decided, joint, vote


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule and what it is worth, on the pairs held out. An undecided pair counts half.

    `alone`: how often it sides with the preferred answer; `when_decisive`: of the pairs that it decides; `coverage`:
    how many these are; `consistency`: how often both orders favour the same answer. `together`: how often the set so
    far is right, this rule included; None for a rule that is not taken.
    """

    text: str
    wordings: tuple[str, ...]
    support: int
    alone: Accuracy
    when_decisive: float | None
    coverage: float
    consistency: float | None
    invalid: float
    together: Accuracy | None


@dataclass(frozen=True, kw_only=True)
class Mined:
    """The rules, those taken first, in the order in which they were taken; then the others, the most accurate first.

    `majority` always takes the answer that is listed on the side mostly preferred in the pairs learnt from, one half
    where no side is known; `length` knows nothing but lengths. All on the pairs held out.
    """

    rules: tuple[Rule, ...]
    together: Accuracy | None
    majority: float
    length: Accuracy
    against_length: Comparison | None
    counts: Counter[str]
    num_train: int
    num_heldout: int

    @property
    def taken(self) -> tuple[Rule, ...]:
        return tuple(rule for rule in self.rules if rule.together is not None)


def mine(
    evidence: Split,
    engine: Engine,
    settings: Judge,
    *,
    seed: int,
    told: Told,
    per_reply: int = 3,
    candidates: int = 16,
    most: int = 8,
) -> Mined:
    """Propose rules from the pairs to learn from, vote on all pairs, and take the set that explains them best.

    `per_reply` rules are asked for at a time; the `candidates` with most support are voted on, and up to `most` taken,
    by the pairs to learn from alone. What all are worth is measured on the pairs held out. The same seed, model and
    pairs give the same result. Raises MiningError where no reply holds a rule, or the judge cannot answer.
    """
    proposals = propose(evidence.train, engine, count=per_reply, seed=seed, told=told)
    if not proposals.rules:
        raise MiningError(_nothing_usable(proposals))
    clusters = cluster(proposals.rules, most=candidates)
    pairs = [*evidence.train, *evidence.heldout]
    votes = vote([found.text for found in clusters], pairs, engine, settings, seed=seed, told=told)
    return _measured(evidence, clusters, votes, proposals.counts, most, seed)


def _nothing_usable(proposals: Proposals) -> str:
    counts = proposals.counts
    reasons = ", ".join(f"{counts[reason]} {reason}" for reason in UNUSABLE if counts[reason])
    refused = ", ".join(f"{counts[reason]} {reason}" for reason in REFUSED if counts[reason])
    said = "; ".join(filter(None, (reasons and f"replies: {reasons}", refused and f"rules: {refused}")))
    return (
        f"no usable principle in {counts['replies']} replies ({said}): the model does not follow the request for a "
        "list of rules. Name one that follows instructions by --model, such as Qwen/Qwen3-8B or openai:NAME"
    )


def _measured(
    evidence: Split, clusters: Sequence[Cluster], votes: Votes, counts: Counter[str], most: int, seed: int
) -> Mined:
    split_at = len(evidence.train)
    train, heldout = votes[range(split_at)], votes[range(split_at, split_at + len(evidence.heldout))]
    chosen = choose(train.log_odds, most=most)
    measure = _Measure(evidence, heldout, seed)
    rules = [measure.rule(found, k, chosen) for k, found in enumerate(clusters)]
    others = sorted((k for k in range(len(rules)) if k not in chosen), key=lambda k: -rules[k].alone.value)
    length = measure.length_gaps()
    together = decided(joint(heldout.log_odds, chosen))
    return Mined(
        rules=tuple(rules[k] for k in [*chosen, *others]),
        together=measure.accuracy(together) if chosen else None,
        majority=measure.majority(),
        length=measure.accuracy(length),
        against_length=explains_as_well(together, length, measure.groups, seed=seed) if chosen else None,
        counts=Counter({**counts, **evidence.left_out}),
        num_train=len(evidence.train),
        num_heldout=len(evidence.heldout),
    )


@dataclass(frozen=True)
class _Measure:
    """What is measured on the pairs held out; intervals resample their prompts."""

    evidence: Split
    votes: Votes
    seed: int

    @property
    def groups(self) -> list[str]:
        return [pair.prompt.id for pair in self.evidence.heldout]

    def accuracy(self, log_odds: np.ndarray) -> Accuracy:
        return accuracy(log_odds, self.groups, seed=self.seed)

    def rule(self, found: Cluster, k: int, chosen: Sequence[int]) -> Rule:
        log_odds, decides = self.votes.log_odds, self.votes.decisive[k]
        so_far = chosen[: chosen.index(k) + 1] if k in chosen else []
        consistency = float(self.votes.consistency()[k])
        return Rule(
            text=found.text,
            wordings=found.wordings,
            support=found.support,
            alone=self.accuracy(decided(log_odds[k])),
            when_decisive=float((log_odds[k][decides] > 0).mean()) if decides.any() else None,
            coverage=float(decides.mean()),
            consistency=None if np.isnan(consistency) else consistency,
            invalid=float(np.isnan(self.votes.p[k]).mean()),
            together=self.accuracy(decided(joint(log_odds, so_far))) if so_far else None,
        )

    def length_gaps(self) -> np.ndarray:
        """What a model of lengths alone, fitted on the pairs to learn from, says of those held out."""
        lengths = [_differences(pairs) for pairs in (self.evidence.train, self.evidence.heldout)]
        return fit_length_baseline(lengths[0], [pair.p_chosen for pair in self.evidence.train]).gaps(lengths[1])

    def majority(self) -> float:
        known = [pair.chosen_first for pair in self.evidence.train if pair.chosen_first is not None]
        side = 2 * sum(known) >= len(known)
        right = [0.5 if p.chosen_first is None else float(p.chosen_first == side) for p in self.evidence.heldout]
        return float(np.mean(right))


def _differences(pairs: Sequence[Preference]) -> list[float]:
    return [float(len(pair.chosen) - len(pair.rejected)) for pair in pairs]


__all__ = ["Mined", "MiningError", "Preference", "Rule", "Split", "Told", "mine", "read", "split"]
