"""Charts as SVG, drawn by hand, over rounds and of reliability: nothing to install or run, readable without colour."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from selfalign.records import Bin
from selfalign.stages.report.document import escape

WIDTH, HEIGHT = 310, 210
LEFT, RIGHT, TOP, BOTTOM = 42, 14, 30, 34
PANEL_HEIGHT, ABOVE_PANEL = 140, 38
RELIABILITY_HEIGHT, COUNTS_HEIGHT, UNDER_COUNTS = 330, 40, 52


@dataclass(frozen=True, slots=True)
class Point:
    """A value at a place on the x axis, with its interval where one is known."""

    x: int
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Series:
    label: str
    points: tuple[Point, ...]


def line_chart(
    title: str,
    x_labels: Sequence[str],
    series: Sequence[Series],
    *,
    limit: float | None = None,
    floor: float | None = None,
    min_span: float = 0.0,
) -> str:
    """A chart of up to two series over the places named by `x_labels`, with a dashed line at `limit`.

    The y axis spans all values, their intervals and the limit, and at least `min_span`, so that noise does not look
    like a trend; it begins at `floor` where one is given. Values that are not finite are left out.
    """
    scale = _Scale.over(series, (limit, floor), min_span, len(x_labels))
    parts = [f'<text class="title" x="4" y="14">{escape(title)}</text>', *scale.axes(x_labels)]
    if limit is not None:
        y = scale.y(limit)
        parts.append(f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    for index, one in enumerate(series[:2]):
        parts += _draw(one, "ab"[index], index, scale)
    parts += _legend(series[:2])
    return _svg(title, HEIGHT, parts)


def _svg(title: str, height: int, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


@dataclass(frozen=True, slots=True)
class _Scale:
    low: float
    high: float
    step: float
    count: int
    bottom: float = HEIGHT - BOTTOM  # where `low` is drawn
    top: float = TOP

    @staticmethod
    def over(series: Sequence[Series], fixed: Sequence[float | None], min_span: float, count: int) -> _Scale:
        values = [value for one in series for p in one.points for value in (p.y, p.low, p.high)]
        values += fixed
        known = [value for value in values if value is not None and math.isfinite(value)] or [0.0, 1.0]
        low, high = min(known), max(known)
        if high - low < (min_span or 1e-9):
            middle, half = (low + high) / 2, (min_span or 1.0) / 2
            low, high = (low, low + 2 * half) if low in fixed else (middle - half, middle + half)
        step = nice_step((high - low) / 4)
        return _Scale(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, step, max(count, 1))

    def x(self, place: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (place + 0.5) / self.count

    def y(self, value: float) -> float:
        return self.top + (self.bottom - self.top) * (self.high - value) / (self.high - self.low)

    def axes(self, x_labels: Sequence[str]) -> Iterator[str]:
        for index in range(round((self.high - self.low) / self.step) + 1):
            value = self.low + index * self.step
            y = self.y(value)
            yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick_label(value, self.step)}</text>'
        yield from self.names(x_labels, self.bottom + 16)

    def names(self, x_labels: Sequence[str], y: float) -> Iterator[str]:
        """The names of places at a height, as many as there is room for."""
        every = math.ceil(len(x_labels) * max(map(len, x_labels), default=1) / 36)
        for place, label in enumerate(x_labels):
            if place % every == 0:
                yield f'<text x="{self.x(place):.1f}" y="{y:g}" text-anchor="middle">{escape(label)}</text>'


def nice_step(rough: float) -> float:
    """The smallest of 1, 2, 2.5, 5, 10 times a power of ten that is not below `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))


def tick_label(value: float, step: float) -> str:
    """A value on an axis with ticks at every `step`, with the decimals that tell them apart."""
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) + (1 if f"{step:e}".startswith("2.5") else 0)
    return f"{value:.{decimals}f}"


def _draw(series: Series, style: str, index: int, scale: _Scale) -> Iterator[str]:
    nudge = (index - 0.5) * 0.12 if len(series.points) else 0.0  # so that two intervals at one place both show
    points = [point for point in series.points if math.isfinite(point.y)]
    path = " ".join(f"{'L' if i else 'M'}{scale.x(p.x + nudge):.1f} {scale.y(p.y):.1f}" for i, p in enumerate(points))
    if len(points) > 1:
        yield f'<path class="{style}" d="{path}"/>'
    for point in points:
        x, y = scale.x(point.x + nudge), scale.y(point.y)
        if point.low is not None and point.high is not None:
            low, high = scale.y(point.low), scale.y(point.high)
            yield f'<line class="{style}" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
        yield _marker(x, y, style, point)


def _marker(x: float, y: float, style: str, point: Point) -> str:
    interval = f" ({point.low:.3g} to {point.high:.3g})" if point.low is not None and point.high is not None else ""
    title = f"<title>{point.y:.3g}{interval}</title>"
    if style == "a":
        return f'<circle class="a" cx="{x:.1f}" cy="{y:.1f}" r="3.5">{title}</circle>'
    return f'<rect class="b" x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7">{title}</rect>'


def _legend(series: Sequence[Series], y: float = HEIGHT - 4) -> Iterator[str]:
    if len(series) < 2:
        return
    x = float(LEFT)
    for style, mark, one in zip("ab", "●■", series, strict=False):
        yield f'<text class="{style}" x="{x:.0f}" y="{y:g}">{mark} {escape(one.label)}</text>'
        x += 18 + 6.4 * len(one.label)


# Panels --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Panel:
    """One of several charts over the same places, with a dashed line at `limit`; see `line_chart`."""

    title: str
    series: Sequence[Series]
    limit: float | None = None
    min_span: float = 0.0


@dataclass(frozen=True, slots=True)
class Mark:
    """A line through all panels at a place. `style` is "kept" or "stopped"."""

    x: int
    label: str
    style: str


def panels(
    title: str, x_labels: Sequence[Sequence[str]], x_title: str, shown: Sequence[Panel], marks: Sequence[Mark]
) -> str:
    """Charts above one another, for figures of different units that belong together.

    `x_labels` are rows of names of the same places, and `x_title` says of what.
    """
    bottom, rows = TOP + PANEL_HEIGHT * len(shown), len(x_labels)
    parts = [f'<text class="title" x="4" y="14">{escape(title)}</text>']
    axes = [_Scale.over(p.series, (p.limit,), p.min_span, len(x_labels[0])) for p in shown]
    for number, (panel, scale) in enumerate(zip(shown, axes, strict=True)):
        top = TOP + PANEL_HEIGHT * number
        scale = replace(scale, top=top + ABOVE_PANEL, bottom=top + PANEL_HEIGHT)
        parts += [*_panel(panel, scale), *(_line(mark, scale) for mark in marks)]
    for row, labels in enumerate(x_labels):
        parts += axes[0].names(labels, bottom + 16 + 14 * row)
    middle, under = (LEFT + WIDTH - RIGHT) / 2, bottom + 16 + 14 * rows
    parts.append(f'<text x="{middle:g}" y="{under}" text-anchor="middle">{escape(x_title)}</text>')
    parts += [_name(mark, axes[0]) for mark in marks]
    return _svg(title, under + 8, parts)


def _panel(panel: Panel, scale: _Scale) -> Iterator[str]:
    yield from scale.axes(())
    yield f'<text x="{LEFT}" y="{scale.top - 24:g}">{escape(panel.title)}</text>'
    if panel.limit is not None:
        y = scale.y(panel.limit)
        yield f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    for index, one in enumerate(panel.series[:2]):
        yield from _draw(one, "ab"[index], index, scale)
    yield from _legend(panel.series[:2], scale.top - 10)


def _line(mark: Mark, scale: _Scale) -> str:
    x = scale.x(mark.x)
    return f'<line class="{mark.style}" x1="{x:.1f}" x2="{x:.1f}" y1="{scale.top:g}" y2="{scale.bottom:g}"/>'


def _name(mark: Mark, axis: _Scale) -> str:
    anchor = "start" if mark.x < axis.count / 2 else "end"
    place = f'x="{axis.x(mark.x):.1f}" y="{TOP + ABOVE_PANEL - 6}" text-anchor="{anchor}"'
    return f'<text class="{mark.style}" {place}>{escape(mark.label)}</text>'


# Reliability ---------------------------------------------------------------------------------------------------------


def reliability_chart(title: str, bins: Sequence[Bin], *, floor: float = 0.5) -> str:
    """A reliability diagram (DeGroot and Fienberg 1983): how often forecasts came true against how sure they were.

    A point and its interval for each bin, a shaded box from there to the diagonal on which calibrated forecasts lie,
    and the number of pairs below. Bins that chance does not explain are drawn in the second style, as squares. `floor`
    is the lowest probability that can be forecast: .5 where they are folded, else 0.
    """
    scale = _Chances.over(bins, floor)
    frame = (*scale.heights.axes(()), *scale.diagonal(), *scale.labels())
    drawn = [part for one in bins for part in (*_gap(one, scale), *_estimate(one, scale))]
    counts = list(_counts(bins, scale))
    heading = f'<text class="title" x="4" y="14">{escape(title)}</text>'
    return _svg(title, RELIABILITY_HEIGHT, [heading, *frame, *drawn, *counts, *_reliability_legend(bins)])


def reliability_words(title: str, bins: Sequence[Bin]) -> str:
    """The same in words."""
    said = [f"{one.confidence:.2f} sure, {one.accuracy:.2f} right ({one.n:,} pairs)" for one in bins]
    return f"{title}: {'; '.join(said) or 'no pairs'}."


@dataclass(frozen=True, slots=True)
class _Chances:
    """Probabilities from `floor` to 1 on the x axis, what came of them as `heights`."""

    floor: float
    heights: _Scale

    @staticmethod
    def over(bins: Sequence[Bin], floor: float) -> _Chances:
        bottom = RELIABILITY_HEIGHT - UNDER_COUNTS - COUNTS_HEIGHT
        lowest = min([floor, *(one.interval.low for one in bins)])
        step = 0.1 if lowest >= 0.4 else 0.2
        return _Chances(floor, _Scale(max(0.0, math.floor(lowest / step + 1e-9) * step), 1.0, step, 1, bottom))

    def x(self, probability: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (probability - self.floor) / (1 - self.floor)

    def y(self, share: float) -> float:
        return self.heights.y(share)

    def diagonal(self) -> Iterator[str]:
        ends = f'x1="{self.x(self.floor):.1f}" y1="{self.y(self.floor):.1f}" x2="{self.x(1):.1f}" y2="{self.y(1):.1f}"'
        yield f'<line class="limit" {ends}/>'

    def labels(self) -> Iterator[str]:
        """The ticks of the x axis, the names of all axes, and what it means to be off the diagonal."""
        names = ("how sure", "how often right", "not sure enough", "too sure")
        if self.floor < 0.5:
            names = ("forecast", "how often so", "too low", "too high")
        y, step = RELIABILITY_HEIGHT - UNDER_COUNTS + 14, (1 - self.floor) / 5
        for index in range(6):
            value = self.floor + index * step
            yield f'<text x="{self.x(value):.1f}" y="{y}" text-anchor="middle">{tick_label(value, 0.1)}</text>'
        yield f'<text x="{self.x((1 + self.floor) / 2):.1f}" y="{y + 16}" text-anchor="middle">{names[0]}</text>'
        middle = (TOP + self.heights.bottom) / 2
        turned = f'transform="rotate(-90 12 {middle:.1f})"'
        yield f'<text x="12" y="{middle:.1f}" text-anchor="middle" {turned}>{names[1]}</text>'
        yield f'<text x="{LEFT + 6}" y="{TOP + 14}">{names[2]}</text>'
        yield f'<text x="{WIDTH - RIGHT - 6}" y="{self.heights.bottom - 8:.1f}" text-anchor="end">{names[3]}</text>'
        yield f'<text x="{LEFT - 6}" y="{y - 14}" text-anchor="end">pairs</text>'


def _style(one: Bin) -> str:
    return "a" if one.calibrated else "b"


def _gap(one: Bin, scale: _Chances) -> Iterator[str]:
    """The box between what was said and what came of it."""
    top, bottom = sorted((scale.y(one.confidence), scale.y(one.accuracy)))
    yield _box(_style(one), scale.x(one.low), scale.x(one.high), top, bottom)


def _estimate(one: Bin, scale: _Chances) -> Iterator[str]:
    x, style = scale.x(one.confidence), _style(one)
    low, high = scale.y(one.interval.low), scale.y(one.interval.high)
    yield f'<line class="{style}" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
    yield _marker(x, scale.y(one.accuracy), style, Point(0, one.accuracy, *one.interval))


def _counts(bins: Sequence[Bin], scale: _Chances) -> Iterator[str]:
    """How many pairs each bin holds, as bars with numbers where there is room for them."""
    base, most, taken = RELIABILITY_HEIGHT - UNDER_COUNTS, max((one.n for one in bins), default=1), 0.0
    yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>'
    for one in bins:
        top = base - (COUNTS_HEIGHT - 18) * one.n / most
        yield _box("a", scale.x(one.low), scale.x(one.high), top, base)
        x, number = scale.x((one.low + one.high) / 2), _short(one.n)
        half = 3.5 * len(number.replace(".", "")) + 0.9 * number.count(".")
        if x - half >= taken:
            yield f'<text x="{x:.1f}" y="{top - 3:.1f}" text-anchor="middle">{number}</text>'
            taken = x + half


def _box(style: str, left: float, right: float, top: float, bottom: float) -> str:
    width = max(right - left - 1.0, 1.0)
    place = f'x="{left + 0.5:.1f}" y="{top:.1f}" width="{width:.1f}" height="{bottom - top:.1f}"'
    return f'<rect class="{style}" {place} fill-opacity="0.25" stroke-opacity="0"/>'


def _short(n: int) -> str:
    return str(n) if n < 1000 else f"{n / 1000:.1f}k" if n < 9950 else f"{n / 1000:.0f}k"


def _reliability_legend(bins: Sequence[Bin]) -> Iterator[str]:
    y = RELIABILITY_HEIGHT - 4
    if not bins:
        middle = (WIDTH + LEFT - RIGHT) / 2
        yield f'<text x="{middle}" y="{RELIABILITY_HEIGHT / 2}" text-anchor="middle">no pairs</text>'
        return
    yield f'<text class="a" x="{LEFT}" y="{y}">● within chance</text>'
    if not all(one.calibrated for one in bins):
        yield f'<text class="b" x="{LEFT + 104}" y="{y}">■ off by more</text>'
