"""Screen 1: all runs, and how each of them stands."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual import work
from textual.binding import Binding, BindingType
from textual.widget import Widget

from selfalign.records import WinRate
from selfalign.text import one_line
from selfalign.tui import shown
from selfalign.tui.page import STATES, Page, Place, state_cell
from selfalign.tui.reading import Watched
from selfalign.tui.widgets import Column, Grid, Words
from selfalign.units import clock, size, sparkline
from selfalign.words import gate_text, progress_text

RUN_NAME = (12, 40)  # columns for the names of runs: on the narrowest screen, and at most
COLUMNS = (
    Column("run", RUN_NAME[0]),
    Column("state", 13),
    Column("rounds", 6, right=True),
    Column("win vs base", 11, right=True, drop=2),
    Column("curve", 6, drop=4),
    Column("stage", 12, drop=1),
    Column("time left", 9, right=True, drop=3),
    Column("disk", 9, right=True, drop=5),
    Column("last event", 10, right=True, drop=6),
    Column("what happened last", drop=7),
)
MEASURE_EVERY = 30.0  # seconds between two looks at how much room the runs take
NO_RUNS = """\
There are no runs in {folder} yet.

  selfalign run pocket        a small campaign: minutes on a CPU, no key
  selfalign init my-campaign  a campaign file to start from
  selfalign plan FILE         what it would do and cost

A run shows here as soon as it begins.
Runs in another folder:       selfalign tui --runs FOLDER
"""


@dataclass(frozen=True, slots=True)
class RunLine:
    """A run as its line in the table shows it. `share` is how much of the stage in hand is done."""

    path: Path
    name: str
    state: str
    evaluated: int
    rounds: int | None
    win: WinRate | None
    wins: tuple[float | None, ...]
    stage: str
    share: float
    left: float | None
    disk: int | None
    last: float | None
    said: str
    problems: tuple[str, ...]


def line_of(watched: Watched, now: float) -> RunLine:
    """What there is to say of a run that is being read."""
    progress, reports = watched.progress, watched.evaluated()
    wins = [report.win_rates.get("base") for report in reports]
    stage = progress.current if progress.current is not None and not progress.current.finished else None
    state = watched.state
    return RunLine(
        path=watched.path,
        name=watched.name,
        state=state,
        evaluated=len(reports),
        rounds=watched.intended,
        win=wins[-1] if wins else None,
        wins=tuple(win.rate if win else None for win in wins),
        stage=stage.name if stage else "",
        share=stage.fraction if stage else 0.0,
        left=progress.campaign_eta(now) if state == "running" else None,
        disk=watched.disk,
        last=progress.last_time,
        said=said(watched, now),
        problems=tuple(watched.problems.values()),
    )


def said(watched: Watched, now: float) -> str:
    """The one thing to know of a run: why it failed, what it warns of, what it does, what its last gate said."""
    progress = watched.progress
    if progress.failure:
        return progress.failure
    if watched.alive and progress.warnings:
        return f"warning: {progress.warnings[-1]}"
    if watched.alive and progress.current is not None and not progress.current.finished:
        return progress_text(progress.current, now, None)
    if progress.gates:
        return f"round {max(progress.gates)} {gate_text(progress.gates[max(progress.gates)])}"
    return ""


SORTS: dict[str, Callable[[RunLine], Any]] = {
    "last event": lambda one: (-(one.last or 0.0), one.name),
    "name": lambda one: one.name,
    "state": lambda one: (list(STATES).index(one.state) if one.state in STATES else 99, one.name),
    "win rate": lambda one: (-(one.win.rate if one.win else 0.0), one.name),
    "disk": lambda one: (-(one.disk or 0), one.name),
}


class Runs(Grid):
    """The table of runs, in which Space marks."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "screen.mark", "", show=False),
        *(replace(one, key=one.key.replace("space,", "")) for one in Grid.BINDINGS if isinstance(one, Binding)),
    ]


