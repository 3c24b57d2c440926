"""Line charts over rounds as SVG, drawn by hand: nothing to install, nothing to run, readable without colour."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 310, 210
LEFT, RIGHT, TOP, BOTTOM = 42, 14, 30, 34


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
    parts = [f'<text class="title" x="4" y="14">{html.escape(title)}</text>', *scale.axes(x_labels)]
    if limit is not None:
        y = scale.y(limit)
        parts.append(f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    for index, one in enumerate(series[:2]):
        parts += _draw(one, "ab"[index], index, scale)
    parts += _legend(series[:2])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="{html.escape(title)}">{"".join(parts)}</svg>'
    )


@dataclass(frozen=True, slots=True)
class _Scale:
    low: float
    high: float
    step: float
    count: int

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
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.high - value) / (self.high - self.low)

    def axes(self, x_labels: Sequence[str]) -> Iterator[str]:
        for index in range(round((self.high - self.low) / self.step) + 1):
            value = self.low + index * self.step
            y = self.y(value)
            yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick_label(value, self.step)}</text>'
        every = math.ceil(len(x_labels) * max(map(len, x_labels), default=1) / 36)
        for place, label in enumerate(x_labels):
            if place % every == 0:
                x, y = self.x(place), HEIGHT - BOTTOM + 16
                yield f'<text x="{x:.1f}" y="{y}" text-anchor="middle">{html.escape(label)}</text>'


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


def _legend(series: Sequence[Series]) -> Iterator[str]:
    if len(series) < 2:
        return
    x = float(LEFT)
    for style, mark, one in zip("ab", "●■", series, strict=False):
        yield f'<text class="{style}" x="{x:.0f}" y="{HEIGHT - 4}">{mark} {html.escape(one.label)}</text>'
        x += 18 + 6.4 * len(one.label)
