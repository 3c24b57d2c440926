"""Screen 8: the events of a run, and what its workers wrote; followed as they grow."""

from __future__ import annotations

import json
import re
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen
from textual.widget import Widget

from selfalign.store.run import EVENTS
from selfalign.store.tail import parse_event
from selfalign.text import one_line
from selfalign.tui import shown
from selfalign.tui.logs.lineindex import LineIndex
from selfalign.tui.page import LazyPage, Place
from selfalign.tui.widgets import Column, Grid, Scroll, Words
from selfalign.words import gate_text

FOLDER = "logs"
KEPT = 2000  # lines that were in sight lately
EVENT_COLUMNS = (
    Column("time", 8),
    Column("event", 16),
    Column("round", 5, right=True),
    Column("stage", 9),
    Column("details"),
)
LINE_COLUMNS = (Column("line", 8, right=True, drop=1), Column("text"))
ALARMS = {
    "failed": shown.BAD,
    "warning": shown.WARN,
    "interrupted": shown.WARN,
    "stopped_after_round": shown.WARN,
    "gate": shown.NOTE,
    "guard": shown.NOTE,
}
PLAIN = ("message", "metrics", "counts")  # fields that are understood without their names


class Logs(LazyPage):
    NUMBER, NAME = "8", "Logs"
    FILTER = "words that a line must have, such as: warning"
    ABOUT = (
        "What happened, line by line: the events of the run, and what its inference worker and its trainers wrote. Tab "
        "goes from one to the next. While it follows, the last line stays in sight."
    )
    KEPT_HERE = ("name_at", "following")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "turn(1)", "next log", tooltip="the next log: events, inference, training of each round"),
        Binding("shift+tab", "turn(-1)", "log before", show=False),
        Binding("f", "follow", "follow", tooltip="keep the last line in sight, or hold"),
        Binding("enter", "open", "open", tooltip="the whole line; of an event, each field"),
    ]
    DEFAULT_CSS = "Logs #none { display: none; padding: 1 2; height: auto; }"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.names: list[str] = [EVENTS]
        self.name_at = EVENTS
        self.following = True
        self.words = ""
        self.index = LineIndex(Path())
        self._lines: OrderedDict[int, bytes] = OrderedDict()
        self._version = 0  # of the log that is open: what a thread read for another is dropped
        self._restarts = 0

    def body(self) -> Iterator[Widget]:
        yield Words(id="none")
        yield Grid(EVENT_COLUMNS)

    def on_mount(self) -> None:
        self._open(self.name_at)

    def _open(self, name: str) -> None:
        self.name_at, self.index = name, LineIndex(self.watched.path / name, self.words)
        self._lines, self._version = OrderedDict(), self._version + 1
        grid = self.query_one(Grid)
        grid.cursor = 0
        grid.fill(0, self.row, columns=EVENT_COLUMNS if name == EVENTS else LINE_COLUMNS)
        self.renew()

    def read(self) -> tuple[LineIndex, list[str]]:
        logs = self.watched.path / FOLDER
        names = sorted(f"{FOLDER}/{path.name}" for path in logs.glob("*.log")) if logs.is_dir() else []
        index = self.index
        index.grow()
        return index, [EVENTS, *names]

    def show(self, view: tuple[LineIndex, list[str]]) -> None:
        index, self.names = view
        if index is not self.index:  # another log was opened meanwhile
            self.renew()
            return
        grid = self.query_one(Grid)
        if index.restarts != self._restarts:
            self._restarts, self._lines = index.restarts, OrderedDict()
        if len(index) != grid.count:
            grid.fill(len(index), self.row)
            if self.following:
                grid.put_cursor(len(index) - 1)
        none = self.query_one("#none", Words)
        none.display = not len(index)
        empty = "Nothing was written here so far. Tab goes to the next log."
        none.say(("No line has these words. / and then Esc shows all lines." if self.words else empty, shown.DIM))
        self._title()

    def _title(self) -> None:
        index = self.index
        count = f"{len(index):,} of {index.total:,} lines" if self.words else f"{index.total:,} lines"
        at = self.names.index(self.name_at) + 1 if self.name_at in self.names else 1
        self.title_is(
            (self.watched.name, "bold"),
            (f"  {self.name_at}", shown.SKY),
            (f" ({at} of {len(self.names)})", shown.DIM),
            f"  {count}",
            ("  ▼ following", shown.GOOD) if self.following else ("  held; f follows", shown.DIM),
            (f"  {self.words}", shown.SKY),
        )

    def row(self, at: int) -> list[Text] | None:
        raw = self._lines.get(at)
        if raw is None:
            self.want((self._version, at))
            return None
        if self.name_at == EVENTS:
            return event_cells(parse_event(raw), raw)
        text = raw.decode("utf-8", "replace")
        return [shown.cell(f"{self.index.number(at) + 1:,}", shown.DIM), shown.line((text, style_of(text)))]

    def load(self, wanted: Sequence[tuple[int, int]]) -> None:
        here = [at for version, at in wanted if version == self._version]
        lines = self._lines
        lines.update(zip(here, self.index.lines(here), strict=True))
        while len(lines) > KEPT:
            lines.popitem(last=False)

    def filtered(self, words: str) -> None:
        self.words = words.strip()
        self._open(self.name_at)

    def action_turn(self, by: int) -> None:
        at = self.names.index(self.name_at) if self.name_at in self.names else 0
        self._open(self.names[(at + by) % len(self.names)])

    def action_follow(self) -> None:
        self.following = not self.following
        if self.following:
            self.query_one(Grid).action_ends(1)
        self._title()

    def on_grid_moved(self, message: Grid.Moved) -> None:
        self.following = message.index == message.grid.count - 1
        self._title()

    def on_grid_opened(self, message: Grid.Opened) -> None:
        raw = self._lines.get(message.index)
        if raw is not None:
            self.app.push_screen(WholeLine(raw))

    def action_open(self) -> None:
        self.query_one(Grid).action_open()

    def command(self) -> str:
        if self.name_at == EVENTS:
            return f"selfalign status {self.at.path} --json"
        return f"tail -f {self.at.path}/{self.name_at}"

    def copied(self) -> str:
        raw = self._lines.get(self.query_one(Grid).cursor, b"")
        return raw.decode("utf-8", "replace")


