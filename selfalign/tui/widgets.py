"""The few widgets that all screens are made of. Each takes what `selfalign.tui.shown` made, or cleans it itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from rich.style import Style
from rich.table import Table
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.events import Click, Resize
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widgets import Input, Static, TextArea
from textual.widgets.text_area import Edit, EditResult, TextAreaTheme

from selfalign.text import clean
from selfalign.tui import shown
from selfalign.tui.plotting import Curve as Curve
from selfalign.tui.plotting import Look, drawable, legend, picture
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

    def begin(self, value: str) -> None:
        """Show a filter that holds already."""
        with self.prevent(self.Changed):
            self.value = value
        self.display = True

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


INK = TextAreaTheme(
    name="selfalign",
    gutter_style=Style(color=shown.DIM),
    cursor_line_style=Style(bgcolor="#1c2027"),
    cursor_line_gutter_style=Style(color="#e6e6e6", bgcolor="#1c2027"),
    syntax_styles={
        "comment": Style(color=shown.DIM, italic=True),
        "string": Style(color=shown.YELLOW),
        "number": Style(color=shown.ORANGE),
        "boolean": Style(color=shown.ORANGE),
        "yaml.field": Style(color=shown.SKY, bold=True),
        "punctuation.delimiter": Style(color=shown.DIM),
        "punctuation.bracket": Style(color=shown.DIM),
        "error": Style(),  # that may be all the text; where it is wrong stands in the gutter and below
    },
)


class Writing(TextArea):
    """Where a YAML file is typed. What is loaded or pasted is cleaned; `marks` puts a sign beside numbered lines."""

    DEFAULT_CSS = """
    Writing { border: none; padding: 0 1; height: 1fr; background: $background; scrollbar-size-vertical: 1; }
    Writing:focus { border: none; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(
            language="yaml", theme="css", tab_behavior="indent", show_line_numbers=True, max_checkpoints=500, id=id
        )
        self.register_theme(INK)
        self.theme, self.indent_width = INK.name, 2
        self._marks: Mapping[int, tuple[str, str]] = {}

    def marks(self, marks: Mapping[int, tuple[str, str]]) -> None:
        """Put a sign with its style into the gutter of lines, numbered from 1; those marked before are clean again."""
        self._marks = marks
        self.refresh()

    def load_text(self, text: str) -> None:
        super().load_text(_tidy(text))

    def edit(self, edit: Edit) -> EditResult:
        return super().edit(dataclasses.replace(edit, text=_tidy(edit.text)))

    def put(self, text: str) -> None:
        """Have another text, in a step that can be undone; the cursor stays on its line."""
        here = self.cursor_location
        self.replace(text, (0, 0), self.document.end)
        self.move_cursor(here)

    def render_line(self, y: int) -> Strip:
        strip = super().render_line(y)
        number = next((segment.text.strip() for segment in strip), "")
        if not (self.show_line_numbers and number.isdecimal() and int(number) in self._marks):
            return strip
        sign, style = self._marks[int(number)]
        gutter = shown.line((f"{number:>{self.gutter_width - 2}}", style), (sign, style), " ")
        made = Strip(gutter.render(self.app.console)).apply_style(self.rich_style)
        return Strip.join([made, strip.crop(self.gutter_width)])


def _tidy(text: str) -> str:
    """Cleaned, but for ends of lines: a file keeps its own."""
    return text if clean(text) == text.replace("\r\n", "\n") else clean(text)


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
    least: int = FLEX_LEAST  # columns that a flexible one must have


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
        self._coming: int | None = None
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
        if self._coming is not None and self._coming < count:
            self.cursor, self._coming = self._coming, None
            self.call_after_refresh(lambda: self.put_cursor(self.cursor))  # it has no lines to scroll in before

    def come_back(self, index: int) -> None:
        """Put the cursor on a row as soon as there are so many, unless it is put elsewhere before."""
        self._coming = index

    def put_cursor(self, index: int, *, at_once: bool = False) -> None:
        """Move the cursor, and scroll to it: `at_once` where the grid has its place on the screen already."""
        index, self._coming = max(0, min(index, self.count - 1)), None
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
        self._gap = 2 if self.outer_size.width >= WIDE else 1  # a scrollbar that comes or goes leaves it as it is
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
        return sum(columns[index].width or columns[index].least for index in kept) + gap * (len(kept) - 1)

    while least() > width and (droppable := [index for index in kept if columns[index].drop]):
        kept.remove(max(droppable, key=lambda index: (columns[index].drop, index)))
    flexible, left = [index for index in kept if not columns[index].width], max(0, width - least())
    shares = [left // len(flexible) + (place < left % len(flexible)) for place in range(len(flexible))]
    widths = {index: columns[index].least + share for index, share in zip(flexible, shares, strict=True)}
    return [(index, columns[index].width or widths[index]) for index in kept]


TITLE_LEAST = 12  # characters of a chart's title that stay where its legend needs the room


class Chart(Words):
    """Curves over rounds or steps, under a title that names them; each has a sign of its own beside its colour."""

    DEFAULT_CSS = "Chart { height: 11; min-width: 30; padding: 0 1; }"

    class Picked(Message):
        """A chart was clicked."""

        def __init__(self, chart: Chart) -> None:
            super().__init__()
            self.chart = chart

    def __init__(self, title: str, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.title = title
        self._curves: tuple[Curve, ...] = ()
        self._look = Look()
        self._headed = ""

    def draw(self, curves: Sequence[Curve], *, look: Look = Look()) -> None:  # noqa: B008
        """Show curves. What is shown already is not drawn again."""
        wanted = tuple(curve for curve in curves if curve.x)
        if (wanted, look, self.title) != (self._curves, self._look, self._headed):
            self._curves, self._look, self._headed = wanted, look, self.title
            self._plot()

    @property
    def drawn(self) -> bool:
        """Whether there is anything to show."""
        return bool(self._curves)

    def on_click(self) -> None:
        self.post_message(self.Picked(self))

    def on_resize(self, event: Resize) -> None:
        self._plot()

    def _plot(self) -> None:
        own = [curve for curve in self._curves if not curve.other]
        said = legend(own) or [("  no figures yet", shown.DIM)] * (not self._curves)
        room = self.content_size
        drawn = picture(self._curves, room.width, room.height - 1, self._look)
        if self._curves and not drawn.plain:
            drawn = shown.line(("nothing that this scale can draw", shown.DIM))
        named, scale = shown.line((self.title, "bold")), self._scale()
        named.truncate(max(TITLE_LEAST, room.width - len(shown.line(scale, *said))), overflow="ellipsis")
        head = shown.line(named, (scale, shown.DIM), *said)
        head.truncate(max(1, room.width), overflow="ellipsis")
        self.update(shown.lines([head, drawn]), layout=False)

    def _scale(self) -> str:
        """Which scale it is, unless it is the usual one, and how many values that cannot draw."""
        log = self._look.log
        left_out = sum(drawable(curve, log=log)[1] for curve in self._curves)
        missing = f"{left_out:,} {'≤ 0' if log else 'not finite'} left out" if left_out else ""
        said = ", ".join(part for part in ("log" if log else "", missing) if part)
        return f"  {said}" if said else ""
