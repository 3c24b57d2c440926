"""The few widgets that all screens are made of. Each takes what `selfalign.tui.shown` made, or cleans it itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from rich.style import Style
from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.events import Click, Resize
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widgets import Input, Static
from textual_plotext import Plot, PlotextPlot

from selfalign.text import clean
from selfalign.tui import shown
from selfalign.tui.shown import Part

MARK, NO_MARK = "▸ ", "  "
WIDE = 100  # columns of a screen that has room for gaps of two between cells
LONGEST_ANSWER = 2000  # characters
LINES_KEPT = 500  # drawn lines of a grid
FLEX_LEAST = 8  # columns of a flexible cell on the narrowest screen


class Words(Static):
    """Text or a table that was made by `shown`; a plain string is cleaned and shown as it is."""

    def __init__(self, *parts: Part, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(shown.line(*parts), markup=False, id=id, classes=classes)

    def say(self, *parts: Part) -> None:
        self.show(shown.line(*parts))

    def show(self, made: Text | Table) -> None:
        if not isinstance(made, Text | Table):
            raise TypeError(f"{type(made).__name__} is not made by shown")
        self.update(made)


class FilterLine(Input):
    """Where a filter is typed. What is pasted is cleaned."""

    DEFAULT_CSS = (
        "FilterLine { display: none; height: 1; border: none; padding: 0 2 !important; background: $surface; }"
    )

    def __init__(self, hint: str, id: str | None = None) -> None:
        super().__init__(placeholder=hint, id=id, select_on_focus=False, compact=True)

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave(True)", "clear the filter", show=False),
        Binding("enter,down", "leave(False)", "back to the rows", show=False),
    ]

    class Left(Message):
        """The filter is done with."""

    def action_leave(self, clear: bool) -> None:
        if clear:
            self.value = ""
        self.display = bool(self.value)
        self.post_message(self.Left())

    def validate_value(self, value: str) -> str:
        return shown.line(clean(value)).plain[:500]


class AnswerLine(Input):
    """Where words are typed. What is pasted is cleaned."""

    def validate_value(self, value: str) -> str:
        return shown.line(clean(value)).plain[:LONGEST_ANSWER]


class Scroll(VerticalScroll, can_focus=True):
    """What is longer than the screen, with the keys of a pager."""

    DEFAULT_CSS = "Scroll { scrollbar-size-vertical: 1; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "scroll_down", "line down", show=False),
        Binding("k,up", "scroll_up", "line up", show=False),
        Binding("space,pagedown,ctrl+d", "page_down", "page down", show=False),
        Binding("b,pageup,ctrl+u", "page_up", "page up", show=False),
        Binding("g,home", "scroll_home", "to the top", show=False),
        Binding("G,end", "scroll_end", "to the end", show=False),
    ]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a grid. The flexible ones share what is left; where room is short, the highest `drop` goes first."""

    name: str
    width: int = 0  # 0: flexible
    right: bool = False
    drop: int = 0


Row = Sequence[Text]


