"""Curves as text: lines of dots, two by four to a character, with a sign for each curve, axes and intervals.

Drawing takes a few milliseconds however long a curve is, so that six charts are drawn within one frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from rich.text import Text

from selfalign.stages.report.plots import tick_label
from selfalign.tui import shown
from selfalign.tui.shown import Part

DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # by column and row within a character
BLANK = 0x2800  # the braille character without dots
SIGNS, OTHERS_SIGNS = "●◆▲■", "○◇△□"
APART = 3  # characters from one sign to the next; where there is no room for that, some points are marked
AXIS = "#4a515c"


@dataclass(frozen=True, slots=True)
class Curve:
    """A line of a chart; `low` and `high` are its interval where it has one. `other` is of what is laid beside."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    other: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """How curves are drawn: with a level line, on a y axis that spans at least so much, on a logarithmic scale, with a
    cursor at a place of the x axis.
    """

    level: float | None = None
    span: float = 0.0
    log: bool = False
    cursor: float | None = None


def marked(curves: Sequence[Curve]) -> list[tuple[Curve, str, str]]:
    """Each curve with its sign and its colour. What is laid beside has hollow signs."""
    found, counts = [], {False: 0, True: 0}
    for curve in curves:
        place = counts[curve.other] % len(SIGNS)
        counts[curve.other] += 1
        signs = OTHERS_SIGNS if curve.other else SIGNS
        found.append((curve, signs[place], shown.SERIES[(place + 2 * curve.other) % len(shown.SERIES)]))
    return found


def legend(curves: Sequence[Curve]) -> list[Part]:
    """The names of curves with their signs; a curve without a name has none."""
    return [(f"  {sign} {curve.name}", colour) for curve, sign, colour in marked(curves) if curve.name]


def drawable(curve: Curve, *, log: bool) -> tuple[Curve, int]:
    """A curve without what cannot be drawn, and how many points that were: not finite, or not above 0 on a log scale.

    The lower ends of intervals that lie at 0 or below are left to reach down to the axis.
    """
    kept = [i for i, y in enumerate(curve.y) if math.isfinite(y) and (y > 0 or not log)]
    if len(kept) == len(curve.y):
        return curve, 0
    low, high = ([ys[i] for i in kept] if ys is not None else None for ys in (curve.low, curve.high))
    found = replace(curve, x=[curve.x[i] for i in kept], y=[curve.y[i] for i in kept], low=low, high=high)
    return found, len(curve.y) - len(kept)


def picture(curves: Sequence[Curve], width: int, height: int, look: Look) -> Text:
    """Curves drawn into `height` lines of `width` characters."""
    kept = [drawable(curve, log=look.log)[0] for curve in curves]
    if width < 12 or height < 3 or not any(curve.x for curve in kept):
        return shown.line("")
    canvas = _Canvas.over(kept, width, height, look)
    if look.level is not None:
        canvas.level(look.level)
    if look.cursor is not None:
        canvas.upright(look.cursor)
    for curve, sign, colour in marked(kept):
        canvas.curve(thinned(curve, 4 * canvas.width), sign, colour)
    return canvas.text()


@dataclass(frozen=True, slots=True)
class Axis:
    """From `low` to `high`, drawn over `dots` places; `ticks` are the values that are named, with their names."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False
    dots: int = 1

    def at(self, value: float) -> int:
        """The place of a value, 0 being that of `low`; what lies beyond an end is put at it."""
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        value = (math.log10(value) if value > 0 else low) if self.log else value
        return round(min(1.0, max(0.0, (value - low) / (high - low))) * (self.dots - 1))


def linear(low: float, high: float, most: int, dots: int, *, tight: bool = False, least: float = 0.0) -> Axis:
    """An axis that begins and ends at a tick; a `tight` one ends where the values do."""
    ticks = nice_ticks(low, high, most, least)
    step = ticks[1] - ticks[0]
    if tight:
        high = high if high > low else low + 1
        ticks = [tick for tick in ticks if low <= tick <= high]
    else:
        low, high = ticks[0], ticks[-1]
    return Axis(low, high, tuple((tick, _named(tick, step)) for tick in ticks), dots=dots)