class Campaigns(Page):
    NUMBER, NAME = "1", "Campaigns"
    FILTER = "part of a name or of a state, such as: running"
    ABOUT = (
        "All runs, those that happen and those that ended. Rounds: evaluated, of how many. The win rate is against "
        "the base policy, ± half of its 95% interval; the curve shows its course, lowest to highest.\n\n"
        "● running   ✓ finished   ■ a gate stopped it   ‖ interrupted, or stopped as asked   "
        "◌ alive but silent for long   ✗ dead or failed"
        "\n\nSpace marks two runs (◆), 7 then compares the one that was marked first with the other."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "open", tooltip="open the run"),
        Binding("s", "sort", "sort", tooltip="by another column: last event, name, state, win rate, disk"),
        Binding("space", "mark", "mark", tooltip="mark the run for 7 Compare, or take its mark away"),
    ]
    DEFAULT_CSS = "Campaigns #welcome { padding: 1 2; height: auto; display: none; }"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.lines: list[RunLine] = []
        self.found: list[RunLine] = []
        self.sort = "last event"
        self.words = ""
        self.marked: list[Path] = []
        self._measured = 0.0

    def body(self) -> Iterator[Widget]:
        yield Words(id="welcome")
        yield Runs(COLUMNS)

    def read(self) -> list[RunLine]:
        now, lines = time.time(), []
        for watched in self.reader.library.all():
            with watched.reading():
                lines.append(line_of(watched, now))
        return lines

    def show(self, view: list[RunLine]) -> None:
        self.lines = view
        self._arrange()
        if time.monotonic() - self._measured > MEASURE_EVERY:
            self._measured = time.monotonic()
            self._measure()

    @work(thread=True, group="measure", exclusive=True, exit_on_error=False, description="measure")
    def _measure(self) -> None:
        for watched in self.reader.library.all():
            watched.measure()

    def _arrange(self) -> None:
        before = self.under_cursor()
        kept = [one for one in self.lines if self.words in f"{one.name} {one.state} {state_cell(one.state)[0]}".lower()]
        self.found = sorted(kept, key=SORTS[self.sort])
        grid = self.query_one(Grid)
        paths = [one.path for one in self.found]
        grid.display = bool(self.lines)
        grid.fill(len(self.found), self.row, columns=self._columns())
        if before is not None and before.path in paths:
            grid.put_cursor(paths.index(before.path))
        welcome = self.query_one("#welcome", Words)
        welcome.display = not self.lines
        if not self.lines:
            welcome.show(shown.block(NO_RUNS.format(folder=one_line(self.reader.library.folder, 300))))
        self._title()

    def _columns(self) -> tuple[Column, ...]:
        """The columns, the first as wide as the longest name, so that what happened last has the rest."""
        longest = max((len(one.name) for one in self.lines), default=0) + 2  # with its mark
        least, most = RUN_NAME
        return (Column("run", max(least, min(longest, most, self.app.size.width // 4))), *COLUMNS[1:])

    def _title(self) -> None:
        if not self.lines:
            self.title_is(("no runs yet", shown.DIM))
            return
        running = sum(one.state in ("running", "stalled") for one in self.lines)
        count = f"{len(self.found)} of {len(self.lines)} runs" if self.words else f"{len(self.lines)} runs"
        self.title_is(
            (count if len(self.lines) != 1 or self.words else "1 run", "bold"),
            f"  {running} running" if running else "",
            (f"  sorted by {self.sort}", shown.DIM),
            (f"  in {self.reader.library.folder}", shown.DIM),
        )
        under = self.under_cursor()
        self.trouble(list(under.problems) if under is not None else [])

    def under_cursor(self) -> RunLine | None:
        cursor = self.query_one(Grid).cursor
        return self.found[cursor] if cursor < len(self.found) else None

    def row(self, index: int) -> list[Text]:
        one = self.found[index]
        win = f"{one.win.rate:.2f} ±{(one.win.high - one.win.low) / 2:.2f}" if one.win else "–"
        live = one.state in ("running", "stalled")
        left = "–" if one.left is None else f"~{clock(one.left)}"
        name = f"{'◆ ' if one.path in self.marked else ''}{one.name}{' !' if one.problems else ''}"
        return [
            shown.cell(name, "bold"),
            shown.line(state_cell(one.state)),
            shown.cell(f"{one.evaluated}/{one.rounds or '?'}"),
            shown.cell(win),
            shown.line((sparkline(one.wins[-6:]), shown.SKY)),
            shown.cell(f"{one.stage} {one.share:.0%}" if one.stage else "", "" if live else shown.DIM),
            shown.cell(left),
            shown.cell(size(one.disk) if one.disk is not None else "…"),
            shown.cell(ago(time.time() - one.last) if one.last else "–", shown.DIM),
            shown.cell(one.said, shown.DIM),
        ]

    def filtered(self, words: str) -> None:
        self.words = words.lower().strip()
        self._arrange()

    def action_sort(self) -> None:
        names = list(SORTS)
        self.sort = names[(names.index(self.sort) + 1) % len(names)]
        self._arrange()

    def action_mark(self) -> None:
        """Mark a run or take its mark away; a third one takes the place of the first."""
        one = self.under_cursor()
        if one is None:
            return
        if one.path in self.marked:
            self.marked.remove(one.path)
        else:
            self.marked = [*self.marked[-1:], one.path]
        self.query_one(Grid).refresh()
        if len(self.marked) == 2:
            self.reader.say("7 compares the two marked runs")

    def action_open(self) -> None:
        if (one := self.under_cursor()) is not None:
            self.reader.open_run(one.path)

    def on_grid_opened(self) -> None:
        self.action_open()

    def on_grid_moved(self) -> None:
        self._title()

    def place(self) -> Place:
        one = self.under_cursor()
        return Place(one.path) if one is not None else Place()

    def place_for(self, kind: type[Page]) -> Place:
        """To compare: both marked runs, or the marked one with that under the cursor."""
        place = self.place()
        if kind.NUMBER != "7" or not self.marked:
            return place
        others = [path for path in (*self.marked, place.path) if path != self.marked[0]]
        return Place(self.marked[0], against=Place(others[0])) if others else place

    def command(self) -> str:
        return f"selfalign runs ls --runs {self.reader.library.folder}"

    def copied(self) -> str:
        one = self.under_cursor()
        return str(one.path) if one is not None else ""


def ago(seconds: float) -> str:
    """How long ago something was, roughly."""
    if seconds < 5:
        return "now"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return f"{int(seconds)} s ago"