class Grid(ScrollView, can_focus=True):
    """A table of any number of rows, of which only those in sight are ever made.

    `row(index)` returns the cells of a row, or None while they are not there yet. A line that was drawn is kept until
    the grid is filled or refreshed, unless `row` said in `incomplete` that cells will change by themselves.
    """

    DEFAULT_CSS = """
    Grid { height: 1fr; overflow-x: hidden; scrollbar-size-vertical: 1; }
    Grid > .grid--head { color: $text-muted; text-style: bold; }
    Grid > .grid--cursor { background: $primary 25%; text-style: bold; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {"grid--head", "grid--cursor"}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "move(1)", "next row", show=False),
        Binding("k,up", "move(-1)", "row before", show=False),
        Binding("pagedown,space,ctrl+d", "page(1)", "page down", show=False),
        Binding("pageup,b,ctrl+u", "page(-1)", "page up", show=False),
        Binding("g,home", "ends(0)", "first row", show=False),
        Binding("G,end", "ends(1)", "last row", show=False),
        Binding("enter", "open", "open", show=False),
    ]

    class Opened(Message):
        def __init__(self, grid: Grid, index: int) -> None:
            super().__init__()
            self.grid, self.index = grid, index

    class Moved(Opened):
        """The cursor stands on another row."""

    def __init__(self, columns: Sequence[Column], *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.columns = tuple(columns)
        self.cursor = 0
        self.count = 0
        self._row: Callable[[int], Row | None] = lambda index: None
        self._gap = 2
        self._layout: list[tuple[int, int]] = []  # of each column in sight: its index and its width
        self._drawn: dict[int, Strip] = {}
        self.incomplete = False

    def refresh(self, *regions: Region, repaint: bool = True, layout: bool = False, recompose: bool = False) -> Self:
        if not regions:
            self._drawn.clear()
        return super().refresh(*regions, repaint=repaint, layout=layout, recompose=recompose)

    def complete(self) -> None:
        """Draw again what was incomplete."""
        self.refresh(self.size.region)

    def fill(self, count: int, row: Callable[[int], Row | None], *, columns: Sequence[Column] | None = None) -> None:
        """Show `count` rows. The cursor stays where it is, or on the last row."""
        self.columns = tuple(columns) if columns is not None else self.columns
        self.count, self._row = count, row
        self.cursor = max(0, min(self.cursor, count - 1))
        self._arrange()

    def put_cursor(self, index: int, *, at_once: bool = False) -> None:
        """Move the cursor, and scroll to it: `at_once` where the grid has its place on the screen already."""
        index = max(0, min(index, self.count - 1))
        before = self.cursor
        moved, self.cursor = index != self.cursor, index
        self.scroll_to_region(Region(0, index, 1, 2), animate=False, force=True, immediate=at_once)  # 2: the head
        for row in (before, index):  # where it scrolls, all lines are drawn again, and only there
            self.refresh_line(row + 1)
        if moved:
            self.post_message(self.Moved(self, index))

    def action_move(self, by: int) -> None:
        self.put_cursor(self.cursor + by, at_once=True)

    def action_page(self, by: int) -> None:
        self.put_cursor(self.cursor + by * max(1, self.scrollable_content_region.height - 2), at_once=True)

    def action_ends(self, last: int) -> None:
        self.put_cursor(self.count - 1 if last else 0, at_once=True)

    def action_open(self) -> None:
        if self.count:
            self.post_message(self.Opened(self, self.cursor))

    def on_click(self, event: Click) -> None:
        index = event.y + self.scroll_offset.y - 1
        if event.y and index < self.count:
            again = index == self.cursor
            self.put_cursor(index)
            if again:
                self.action_open()

    def on_resize(self, event: Resize) -> None:
        self._arrange()

    def _arrange(self) -> None:
        width = self.scrollable_content_region.width
        self._gap = 2 if width >= WIDE else 1
        self._layout = layout(self.columns, width - len(MARK) - 1, self._gap)
        self.virtual_size = Size(width, self.count + 1)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        index = y + self.scroll_offset.y - 1
        if y == 0:
            heads = [shown.line(column.name) for column in self.columns]
            return self._strip(NO_MARK, heads, width, self.get_component_rich_style("grid--head"))
        if not 0 <= index < self.count:
            return Strip.blank(width, self.rich_style)
        at = index == self.cursor
        if index in self._drawn and not at:
            return self._drawn[index]
        self.incomplete = False
        cells = self._row(index)
        style = self.get_component_rich_style("grid--cursor") if at and self.has_focus else self.rich_style
        if cells is None:
            cells, self.incomplete = [shown.line(("…", shown.DIM))] * len(self.columns), True
        strip = self._strip(MARK if at else NO_MARK, cells, width, style)
        if not (at or self.incomplete):
            if len(self._drawn) >= LINES_KEPT:
                self._drawn.clear()
            self._drawn[index] = strip
        return strip

    def _strip(self, mark: str, cells: Row, width: int, style: Style) -> Strip:
        made = shown.line(mark)
        for place, (index, room) in enumerate(self._layout):
            part = cells[index].copy()
            if self.columns[index].right:
                part.truncate(room, overflow="ellipsis")
                part.align("right", room)
            else:
                part.truncate(room, overflow="ellipsis", pad=True)
            made.append_text(part)
            made.append("" if place == len(self._layout) - 1 else " " * self._gap)
        return Strip(made.render(self.app.console)).apply_style(style).adjust_cell_length(width, style)


def layout(columns: Sequence[Column], width: int, gap: int) -> list[tuple[int, int]]:
    """The index and the width of each column that has room, the least needed dropped first."""
    kept = list(range(len(columns)))

    def least() -> int:
        return sum(columns[index].width or FLEX_LEAST for index in kept) + gap * (len(kept) - 1)

    while least() > width and (droppable := [index for index in kept if columns[index].drop]):
        kept.remove(max(droppable, key=lambda index: (columns[index].drop, index)))
    flexible, left = [index for index in kept if not columns[index].width], max(0, width - least())
    shares = [left // len(flexible) + (place < left % len(flexible)) for place in range(len(flexible))]
    widths = {index: FLEX_LEAST + share for index, share in zip(flexible, shares, strict=True)}
    return [(index, columns[index].width or widths[index]) for index in kept]


@dataclass(frozen=True, slots=True)
class Curve:
    """A line of a chart; `low` and `high` are its interval where it has one."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


