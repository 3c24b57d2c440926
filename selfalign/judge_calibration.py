"""A judge's temperature and its liking for the answer shown first, fitted to labels, and taken out of what it says."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from selfalign import source
from selfalign.calibration import Groups, Values
from selfalign.source import InputError, Problem
from selfalign.statistics import fit_logistic

SCHEMA = "selfalign.judge-calibration/v1"
_SURE = 1e-6  # a probability nearer to 0 or 1 counts as this near
_COLDEST, _HOTTEST = 0.05, 20.0  # temperatures
_RIDGE = 1e-3  # of the fit; keeps it finite where the labels are in order
_FOLDS = 5
_FIX = "Make it anew: selfalign judge calibrate RUN --out FILE."


@dataclass(frozen=True, slots=True)
class JudgeCalibration:
    """p' = sigmoid((logit p - bias) / temperature), p being the judge's probability of the answer shown first.

    `temperature` above 1: the judge is too sure (Guo et al. 2017). `bias` in log-odds, above 0: it likes what it sees
    first (the additive position term of a Bradley-Terry model with home advantage, Agresti 2002, 10.6.3).
    """

    temperature: float
    bias: float

    def apply(self, p: float) -> float:
        """The calibrated probability."""
        return float(_sigmoid((_logit(p) - self.bias) / self.temperature))

    @property
    def digest(self) -> str:
        """Names the two numbers: what is made with other ones is made anew."""
        return hashlib.sha256(json.dumps([self.temperature, self.bias]).encode()).hexdigest()

    def to_json(self, **facts: Any) -> str:
        """The text of a calibration file, with facts on where it comes from, which nothing reads back."""
        text = {"schema": SCHEMA, **asdict(self), **msgspec.to_builtins(facts)}
        return json.dumps(text, indent=2, ensure_ascii=True) + "\n"


def fit(p_first: Values, outcomes: Values, weights: Values | None = None) -> JudgeCalibration:
    """The most likely temperature and bias: a logistic regression of outcomes [N] on logit p [N] with an intercept.

    `outcomes` in [0, 1]: 1 where the answer shown first is the better one by the labels, 0.5 for a tie. `weights` [N]
    say what each observation counts (default: 1). logit p' = a logit p + c, so that T = 1 / a and bias = -c / a (Platt
    1999); T is kept within [.05, 20]. Raises ValueError where the judge says the opposite of the labels or nothing that
    goes with them: no temperature mends that.
    """
    logits, outcomes = _logit(np.asarray(p_first, dtype=np.float64)), np.asarray(outcomes, dtype=np.float64)
    counts = np.ones(len(logits)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not len(logits) == len(outcomes) == len(counts) or not len(logits):
        raise ValueError(f"{len(logits)} verdicts, {len(outcomes)} outcomes and {len(counts)} weights")
    features = np.stack([logits, np.ones_like(logits)], axis=1)
    slope, intercept = fit_logistic(features, outcomes, counts, ridge=_RIDGE)
    if slope * _HOTTEST < 1:
        raise ValueError("the judge's verdicts do not go with the labels, and no temperature mends that")
    slope = min(slope, 1 / _COLDEST)
    return JudgeCalibration(float(1 / slope), float(-intercept / slope))


def cross_fitted(p_first: Values, outcomes: Values, groups: Groups, weights: Values | None = None) -> np.ndarray:
    """Calibrated probabilities [N], each by a fit that has not seen its group: what to measure a calibration by.

    Groups, usually prompts, are dealt into five folds in the order in which they come. Raises ValueError as `fit`, and
    for fewer than two groups.
    """
    p, outcomes = np.asarray(p_first, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    counts = np.ones(len(p)) if weights is None else np.asarray(weights, dtype=np.float64)
    folds, found = _folds(groups), np.empty(len(p))
    if len(set(folds)) < 2:
        raise ValueError("labels on a single prompt cannot be split to test a calibration")
    for fold in set(folds):
        inside = folds == fold
        fitted = fit(p[~inside], outcomes[~inside], counts[~inside])
        found[inside] = _sigmoid((_logit(p[inside]) - fitted.bias) / fitted.temperature)
    return found


def read(path: Path) -> JudgeCalibration:
    """Read a calibration file. Raises InputError that says what is wrong with it."""
    return parse(source.read_text(path), str(path))


def parse(text: str, name: str) -> JudgeCalibration:
    """Read the text of a calibration file that errors call `name`."""
    value = source.read_yaml(text, name).value  # JSON is YAML, and strictly read so
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise InputError(Problem(name, None, f"is no calibration of a judge: its schema is not {SCHEMA}", _FIX))
    numbers = [value.get(key) for key in ("temperature", "bias")]
    if not all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in numbers):
        raise InputError(Problem(name, None, "temperature and bias must be numbers", _FIX))
    temperature, bias = map(float, numbers)
    if temperature <= 0:
        raise InputError(Problem(name, None, f"its temperature is {temperature:g}, and must be above 0", _FIX))
    return JudgeCalibration(temperature, bias)


def _folds(groups: Sequence[Hashable] | np.ndarray) -> np.ndarray:
    places: dict[Hashable, int] = {}
    return np.array([places.setdefault(group, len(places)) % _FOLDS for group in groups])


def _logit(p: Any) -> Any:
    p = np.clip(p, _SURE, 1 - _SURE)
    return np.log(p) - np.log1p(-p)


def _sigmoid(x: Any) -> Any:
    return 0.5 * (1.0 + np.tanh(0.5 * x))
