"""A judge before and after its calibration, against what people said of the same pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from selfalign.agreement import Kappa, preference_kappa
from selfalign.calibration import (
    Accuracy,
    accuracy,
    brier_score,
    chance_calibration_error,
    expected_calibration_error,
    negative_log_likelihood,
    reliability,
    unfolded,
)
from selfalign.compared import Comparison, decided
from selfalign.constitution import Constitution
from selfalign.judge_calibration import JudgeCalibration, cross_fitted, fit
from selfalign.preferences import read_prompt, verdict_of
from selfalign.records import Bin, Judgment, Label

About = Sequence[tuple[Label, Comparison]]


@dataclass(frozen=True, slots=True)
class Figures:
    """How good a judge is. `bins`, `ece`, `nll` and `brier` are of single verdicts: the probability of the answer shown
    first, against the labels. `accuracy` and `kappa` are of its decisions between two answers, both orders and all
    principles taken together: accuracy where people prefer one of them; kappa with a tie where the judge's lead is
    smaller than `pairs.min_margin`. `clear` is the share of decisions whose lead is not.
    """

    bins: tuple[Bin, ...]
    ece: float
    ece_by_chance: float
    nll: float
    brier: float
    accuracy: Accuracy | None
    kappa: Kappa
    clear: float


@dataclass(frozen=True, slots=True)
class Recalibration:
    """What was fitted to all labels, and the judge before and after. `after` is of verdicts that the fit of their own
    calibration has not seen (five folds by prompt), so that it does not flatter.
    """

    calibration: JudgeCalibration
    num_labels: int
    num_verdicts: int
    judge_ids: tuple[str, ...]
    before: Figures
    after: Figures


@dataclass(frozen=True, slots=True)
class _Verdicts:
    """Single verdicts on labelled pairs, each with what the label makes of it; a label's verdicts weigh 1 together."""

    p_first: np.ndarray
    outcomes: np.ndarray
    prompts: tuple[str, ...]
    weights: np.ndarray
    owners: np.ndarray  # places of their labels


def recalibrate(
    about: About, constitutions: Mapping[int, Constitution], tie_margin: float, min_margin: float
) -> Recalibration:
    """Fit a pairwise judge's temperature and liking for a position to labels, and measure it before and after.

    `constitutions` are those of the rounds that the comparisons are of. Raises ValueError where no label is on a pair
    that a pairwise judge gave a valid verdict on, and as `judge_calibration.fit` and `cross_fitted` do.
    """
    said = _verdicts(about)
    calibration = fit(said.p_first, said.outcomes, said.weights)
    fresh = cross_fitted(said.p_first, said.outcomes, said.prompts, said.weights)

    def measured(p_first: np.ndarray) -> Figures:
        leads = _leads(about, said, p_first, constitutions, tie_margin, min_margin)
        return _figures(about, leads, said, p_first, min_margin)

    judges = sorted({judgment.judge_id for _, one in about for judgment in one.judgments})
    return Recalibration(
        calibration=calibration,
        num_labels=len(about),
        num_verdicts=len(said.p_first),
        judge_ids=tuple(judges),
        before=measured(said.p_first),
        after=measured(fresh),
    )


def _valid(one: Comparison) -> list[Judgment]:
    return [j for j in one.judgments if j.p_first is not None and j.verdict in ("first", "second", "tie")]


def _verdicts(about: About) -> _Verdicts:
    rows = []
    for owner, (label, one) in enumerate(about):
        valid = _valid(one)
        for judgment in valid:
            lead = label.lead if judgment.first_id == one.a.id else -label.lead
            rows.append((judgment.p_first, (1 + lead) / 2, label.prompt_id, 1 / len(valid), owner))
    if not rows:
        raise ValueError("no label is on a pair that the judge compared with a valid verdict")
    p_first, outcomes, prompts, weights, owners = zip(*rows, strict=True)
    return _Verdicts(np.array(p_first), np.array(outcomes), prompts, np.array(weights), np.array(owners))


def _leads(
    about: About,
    said: _Verdicts,
    p_first: np.ndarray,
    constitutions: Mapping[int, Constitution],
    tie_margin: float,
    min_margin: float,
) -> list[float]:
    """The judge's decision on each labelled pair if its verdicts had these probabilities; NaN where it has none."""
    leads = []
    for owner, (_, one) in enumerate(about):
        mine = p_first[said.owners == owner]
        judgments = [
            replace(judgment, p_first=float(p), verdict=verdict_of(p, tie_margin))
            for judgment, p in zip(_valid(one), mine, strict=True)
        ]
        invalid = [judgment for judgment in one.judgments if judgment.verdict == "invalid"]
        readings = read_prompt([*judgments, *invalid], constitutions[one.round])
        lead = readings.decision(one.a.id, one.b.id, min_margin)
        leads.append(float("nan") if lead is None else lead)
    return leads


def _figures(about: About, leads: Sequence[float], said: _Verdicts, p_first: np.ndarray, min_margin: float) -> Figures:
    gaps = np.log(np.clip(p_first, 1e-6, 1)) - np.log(np.clip(1 - p_first, 1e-6, 1))
    forecasts = unfolded(gaps, said.outcomes)
    bins = reliability(forecasts)
    people, prompts = [label.lead for label, _ in about], [label.prompt_id for label, _ in about]
    clear = [i for i, lead in enumerate(leads) if people[i] != 0 and not math.isnan(lead)]
    right = [leads[i] * people[i] for i in clear]
    says = [math.nan if math.isnan(lead) else decided(lead, min_margin) for lead in leads]
    kappa = preference_kappa(says, people, prompts)
    if kappa is None:
        raise ValueError("the judge gave no valid verdict on any labelled pair")
    return Figures(
        bins=bins,
        ece=expected_calibration_error(bins),
        ece_by_chance=chance_calibration_error(forecasts),
        nll=negative_log_likelihood(gaps, said.outcomes),
        brier=brier_score(gaps, said.outcomes),
        accuracy=accuracy(right, [prompts[i] for i in clear]) if right else None,
        kappa=kappa,
        clear=float(np.mean([one != 0 for one in says if not math.isnan(one)])),
    )