def logarithmic(low: float, high: float, most: int, dots: int) -> Axis:
    """An axis named at powers of ten; at twice and five times them too, where there is room for all of these."""
    ticks = [factor * 10.0**power for power in _powers(low, high) for factor in (1, 2, 5)]
    begin = max((tick for tick in ticks if tick <= low * (1 + 1e-9)), default=ticks[0])
    end = min((tick for tick in ticks if tick >= high * (1 - 1e-9)), default=ticks[-1])
    end = end if end > begin else 10 * begin
    named = [tick for tick in ticks if begin <= tick <= end]
    powers = [10.0**power for power in _powers(begin, end) if begin <= 10.0**power <= end]
    if len(named) > most and len(powers) > 1:
        named = powers
    every = math.ceil(len(named) / max(2, most))
    return Axis(begin, end, tuple((tick, f"{tick:g}") for tick in named[::every]), log=True, dots=dots)


def _powers(low: float, high: float) -> range:
    return range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 2)


def _named(tick: float, step: float) -> str:
    return tick_label(tick, step) if step >= 1e-4 and abs(tick) < 1e5 else f"{tick:g}"


class _Canvas:
    """Characters of dots, each of one colour; the last thing drawn gives it."""

    def __init__(self, width: int, height: int, x: Axis, y: Axis) -> None:
        self.width, self.height, self.x, self.y = width, height, x, y
        self.masks = [[0] * width for _ in range(height)]
        self.colours = [[""] * width for _ in range(height)]
        self.signs: dict[tuple[int, int], str] = {}

    @staticmethod
    def over(curves: Sequence[Curve], width: int, height: int, look: Look) -> _Canvas:
        """A canvas that has room for the names of its axes within `width` and `height`."""
        rows = height - 1
        xs = [x for curve in curves if curve.x for x in (min(curve.x), max(curve.x))]
        low, high = _heights(curves, look)
        most = max(2, rows // 3)
        y = (logarithmic if look.log else linear)(low, high, most, 4 * rows)
        columns = width - max(len(name) for _, name in y.ticks) - 1
        x = linear(min(xs), max(xs), max(2, columns // 6), 2 * columns, tight=True, least=1.0)
        return _Canvas(columns, rows, x, y)

    def dot(self, x: int, y: int, colour: str) -> None:
        row, column = self.height - 1 - (y >> 2), x >> 1
        self.masks[row][column] |= DOTS[x & 1][3 - (y & 3)]
        self.colours[row][column] = colour

    def level(self, value: float) -> None:
        """A line across, of every other dot."""
        for x in range(0, 2 * self.width, 2):
            self.dot(x, self.y.at(value), shown.DIM)

    def upright(self, value: float) -> None:
        """A line from top to bottom."""
        for y in range(4 * self.height):
            self.dot(self.x.at(value), y, shown.DIM)

    def curve(self, curve: Curve, sign: str, colour: str) -> None:
        points = [(self.x.at(x), self.y.at(y)) for x, y in zip(curve.x, curve.y, strict=True)]
        for (ax, ay), (bx, by) in pairwise(points):
            self.stroke(ax, ay, bx, by, colour, every=3 if curve.other else 1)
        for x, low, high in zip(curve.x, curve.low or (), curve.high or (), strict=False):
            for y in range(self.y.at(low), self.y.at(high) + 1):
                self.dot(self.x.at(x), y, colour)
        step = 1 if APART * len(points) <= self.width else max(1, (len(points) - 1) // 4)
        for x, y in points[::step]:
            self.put(x, y, sign, colour)

    def stroke(self, ax: int, ay: int, bx: int, by: int, colour: str, every: int) -> None:
        """A line between two dots; of a dotted one every so many."""
        steps = max(abs(bx - ax), abs(by - ay), 1)
        for i in range(steps + 1):
            x, y = ax + round(i * (bx - ax) / steps), ay + round(i * (by - ay) / steps)
            if (x + y) % every == 0:
                self.dot(x, y, colour)

    def put(self, x: int, y: int, sign: str, colour: str) -> None:
        place = self.height - 1 - (y >> 2), x >> 1
        self.signs[place] = sign
        self.colours[place[0]][place[1]] = colour

    def text(self) -> Text:
        """The canvas with its axes."""
        names = {self.height - 1 - (self.y.at(value) >> 2): name for value, name in self.y.ticks}
        gutter = max(map(len, names.values()))
        lines = []
        for row in range(self.height):
            name = names.get(row, "")
            axis = "┤" if name else "│"
            lines.append(shown.line((f"{name:>{gutter}}", shown.DIM), (axis, AXIS), *self._runs(row)))
        return shown.lines([*lines, shown.line((" " * (gutter + 1) + self._below(), shown.DIM))])

    def _runs(self, row: int) -> Iterator[tuple[str, str]]:
        """The characters of a line, those of one colour together."""
        words, colour = "", ""
        for column, mask in enumerate(self.masks[row]):
            sign = self.signs.get((row, column)) or (chr(BLANK + mask) if mask else " ")
            here = self.colours[row][column] if sign != " " else colour
            if here != colour:
                yield words, colour
                words, colour = "", here
            words += sign
        yield words, colour

    def _below(self) -> str:
        """The names of the x axis, each under its place as far as there is room."""
        made = ""
        for value, name in self.x.ticks:
            start = min(max(0, (self.x.at(value) >> 1) - (len(name) - 1) // 2), self.width - len(name))
            if start >= len(made) + bool(made):
                made = f"{made:<{start}}{name}"
        return made


def _heights(curves: Sequence[Curve], look: Look) -> tuple[float, float]:
    """From the least to the greatest value, with the intervals and the level line; further where that is little."""
    found = [y for c in curves if c.y for ys in (c.y, c.low or (), c.high or ()) for y in (_ends(ys) if ys else ())]
    found += [look.level] if look.level is not None else []
    found = [y for y in found if math.isfinite(y) and (y > 0 or not look.log)]
    low, high = _ends(found)
    short = max(0.0, look.span - (high - low)) if not look.log else 0.0
    below = min(short / 2, low) if low >= 0 else short / 2  # what is never negative has no axis below 0,
    above = min(short - below, 1 - high) if high <= 1 else short - below  # and what is never above 1 none above it
    return low - (short - above), high + above


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def nice_ticks(low: float, high: float, most: int = 6, least: float = 0.0) -> list[float]:
    """Round numbers from low to high, about `most`: steps of 1, 2 or 5 times a power of ten, from `least` on."""
    span = high - low or abs(high) or 1.0
    exact = max(span / most, least)
    power = 10.0 ** math.floor(math.log10(exact))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= exact * 0.999)
    first = math.floor(low / step + 1e-9)
    last = max(first + 1, math.ceil(high / step - 1e-9))
    return [round(index * step, 12) + 0.0 for index in range(first, last + 1)]


def thinned(curve: Curve, most: int) -> Curve:
    """A curve of at most about `most` points: of each stretch its lowest and its highest, so that no peak is lost."""
    if len(curve.x) <= most:
        return curve
    size = -(-2 * len(curve.x) // most)
    kept: list[int] = []
    for start in range(0, len(curve.y), size):
        stretch = range(start, min(start + size, len(curve.y)))
        kept += sorted({min(stretch, key=curve.y.__getitem__), max(stretch, key=curve.y.__getitem__)})
    return replace(curve, x=[curve.x[i] for i in kept], y=[curve.y[i] for i in kept], low=None, high=None)
