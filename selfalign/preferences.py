"""From single judgments to a decision between two candidates: orders averaged, principles weighed, tiers respected."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from selfalign.constitution import Constitution, Principle
from selfalign.judge_calibration import JudgeCalibration
from selfalign.records import Judgment, Verdict

PairKey = tuple[str, str]

_VETO_LEAD = 0.5  # pairwise: 2p - 1, so the other is preferred with at least 75%
_VETO_RATING = 1.0  # pointwise: points


@dataclass(frozen=True, slots=True)
class Reading:
    """What the judge says of candidates (a, b) under one principle.

    `lead` is signed, positive where a is better: 2p - 1 for comparisons, p being the mean of both orders shown, and the
    difference of the expected ratings for ratings. `level` is the mean of the two ratings, 0 for comparisons.
    """

    principle: Principle
    lead: float
    level: float = 0.0


@dataclass(frozen=True, slots=True)
class Readings:
    """All that was said of the candidates of one prompt.

    `pairs` has an entry for each pair (a, b), a < b, that was put before the judge; it is empty where no valid verdict
    came of it.
    """

    pairs: Mapping[PairKey, tuple[Reading, ...]]
    rated: bool
    rating_scale: float = 1.0

    def probability(self, lead: float) -> float:
        """The probability that the candidate with this lead is better."""
        return sigmoid(self.rating_scale * lead) if self.rated else (1.0 + lead) / 2.0

    def decision(self, a: str, b: str, min_margin: float) -> float | None:
        """The lead of a over b after all principles, or None where there is no valid reading."""
        readings = self.pairs.get(pair_key(a, b))
        if not readings:
            return None
        lead = decide(readings, min_margin)
        return lead if a < b else -lead

    def ratings(self, a: str, b: str, min_margin: float) -> tuple[float, float] | None:
        """The expected ratings of a and b by the tier that decides between them; their difference is the decision."""
        readings = self.pairs.get(pair_key(a, b))
        if not readings:
            return None
        decisive = deciding(readings, min_margin)
        level, lead = _mean_level(decisive), _mean_lead(decisive) * (1 if a < b else -1)
        return level + lead / 2, level - lead / 2

    def vetoed(self) -> frozenset[str]:
        """The candidates that clearly lose to another under a hard constraint."""
        limit = _VETO_RATING if self.rated else _VETO_LEAD
        losers = {
            (b if reading.lead > 0 else a)
            for (a, b), readings in self.pairs.items()
            for reading in readings
            if is_constraint(reading.principle) and abs(reading.lead) >= limit
        }
        return frozenset(losers)


def read_prompt(judgments: Sequence[Judgment], constitution: Constitution, rating_scale: float = 1.0) -> Readings:
    """The readings of one prompt's judgments.

    A comparison that is invalid in one order says nothing under that principle, for what is left would carry the
    judge's liking for a position. A tie counts as p = 0.5. Raises KeyError for a principle that is not in the
    constitution.
    """
    principles = {principle.id: principle for principle in constitution.principles}
    rated = any(judgment.second_id == "" for judgment in judgments)
    pairs = _rated_pairs(judgments, principles) if rated else _compared_pairs(judgments, principles)
    return Readings(pairs, rated, rating_scale)


def ratings(judgments: Iterable[Judgment], constitution: Constitution) -> dict[str, float]:
    """What the judge makes of each candidate by itself, by id: of those whose ratings are all valid.

    Within a tier ratings count by weight, as in a comparison. Where nothing is compared no tier can be said to decide,
    so the one that rates the candidate worst stands, each hard constraint being one of its own: what one finds bad no
    other makes up for. One invalid verdict leaves a candidate without a rating, for none must gain by a question that
    it makes unanswerable. Raises KeyError for a principle that is not in the constitution.
    """
    principles = {principle.id: principle for principle in constitution.principles}
    said: dict[str, list[Judgment]] = defaultdict(list)
    for judgment in judgments:
        if _weight(principles[judgment.principle_id]) > 0:
            said[judgment.first_id].append(judgment)
    return {
        name: _worst_tier([Reading(principles[judgment.principle_id], 0.0, judgment.rating) for judgment in asked])
        for name, asked in said.items()
        if all(judgment.rating is not None for judgment in asked)
    }


def pair_key(a: str, b: str) -> PairKey:
    return (a, b) if a < b else (b, a)


def by_prompt(judgments: Iterable[Judgment]) -> dict[str, list[Judgment]]:
    grouped: dict[str, list[Judgment]] = defaultdict(list)
    for judgment in judgments:
        grouped[judgment.prompt_id].append(judgment)
    return grouped


def p_of(judgment: Judgment, candidate_id: str) -> float:
    """The judge's probability for `candidate_id` in one valid comparison; a tie is 0.5."""
    if judgment.verdict == "tie" or judgment.p_first is None:
        return 0.5
    return judgment.p_first if judgment.first_id == candidate_id else 1.0 - judgment.p_first


