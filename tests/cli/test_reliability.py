"""The reliability diagram in a terminal: what it shows, at any width, with and without Unicode."""

from __future__ import annotations

import pytest

from selfalign.calibration import Bin, wilson_interval
from selfalign.cli.reliability import reliability_lines


def made(low: float, high: float, confidence: float, right: int, n: int) -> Bin:
    return Bin(low, high, confidence, right / n, n, wilson_interval(right, n))


BINS = (made(0.5, 0.6, 0.55, 20, 40), made(0.6, 0.7, 0.65, 180, 200), made(0.9, 1.0, 0.95, 620, 1240))


def test_a_wide_terminal_shows_all() -> None:
    head, *lines = reliability_lines(BINS, 92, unicode=False)
    assert head.split() == ["how", "sure", "|", "how", "sure", "right", "95%", "interval", "pairs"]
    assert lines[0].endswith("0.50  0.35 to 0.65     40")
    assert lines[1].endswith("0.90  0.85 to 0.93    200  not sure enough")
    assert lines[2].endswith("0.50  0.47 to 0.53  1,240  too sure")


def test_bars_and_marks_stand_on_one_scale() -> None:
    for unicode, full, mark in ((False, "#", "|"), (True, "█", "│")):
        lines = reliability_lines(BINS, 92, unicode=unicode)[1:]
        start, room = len("0.50-0.60  "), lines[0].index("  0.50  0.35") - len("0.50-0.60  ") - 1
        bars = [line[start : start + room] for line in lines]
        assert [bar.index(mark) for bar in bars] == [int(p * room) for p in (0.55, 0.65, 0.95)]
        assert [bar.count(full) for bar in bars] == [room // 2, pytest.approx(0.9 * room, abs=1.5), room // 2]


def test_a_narrow_terminal_drops_the_interval_then_the_words() -> None:
    narrow = reliability_lines(BINS, 60)
    assert "interval" not in narrow[0]
    assert narrow[2].endswith("not sure enough")
    narrower = reliability_lines(BINS, 44)
    assert narrower[2].endswith("!")
    assert narrower[-1] == "!: off by more than chance"
    assert reliability_lines(BINS[:1], 24)[-1].endswith("40")


@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("width", [1, 8, 20, 30, 40, 60, 80, 120, 10_000])
def test_no_line_is_wider_than_the_terminal(width: int, unicode: bool) -> None:
    lines = reliability_lines((*BINS, made(0.0, 1.0, 1.0, 10**9, 10**9)), width, unicode=unicode)
    assert all(len(line) <= min(width, 130) for line in lines)
    assert unicode or all(line.isascii() for line in lines)


def test_forecasts_that_are_not_folded_are_too_high_or_too_low() -> None:
    found = reliability_lines((made(0.2, 0.3, 0.25, 0, 90), made(0.3, 0.4, 0.35, 80, 90)), 80, floor=0.0)
    assert [line.rsplit("  ", 1)[1] for line in found[1:]] == ["too high", "too low"]


def test_no_pairs_are_said_to_be_none() -> None:
    assert reliability_lines((), 80) == ["no pairs"]
