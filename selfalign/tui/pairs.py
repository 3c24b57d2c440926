"""Screen 4: the pairs of a campaign, however many; those in sight are read from disk as they come into sight."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
from rich.text import Text
from textual import work
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widget import Widget

from selfalign.tui import shown
from selfalign.tui.page import LazyPage, Place
from selfalign.tui.pair import OnePair
from selfalign.tui.pairindex import FILTER_HELP, SORTS, FilterError, PairIndex, Spot, ordered, selected
from selfalign.tui.reading import UNREADABLE, why
from selfalign.tui.widgets import Column, Grid, Words

COLUMNS = (
    Column("pair", 7),
    Column("margin", 6, right=True),
    Column("p", 4, right=True),
    Column("votes", 6),
    Column("tokens", 9, right=True, drop=3),
    Column("principles", 16, drop=4),
    Column("tags", 10, drop=5),
    Column("prompt"),
    Column("chosen", drop=2),
    Column("rejected", drop=1),
)
NONE = "No pairs here yet. They come when a round's answers are judged; press a for all rounds."
GIVE_WAY, FIRST_PAINT = 0.005, 0.2  # seconds in which the reading leaves the interpreter to the screen
TELL_EVERY = 0.2  # seconds between two words on how far the reading is


class Pairs(LazyPage):
    NUMBER, NAME = "4", "Pairs"
    FILTER = FILTER_HELP
    EVERY = 2.0
    ABOUT = (
        "The preferences that rounds were trained on. p: the judge's probability that the chosen answer is better. "
        "tokens: of the chosen and of the rejected answer.\n"
        "votes: ⇄ the judge changes its mind with the order; −2: two principles prefer the rejected answer.\n\n"
        f"Filters, as many as you like: {FILTER_HELP}\n"
        "disagree: the two orders disagree; split: some principle prefers the rejected answer."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "open"),
        Binding("s", "sort", "sort"),
        Binding("a", "all", "all rounds"),
    ]

    DEFAULT_CSS = "Pairs #none { display: none; padding: 1 2; height: auto; }"

    class Grown(Message):
        """More pairs are there, or the reading ended."""

        def __init__(self, index: PairIndex, trouble: str = "", *, ended: bool = False) -> None:
            super().__init__()
            self.index, self.trouble, self.ended = index, trouble, ended

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.index: PairIndex | None = None
        self.rows = np.zeros(0, dtype=np.int64)  # of the index, those let through in their order
        self.words, self.sort = "", "as made"
        self.everywhere = place.round is None
        self._growing = False
        self._arranged = -1  # pairs there were when the rows were last put in order

    def body(self) -> Iterator[Widget]:
        yield Words(id="none")
        yield Grid(COLUMNS)

    @property
    def settled(self) -> bool:
        return self.ready and self.index is not None and self.index.complete and not (self._growing or self.fetching)

    def read(self) -> tuple[bool, list[int]]:
        """The rounds whose pairs are shown, and whether all were asked for."""
        everywhere, rounds = self.everywhere, self.watched.run.rounds()
        return everywhere, rounds if everywhere else [number for number in rounds if number == self.at.round]

    def show(self, view: tuple[bool, list[int]]) -> None:
        everywhere, rounds = view
        if everywhere != self.everywhere:  # asked for otherwise meanwhile
            self.renew()
            return
        if self.index is None:
            self.index = PairIndex(self.watched.run, rounds)
        self.index.rounds = rounds
        if not self._growing:
            self._growing = True
            self._grow(self.index)
        self._title()

    @work(thread=True, group="grow", exit_on_error=False, description="grow")
    def _grow(self, index: PairIndex) -> None:
        told, trouble = 0.0, ""
        try:
            for part in index.grow():
                if time.monotonic() - told > TELL_EVERY:
                    told = time.monotonic()
                    self.post_message(self.Grown(index))
                time.sleep(GIVE_WAY if part is not index.parts[0] else FIRST_PAINT)
        except UNREADABLE as error:
            trouble = why(error)
        self.post_message(self.Grown(index, trouble, ended=True))

    def on_pairs_grown(self, message: Grown) -> None:
        self._growing = self._growing and not message.ended
        if message.index is not self.index:
            return
        found = [message.trouble] * bool(message.trouble) + list(message.index.problems.values())
        self.trouble(found)
        if len(message.index) != self._arranged or message.ended:
            self._arrange()

    def _arrange(self) -> None:
        """Put the rows in order again; the cursor stays on its pair where that is still there."""
        index, grid = self.index, self.query_one(Grid)
        if index is None:
            return
        at = self.rows[grid.cursor] if grid.cursor < len(self.rows) else None
        try:
            rows = ordered(index, selected(index, self.words), self.sort)
        except FilterError as error:
            self.trouble([str(error)])
            return
        if self._arranged != len(index) or not np.array_equal(rows, self.rows):
            self.rows, self._arranged = rows, len(index)
            grid.fill(len(rows), self.row)
            where = np.flatnonzero(rows == at) if at is not None else ()
            if len(where) and where[0] != grid.cursor:
                grid.put_cursor(int(where[0]))
        none = self.query_one("#none", Words)
        none.display = index.complete and not len(index)
        if none.display:
            none.say((NONE, shown.DIM))
        self._title()

    def _title(self) -> None:
        index = self.index
        if index is None:
            return
        where = "all rounds" if self.everywhere else f"round {self.at.round}"
        count = f"{len(self.rows):,} of {len(index):,} pairs" if self.words else f"{len(index):,} pairs"
        self.title_is(
            (self.watched.name, "bold"),
            f"  {where}  ",
            (count, "bold"),
            "" if index.complete else "  reading …",
            (f"  {self.sort}", shown.DIM),
            (f"  {self.words}", shown.SKY),
        )

    def row(self, at: int) -> list[Text]:
        index = self.index
        assert index is not None
        row = int(self.rows[at])
        spot, facts = index.spot(row), index.facts(row)
        found = index.snippets(spot)
        if found is None:
            self.want(spot)
        texts = [shown.cell(text or "(empty)") for text in found] if found else [shown.cell("…", shown.DIM)] * 3
        against = f"−{facts['against']}" if facts["against"] else ""
        return [
            shown.cell(spot.name),
            shown.cell(f"{facts['margin']:.2f}"),
            shown.cell(f"{facts['p']:.2f}"),
            shown.cell(f"{'⇄ ' if facts['orders'] else ''}{against}", shown.WARN),
            shown.cell("/".join("–" if facts[name] < 0 else str(facts[name]) for name in ("chosen", "rejected"))),
            shown.cell(", ".join(sorted(facts["principles"])), shown.DIM),
            shown.cell(", ".join(sorted(facts["tags"])), shown.DIM),
            *texts,
        ]

    def load(self, wanted: Sequence[Spot]) -> None:
        if self.index is not None:
            self.index.load(wanted)

    def filtered(self, words: str) -> None:
        self.words = words.strip()
        self.trouble([])
        self._arrange()

    def action_sort(self) -> None:
        names = list(SORTS)
        self.sort = names[(names.index(self.sort) + 1) % len(names)]
        self._arrange()
        self.query_one(Grid).put_cursor(0)

    def action_all(self) -> None:
        """Between the pairs of one round and those of all."""
        if self.at.round is None:
            self.reader.say("these are the pairs of all rounds; open a round first to see its own")
            return
        self.everywhere, self.index, self._arranged = not self.everywhere, None, -1
        self.rows = np.zeros(0, dtype=np.int64)
        self.query_one(Grid).fill(0, self.row)
        self.renew()

    def spot(self, at: int) -> Spot | None:
        """The pair on a row of the table."""
        return self.index.spot(int(self.rows[at])) if self.index is not None and 0 <= at < len(self.rows) else None

    def action_open(self) -> None:
        grid = self.query_one(Grid)
        if self.index is not None and self.spot(grid.cursor) is not None:
            self.app.push_screen(OnePair(self.at, self.index, self.spot, grid.cursor, grid.put_cursor))

    def on_grid_opened(self) -> None:
        self.action_open()

    def command(self) -> str:
        spot = self.spot(self.query_one(Grid).cursor)
        rounds = "" if self.everywhere else f" --round {self.at.round}"
        if spot is None:
            return f"selfalign pairs ls {self.at.path}{rounds}"
        return f"selfalign pairs show {self.at.path} {spot.name}"

    def copied(self) -> str:
        spot = self.spot(self.query_one(Grid).cursor)
        return spot.name if spot else ""