class Chart(Vertical):
    """Curves over rounds or steps, under a title that names them; each has a sign of its own beside its colour."""

    DEFAULT_CSS = """
    Chart { height: 11; min-width: 30; padding: 0 1; }
    Chart > Words { height: 1; }
    """
    SIGNS = ("●", "◆", "▲", "■")
    FEW = 20  # points; so many are marked one by one, of more some

    def __init__(self, title: str, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.title = title
        self._curves: tuple[Curve, ...] = ()
        self._level: float | None = None

    def compose(self) -> ComposeResult:
        yield Words((self.title, "bold"))
        yield PlotextPlot()

    def draw(self, curves: Sequence[Curve], *, level: float | None = None) -> None:
        """Show curves, and a level line. What is shown already is not drawn again."""
        wanted = tuple(curve for curve in curves if curve.x)
        if (wanted, level) != (self._curves, self._level):
            self._curves, self._level = wanted, level
            self._plot()

    @property
    def drawn(self) -> bool:
        """Whether there is anything to show."""
        return bool(self._curves)

    def on_resize(self, event: Resize) -> None:
        self._plot()

    def _plot(self) -> None:
        named = [(f"  {self._sign(i)} {one.name}", self._colour(i)) for i, one in enumerate(self._curves) if one.name]
        self.query_one(Words).say(
            (self.title, "bold"), *(named or [("  no figures yet", shown.DIM)] * (not self._curves))
        )
        plot = self.query_one(PlotextPlot)
        plot.display = bool(self._curves)
        plt = plot.plt
        plt.clear_figure()
        plt.frame(False)
        if self._level is not None and self._curves:
            plt.hline(self._level, "gray")
        for index, curve in enumerate(self._curves):
            self._plot_curve(plt, thinned(curve, max(40, 2 * self.size.width)), index)
        for axis, limits, values in ((plt.xticks, plt.xlim, self._span("x")), (plt.yticks, plt.ylim, self._span("y"))):
            ticks = nice_ticks(*values, least=1.0 if axis == plt.xticks else 0.0)  # there is no half a step or round
            axis(ticks, [f"{tick:g}" for tick in ticks])
            limits(min(values[0], ticks[0]), max(values[1], ticks[-1]))
        plot.refresh()

    def _plot_curve(self, plt: Plot, curve: Curve, index: int) -> None:
        colour = _rgb(self._colour(index))
        if len(curve.x) > 1:
            plt.plot(curve.x, curve.y, color=colour, marker="braille")
        if curve.low is not None and curve.high is not None:
            for x, low, high in zip(curve.x, curve.low, curve.high, strict=True):
                plt.plot([x, x], [low, high], color=colour, marker="braille")
        every = 1 if len(curve.x) <= self.FEW else max(1, (len(curve.x) - 1) // 4)
        plt.scatter(curve.x[::every], curve.y[::every], color=colour, marker=self._sign(index))

    def _span(self, axis: str) -> tuple[float, float]:
        """From the least to the greatest of an axis, with its intervals and its level line."""
        if axis == "x":
            found = [x for curve in self._curves for x in curve.x]
        else:
            found = [y for curve in self._curves for ys in (curve.y, curve.low or (), curve.high or ()) for y in ys]
            found += [self._level] if self._level is not None else []
        return (min(found), max(found)) if found else (0.0, 1.0)

    def _sign(self, index: int) -> str:
        return self.SIGNS[index % len(self.SIGNS)]

    def _colour(self, index: int) -> str:
        return shown.SERIES[index % len(shown.SERIES)]


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


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
    return Curve(curve.name, [curve.x[i] for i in kept], [curve.y[i] for i in kept])
