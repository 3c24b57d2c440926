"""Screen 4: what rounds were trained on, however much; what is in sight is read from disk as it comes into sight."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
from rich.text import Text
from textual import work
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widget import Widget

from selfalign.stages.examples import Kind, held
from selfalign.tui import shown
from selfalign.tui.page import Kept, LazyPage, Place
from selfalign.tui.pairs.filter import (
    FILTER_HELP,
    SORTS,
    FilterError,
    Test,
    needles,
    ordered,
    parse,
    selected,
)
from selfalign.tui.pairs.index import Listing, PairIndex, Spot, Texts
from selfalign.tui.pairs.pair import OnePair
from selfalign.tui.reading import UNREADABLE, why
from selfalign.tui.widgets import Column, Grid, Words

BOTH = (
    Column("votes", 6),
    Column("tokens", 9, right=True, drop=3),
    Column("principles", 16, drop=4),
    Column("tags", 10, drop=5),
)
COLUMNS: Mapping[Listing, tuple[Column, ...]] = {
    "pairs": (
        Column("pair", 7),
        Column("margin", 6, right=True),
        Column("p", 4, right=True),
        *BOTH,
        Column("prompt"),
        Column("chosen", drop=2),
        Column("rejected", drop=1),
    ),
    "rankings": (
        Column("ranking", 7),
        Column("answers", 7, right=True),
        Column("span", 5, right=True),
        Column("good/bad", 8, right=True),
        *BOTH,
        Column("prompt"),
        Column("best", drop=2),
        Column("worst", drop=1),
    ),
    "demonstrations": (
        Column("demo", 7),
        Column("tokens", 9, right=True),
        Column("from", 12),
        Column("tags", 10, drop=5),
        Column("prompt"),
        Column("answer"),
    ),
    "left out": (
        Column("nr", 7),
        Column("answers", 7, right=True),
        Column("reason", 18),
        Column("tags", 10, drop=5),
        Column("prompt"),
    ),
}


@dataclass(frozen=True, slots=True)
class Listed:
    """A row: where it lies, its numbers, and its texts once they were read."""

    spot: Spot
    facts: Mapping[str, Any]
    texts: Texts | None

    def text(self, name: str) -> Text:
        if self.texts is None:
            return shown.cell("…", shown.DIM)
        return shown.cell(getattr(self.texts, name) or "(empty)")

    def names(self, name: str) -> Text:
        return shown.cell(", ".join(sorted(self.facts[name])), shown.DIM)

    def votes(self) -> Text:
        said = ["⇄"] * self.facts["orders"] + [f"−{self.facts['against']}"] * bool(self.facts["against"])
        return shown.cell(" ".join([*said, *(["?"] * bool(self.facts["invalid"]))]), shown.WARN)

    def tokens(self) -> Text:
        found = [self.facts["chosen"], *([self.facts["rejected"]] if self.facts["answers"] > 1 else [])]
        return shown.cell("/".join("–" if one < 0 else str(one) for one in found))

    def labels(self) -> Text:
        good, answers = self.facts["good"], self.facts["answers"]
        return shown.cell("–" if good < 0 else f"{good}/{answers - good}")


CELLS: Mapping[str, Callable[[Listed], Text]] = {
    **{name: lambda row: shown.cell(row.spot.name) for name in ("pair", "ranking", "demo", "nr")},
    "margin": lambda row: shown.cell(f"{row.facts['margin']:.2f}"),
    "span": lambda row: shown.cell(f"{row.facts['margin']:.2f}"),
    "p": lambda row: shown.cell(f"{row.facts['p']:.2f}"),
    "answers": lambda row: shown.cell(row.facts["answers"]),
    "good/bad": Listed.labels,
    "votes": Listed.votes,
    "tokens": Listed.tokens,
    "principles": lambda row: row.names("principles"),
    "tags": lambda row: row.names("tags"),
    "from": lambda row: row.names("labels"),
    "reason": lambda row: row.names("labels"),
    "prompt": lambda row: row.text("prompt"),
    **{name: lambda row: row.text("first") for name in ("chosen", "best", "answer")},
    **{name: lambda row: row.text("last") for name in ("rejected", "worst")},
}
NONE = "No {kind} here yet. They come when a round's answers are judged."
NOTHING_LEFT_OUT = "Nothing was left out here: every prompt of a finished round has an example. o goes back."
GIVE_WAY, FIRST_PAINT = 0.005, 0.2  # seconds in which the reading leaves the interpreter to the screen
TELL_EVERY = 0.2  # seconds between two words on how far the reading is
STILL = 0.25  # seconds without another key until texts are searched


class Asked(NamedTuple):
    """What the screen is to show: `wanted` is the kind that was asked for, `kind` the one there is; see Pairs."""

    everywhere: bool
    wanted: Listing | None
    kind: Listing
    rounds: Sequence[int]
    kinds: Mapping[Kind, Sequence[int]]


@dataclass
class Search:
    """A search for texts: how much of them was read, and whether it is over or was given up."""

    needles: Sequence[str]
    share: float = 0.0
    ended: bool = False


class Pairs(LazyPage):
    NUMBER, NAME = "4", "Pairs"
    FILTER = FILTER_HELP
    EVERY = 2.0
    ABOUT = (
        "What rounds were trained on: pairs, rankings or demonstrations (t goes from kind to kind), and the prompts "
        "that were left out and why (o). p: the judge's probability that the chosen answer is better. span: from the "
        "best score to the worst. tokens: of the chosen and of the rejected answer.\n"
        "votes: ⇄ the judge changes its mind with the order; −2: two principles prefer the rejected answer; ? some "
        "verdict is invalid.\n\n"
        f"Filters, as many as you like: {FILTER_HELP}\n"
        "disagree: the two orders disagree; split: some principle prefers the rejected answer. Other words are looked "
        "for in prompts and answers. Also: rejected<50 answers>2 good=0 round=1 reason:tie from:gold; -word is not."
    )
    KEPT, KEPT_HERE = ("sort",), ("everywhere", "kind", "index")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "open"),
        Binding("s", "sort", "sort"),
        Binding("a", "all", "rounds"),
        Binding("o", "left_out", "left out"),
        Binding("t", "kind", "kind", show=False),
    ]

    DEFAULT_CSS = "Pairs #none { display: none; padding: 1 2; height: auto; }"

    class Grown(Message):
        """More pairs are there, or the reading ended."""

        def __init__(self, index: PairIndex, trouble: str = "", *, ended: bool = False) -> None:
            super().__init__()
            self.index, self.trouble, self.ended = index, trouble, ended

    class Searched(Message):
        """More texts were searched, or all, or why they could not be."""

        def __init__(self, search: Search, trouble: str = "") -> None:
            super().__init__()
            self.search, self.trouble = search, trouble

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.index: PairIndex | None = None
        self.rows = np.zeros(0, dtype=np.int64)  # of the index, those let through in their order
        self.words, self.tests, self.sort = "", list[Test](), "as made"
        self.kind: Listing | None = None  # None: of the first kind that there is
        self.everywhere = place.round is None
        self.kinds: Mapping[Kind, Sequence[int]] = {}
        self._growing = False
        self._arranged = -1  # examples there were when the rows were last put in order
        self._fresh = True  # until all that there was at first has been read
        self._search: Search | None = None
        self._refused, self._problems = "", list[str]()

    def body(self) -> Iterator[Widget]:
        yield Grid(COLUMNS["pairs"])
        yield Words(id="none")

    @property
    def settled(self) -> bool:
        busy = self._growing or self.fetching or self._search is not None
        return self.ready and self.index is not None and self.index.complete and not busy

    def read(self) -> Asked:
        """The rounds whose examples are shown, and what was asked for meanwhile."""
        everywhere, kind, rounds = self.everywhere, self.kind, self.watched.run.rounds()
        within = rounds if everywhere else [number for number in rounds if number == self.at.round]
        kinds = held(self.watched.run, within)
        return Asked(everywhere, kind, kind or next(iter(kinds), "pairs"), within, kinds)

    def show(self, view: Asked) -> None:
        if (view.everywhere, view.wanted) != (self.everywhere, self.kind):  # asked for otherwise meanwhile
            self.renew()
            return
        self.kinds = view.kinds
        if self.index is None or self.index.kind != view.kind:
            self._begin(PairIndex(self.watched.run, view.rounds, view.kind))
        assert self.index is not None
        self.index.rounds = view.rounds
        if not self._growing:
            self._growing = True
            self._grow(self.index)
        self._title()

    def _begin(self, index: PairIndex | None) -> None:
        """Show another list from the start."""
        self._stop_search()
        self.index, self._arranged, self._growing, self._fresh = index, -1, False, True
        self.rows = np.zeros(0, dtype=np.int64)
        self.query_one("#none").display = False
        self.query_one(Grid).styles.height = "1fr"
        self.query_one(Grid).fill(0, self.row, columns=COLUMNS[index.kind] if index is not None else None)

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
        if message.index is not self.index:
            return
        self._growing = self._growing and not message.ended
        found = [message.trouble] * bool(message.trouble) + list(message.index.problems.values())
        self._tell(problems=found)
        if len(message.index) != self._arranged or message.ended:
            self._arrange()
            self._fresh = self._fresh and not message.ended
            self._search_texts(at_once=True)

    def _tell(self, *, refused: str | None = None, problems: Sequence[str] | None = None) -> None:
        """Say why the filter is refused and what could not be read; what is not given is as it was."""
        self._refused = self._refused if refused is None else refused
        self._problems = self._problems if problems is None else list(problems)
        self.trouble([self._refused] * bool(self._refused) + self._problems)

    def _arrange(self) -> None:
        """Put the rows in order again; the cursor stays on its example where that is still there.

        While they are read for the first time, one that was not moved yet stays on the first row.
        """
        index, grid = self.index, self.query_one(Grid)
        if index is None:
            return
        moved = grid.cursor > 0 or not self._fresh
        at = self.rows[grid.cursor] if moved and grid.cursor < len(self.rows) else None
        try:
            rows = ordered(index, selected(index, self.tests), self.sort)
        except FilterError as error:
            self._tell(refused=str(error))
            return
        if self._arranged != len(index) or not np.array_equal(rows, self.rows):
            self.rows, self._arranged = rows, len(index)
            grid.fill(len(rows), self.row)
            where = np.flatnonzero(rows == at) if at is not None else ()
            if len(where) and where[0] != grid.cursor:
                grid.put_cursor(int(where[0]))
        self._say_nothing(index)
        self._title()

    def _say_nothing(self, index: PairIndex) -> None:
        """Say below the names of the columns why no row is there, if none is."""
        none = self.query_one("#none", Words)
        none.display = index.complete and not len(self.rows)
        self.query_one(Grid).styles.height = 1 if none.display else "1fr"
        if none.display:
            none.say((self._nothing(index), shown.DIM))

    def _nothing(self, index: PairIndex) -> str:
        """Why no row is there, and what to do."""
        if self._refused:
            return "What was typed is no filter, as is said above: / changes it, Esc there clears it."
        if len(index):
            return "" if self._search else "Nothing is let through by this filter: / changes it, Esc there clears it."
        elsewhere = "" if self.everywhere else " a shows all rounds."
        if index.kind == "left out":
            return f"{NOTHING_LEFT_OUT}{elsewhere}"
        others = ", ".join(kind for kind in self.kinds if kind != index.kind)
        return f"{NONE.format(kind=index.kind)}{elsewhere}{f' t shows what there is: {others}.' if others else ''}"

    def _title(self) -> None:
        index = self.index
        if index is None:
            return
        where = "all rounds" if self.everywhere else f"round {self.at.round}"
        kind = {"left out": "prompts left out"}.get(index.kind, index.kind)
        count = f"{len(self.rows):,} of {len(index):,} {kind}" if self.words else f"{len(index):,} {kind}"
        others = [one for one in self.kinds if one != index.kind]
        self.title_is(
            (self.watched.name, "bold"),
            f"  {where}  ",
            (count, "bold"),
            "" if index.complete else "  reading …",
            f"  searching {self._search.share:.0%} …" if self._search else "",
            (f"  {self.sort}", shown.DIM) if self.sort != "as made" else "",
            (f"  {self.words}", shown.SKY),
            (f"  t: {', '.join(others)}" if others and index.kind != "left out" else "", shown.DIM),
        )

    def as_left(self) -> Kept:
        kept = super().as_left()
        whole = self.index is not None and self.index.complete and not self._growing
        return kept if whole else replace(kept, rest={**kept.rest, "index": None})  # a thread still reads into it

    def row(self, at: int) -> list[Text]:
        index = self.index
        assert index is not None
        row = int(self.rows[at])
        spot = index.spot(row)
        listed = Listed(spot, index.facts(row), index.snippets(spot))
        if listed.texts is None:
            self.want(spot)
        return [CELLS[column.name](listed) for column in COLUMNS[index.kind]]

    def load(self, wanted: Sequence[Spot]) -> None:
        if self.index is not None:
            self.index.load(wanted)

    def filtered(self, words: str) -> None:
        self.words = words.strip()
        self._stop_search()
        try:
            self.tests = parse(self.words)
        except FilterError as error:
            self._tell(refused=str(error))
            if self.index is not None:
                self._say_nothing(self.index)
            self._title()
            return
        self._tell(refused="")
        self._search_texts()
        if self._search is None:
            self._arrange()
        else:  # the rows stay until something was searched: half a word may be the beginning of another filter
            self._title()

    # Searching texts

    def _search_texts(self, *, at_once: bool = False) -> None:
        """Look for the words of the filter in the texts that were not searched for them yet."""
        wanted = needles(self.tests)
        if self.index is None or self._search is not None or not wanted or not self.index.lacks(wanted):
            return
        self._search = Search(wanted)
        self._look_for(self.index, self._search, 0.0 if at_once else STILL)

    def _stop_search(self) -> None:
        if self._search is not None:
            self._search.ended, self._search = True, None

    @work(thread=True, group="search", exit_on_error=False, description="search")
    def _look_for(self, index: PairIndex, search: Search, still: float) -> None:
        time.sleep(still)  # while a word is typed, its beginnings need not be searched
        told, trouble = time.monotonic(), ""
        try:
            for share in index.search(search.needles) if not search.ended else ():
                if search.ended:
                    return
                search.share = share
                if time.monotonic() - told > TELL_EVERY:
                    told = time.monotonic()
                    self.post_message(self.Searched(search))
                time.sleep(GIVE_WAY)
        except UNREADABLE as error:
            trouble = why(error)
        search.ended = True
        self.post_message(self.Searched(search, trouble))

    def on_pairs_searched(self, message: Searched) -> None:
        if message.search is not self._search:
            return
        if message.search.ended:
            self._search = None
        if message.trouble:
            self._tell(problems=[message.trouble])
        self._arrange()

    # Keys

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
        self.everywhere = not self.everywhere
        self._begin(None)
        self.renew()

    def action_left_out(self) -> None:
        """Between what was learned and what was left out."""
        self._list(None if self.kind == "left out" else "left out")

    def action_kind(self) -> None:
        """To the next kind of example that the rounds hold."""
        kinds = list(self.kinds)
        if len(kinds) < 2:
            self.reader.say(f"here are {kinds[0]} and no other kind" if kinds else "nothing was made here yet")
            return
        now = self.index.kind if self.index is not None else None
        self._list(kinds[(kinds.index(now) + 1) % len(kinds)] if now in kinds else kinds[0])

    def _list(self, kind: Listing | None) -> None:
        self.kind = kind
        self._begin(None)
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
        spot, kind = self.spot(self.query_one(Grid).cursor), self.index.kind if self.index is not None else "pairs"
        if spot is None or kind == "left out":
            listed = next(iter(self.kinds), "pairs") if kind == "left out" else kind
            return f"selfalign {listed} ls {self.at.path}" + ("" if self.everywhere else f" --round {self.at.round}")
        return f"selfalign {kind} show {self.at.path} {spot.name}"

    def copied(self) -> str:
        spot = self.spot(self.query_one(Grid).cursor)
        return spot.name if spot else ""
