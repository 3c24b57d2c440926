"""The fit recovers what spoiled a judge, and a calibration file says what it says or is refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from selfalign import judge_calibration
from selfalign.calibration import expected_calibration_error, reliability, unfolded
from selfalign.judge_calibration import JudgeCalibration, cross_fitted, fit, parse
from selfalign.source import InputError


def spoiled(count: int, temperature: float, bias: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """What a judge says whose honest log-odds are multiplied by a temperature and shifted, and what is true."""
    draw = np.random.default_rng(seed)
    honest = draw.normal(0, 1.5, count)
    outcomes = (draw.random(count) < 1 / (1 + np.exp(-honest))).astype(float)
    return 1 / (1 + np.exp(-(honest * temperature + bias))), outcomes


def test_apply_by_hand() -> None:
    # logit .8 = ln 4; (ln 4 - ln 2) / 2 = ln(sqrt 2), and sigmoid of that is sqrt2 / (1 + sqrt2).
    found = JudgeCalibration(temperature=2.0, bias=math.log(2)).apply(0.8)
    assert found == pytest.approx(math.sqrt(2) / (1 + math.sqrt(2)))
    assert JudgeCalibration(1.0, 0.0).apply(0.3) == pytest.approx(0.3)
    assert 0 < JudgeCalibration(1.0, 0.0).apply(0.0) < JudgeCalibration(1.0, 0.0).apply(1.0) < 1


def test_the_fit_finds_what_the_judge_was_spoiled_by() -> None:
    p, outcomes = spoiled(20_000, temperature=3.0, bias=1.2)
    found = fit(p, outcomes)
    assert found.temperature == pytest.approx(3.0, rel=0.06)
    assert found.bias == pytest.approx(1.2, abs=0.1)


def test_a_fit_is_the_most_likely_by_a_search_over_a_grid() -> None:
    p, outcomes = spoiled(300, temperature=2.0, bias=-0.7, seed=3)

    def loss(temperature: float, bias: float) -> float:
        logits = (np.log(p / (1 - p)) - bias) / temperature
        return float(np.mean(np.logaddexp(0, logits) - outcomes * logits))

    found = fit(p, outcomes)
    grid = min(loss(t, b) for t in np.linspace(0.5, 6, 60) for b in np.linspace(-3, 3, 61))
    assert loss(found.temperature, found.bias) <= grid + 1e-6


def test_calibration_lowers_the_error_on_labels_that_the_fit_has_not_seen() -> None:
    p, outcomes = spoiled(600, temperature=3.0, bias=1.5, seed=5)
    calibrated = cross_fitted(p, outcomes, [i // 2 for i in range(600)])

    def error(said: np.ndarray) -> float:
        return expected_calibration_error(reliability(unfolded(np.log(said / (1 - said)), outcomes)))

    assert error(calibrated) < 0.5 * error(p)


def test_a_fold_is_calibrated_by_the_others_alone() -> None:
    p, outcomes = spoiled(50, temperature=2.0, bias=0.5)
    groups = list(range(50))
    found = cross_fitted(p, outcomes, groups)
    others = [i for i in groups if i % 5 != 0]
    assert found[0] == pytest.approx(fit(p[others], outcomes[others]).apply(p[0]))


def test_weights_count_as_repetitions_do() -> None:
    p, outcomes = spoiled(80, temperature=2.0, bias=0.5)
    twice = fit(np.r_[p, p[:40]], np.r_[outcomes, outcomes[:40]])
    weighed = fit(p, outcomes, np.r_[np.full(40, 2.0), np.ones(40)])
    assert weighed.temperature == pytest.approx(twice.temperature)
    assert weighed.bias == pytest.approx(twice.bias)


def test_a_judge_that_says_the_opposite_is_refused() -> None:
    p, outcomes = spoiled(200, temperature=1.0, bias=0.0)
    with pytest.raises(ValueError, match="do not go with the labels"):
        fit(p, 1 - outcomes)
    with pytest.raises(ValueError, match="single prompt"):
        cross_fitted(p, outcomes, ["p"] * 200)


def test_a_judge_that_is_always_right_stays_finite() -> None:
    found = fit([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0])
    assert 0.05 <= found.temperature < 1 and abs(found.bias) < 0.1


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    calibration = JudgeCalibration(1.7320508075688772, -0.25)
    path = tmp_path / "calibration.json"
    path.write_text(calibration.to_json(labels=40, run="pocket"))
    assert judge_calibration.read(path) == calibration
    assert judge_calibration.read(path).digest == calibration.digest != JudgeCalibration(1.7, -0.25).digest


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "no calibration of a judge"),
        ('{"schema": "selfalign.judge-calibration/v1"}', "must be numbers"),
        ('{"schema": "selfalign.judge-calibration/v1", "temperature": 0, "bias": 0}', "must be above 0"),
        ('{"schema": "selfalign.judge-calibration/v1", "temperature": true, "bias": 0}', "must be numbers"),
        ('{"schema": "selfalign.judge-calibration/v1", "temperature": .inf, "bias": 0}', "not a finite number"),
        ("{", "not valid YAML"),
    ],
)
def test_what_is_no_calibration_is_refused(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse(text, "calibration.json")
