"""The reader itself: which screens there are, how one gets from one to another, and the keys that hold everywhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.command import CommandPalette, DiscoveryHit, Hit, Hits, Provider
from textual.theme import Theme

from selfalign.text import clean, one_line
from selfalign.tui import shown
from selfalign.tui.actions import Action, actions
from selfalign.tui.asking import Confirm
from selfalign.tui.campaign import Campaign
from selfalign.tui.campaigns import Campaigns
from selfalign.tui.compare.screen import Compare
from selfalign.tui.constitution.bench import Bench
from selfalign.tui.constitution.screen import Constitution
from selfalign.tui.help import Help
from selfalign.tui.label.screen import Labelling
from selfalign.tui.logs.screen import Logs
from selfalign.tui.page import Kept, Page, Place
from selfalign.tui.pairs.screen import Pairs
from selfalign.tui.reading import Library
from selfalign.tui.round import Round

PAGES: tuple[type[Page], ...] = (Campaigns, Campaign, Round, Pairs, Constitution, Labelling, Compare, Logs)

THEME = Theme(
    name="selfalign",
    primary=shown.SKY,
    secondary=shown.PURPLE,
    accent=shown.ORANGE,
    warning=shown.ORANGE,
    error=shown.VERMILION,
    success=shown.GREEN,
    foreground="#e6e6e6",
    background="#101216",
    surface="#1c2027",
    panel="#1c2027",
    dark=True,
)


class Places(Provider):
    """The palette: every screen and run, the rounds of the run in sight and what can be done to it. Names are shown as
    they are."""

    def _all(self) -> Iterator[tuple[str, Callable[[], None]]]:
        yield from self.screen.app.places() if isinstance(self.screen.app, Reader) else ()

    async def discover(self) -> Hits:
        for name, go in self._all():
            yield DiscoveryHit(shown.line(name), go, text=name)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for name, go in self._all():
            if (score := matcher.match(name)) > 0:
                yield Hit(score, shown.line(name), go, text=name)


class Reader(App[None]):
    """Shows the runs of a folder. It hosts no work; with `read_only` it also offers nothing that writes."""

    TITLE = "selfalign"
    COMMANDS: ClassVar[set[type[Provider]]] = {Places}  # type: ignore[assignment]
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(number, f"go('{number}')", show=False) for number in "12345678"),
        Binding("question_mark", "help", "help", show=False),
        Binding("escape", "back", "back", show=False),
        Binding("q", "quit", "quit", show=False),
        Binding("colon", "command_palette", "palette", show=False),
        Binding("slash", "filter", "filter", show=False),
        Binding("y", "copy", "copy", show=False),
        Binding("c", "copy_command", "copy the command", show=False),
        Binding("r", "renew", "read again", show=False),
    ]
    CSS = """
    Page { background: $background; color: $foreground; }
    ModalScreen:nocolor > * { border: solid $foreground; }
    Input:nocolor > .input--cursor { text-style: reverse; }
    CommandPalette OptionList > .option-list--option-highlighted { text-style: bold underline; }
    CommandPalette SearchIcon { display: none; }
    CommandPalette > Vertical { margin-top: 2; }
    """

    def __init__(self, library: Library, start: Place = Place(), *, read_only: bool = False) -> None:  # noqa: B008
        super().__init__(ansi_color=True if "NO_COLOR" in os.environ else None)  # else it would be shades of grey
        self.library, self.read_only = library, read_only
        self.kept: dict[type[Page], Kept] = {}  # how the last screen of each kind was left
        self.bench = Bench(resumes=not read_only)
        self._start = start

    def on_mount(self) -> None:
        self.register_theme(THEME)
        self.theme = THEME.name
        self.push_screen(Campaigns(Place()))
        if self._start.path is not None:
            self.open(Campaign, self._start)

    def pages(self) -> tuple[type[Page], ...]:
        return PAGES

    def open(self, kind: type[Page], place: Place) -> None:
        """Go to a screen: back to it where it stands below and looks at the same place, else to a new one."""
        stack = [screen for screen in self.screen_stack if isinstance(screen, kind)]
        if stack:
            same = stack[-1].at == place or kind is Campaigns
            while self.screen is not stack[-1]:
                self._leave()
            if same:
                return
            self._leave()
        page = kind(place)
        if kind.FILTER and kind in self.kept:  # there are rows to come back to
            page.take_up(self.kept[kind])
        self.push_screen(page)

    def _leave(self) -> None:
        """Leave the screen in sight, so that it is found as it was."""
        if isinstance(self.screen, Page):
            self.kept[type(self.screen)] = self.screen.as_left()
        self.pop_screen()

    def action_go(self, number: str) -> None:
        here = self.screen
        kind = next((page for page in PAGES if number == page.NUMBER), None)
        if not isinstance(here, Page) or kind is None or type(here) is kind:
            return
        place = here.place_for(kind)
        if kind is not Campaigns and place.path is None:
            self.say("no run to look at yet")
            return
        self.open(kind, place)

    def action_back(self) -> None:
        here = self.screen
        if isinstance(here, Page) and isinstance(here, Campaigns):
            self.say("this is the first screen; q quits, and no run stops with it")
        else:
            self._leave()

    async def action_quit(self) -> None:
        self.leave()

    def leave(self) -> None:
        """Quit, once it is sure that nothing typed is lost by it."""
        if unsaved := self.bench.unsaved():
            files = shown.lines(shown.line(str(path)) for path in unsaved)
            self.push_screen(Confirm("Quit without saving what was typed?", files), self._quit)
        else:
            self.exit()

    def _quit(self, sure: bool | None) -> None:
        if sure:
            for path in self.bench.unsaved():
                self.bench.drop(path)
            self.exit()

    def on_unmount(self) -> None:
        self.bench.close()

    def action_help_quit(self) -> None:
        how = "" if self.read_only else ": and then stop, or "
        self.say(f"q quits; runs go on without being watched. To stop one: {how}selfalign stop RUN")

    def action_help(self) -> None:
        if isinstance(self.screen, Page):
            self.push_screen(Help(self.screen))

    def action_filter(self) -> None:
        if isinstance(self.screen, Page):
            self.screen.action_filter()

    def action_renew(self) -> None:
        if isinstance(self.screen, Page):
            self.screen.renew()

    def action_copy(self) -> None:
        if isinstance(self.screen, Page):
            self.copy(self.screen.copied())

    def action_copy_command(self) -> None:
        if isinstance(self.screen, Page):
            self.copy(self.screen.command())

    def copy(self, words: str) -> None:
        """Put words on the clipboard of the terminal, where it has one."""
        self.copy_to_clipboard(clean(words))
        self.say(f"copied: {one_line(words, 120)}")

    def say(self, message: str) -> None:
        """A word in the corner, for a moment."""
        self.notify(clean(message), markup=False, timeout=4)

    def places(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Where the palette leads."""
        here = self.screen_stack[-1]
        if isinstance(here, CommandPalette):
            here = self.screen_stack[-2]
        for page in PAGES:
            yield f"{page.NUMBER} {page.NAME}", lambda number=page.NUMBER: self.action_go(number)
        for watched in self.library.known():
            yield f"open {one_line(watched.name, 80)}", lambda path=watched.path: self.open_run(path)
        if isinstance(here, Page):
            yield from self._rounds(here.place())
            for name, do in actions(self, here.place()):
                yield name, lambda do=do: self._act(do)
            yield "copy the command", lambda: self.copy(here.command())
        yield "quit", self.leave

    def _rounds(self, place: Place) -> Iterator[tuple[str, Callable[[], None]]]:
        """To each round of the run that is looked at."""
        if place.path is None:
            return
        for number in self.library.open(place.path).rounds():
            yield f"go to round {number}", lambda number=number: self.open(Round, Place(place.path, number))

    def _act(self, do: Action) -> None:
        """Carry out an action: in a worker, as it asks first and waits for the answer."""
        self.run_worker(do(), group="action")

    def open_run(self, path: Path) -> None:
        """Show a campaign."""
        self.open(Campaign, Place(path))
