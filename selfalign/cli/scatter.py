"""Curves in the plane, drawn with characters: for a terminal, a pipe or an issue."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from selfalign.stages.report.plots import nice_step, tick_label

LEAST = 0.1  # that an axis spans, so that noise does not look like a trend

Curve = Sequence[tuple[float, float]]
SEVERAL, ORIGIN = "*", "o"  # marks: of several curves that fall on one place, and of where all curves begin


@dataclass(frozen=True, slots=True)
class _Axis:
    """Values from `low` to `high`, spread over `places` characters, with a tick at every `step`."""

    low: float
    high: float
    step: float
    places: int

    @staticmethod
    def over(values: Sequence[float], places: int, ticks: int) -> _Axis:
        low = min(values)
        high = max(*values, low + LEAST)
        step = nice_step((high - low) / ticks)
        return _Axis(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, step, places)

    def place(self, value: float) -> int:
        return round((value - self.low) / (self.high - self.low) * (self.places - 1))

    def ticks(self) -> dict[int, str]:
        """The label of each tick by its place."""
        values = [self.low + i * self.step for i in range(round((self.high - self.low) / self.step) + 1)]
        return {self.place(value): tick_label(value, self.step) for value in values}


def scatter(
    curves: Mapping[str, Curve],
    origin: tuple[float, float],
    *,
    width: int,
    height: int = 14,
    x_name: str,
    y_name: str,
    unicode: bool = True,
) -> list[str]:
    """Lines of text, at most `width` characters wide: a curve for each mark, a single character, from the origin on.

    Points that are not finite are left out.
    """
    drawn = {mark: [p for p in curve if all(map(math.isfinite, p))] for mark, curve in curves.items()}
    points = [origin, *(point for curve in drawn.values() for point in curve)]
    y_axis = _Axis.over([y for _, y in points], height, 4)
    margin = max(map(len, y_axis.ticks().values())) + 2
    x_axis = _Axis.over([x for x, _ in points], max(width - margin - 3, 10), 6)
    cells: dict[tuple[int, int], str] = {}
    for curve in drawn.values():
        placed = [(x_axis.place(x), y_axis.place(y)) for x, y in (origin, *curve)]
        cells.update(dict.fromkeys(_between(placed), "·" if unicode else "."))
    marks: dict[tuple[int, int], str] = {}
    for mark, curve in drawn.items():
        for x, y in curve:
            place = x_axis.place(x), y_axis.place(y)
            marks[place] = mark if marks.get(place, mark) == mark else SEVERAL
    marks[x_axis.place(origin[0]), y_axis.place(origin[1])] = ORIGIN
    return [y_name, *_rows(cells | marks, x_axis, y_axis, margin, unicode), *_below(x_axis, margin, x_name)]


def _between(placed: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The places on the straight lines from each point to the next."""
    found = []
    for (x0, y0), (x1, y1) in pairwise(placed):
        steps = max(abs(x1 - x0), abs(y1 - y0))
        found += [(round(x0 + (x1 - x0) * i / steps), round(y0 + (y1 - y0) * i / steps)) for i in range(1, steps)]
    return found


def _rows(cells: Mapping[tuple[int, int], str], x_axis: _Axis, y_axis: _Axis, margin: int, unicode: bool) -> list[str]:
    ticks, (tick, side) = y_axis.ticks(), ("┤│" if unicode else "+|")
    lines = []
    for y in reversed(range(y_axis.places)):
        row = "".join(cells.get((x, y), " ") for x in range(x_axis.places))
        lines.append(f"{ticks.get(y, ''):>{margin - 1}}{tick if y in ticks else side}{row}".rstrip())
    lines.append(" " * (margin - 1) + ("└" + "─" * x_axis.places if unicode else "+" + "-" * x_axis.places))
    return lines


def _below(x_axis: _Axis, margin: int, x_name: str) -> list[str]:
    """The labels of the x axis, each under its place, and its name."""
    line = ""
    for place, label in x_axis.ticks().items():
        start = min(margin + place - len(label) // 2, margin + x_axis.places + 2 - len(label))
        if start > len(line) or not line:
            line = line.ljust(start) + label
    return [line, f"{x_name:>{margin + x_axis.places}}"]
