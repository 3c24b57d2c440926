"""Curves as text, and what is done with them: a log scale, exact values, another run beside."""

from __future__ import annotations

import math
import time

import pytest

from selfalign.tui.charts import Charted, place_name, tabbed, value_at, values
from selfalign.tui.plotting import (
    Curve,
    Look,
    drawable,
    legend,
    linear,
    logarithmic,
    marked,
    nice_ticks,
    picture,
    thinned,
)

RISE = Curve("rise", [0, 1, 2], [0.0, 1.0, 2.0], [-0.2, 0.8, 1.8], [0.2, 1.2, 2.2])


def lines_of(*curves: Curve, width: int = 40, height: int = 10, look: Look = Look()) -> list[str]:  # noqa: B008
    return picture(curves, width, height, look).plain.split("\n")


def test_a_thinned_curve_keeps_its_peaks() -> None:
    y = [0.0] * 5000
    y[1234], y[4321] = 9.0, -9.0
    curve = thinned(Curve("", list(range(5000)), y), 100)
    assert len(curve.x) <= 102 and max(curve.y) == 9.0 and min(curve.y) == -9.0
    assert list(curve.x) == sorted(curve.x)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 2, [0, 0.5, 1, 1.5, 2]), (0.57, 0.73, [0.55, 0.6, 0.65, 0.7, 0.75]), (3, 3, [3, 3.5]), (0, 0, [0, 0.2])],
)
def test_ticks_are_round_numbers(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("low", "high", "most", "names"),
    [
        (0.003, 400.0, 8, ["0.01", "0.1", "1", "10", "100"]),
        (0.3, 0.9, 8, ["0.2", "0.5", "1"]),
        (0.013, 0.19, 4, ["0.01", "0.1"]),
        (10.0, 10.0, 8, ["10", "20", "50", "100"]),
        (1e-9, 1e9, 4, ["1e-09", "0.0001", "10", "1e+06"]),
    ],
)
def test_a_logarithmic_axis_is_named_at_powers_of_ten(low: float, high: float, most: int, names: list[str]) -> None:
    axis = logarithmic(low, high, most, 40)
    assert [name for _, name in axis.ticks] == names
    assert axis.low <= low and axis.high >= high and axis.at(axis.low) == 0 and axis.at(axis.high) == 39


def test_equal_factors_are_equally_far_apart_on_a_logarithmic_axis() -> None:
    axis = logarithmic(1, 1000, 8, 31)
    assert [axis.at(value) for value in (1, 10, 100, 1000, -5)] == [0, 10, 20, 30, 0]
    assert [linear(0, 10, 5, 11).at(value) for value in (0, 5, 10)] == [0, 5, 10]


def test_values_that_a_scale_cannot_draw_are_left_out_and_counted() -> None:
    curve = Curve("", [1, 2, 3, 4], [0.5, 0.0, -1.0, math.nan], [0.1, 0.1, 0.1, 0.1], [1.0] * 4)
    kept, left_out = drawable(curve, log=True)
    assert (list(kept.x), list(kept.y), left_out) == ([1], [0.5], 3) and kept.low == [0.1]
    kept, left_out = drawable(curve, log=False)
    assert (list(kept.x), left_out) == ([1, 2, 3], 1)
    assert picture([Curve("", [1, 2], [0.0, -1.0])], 40, 10, Look(log=True)).plain == ""


@pytest.mark.parametrize(("width", "height"), [(12, 3), (30, 9), (200, 60), (11, 9), (40, 2)])
@pytest.mark.parametrize("log", [False, True])
def test_a_picture_keeps_to_its_room(width: int, height: int, log: bool) -> None:
    for curve in (RISE, Curve("", [7], [0.3]), Curve("", [0, 1], [1e-7, 1e12]), Curve("", range(999), [5.0] * 999)):
        lines = lines_of(curve, width=width, height=height, look=Look(0.5, log=log, cursor=curve.x[0]))
        assert len(lines) in (1, height) and max(map(len, lines)) <= width


def test_a_curve_rises_from_the_left_below_to_the_right_above() -> None:
    lines = lines_of(RISE)
    found = [(row, line.index("●")) for row, line in enumerate(lines) if "●" in line]
    assert (
        len(found) == 3
        and found == sorted(found)
        and [at for _, at in found] == sorted((at for _, at in found), reverse=True)
    )
    assert lines[-1].split() == ["0", "1", "2"] and "┤" in lines[0]


def test_what_lies_beside_has_hollow_signs_and_a_dotted_line() -> None:
    other = Curve("theirs", [0, 1, 2], [2.0, 1.5, 0.0], other=True)
    shown = "\n".join(lines_of(RISE, other, Curve("more", [0, 1], [1.0, 0.5])))
    assert "●" in shown and "○" in shown and "◆" in shown
    assert [sign for _, sign, _ in marked([RISE, other, RISE, other])] == ["●", "○", "◆", "◇"]
    assert len({colour for *_, colour in marked([RISE, RISE, other, other])}) == 4
    assert [part[0] for part in legend([RISE, Curve("", [0], [0])])] == ["  ● rise"]


def test_a_level_and_a_cursor_are_drawn() -> None:
    plain, level, cursor = (lines_of(RISE, look=look) for look in (Look(), Look(1.0), Look(cursor=1.0)))
    assert sum(a != b for a, b in zip(plain, level, strict=True)) == 1
    assert sum(a != b for a, b in zip(plain, cursor, strict=True)) >= 6


def test_noise_does_not_look_like_a_trend() -> None:
    noise = Curve("", [0, 1, 2], [0.901, 0.905, 0.9])
    assert len({row for row, line in enumerate(lines_of(noise)) if "●" in line}) > 2
    assert len({row for row, line in enumerate(lines_of(noise, look=Look(span=0.2))) if "●" in line}) == 1
    assert lines_of(Curve("", [0, 1], [0.95, 0.98]), look=Look(span=0.2))[0].startswith("1.0")
    assert "-" not in "".join(lines_of(Curve("", [0, 1], [0.0, 0.01]), look=Look(span=0.2)))


def test_six_long_curves_are_drawn_within_a_tenth_of_a_second() -> None:
    curve = Curve("", range(2000), [math.sin(x / 50) for x in range(2000)])
    picture([curve], 52, 12, Look())
    begun = time.process_time()
    for _ in range(6):
        picture([curve], 52, 12, Look())
    assert time.process_time() - begun < 0.1  # some 0.02 s on the machine that it was written on


def test_exact_values_are_told_at_a_place() -> None:
    chart = Charted("Win rate", (RISE, Curve("late", [2], [0.25], other=True)))
    assert value_at(RISE, 1) == (1.0, 0.8, 1.2)
    assert value_at(RISE, 1.4) == (1.0, 0.8, 1.2) and value_at(RISE, -1) == (None, None, None)
    assert value_at(chart.curves[1], 1) == (None, None, None)
    assert values(chart, 1.0).row_count == 2
    assert "nothing to draw" in str(values(chart, None))
    assert tabbed(chart).splitlines()[0].split("\t") == ["round", "rise", "rise low", "rise high", "late"]
    assert tabbed(chart).splitlines()[3].split("\t") == ["2", "2", "1.8", "2.2", "0.25"]


def test_places_are_named_by_what_the_axis_counts() -> None:
    assert place_name("round", 3) == "round 3" and place_name("step", 40.0) == "step 40"
    assert place_name("training", 1.25) == "round 1, 25% of its training"
