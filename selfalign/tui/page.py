"""What every screen is: a head, a body that is read in a thread, and a line of keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.events import Resize
from textual.message import Message
from textual.screen import Screen
from textual.widget import Widget
from textual.worker import Worker, WorkerState

from selfalign.tui import shown
from selfalign.tui.reading import UNREADABLE, Watched, why
from selfalign.tui.shown import Part
from selfalign.tui.widgets import FilterLine, Grid, Scroll, Words

if TYPE_CHECKING:
    from selfalign.tui.app import Reader

ROOMY = 100  # columns of a screen on which the names of the screens have room around them
LEAST = (60, 15)  # columns and lines; on less nothing can be read

STATES: dict[str, tuple[str, str, str]] = {  # by state: a sign, a word for narrow cells, a style
    "running": ("●", "running", shown.GOOD),
    "done": ("✓", "finished", shown.NOTE),
    "stopped by a gate": ("■", "gate stop", shown.WARN),
    "interrupted": ("‖", "interrupted", shown.WARN),
    "stopped as asked": ("‖", "stopped", shown.WARN),
    "stalled": ("◌", "stalled", shown.WARN),
    "dead": ("✗", "dead", shown.BAD),
    "failed": ("✗", "failed", shown.BAD),
    "deleted": ("✗", "deleted", shown.BAD),
    "not started": ("○", "not started", shown.DIM),
}


def state_cell(state: str) -> tuple[str, str]:
    """A state as a sign and a word, with its style."""
    sign, word, style = STATES.get(state, ("?", state, shown.DIM))
    return f"{sign} {word}", style


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the runs a screen looks: at all of them, at one, or at one round; and what it compares that with."""

    path: Path | None = None
    round: int | None = None
    against: Place | None = None


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why something could not be read."""

    message: str


@dataclass(frozen=True, slots=True)
class Kept:
    """How a screen was left."""

    at: Place
    typed: str
    cursor: int
    rest: Mapping[str, Any]


class Page(Screen[None]):
    """A screen of the reader. `read` runs in a thread and returns what `show` puts on the screen."""

    NUMBER: ClassVar[str] = ""
    NAME: ClassVar[str] = ""
    ABOUT: ClassVar[str] = ""
    FILTER: ClassVar[str] = ""  # what can be typed after /; empty where there is nothing to filter
    KEPT: ClassVar[tuple[str, ...]] = ()  # attributes that are as they were left, as the filter is, in the same run
    KEPT_HERE: ClassVar[tuple[str, ...]] = ()  # and, as the cursor is, at the same place of it
    EVERY: ClassVar[float] = 1.0  # seconds between two looks at the disk
    LAST_KEYS: ClassVar[tuple[tuple[str, str], ...]] = (("?", "help"), ("q", "quit"))  # always named in the last line
    WRITES: ClassVar[frozenset[str]] = frozenset()  # the keys of BINDINGS that a read-only reader does not offer
    BINDINGS: ClassVar[list[BindingType]] = []

    DEFAULT_CSS = """
    Page { layout: vertical; layers: screen above; overflow: hidden; }
    Page > #small { layer: above; display: none; width: 100%; height: 100%; background: $background; padding: 0 1; }
    Page > #tabs, Page > #keys { height: 1; background: $surface; padding: 0 1; }
    Page > #keys { dock: bottom; padding: 0 2; }
    Page > #title { height: 1; padding: 0 2; text-wrap: nowrap; text-overflow: ellipsis; }
    Page > #trouble { height: auto; max-height: 3; padding: 0 2; display: none; }
    Page > #body { height: 1fr; }
    """

    class Read(Message):
        """What a thread has read."""

        def __init__(self, view: Any, gone: str = "") -> None:
            super().__init__()
            self.view, self.gone = view, gone

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.at = place
        self.ready = False  # whether something was shown
        self._busy = False
        self._gone, self._troubles = "", list[str]()
        self._typed, self._cursor = "", 0  # to begin with

    @property
    def reader(self) -> Reader:
        return cast("Reader", self.app)

    @property
    def watched(self) -> Watched:
        assert self.at.path is not None
        return self.reader.library.open(self.at.path)

    # To be said by each screen

    def body(self) -> Iterator[Widget]:
        """The widgets between head and keys."""
        raise NotImplementedError

    def read(self) -> Any:
        """Read from disk, in a thread; touch no widget."""
        raise NotImplementedError

    def show(self, view: Any) -> None:
        """Put on the screen what was read."""
        raise NotImplementedError

    def place(self) -> Place:
        """Where the screens that are opened from here should look."""
        return self.at

    def place_for(self, kind: type[Page]) -> Place:
        """Where one of these screens should look."""
        return self.place()

    def command(self) -> str:
        """The command line that tells the same."""
        raise NotImplementedError

    def copied(self) -> str:
        """What `y` copies."""
        return str(self.at.path or "")

    def filtered(self, words: str) -> None:
        """Show only what these words let through."""

    @property
    def settled(self) -> bool:
        """Whether everything that is in sight was read."""
        return self.ready

    # Coming back

    def as_left(self) -> Kept:
        """What should be as it is when one comes back."""
        main, typed = self.main(), self.query_one(FilterLine).value
        cursor = main.cursor if isinstance(main, Grid) else 0
        return Kept(self.at, typed, cursor, {name: getattr(self, name) for name in (*self.KEPT, *self.KEPT_HERE)})

    def take_up(self, kept: Kept) -> None:
        """Begin as such a screen was left in this run: all as it was, or in another round the filter and KEPT."""
        if kept.at.path != self.at.path:
            return
        here = self.at.round in (None, kept.at.round)
        self.at, self._cursor = (kept.at, kept.cursor) if here else (self.at, 0)
        self._typed = kept.typed
        for name in (*self.KEPT, *(self.KEPT_HERE if here else ())):
            setattr(self, name, kept.rest[name])

    def _restore(self) -> None:
        main = self.main()
        if isinstance(main, Grid) and self._cursor:
            main.come_back(self._cursor)
        if self._typed:
            self.query_one(FilterLine).begin(self._typed)
            self.filtered(self._typed)

    # The frame

    def compose(self) -> ComposeResult:
        yield Words(id="tabs")
        yield Words(id="title")
        yield Words(id="trouble")
        with Vertical(id="body"):
            yield from self.body()
        yield FilterLine(self.FILTER, id="filter")
        yield Words(id="keys")
        yield Words(id="small")

    def on_mount(self) -> None:
        self._show_frame()
        self._restore()
        self.set_interval(self.EVERY, self.renew)
        self.renew()
        if (main := self.main()) is not None:
            main.focus()

    def on_screen_resume(self) -> None:
        self._show_frame()
        self.renew()

    def on_resize(self, event: Resize) -> None:
        self._show_frame()

    def renew(self) -> None:
        """Read again, unless a thread is still at it or the screen is not in sight."""
        if self.is_current and not self._busy:
            self._busy = True
            self._read()

    @work(thread=True, group="read", exit_on_error=False, description="read")
    def _read(self) -> None:
        try:
            view = self.read()
        except UNREADABLE as error:
            view = Trouble(why(error))
        self.post_message(self.Read(view, self.watched.gone if self.at.path is not None else ""))

    def on_page_read(self, message: Page.Read) -> None:
        self._busy, self._gone = False, message.gone
        if isinstance(message.view, Trouble):
            self.trouble([message.view.message])
        else:
            self.show(message.view)
        self._say_troubles()
        self.ready = True

    def on_worker_state_changed(self, message: Worker.StateChanged) -> None:
        """A thread ended by an error that nobody foresaw: say so, and let the screen go on."""
        error = message.worker.error
        if message.state is WorkerState.ERROR and isinstance(error, Exception):
            self.failed(message.worker.group, f"could not be read: {why(error)}")

    def failed(self, group: str, said: str) -> None:
        """What a group of threads was at failed."""
        if group == "read":
            self.post_message(self.Read(Trouble(said)))
        else:
            self.trouble([said])

    def title_is(self, *parts: Part) -> None:
        self.query_one("#title", Words).say(*parts)

    def trouble(self, messages: Sequence[str]) -> None:
        """Say what could not be read; nothing, where all could."""
        self._troubles = list(messages)
        self._say_troubles()

    def _say_troubles(self) -> None:
        """Of a run that is gone only that it is: no command mends the rest."""
        messages = [self._gone] if self._gone else self._troubles[:3]
        words = self.query_one("#trouble", Words)
        words.display = bool(messages)
        words.show(shown.lines(shown.line((f"! {message}", shown.WARN)) for message in messages))

    def main(self) -> Widget | None:
        """What has the keys once a filter was typed."""
        return next(iter([*self.query(Grid), *self.query(Scroll)]), None)

    def action_filter(self) -> None:
        if not self.FILTER:
            self.reader.say("nothing to filter on this screen")
            return
        line = self.query_one(FilterLine)
        line.display = True
        line.focus()

    def on_input_changed(self, message: FilterLine.Changed) -> None:
        message.stop()
        self.filtered(message.value)

    def on_filter_line_left(self) -> None:
        if (main := self.main()) is not None:
            main.focus()

    def own_keys(self) -> list[Binding]:
        """The keys of this screen alone, but for those that write where nothing may be written."""
        hidden = self.WRITES if self.reader.read_only else ()
        return [one for one in self.BINDINGS if isinstance(one, Binding) and one.key not in hidden]

    def all_keys(self) -> list[Binding]:
        """The keys of this screen: its own, then those of its table or its pager."""
        main = self.main()
        return self.own_keys() + [
            one for one in (main.BINDINGS if main is not None else ()) if isinstance(one, Binding)
        ]

    def _show_frame(self) -> None:
        """The names of the screens and the keys, as there is room; on too small a screen nothing but that it is."""
        width, height = self.app.size
        self.query_one("#tabs", Words).say(*self._tabs(width))
        self.show_keys()
        small = self.query_one("#small", Words)
        small.display = width < LEAST[0] or height < LEAST[1]
        small.show(shown.block(f"Too small: {width}x{height}.\nThis needs {LEAST[0]}x{LEAST[1]}."))

    def named_keys(self) -> list[tuple[str, str]]:
        """The keys that the last line names, the most needed first."""
        own = [(key_name(one.key), one.description) for one in self.own_keys() if one.show]
        return [*own, *[("/", "filter")] * bool(self.FILTER), ("c", "command")]

    def show_keys(self) -> None:
        """Name the keys in the last line, as many as there is room for; help tells of all of them."""
        keys, room = self.named_keys(), self.app.size.width - 2
        while keys and sum(len(f"{key} {what}  ") for key, what in (*keys, *self.LAST_KEYS)) > room:
            keys.pop()
        said = [part for key, what in (*keys, *self.LAST_KEYS) for part in ((key, f"bold {shown.SKY}"), f" {what}  ")]
        self.query_one("#keys", Words).say(*said)

    def _tabs(self, width: int) -> Iterator[Part]:
        pages, room = self.reader.pages(), " " if width >= ROOMY else ""
        fits = sum(len(f"{room}{page.NUMBER} {page.NAME}{room} ") for page in pages) <= width
        for page in pages:
            here = page.NUMBER == self.NUMBER
            name = f"{page.NUMBER} {page.NAME}" if fits or here else page.NUMBER
            yield (f"{room}{name}{room}", "bold reverse" if here else "")
            yield " "


class LazyPage(Page):
    """A screen with a table whose rows come from disk when they come into sight.

    `row` calls `want` for what it lacks; `load` reads it in a thread, and the table is drawn again.
    """

    class Loaded(Message):
        """What was wanted is there, or why it is not."""

        def __init__(self, trouble: str = "") -> None:
            super().__init__()
            self.trouble = trouble

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.fetching = False
        self._wanted: dict[Any, None] = {}

    def load(self, wanted: Sequence[Any]) -> None:
        """Read what rows lack, in a thread."""
        raise NotImplementedError

    def want(self, what: Any) -> None:
        self._wanted[what] = None
        self.query_one(Grid).incomplete = True
        if not self.fetching:
            self.fetching = True
            self.call_later(self._load_wanted)

    def _load_wanted(self) -> None:
        wanted, self._wanted = list(self._wanted), {}
        self._load(wanted)

    @work(thread=True, group="load", exit_on_error=False, description="load")
    def _load(self, wanted: Sequence[Any]) -> None:
        trouble = ""
        try:
            self.load(wanted)
        except UNREADABLE as error:
            trouble = why(error)
        self.post_message(self.Loaded(trouble))

    def failed(self, group: str, said: str) -> None:
        if group == "load":
            self.post_message(self.Loaded(said))
        else:
            super().failed(group, said)

    def on_lazy_page_loaded(self, message: LazyPage.Loaded) -> None:
        self.fetching = False
        if message.trouble:
            self.trouble([message.trouble])
        else:
            self.query_one(Grid).complete()


def key_name(key: str) -> str:
    """A key as it is printed on the keyboard."""
    names = {
        "enter": "Enter",
        "left_square_bracket": "[",
        "right_square_bracket": "]",
        "left_curly_bracket": "{",
        "right_curly_bracket": "}",
        "left": "←",
        "right": "→",
        "tab": "Tab",
        "escape": "Esc",
        "space": "Space",
        "question_mark": "?",
        "pagedown": "PgDn",
        "pageup": "PgUp",
        "down": "↓",
        "up": "↑",
        "home": "Home",
        "end": "End",
    }
    return "/".join(names.get(one, spelled(one)) for one in key.split(",")[:2])


def spelled(key: str) -> str:
    """Keys with Ctrl or Shift, and those of functions, with capitals: Ctrl+S, F8."""
    return "+".join(part.capitalize() for part in key.split("+")) if "+" in key or key[1:].isdigit() else key