def verdict_of(p_first: float, tie_margin: float) -> Verdict:
    """Which of two answers a probability is for: a tie where it is within `tie_margin` of one half."""
    if abs(p_first - 0.5) <= tie_margin:
        return "tie"
    return "first" if p_first > 0.5 else "second"


def calibrated(
    judgments: Iterable[Judgment], calibration: JudgeCalibration | None, tie_margin: float
) -> list[Judgment]:
    """The judgments with calibrated probabilities, and the verdicts that these give; ratings are left as they are."""
    if calibration is None:
        return list(judgments)
    return [_calibrated(judgment, calibration, tie_margin) for judgment in judgments]


def _calibrated(judgment: Judgment, calibration: JudgeCalibration, tie_margin: float) -> Judgment:
    if judgment.p_first is None:
        return judgment
    p_first = calibration.apply(judgment.p_first)
    return replace(judgment, p_first=p_first, verdict=verdict_of(p_first, tie_margin))


def decide(readings: Sequence[Reading], min_margin: float) -> float:
    """The lead of the first candidate, by the readings that are `deciding`."""
    return _mean_lead(deciding(readings, min_margin))


def deciding(readings: Sequence[Reading], min_margin: float) -> list[Reading]:
    """The readings of the highest tier in which the lead is at least `min_margin`.

    Hard constraints come before every tier. Within a tier, principles count by weight, but for those that yield to
    another which leads by `min_margin` itself. Where no tier decides, the largest lead stands, as a decision too close
    to be one.
    """
    readings = _unyielding(readings, min_margin)
    tiers: dict[tuple[bool, int], list[Reading]] = defaultdict(list)
    for reading in readings:
        tiers[(not is_constraint(reading.principle), reading.principle.tier)].append(reading)
    ranked = [(_mean_lead(tiers[rank]), tiers[rank]) for rank in sorted(tiers)]
    decided = (tier for lead, tier in ranked if lead != 0 and abs(lead) >= min_margin)
    return next(decided, max(ranked, key=lambda item: abs(item[0]))[1])


def _unyielding(readings: Sequence[Reading], min_margin: float) -> list[Reading]:
    """The readings under principles that yield to none that decides here."""
    clear = {reading.principle.id for reading in readings if reading.lead != 0 and abs(reading.lead) >= min_margin}
    return [reading for reading in readings if clear.isdisjoint(reading.principle.yields_to)]


def is_constraint(principle: Principle) -> bool:
    return principle.kind == "hard_constraint"


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def _mean_lead(readings: Sequence[Reading]) -> float:
    weights = [_weight(reading.principle) for reading in readings]
    return fmean((reading.lead for reading in readings), weights)


def _mean_level(readings: Sequence[Reading]) -> float:
    return fmean((reading.level for reading in readings), [_weight(reading.principle) for reading in readings])


def _worst_tier(readings: Sequence[Reading]) -> float:
    tiers: dict[str | int, list[Reading]] = defaultdict(list)
    for reading in readings:
        principle = reading.principle
        tiers[principle.id if is_constraint(principle) else principle.tier].append(reading)
    return min(map(_mean_level, tiers.values()))


def _weight(principle: Principle) -> float:
    return 1.0 if is_constraint(principle) else principle.weight


def _compared_pairs(
    judgments: Sequence[Judgment], principles: Mapping[str, Principle]
) -> dict[PairKey, tuple[Reading, ...]]:
    said: dict[PairKey, dict[str, list[Judgment]]] = defaultdict(lambda: defaultdict(list))
    for judgment in judgments:
        if judgment.verdict != "not_applicable" and _weight(principles[judgment.principle_id]) > 0:
            said[pair_key(judgment.first_id, judgment.second_id)][judgment.principle_id].append(judgment)
    return {
        key: tuple(
            Reading(principles[name], 2.0 * fmean(p_of(judgment, key[0]) for judgment in orders) - 1.0)
            for name, orders in asked.items()
            if all(judgment.verdict != "invalid" for judgment in orders)
        )
        for key, asked in said.items()
    }


def _rated_pairs(
    judgments: Sequence[Judgment], principles: Mapping[str, Principle]
) -> dict[PairKey, tuple[Reading, ...]]:
    ratings: dict[str, dict[str, float]] = defaultdict(dict)
    for judgment in judgments:
        if judgment.rating is not None:
            ratings[judgment.principle_id][judgment.first_id] = judgment.rating
    shown = sorted({judgment.first_id for judgment in judgments})
    used = [(principles[name], rated) for name, rated in ratings.items() if _weight(principles[name]) > 0]
    return {
        (a, b): tuple(
            Reading(p, rated[a] - rated[b], (rated[a] + rated[b]) / 2) for p, rated in used if a in rated and b in rated
        )
        for i, a in enumerate(shown)
        for b in shown[i + 1 :]
    }
