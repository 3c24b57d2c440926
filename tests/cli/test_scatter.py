"""Curves drawn with characters: every point where it belongs, within the width, of any values."""

from __future__ import annotations

import pytest

from selfalign.cli.scatter import scatter

NAMES = {"x_name": "x", "y_name": "y"}
DRAWN = """\
y
 1.00┤       ·a
 0.75┤      ·
 0.50┤   ···
 0.25┤  ·
 0.00┤o················b
     └──────────────────
      0   1   2    3   4
                       x"""


def test_a_small_drawing() -> None:
    curves = {"a": [(2.0, 1.0)], "b": [(4.0, 0.0)]}
    assert "\n".join(scatter(curves, (0.0, 0.0), width=27, height=5, **NAMES)) == DRAWN


@pytest.mark.parametrize(
    "points",
    [[], [(0.0, 0.5)], [(1e-9, 0.5 + 1e-9)], [(-3.0, -1e6), (4000.0, 7.0)], [(float("nan"), 1.0), (1.0, float("inf"))]],
)
@pytest.mark.parametrize("width", [5, 80])
def test_any_values_are_drawn_within_the_width(points: list[tuple[float, float]], width: int) -> None:
    drawn = scatter({"a": points}, (0.0, 0.5), width=width, **NAMES)
    assert len(drawn) == 14 + 4
    assert sum(line.count("o") for line in drawn) == 1
    if width == 80:
        assert max(map(len, drawn)) <= width


def test_marks_on_one_place_are_told() -> None:
    drawn = "\n".join(scatter({"a": [(2.0, 1.0)], "b": [(2.0, 1.0)]}, (0.0, 0.0), width=40, **NAMES))
    assert drawn.count("*") == 1
    assert "a" not in drawn
    assert "*" not in "\n".join(scatter({"a": [(2.0, 1.0)] * 2}, (0.0, 0.0), width=40, **NAMES))


def test_no_unicode_where_there_is_none() -> None:
    assert "\n".join(scatter({"a": [(2.0, 1.0)]}, (0.0, 0.0), width=40, unicode=False, **NAMES)).isascii()
