"""Screen 6: what there is to label, by whom and how many. `desk` is where it is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widget import Widget

from selfalign import labels as files
from selfalign.people.compared import Source, principles_of
from selfalign.people.labelling import queue
from selfalign.people.sitting import account, offered
from selfalign.store import PLAIN_NAMES, Run, StoreError, is_plain_name
from selfalign.text import one_line
from selfalign.tui import shown
from selfalign.tui.asking import AskLine
from selfalign.tui.label.desk import ABOUT, Desk, Sheaf, Wish, command, key
from selfalign.tui.label.panes import principle
from selfalign.tui.page import Page, Place, Trouble
from selfalign.tui.reading import UNREADABLE, why
from selfalign.tui.shown import Part
from selfalign.tui.widgets import Scroll, Words

COUNTS = (50, 100, 200, 500, 1000, 2000)  # how many comparisons a queue may have
OF: dict[Source, str] = {"training": "training", "heldout": "held-out"}
OFF = "Labelling is off: this reader was started with --read-only."


class Labelling(Page):
    NUMBER, NAME = "6", "Label"
    EVERY = 5.0
    ABOUT = ABOUT
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "start", "start or go on"),
        Binding("w", "who", "who labels"),
        Binding("n", "round(1)", "next round"),
        Binding("p", "round(-1)", "previous round"),
        Binding("o", "source", "training or held-out prompts"),
        Binding("m", "count", "how many"),
    ]
    DEFAULT_CSS = """
    Labelling #words { height: auto; padding: 1 2; }
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.wish = Wish(account())
        self.sheaf: Sheaf | None = None
        self._read_from: object = None
        self._begun: dict[Wish, int | None] = {}  # the round that was begun and not ended, as it was at first

    def body(self) -> Iterator[Widget]:
        with Scroll():
            yield Words(("Reading what the judge has compared …", shown.DIM), id="words")

    @property
    def settled(self) -> bool:
        return self.ready and not self._busy

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return not (self.reader.read_only and action in ("start", "who", "round", "source", "count"))

    def place(self) -> Place:
        return replace(self.at, round=self.sheaf.round) if self.sheaf is not None else self.at

    def command(self) -> str:
        return command(self.at.path, self.wish, self.place().round)

    def named_keys(self) -> list[tuple[str, str]]:
        own = [("Enter", "start"), ("w", "who"), ("n/p", "round"), ("o", "prompts"), ("m", "how many")]
        return [*own, ("c", "command")] if not self.reader.read_only else []

    # What there is to label

    def read(self) -> Sheaf | None:
        """What there is to label; read again only where the wish or what is on disk is another. None: as before."""
        wish = self.wish
        if self.reader.read_only:
            return None
        with self.watched.reading() as watched:
            settings, run, problems = watched.campaign, watched.run, dict(watched.problems)
        if settings is None or "run" in problems:
            raise StoreError(next(iter(problems.values()), f"{self.at.path}: its settings cannot be read"))
        rounds = run.rounds()
        mark = (wish, self._judged(rounds), self._labels_mark())
        if mark == self._read_from:
            return None
        wished = [n for n in rounds if wish.rounds is None or n in wish.rounds]
        if wish.rounds is None and self.at.round is not None:
            wished = [n for n in rounds if n <= self.at.round]
        standing = files.said_by(run.path, wish.labeller)
        sheaf = Sheaf(wish, rounds, settings, standing)
        self._read_from = mark
        try:
            begun = self._round_begun(sheaf, run) if wish.rounds is None and self.at.round is None else None
            return _filled(sheaf, run, wished if begun is None else [begun])
        except UNREADABLE as error:
            return replace(sheaf, trouble=why(error))

    def _round_begun(self, sheaf: Sheaf, run: Run) -> int | None:
        """Where this labeller stopped; found once, so that another round does not appear while one labels."""
        wish = replace(sheaf.wish, count=0)  # more or fewer of it are of the same round
        if wish not in self._begun:
            self._begun[wish] = _begun(sheaf, run)
        return self._begun[wish]

    def _judged(self, rounds: Sequence[int]) -> tuple[int, ...]:
        """How many shards of verdicts there are, by round."""
        part = "" if self.wish.of == "training" else "heldout/"
        steps = [self.watched.run.view(f"rounds/{number:03d}/{part}judgments") for number in rounds]
        return tuple(-1 if step is None else step.num_shards for step in steps)

    def _labels_mark(self) -> tuple[int, int] | None:
        path = self.watched.path / files.FOLDER / f"{self.wish.labeller}.jsonl"
        try:
            status = path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size

    def show(self, view: Sheaf | None) -> None:
        if self.reader.read_only:
            self.title_is(("Label", "bold"))
            self._sheet([shown.line(OFF)])
            return
        if view is not None and view.wish == self.wish:
            self.sheaf = view
            self.trouble([view.trouble] if view.trouble else [])
        if self.sheaf is None or self.sheaf.wish != self.wish:
            self.renew()
            return
        self.title_is(("Label", "bold"), f"  {self.watched.name}", (f"  {self._where()}", shown.DIM))
        self._sheet(list(self._entry(self.sheaf)))

    def on_page_read(self, message: Page.Read) -> None:
        if isinstance(message.view, Trouble) and self.sheaf is None:
            self._sheet([shown.line("Nothing can be labelled before that is mended.")])

    def _where(self) -> str:
        number = self.sheaf.round if self.sheaf is not None else None
        of = f"{OF[self.wish.of]} prompts"
        return of if number is None else f"round {number}, {of}"

    def _entry(self, sheaf: Sheaf) -> Iterator[Text | Table]:
        yield shown.line(("Which of two answers is better? You are not told who wrote them.", "bold"))
        yield shown.table(("", "", ""), self._choices(sheaf))
        yield shown.line()
        yield from self._how_to_start(sheaf)
        if sheaf.principles is not None:
            yield shown.line()
            yield shown.line(("Better by these principles:", f"bold {shown.DIM}"))
            yield shown.lines(principle(one) for one in sheaf.principles.active)

    def _choices(self, sheaf: Sheaf) -> Iterator[tuple[Part, ...]]:
        wish = sheaf.wish
        number = "–" if sheaf.round is None else str(sheaf.round)
        other = "training" if wish.of == "heldout" else "held-out"
        yield "labeller", wish.labeller or "nobody yet", _instead("another name", "w")
        yield "round", number, _instead("another round", "n", "p") if len(sheaf.rounds) > 1 else ""
        yield "answers to", f"{OF[wish.of]} prompts", _instead(f"{other} prompts", "o")
        yield "how many", f"{len(sheaf.items):,} of {sheaf.offered:,} comparisons", _instead("more or fewer", "m")
        yield "labelled before", f"{sheaf.done:,} of {len(sheaf.items):,}", ""

    def _how_to_start(self, sheaf: Sheaf) -> Iterator[Text]:
        if sheaf.trouble:
            yield shown.line("This cannot be read. Other rounds or prompts may be whole.")
        elif sheaf.round is None:
            yield shown.line(("Nothing to label: the judge has compared no answers yet, or all are alike.", shown.WARN))
            yield shown.line("Other rounds or prompts may have some, and a run that goes on brings more.")
        elif sheaf.done >= len(sheaf.items):
            yield shown.line(key("Enter"), " shows the figures: all of these are labelled. ", key("m"), " takes more.")
        else:
            start = "goes on where you stopped" if sheaf.done else "starts"
            yield shown.line(key("Enter"), f" {start}. Each label is saved at once; Esc leaves.")

    def _sheet(self, parts: Sequence[Text | Table]) -> None:
        self.query_one("#words", Words).show(shown.below(*parts))

    # What can be wished for

    def action_who(self) -> None:
        self.app.push_screen(AskLine("Who labels?", PLAIN_NAMES, self.wish.labeller), self._named)

    def _named(self, answer: str | None) -> None:
        name = (answer or "").strip()
        if not name:
            return
        if not is_plain_name(name):
            self.reader.say(f"{one_line(name, 40)!r} cannot be a labeller: {PLAIN_NAMES}")
            return
        self._wished(replace(self.wish, labeller=name))

    def action_round(self, by: int) -> None:
        if self.sheaf is None or not self.sheaf.rounds:
            return
        rounds, here = self.sheaf.rounds, self.sheaf.round
        here = here if here is not None else (self.wish.rounds or (rounds[-1],))[0]
        place = rounds.index(here) + by if here in rounds else len(rounds) - 1
        if 0 <= place < len(rounds):
            self._wished(replace(self.wish, rounds=(rounds[place],)))

    def action_source(self) -> None:
        self._wished(replace(self.wish, of="heldout" if self.wish.of == "training" else "training"))

    def action_count(self) -> None:
        """As many as the next step gives, as long as there are more; then as few as possible."""
        more = [count for count in COUNTS if count > self.wish.count]
        enough = self.sheaf is None or len(self.sheaf.items) < self.wish.count
        self._wished(replace(self.wish, count=COUNTS[0] if enough or not more else more[0]))

    def _wished(self, wish: Wish) -> None:
        self.wish = wish
        self.renew()

    def action_start(self) -> None:
        sheaf = self.sheaf
        if sheaf is None or sheaf.wish != self.wish:
            self.reader.say("still reading what there is to label")
        elif not self.wish.labeller:
            self.action_who()
        elif sheaf.round is None:
            self.reader.say("nothing to label here")
        else:
            self.app.push_screen(Desk(self.place(), sheaf))


def _begun(sheaf: Sheaf, run: Run) -> int | None:
    """The round of the last label, where its queue was begun and not ended; None where there is none such."""
    number = next((label.round for label in reversed(sheaf.standing) if label.round is not None), None)
    if number not in sheaf.rounds:
        return None
    try:
        found = _filled(sheaf, run, [number])
    except UNREADABLE:
        return None  # it is said of whoever goes to that round
    return number if 0 < found.done < len(found.items) else None


def _filled(sheaf: Sheaf, run: Run, rounds: Sequence[int]) -> Sheaf:
    """With the queue of the last of these rounds that was judged."""
    found = offered(run, sheaf.wish.of, rounds, sheaf.settings)
    if found is None:
        return sheaf
    number, pool = found
    items = tuple(islice(queue(pool, sheaf.settings.seed), sheaf.wish.count))
    return replace(sheaf, round=number, principles=principles_of(run, number), items=items, offered=len(pool))


def _instead(what: str, *keys: str) -> Text:
    return shown.line(*(part for name in keys for part in (key(name), " ")), (what, shown.DIM))