class WholeLine(ModalScreen[None]):
    """A line with all its words; an event with a field on each line."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,enter,q", "close", "close", show=False)]
    DEFAULT_CSS = """
    WholeLine { align: center middle; background: $background 60%; }
    WholeLine > Scroll { width: 90%; height: auto; max-height: 80%; padding: 1 0 1 2; background: $surface; }
    WholeLine Words { height: auto; padding-right: 2; }
    """

    def __init__(self, raw: bytes) -> None:
        super().__init__()
        self.raw = raw

    def compose(self) -> ComposeResult:
        event = parse_event(self.raw)
        words = json.dumps(event, indent=2, ensure_ascii=False) if event else self.raw.decode("utf-8", "replace")
        at = event.get("time") if event else None
        with Scroll():
            yield Words((moment(at, "%Y-%m-%d %H:%M:%S  "), "bold"), ("Esc closes this", shown.DIM))
            yield Words("")
            shows = Words()
            shows.show(shown.block(words))
            yield shows

    def action_close(self) -> None:
        self.dismiss()


def event_cells(event: Mapping[str, Any] | None, raw: bytes) -> list[Text]:
    """An event as a row of the table; a line that is none, as it is."""
    if event is None:
        return [*[shown.cell("")] * 4, shown.cell(raw.decode("utf-8", "replace"), shown.DIM)]
    at, name = event.get("time"), event.get("event")
    style = ALARMS.get(name, "") if isinstance(name, str) else ""
    return [
        shown.cell(moment(at, "%H:%M:%S"), shown.DIM),
        shown.cell(name, style),
        shown.cell("" if event.get("round") is None else event["round"]),
        shown.cell(event.get("stage")),
        shown.cell(said(event), style, limit=400),
    ]


def moment(at: object, form: str) -> str:
    """When an event was, in local time; nothing where it does not say."""
    return time.strftime(form, time.localtime(at)) if isinstance(at, int | float) else ""


def said(event: Mapping[str, Any]) -> str:
    """What else an event says: how far it is, which step of the round it is about, then its other fields."""
    if event.get("event") == "gate":
        return gate_text(event)
    left = {key: value for key, value in event.items() if key not in ("time", "event", "round", "stage", "step")}
    if isinstance(counts := left.get("counts"), Mapping) and "seconds" in counts:
        left.pop("seconds", None)  # told twice
    parts = []
    if isinstance(left.get("total"), int) and isinstance(left.get("done"), int):
        parts.append(f"{left.pop('done'):,}/{left.pop('total'):,} {left.pop('unit', '')}")
    if isinstance(event.get("step"), str):
        parts.append(re.sub(r"^rounds/\d+/", "", event["step"]))
    elif "step" in event:
        total = f"/{left.pop('total'):,}" if isinstance(left.get("total"), int) else ""
        parts.append(f"step {brief(event['step'])}{total}")
    named = [f"{'' if key in PLAIN else f'{worded(key)} '}{brief(value)}" for key, value in left.items()]
    return "  ".join([*parts, *named])


def worded(key: object) -> str:
    """The name of a field in words."""
    return str(key).replace("_", " ")


def brief(value: Any) -> str:
    """A value of an event in few words."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{worded(key)} {brief(inner)}" for key, inner in list(value.items())[:12])
    return one_line(value, 200)


def style_of(line: str) -> str:
    """How a line of a worker stands out; its own words say the same."""
    if any(word in line for word in ("ERROR", "Error:", "Traceback", "CRITICAL", "Fatal ")):
        return shown.BAD
    return shown.WARN if "WARNING" in line or "Warning:" in line else ""
