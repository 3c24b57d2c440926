"""Screens with charts: the same charts of another run beside them, a logarithmic scale, and one chart as large as the
screen with the exact values under a cursor.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual import work
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.events import Resize
from textual.message import Message
from textual.widget import Widget

from selfalign.text import one_line
from selfalign.tui import shown
from selfalign.tui.page import Page, Place
from selfalign.tui.picking import Choose
from selfalign.tui.plotting import OTHERS_SIGNS, Curve, Look, drawable, marked
from selfalign.tui.reading import UNREADABLE, Watched, why
from selfalign.tui.shown import Part
from selfalign.tui.widgets import Chart, Words

WIDE = 120  # columns of a screen on which three charts stand side by side
NO_CHART = "there is no chart yet"


@dataclass(frozen=True, slots=True)
class Charted:
    """A chart: what it shows, of which curves, with which level line, what its x axis counts, and what its y axis spans
    at least, so that noise does not look like a trend.
    """

    title: str
    curves: tuple[Curve, ...]
    level: float | None = None
    along: str = "round"
    span: float = 0.0

    @property
    def drawn(self) -> bool:
        return any(curve.x for curve in self.curves)


@dataclass(frozen=True, slots=True)
class Beside:
    """What is laid beside: a run, at the round in sight or so many `back`."""

    name: str
    path: Path
    back: int = 0


@dataclass(frozen=True, slots=True)
class Laid:
    """The charts of a screen, and what is said of the run beside them."""

    charts: tuple[Charted, ...]
    said: Text


class ChartPage(Page):
    """A screen with charts. `charted` makes those of a run; the rest of the screen is its own."""

    CHART_KEYS: ClassVar[list[BindingType]] = [
        Binding("z", "enlarge", "enlarge", tooltip="a chart as large as the screen, with its values"),
        Binding("o", "beside", "beside", tooltip="lay another run beside this one, in all charts"),
        Binding("l", "log", "charts on a log scale, and back", show=False),
    ]
    MOST_CHARTS: ClassVar[int] = 6
    DEFAULT_CSS = """
    ChartPage #charts { layout: grid; grid-size: 2; grid-rows: 11; height: auto; margin-bottom: 1; padding: 0 1; }
    ChartPage.wide #charts { grid-size: 3; grid-rows: 14; }
    ChartPage.wide Chart { height: 14; }
    ChartPage #beside { padding: 0 2; height: 1; }
    """

    class Others(Message):
        """What could be laid beside."""

        def __init__(self, found: Sequence[Beside]) -> None:
            super().__init__()
            self.found = found

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.logged = False
        self.beside: Beside | None = None

    def charted(self, run: Watched, back: int) -> list[Charted]:
        """The charts of a run that is being read; of a round so many `back` where the screen is of one round."""
        raise NotImplementedError

    def others(self) -> list[Beside]:
        """What could be laid beside; called in a thread."""
        return [Beside(one.name, one.path) for one in self.reader.library.all() if one.path != self.watched.path]

    def charts(self) -> Laid:
        """The charts of the screen as they are now; called in a thread."""
        with self.watched.reading() as run:
            own = [chart for chart in self.charted(run, 0) if chart.drawn]
        beside = self.beside
        if beside is None:
            return Laid(tuple(own), shown.line(""))
        try:
            with self.reader.library.open(beside.path).reading() as run:
                theirs = {chart.title: chart for chart in self.charted(run, beside.back)}
        except UNREADABLE as error:
            return Laid(tuple(own), shown.line((f"! {beside.name}: {why(error)}", shown.WARN)))
        laid = tuple(_with(chart, theirs.get(chart.title), beside.name) for chart in own)
        return Laid(laid, said_of(beside, any(curve.other for chart in laid for curve in chart.curves)))

    def on_resize(self, event: Resize) -> None:
        self.set_class(event.size.width >= WIDE, "wide")

    def chart_widgets(self) -> Iterator[Widget]:
        yield Words(id="beside")
        with Container(id="charts"):
            for index in range(self.MOST_CHARTS):
                yield Chart("", id=f"chart{index}")

    def show_charts(self, laid: Laid) -> None:
        beside = self.query_one("#beside", Words)
        beside.show(laid.said)
        beside.display = bool(laid.said.plain)
        for index in range(self.MOST_CHARTS):
            chart = self.query_one(f"#chart{index}", Chart)
            chart.display = index < len(laid.charts)
            if chart.display:
                one = laid.charts[index]
                chart.title = one.title
                chart.draw(one.curves, look=Look(one.level, one.span, self.logged))
        self.query_one("#charts").display = bool(laid.charts)

    def action_log(self) -> None:
        self.logged = not self.logged
        self.renew()

    def action_enlarge(self, index: int = 0) -> None:
        if self.query_one("#charts").display:
            self.app.push_screen(Enlarged(self.place(), self, index))
        else:
            self.reader.say(NO_CHART)

    def on_chart_picked(self, message: Chart.Picked) -> None:
        self.action_enlarge(int((message.chart.id or "chart0").removeprefix("chart")))

    def action_beside(self) -> None:
        """Lay a run beside; take it away where one lies there."""
        if self.beside is None:
            self._find_others()
        else:
            self._lay(None)

    @work(thread=True, group="others", exit_on_error=False, description="others")
    def _find_others(self) -> None:
        try:
            found = self.others()
        except UNREADABLE:
            found = []
        self.post_message(self.Others(found))

    def on_chart_page_others(self, message: ChartPage.Others) -> None:
        found = message.found
        if not found:
            self.reader.say("there is no other run to lay beside")
            return
        names = Choose("What to lay beside", "lay it beside", [one.name for one in found])
        self.app.push_screen(names, lambda at: self._lay(found[at]) if at is not None else None)

    def _lay(self, beside: Beside | None) -> None:
        self.beside = beside
        if isinstance(self.app.screen, Page):
            self.app.screen.renew()


def _with(chart: Charted, theirs: Charted | None, name: str) -> Charted:
    """A chart with the curves of another run after its own."""
    other = theirs.curves if theirs is not None else ()
    named = [replace(one, name=f"{one.name} of {name}" if one.name else name, other=True) for one in other if one.x]
    return replace(chart, curves=(*chart.curves, *named))


def overlaid(one: Sequence[Charted], other: Sequence[Charted], name: str, others: str) -> Iterator[Charted]:
    """The charts of two things by their titles: the curves of the first, then, hollow and dotted, of the second."""
    theirs = {chart.title: chart for chart in other if chart.drawn}
    for chart in one:
        if chart.drawn:
            own = tuple(replace(curve, name=curve.name or one_line(name, 24)) for curve in chart.curves)
            yield _with(replace(chart, curves=own), theirs.pop(chart.title, None), one_line(others, 24))
    for chart in theirs.values():
        yield _with(replace(chart, curves=()), chart, one_line(others, 24))


def said_of(beside: Beside, found: bool) -> Text:
    """What the hollow signs are."""
    if not found:
        return shown.line((f"{one_line(beside.name, 60)} has nothing to show here yet  (o takes it away)", shown.WARN))
    return shown.line(*hollow(beside.name), ("  (o takes it away)", shown.DIM))


def hollow(name: str) -> tuple[Part, ...]:
    """Whose the hollow signs and the dotted lines are."""
    return (f"{OTHERS_SIGNS[0]} {OTHERS_SIGNS[1]} dotted: ", shown.GREEN), (one_line(name, 60), "bold")


class Enlarged(Page):
    """One chart as large as the screen."""

    NAME = "Chart"
    AUTO_FOCUS = ""  # its keys are the screen's own: the line of the filter must not have them
    ABOUT = (
        "One chart, with the exact values at the cursor, and their 95% intervals where they have any. Filled signs are "
        "of this run, hollow ones and dotted lines of the one that is laid beside. On a log scale, values of 0 or less "
        "cannot be drawn: how many are left out stands in the title."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "step(-1)", "cursor left", show=False),
        Binding("right", "step(1)", "cursor", show=True),
        Binding("pageup", "stride(-1)", "a tenth to the left", show=False),
        Binding("pagedown", "stride(1)", "a tenth to the right", show=False),
        Binding("home", "ends(0)", "first value", show=False),
        Binding("end", "ends(1)", "last value", show=False),
        Binding("n", "turn(1)", "next"),
        Binding("p", "turn(-1)", "previous chart", show=False),
        Binding("l", "log", "log"),
        Binding("o", "beside", "beside"),
        Binding("z", "leave", "all charts"),
    ]
    DEFAULT_CSS = """
    Enlarged #big { height: 1fr; padding: 1 2 0 2; }
    Enlarged #values { height: auto; max-height: 10; padding: 1 2; }
    """

    def __init__(self, place: Place, source: ChartPage, position: int) -> None:
        super().__init__(place)
        self.source, self.position = source, position
        self.shown: tuple[Charted, ...] = ()
        self.cursor: float | None = None  # a place of the x axis; None stands at the last one, wherever that is

    def body(self) -> Iterator[Widget]:
        yield Chart("", id="big")
        yield Words(id="values")

    def read(self) -> Laid:
        return self.source.charts()

    def show(self, view: Laid) -> None:
        self.shown = view.charts
        self.trouble([view.said.plain] if view.said.plain.startswith("!") else [])
        self._draw()

    def _draw(self) -> None:
        if not self.shown:
            self.title_is((NO_CHART, shown.DIM))
            return
        self.position = max(0, min(self.position, len(self.shown) - 1))
        one, at = self.shown[self.position], self.where()
        number = f"  chart {self.position + 1} of {len(self.shown)}"
        self.title_is((self.watched.name, "bold"), *self._round(), (number, shown.DIM))
        big = self.query_one("#big", Chart)
        big.title = one.title
        big.draw(one.curves, look=Look(one.level, one.span, self.source.logged, at))
        self.query_one("#values", Words).show(values(one, at))

    def _round(self) -> list[Part]:
        return [(f"  round {self.at.round}", "bold")] if self.source.NAME == "Round" else []

    def places(self) -> list[float]:
        """Where the cursor can stand: wherever a curve has a value that can be drawn."""
        kept = (drawable(curve, log=self.source.logged)[0] for curve in self.shown[self.position].curves)
        return sorted({x for curve in kept for x in curve.x})

    def where(self) -> float | None:
        """Where the cursor stands."""
        places = self.places()
        if self.cursor is None or not places:
            return places[-1] if places else None
        return places[min(bisect_left(places, self.cursor), len(places) - 1)]

    def action_step(self, by: int) -> None:
        if not self.shown or (at := self.where()) is None:
            return
        places = self.places()
        index = max(0, min(bisect_left(places, at) + by, len(places) - 1))
        self.cursor = places[index] if index < len(places) - 1 else None
        self._draw()

    def action_stride(self, by: int) -> None:
        if self.shown:
            self.action_step(by * max(1, len(self.places()) // 10))

    def action_ends(self, last: int) -> None:
        self.action_step((1 if last else -1) * len(self.places()) if self.shown else 0)

    def action_turn(self, by: int) -> None:
        if not 0 <= self.position + by < len(self.shown):
            self.reader.say("there is no further chart")
            return
        self.position, self.cursor = self.position + by, None
        self._draw()

    def action_log(self) -> None:
        self.source.logged = not self.source.logged
        self._draw()

    def action_beside(self) -> None:
        self.source.action_beside()

    def action_leave(self) -> None:
        self.app.pop_screen()

    def command(self) -> str:
        return self.source.command()

    def copied(self) -> str:
        """The chart as a table of tabs, for a spreadsheet."""
        return tabbed(self.shown[self.position]) if self.shown else ""


def values(chart: Charted, at: float | None) -> Table | Text:
    """What each curve is worth at a place of the x axis."""
    if at is None:
        return shown.line(("nothing to draw on this scale; l draws it on the other", shown.DIM))
    rows: list[tuple[Part, ...]] = []
    for curve, sign, colour in marked(chart.curves):
        y, low, high = value_at(curve, at)
        rows.append(((f"{sign} {curve.name}".rstrip(), colour), (_number(y), "bold"), _interval(low, high)))
    interval = "95% interval" if any(curve.low is not None for curve in chart.curves) else ""
    return shown.table((place_name(chart.along, at), "value", interval), rows, right=(1,))


def value_at(curve: Curve, at: float) -> tuple[float | None, float | None, float | None]:
    """The value of a curve at a place, or at the one just before it, with its interval."""
    index = bisect_right(curve.x, at) - 1
    if index < 0 or at - curve.x[index] >= 1:
        return None, None, None
    low, high = (ends[index] if ends is not None else None for ends in (curve.low, curve.high))
    return curve.y[index], low, high


def place_name(along: str, at: float) -> str:
    """A place of the x axis in words."""
    if along == "training":
        return f"round {int(at)}, {at % 1:.0%} of its training"
    return f"{along} {at:g}"


def tabbed(chart: Charted) -> str:
    """A chart as lines of columns with tabs between them: a place, then each curve's value and interval."""
    heads, columns = [chart.along], []
    for curve in chart.curves:
        ends = [("low", curve.low), ("high", curve.high)]
        named = [("", curve.y), *((f" {end}", found) for end, found in ends if found is not None)]
        for end, found in named:
            heads.append(f"{curve.name or chart.title}{end}")
            columns.append(dict(zip(curve.x, found, strict=True)))
    places = sorted({x for curve in chart.curves for x in curve.x})
    lines = [[f"{x:g}", *(f"{column[x]:.6g}" if x in column else "" for column in columns)] for x in places]
    return "\n".join("\t".join(line) for line in [heads, *lines])


def _number(value: float | None) -> str:
    return f"{value + 0.0:.5g}" if value is not None else "–"


def _interval(low: float | None, high: float | None) -> str:
    return f"{_number(low)} to {_number(high)}" if low is not None and high is not None else ""
