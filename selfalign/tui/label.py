"""Screen 6: which of two answers is better, by a person who is told nothing of where they come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.events import Resize
from textual.message import Message
from textual.screen import ModalScreen
from textual.widget import Widget

from selfalign import labels as files
from selfalign.config import Campaign
from selfalign.constitution import Constitution, Principle
from selfalign.labels import MIN_LABELS
from selfalign.people.compared import Comparison, Source, principles_of
from selfalign.people.labelling import Session, pace, queue
from selfalign.people.sitting import Figures, account, figures, final_figures, offered, summary
from selfalign.records import HumanAgreement, Label, Prompt
from selfalign.rewording import sides
from selfalign.store import PLAIN_NAMES, StoreError, is_plain_name
from selfalign.text import one_line
from selfalign.tui import shown
from selfalign.tui.asking import AskLine
from selfalign.tui.page import ROOMY, Page, Place
from selfalign.tui.reading import UNREADABLE, why
from selfalign.tui.shown import Part
from selfalign.tui.widgets import Scroll, Words
from selfalign.units import duration

COUNTS = (50, 100, 200, 500, 1000, 2000)  # how many comparisons a queue may have
TELL_EVERY = 5  # labels between two looks at agreement
ROOMIER = 120  # columns that have room for all keys
STACKED = 72  # columns below which one answer stands above the other
SAID = {"1": "left", "2": "right", "0": "tie", "9": "both bad", "s": "skipped", "x": "not applicable"}
WEIGHED = "1290"  # keys that say something of both answers, which should have been seen
OF: dict[Source, str] = {"training": "training", "heldout": "held-out"}
ALIKE = "underline"  # how words are marked that the other side has not: the same on either


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for on the first view: who labels, answers of which prompts, of which rounds, how many."""

    labeller: str
    of: Source = "training"
    rounds: tuple[int, ...] | None = None  # the last of these that was judged; None: of all
    count: int = 100


@dataclass(frozen=True, slots=True)
class Sheaf:
    """What there is to label as it was wished for. No `round`: nothing."""

    wish: Wish
    rounds: list[int]
    settings: Campaign
    standing: list[Label]
    round: int | None = None
    principles: Constitution | None = None
    items: tuple[tuple[Comparison, str], ...] = ()
    offered: int = 0  # comparisons that the judge made

    @property
    def done(self) -> int:
        return len({label.pair for label in self.standing} & {one.pair for one, _ in self.items})


class Pane(Scroll, inherit_bindings=False):
    """A text that may be longer than its room, and whether its end was seen. `b` is left to the screen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        replace(one, key=one.key.removeprefix("b,")) for one in Scroll.BINDINGS if isinstance(one, Binding)
    ]
    DEFAULT_CSS = """
    Pane { height: 1fr; padding: 0 1; border-left: solid $foreground 20%; }
    Pane:focus { border-left: heavy $primary; }
    Pane Words { height: auto; }
    """

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._furthest = 0.0

    def compose(self) -> ComposeResult:
        yield Words()

    def put(self, made: Text) -> None:
        """Show another text, from its beginning."""
        self.query_one(Words).show(made)
        self._furthest = 0.0
        self.scroll_home(animate=False)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._furthest = max(self._furthest, new_value)

    @property
    def goes_on(self) -> bool:
        """Whether there is text below that was not in sight yet."""
        return max(self._furthest, self.scroll_target_y) < self.max_scroll_y


class Answers(Horizontal, can_focus=True):
    """Both answers. While it has the keys itself, both are scrolled at once."""

    BINDINGS: ClassVar[list[BindingType]] = [
        replace(one, action=f"both('{one.action}')") for one in Pane.BINDINGS if isinstance(one, Binding)
    ]
    DEFAULT_CSS = """
    Answers { height: 1fr; }
    Answers:focus Pane { border-left: heavy $primary; }
    Answers .side { width: 1fr; height: 1fr; }
    Answers .head { height: 1; padding: 0 2; }
    Answers.stacked { layout: vertical; }
    """

    def compose(self) -> ComposeResult:
        for key, side in (("1", "left"), ("2", "right")):
            with Vertical(classes="side"):
                yield Words((key, f"bold {shown.SKY}"), (f" {side}", "bold"), classes="head")
                yield Pane(id=side)

    def on_resize(self, event: Resize) -> None:
        self.set_class(event.size.width < STACKED, "stacked")

    def action_both(self, what: str) -> None:
        for pane in self.query(Pane):
            getattr(pane, f"action_{what}")()


class Principles(ModalScreen[None]):
    """The principles that a prompt's answers are to be compared by."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,b,q,enter", "close", "close", show=False)]
    DEFAULT_CSS = """
    Principles { align: center middle; background: $background 60%; }
    Principles > Vertical { width: 100; max-width: 95%; height: auto; max-height: 90%; padding: 1 2;
                            background: $surface; }
    Principles Pane { height: auto; border: none; padding: 0; margin: 1 0; }
    """

    def __init__(self, principles: Constitution, prompt: Prompt) -> None:
        super().__init__()
        self._principles, self._prompt = principles, prompt

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Words(("Which answer is better, by these principles?", "bold"))
            yield Pane(id="principles")
            yield Words(("b", f"bold {shown.SKY}"), " or ", ("Esc", f"bold {shown.SKY}"), " goes back to the answers")

    def on_mount(self) -> None:
        applicable = self._principles.applicable(self._prompt)
        none = [shown.line(("No principle applies to this prompt: x says so.", shown.DIM))]
        self.query_one(Pane).put(shown.lines([_principle(one) for one in applicable] or none))
        self.query_one(Pane).focus()

    def action_close(self) -> None:
        self.dismiss()


class LabelPage(Page):
    NUMBER, NAME = "6", "Label"
    EVERY = 5.0
    ABOUT = (
        "Which of two answers is better, blind: nothing tells who wrote them or what the judge thinks of them, and the "
        "sides are drawn by lot. Half of the comparisons are a random sample of all, the others are those that tell "
        "most of a judge; which is which is not shown. Each label is on disk before the next pair appears, u takes "
        "back as many as you like, and the same labeller goes on where they stopped, here or with selfalign label.\n\n"
        f"From {MIN_LABELS} labels on you are told how far you and the judge say the same, and your habits; before, "
        "that would steer you.\n\n"
        "j, k, Space and G scroll both answers; Tab goes to the left one, the right one and the prompt. While pairs "
        "are shown 1, 2, 9 and 0 are verdicts and c is a comment; 3, 4, 5, 7 and 8 still lead to other screens, Esc "
        "and : to any."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "start", "start labelling"),
        Binding("w", "who", "who labels"),
        Binding("n", "round(1)", "next round"),
        Binding("p", "round(-1)", "previous round"),
        Binding("o", "source", "training or held-out answers"),
        Binding("m", "count", "how many"),
        Binding("1", "verdict('1')", "left is better"),
        Binding("2", "verdict('2')", "right is better"),
        Binding("0", "verdict('0')", "tie: both are as good"),
        Binding("9", "verdict('9')", "both are bad"),
        Binding("s", "verdict('s')", "skip"),
        Binding("x", "verdict('x')", "the principles do not apply here"),
        Binding("u", "undo", "undo, as far back as you like"),
        Binding("f", "flag", "flag: stored with the verdict"),
        Binding("c", "comment", "comment: stored with the verdict"),
        Binding("d", "difference", "underline words that the other has not"),
        Binding("b", "principles", "read the principles again"),
        Binding("tab", "pane(1)", "next text"),
        Binding("shift+tab", "pane(-1)", "text before", show=False),
    ]
    DEFAULT_CSS = """
    LabelPage #sheet { padding: 1 2; }
    LabelPage #sheet Words { height: auto; }
    LabelPage #desk { display: none; }
    LabelPage #desk > Words { height: 1; padding: 0 2; }
    LabelPage #prompt { height: auto; max-height: 30%; margin-bottom: 1; }
    """

    class Opened(Message):
        """The labeller's file is open, or why it is not."""

        def __init__(self, session: Session | None, trouble: str = "") -> None:
            super().__init__()
            self.session, self.trouble = session, trouble

    class Written(Message):
        """What was pressed is on disk: what to say of it; or it is not, and why."""

        def __init__(self, said: str, taken: Label | None = None, trouble: str = "") -> None:
            super().__init__()
            self.said, self.taken, self.trouble = said, taken, trouble

    class Figured(Message):
        """Figures for the line above the prompt, or for the last view."""

        def __init__(self, found: Figures | None, trouble: str = "") -> None:
            super().__init__()
            self.found, self.trouble = found, trouble

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.wish = Wish(account())
        self.sheaf: Sheaf | None = None
        self.session: Session | None = None
        self._mark: object = None  # what the sheaf was read from
        self._file = ExitStack()
        self._waiting = False  # for the disk
        self._figuring = False
        self._figures: Figures | None = None
        self._said = ""
        self._warned = self._marked = False
        self._flagged, self._comment = False, ""

    def body(self) -> Iterator[Widget]:
        with Scroll(id="sheet"):
            yield Words(id="words")
        with Vertical(id="desk"):
            yield Words(id="agreement")
            yield Words(("prompt", "bold"))
            yield Pane(id="prompt")
            yield Answers()
            yield Words(id="said")

    # Where it stands

    @property
    def phase(self) -> str:
        """entry, desk or end."""
        if self.session is None:
            return "entry"
        return "end" if self.session.current is None else "desk"

    @property
    def settled(self) -> bool:
        return self.ready and not (self._waiting or self._figuring)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys mean something where they do something; elsewhere 1 and 2 are screens and c copies."""
        if action in ("who", "round", "source", "count", "start"):
            return self.phase == "entry" and not self.reader.read_only
        if action == "undo":
            return self.phase != "entry"
        if action in ("verdict", "flag", "comment", "difference", "principles", "pane"):
            return self.phase == "desk"
        return True

    def place(self) -> Place:
        return replace(self.at, round=self.sheaf.round) if self.sheaf is not None else self.at

    def main(self) -> Widget | None:
        return self.query_one(Answers) if self.phase == "desk" else self.query_one("#sheet")

    def command(self) -> str:
        wish, number = self.wish, self.place().round
        options = ["--of heldout"] * (wish.of == "heldout") + [f"--round {number}"] * (number is not None)
        return " ".join(["selfalign label", str(self.at.path), *options, f"--count {wish.count}", *_named(wish)])

    def copied(self) -> str:
        """The prompt and both answers, and nothing that tells them apart but their sides."""
        pair = self.session.current if self.session is not None else None
        if pair is None:
            return str(self.at.path)
        said = [f"{one.role}: {one.content}" for one in pair.comparison.prompt.messages]
        return "\n\n".join([*said, f"left: {pair.left.text}", f"right: {pair.right.text}"])

    # The first view

    def read(self) -> Sheaf | None:
        """What there is to label; read again only where the wish or what is on disk is another. None: as before."""
        wish = self.wish
        if self.reader.read_only or self.session is not None:
            return None
        with self.watched.reading() as watched:
            settings, run, problems = watched.campaign, watched.run, list(watched.problems.values())
        if settings is None:
            raise StoreError(problems[0] if problems else f"{self.at.path}: its settings cannot be read")
        rounds = run.rounds()
        mark = (wish, self._judged(rounds), self._labels_mark())
        if mark == self._mark:
            return None
        wished = [n for n in rounds if wish.rounds is None or n in wish.rounds]
        if wish.rounds is None and self.at.round is not None:
            wished = [n for n in rounds if n <= self.at.round]
        standing = files.read(run.path).get(wish.labeller, [])
        empty, found = Sheaf(wish, rounds, settings, standing), offered(run, wish.of, wished, settings)
        self._mark = mark
        if found is None:
            return empty
        number, pool = found
        items = tuple(islice(queue(pool, settings.seed), wish.count))
        principles = principles_of(run, number)
        return replace(empty, round=number, principles=principles, items=items, offered=len(pool))

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
        if self.session is not None:
            return
        if self.reader.read_only:
            self.title_is(("Label", "bold"))
            self._sheet([shown.line("Labelling is off: this reader was started with --read-only.")])
            return
        if view is not None and view.wish == self.wish:
            self.sheaf = view
            self.trouble([])
        if self.sheaf is None or self.sheaf.wish != self.wish:
            self.renew()
            return
        self.title_is(("Label", "bold"), f"  {self.watched.name}", (f"  {self._where()}", shown.DIM))
        self._sheet(list(self._entry(self.sheaf)))

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
            yield shown.lines(_principle(one) for one in sheaf.principles.active)

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
        if sheaf.round is None:
            yield shown.line(
                ("Nothing to label: the judge has compared no answers yet, or all are alike.", shown.WARN)
            )
            yield shown.line("Other rounds or prompts may have some, and a run that goes on brings more.")
        elif sheaf.done >= len(sheaf.items):
            yield shown.line(key("Enter"), " shows the figures: all of these are labelled. ", key("m"), " takes more.")
        else:
            start = "goes on where you stopped" if sheaf.done else "starts"
            yield shown.line(key("Enter"), f" {start}. Each label is saved at once; Esc leaves at any time.")

    def _sheet(self, parts: Sequence[Text | Table]) -> None:
        self.query_one("#words", Words).show(shown.below(*parts))
        self._show_phase()

    def _show_phase(self) -> None:
        desk = self.phase == "desk"
        self.query_one("#sheet").display, self.query_one("#desk").display = not desk, desk
        self.query_one("#keys", Words).say(*self._keys())
        if (main := self.main()) is not None and not (desk and self.query_one("#desk").has_focus_within):
            main.focus()

    def on_resize(self, event: Resize) -> None:
        self.query_one("#keys", Words).say(*self._keys())

    def _keys(self) -> Iterator[Part]:
        """The keys of the phase; on a narrow screen those that are needed most."""
        rest = [("?", "help"), ("q", "quit")]
        if self.reader.read_only:
            own = []
        elif self.phase == "desk":
            own = [("1", "left"), ("2", "right"), ("0", "tie"), ("9", "both bad"), ("s", "skip"), ("x", "n/a")]
            own.append(("u", "undo"))
            more = [("Tab", "pane"), ("b", "principles"), ("f", "flag"), ("c", "comment"), ("d", "words")]
            own += more if self.app.size.width >= ROOMIER else []
        elif self.phase == "end":
            own = [("u", "undo"), ("c", "command")]
        else:
            own = [("Enter", "start"), ("w", "who"), ("n/p", "round"), ("o", "prompts"), ("m", "how many")]
            own += [("c", "command")] if self.app.size.width >= ROOMY else []
        for one, what in [*own, *rest]:
            yield key(one)
            yield f" {what}  "

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

    # Labelling

    def action_start(self) -> None:
        sheaf = self.sheaf
        if self._waiting or sheaf is None or sheaf.wish != self.wish:
            return
        if not self.wish.labeller:
            self.action_who()
        elif sheaf.round is None:
            self.reader.say("nothing to label here")
        else:
            self._waiting = True
            self._open(sheaf)

    @work(thread=True, group="open", exit_on_error=False)
    def _open(self, sheaf: Sheaf) -> None:
        session, trouble = None, ""
        try:
            file = self._file.enter_context(files.opened(self.watched.path, sheaf.wish.labeller))
            session = Session(file, sheaf.wish.labeller, sheaf.items)
        except UNREADABLE as error:
            self._file.close()
            trouble = why(error)
        if not self.is_attached:  # left meanwhile
            self._file.close()
        self.post_message(self.Opened(session, trouble))

    def on_unmount(self) -> None:
        self._file.close()

    def on_label_page_opened(self, message: Opened) -> None:
        self._waiting = False
        if message.session is None:
            self.trouble([message.trouble, "w takes another name"])
            return
        self.trouble([])
        self.session = message.session
        self._figure()
        self._show_pair()

    def _show_pair(self, taken: Label | None = None) -> None:
        """The pair that is due, with the marks it had where its label was taken back; the figures where none is."""
        assert self.session is not None
        pair = self.session.current
        self._warned = False
        self._flagged, self._comment = (taken.flagged, taken.comment) if taken is not None else (False, "")
        if pair is None:
            self._sheet(list(self._ending()))
            return
        self._show_phase()
        self.query_one("#prompt", Pane).put(_prompt(pair.comparison.prompt))
        self._show_answers()
        self._show_lines()

    def _show_answers(self) -> None:
        assert self.session is not None and self.session.current is not None
        texts = [one.text[: shown.LONGEST_BLOCK] for one in (self.session.current.left, self.session.current.right)]
        made: Sequence[Text] = [shown.block(text) if text else shown.line(("(empty)", shown.DIM)) for text in texts]
        if self._marked and all(texts):
            made = sides(*texts, (ALIKE, ALIKE))
        for side, text in zip(("left", "right"), made, strict=True):
            self.query_one(f"#{side}", Pane).put(text)

    def _show_lines(self) -> None:
        """What is said above the prompt and below the answers."""
        assert self.session is not None
        speed, going = pace(self.session.standing), self.session
        left = max(0, going.expected - going.number + 1)
        told = [f"  {duration(speed)} each", f"  about {duration(speed * left)} left"] if speed else []
        self.title_is((f"{going.number:,} of about {going.expected:,}", "bold"), *told,
                      (f"  {going.labeller}, {self._where()}", shown.DIM))  # fmt: skip
        self.query_one("#agreement", Words).say((_live(self._figures), shown.DIM))
        marks: list[Part] = [("⚑ flagged  ", shown.WARN)] * self._flagged
        marks += [f"comment: {one_line(self._comment, 60)}  "] * bool(self._comment)
        self.query_one("#said", Words).say(*marks, (self._said, shown.NOTE))

    def action_verdict(self, pressed: str) -> None:
        """Record a verdict; where an answer was not read to its end, say so first."""
        if self._waiting or self.session is None:  # the pair in sight has a verdict, which is being written
            return
        below = [side for side in ("left", "right") if self.query_one(f"#{side}", Pane).goes_on]
        if below and pressed in WEIGHED and not self._warned:
            self._warned = True
            which = "both answers go on" if len(below) > 1 else f"the {below[0]} answer goes on"
            self._say(f"{which} below; press again to record")
            return
        self._waiting = True
        self._write(self.session, pressed)

    def action_undo(self) -> None:
        if not self._waiting and self.session is not None:
            self._waiting = True
            self._write(self.session, "u")

    @work(thread=True, group="write", exit_on_error=False)
    def _write(self, session: Session, pressed: str) -> None:
        """Do what a key says; it is on disk before anything else is shown."""
        said, taken, trouble = "", None, ""
        try:
            if pressed == "u":
                taken = session.undo()
                said = _taken_back(taken)
            else:
                session.press(pressed, flagged=self._flagged, comment=self._comment)
                said = f"recorded: {SAID[pressed]} · u undoes"
        except UNREADABLE as error:
            trouble = f"not saved, and the pair stays here: {why(error)}"
        self.post_message(self.Written(said, taken, trouble))

    def on_label_page_written(self, message: Written) -> None:
        assert self.session is not None
        self._waiting = False
        self.trouble([message.trouble] if message.trouble else [])
        if message.trouble:
            self._say("not saved; press again once that is mended")
            return
        self._said = message.said
        if self._due():
            self._figure()
        self._show_pair(message.taken)

    def _say(self, words: str) -> None:
        self._said = words
        self._show_lines()

    def action_flag(self) -> None:
        self._flagged = not self._flagged
        self._say("flagged; stored with your verdict" if self._flagged else "no flag")

    def action_comment(self) -> None:
        ask = AskLine("What is to be said of this pair?", "Stored with your verdict.", self._comment)
        self.app.push_screen(ask, self._commented)

    def _commented(self, answer: str | None) -> None:
        if answer is not None:
            self._comment = answer.strip()
            self._say("stored with your verdict" if self._comment else "no comment")

    def action_difference(self) -> None:
        self._marked = not self._marked
        self._show_answers()
        self._say("words that the other has not are underlined; d ends that" if self._marked else "nothing underlined")

    def action_principles(self) -> None:
        if self.sheaf is not None and self.sheaf.principles is not None and self.session and self.session.current:
            self.app.push_screen(Principles(self.sheaf.principles, self.session.current.comparison.prompt))

    def action_pane(self, by: int) -> None:
        """The keys to both answers, to the left one, the right one, the prompt, and around."""
        stops: list[Widget] = [self.query_one(Answers), *(self.query_one(f"#{name}") for name in ("left", "right"))]
        stops += [self.query_one("#prompt")]
        here = stops.index(self.focused) if self.focused in stops else 0
        stops[(here + by) % len(stops)].focus()

    # Figures

    def _due(self) -> bool:
        assert self.session is not None
        count = len(self.session.about())
        return (
            self.session.current is None or count % TELL_EVERY == 0 or (self._figures is None) != (count < MIN_LABELS)
        )

    def _figure(self) -> None:
        assert self.session is not None and self.sheaf is not None
        if not self._figuring:
            self._figuring = True
            ended = self.session.current is None
            self._count(list(self.session.standing), self.session.about(), self.sheaf.settings if ended else None)

    @work(thread=True, group="figures", exit_on_error=False)
    def _count(self, standing: list[Label], about: list[tuple[Label, Comparison]], ended: Campaign | None) -> None:
        """Figures of this queue; at its end of all labels there are, which reads the run."""
        found, trouble = None, ""
        try:
            found = figures(standing, about) if ended is None else final_figures(self.watched.run, standing, ended)
        except UNREADABLE as error:
            trouble = why(error)
        self.post_message(self.Figured(found, trouble))

    def on_label_page_figured(self, message: Figured) -> None:
        self._figuring = False
        if message.trouble:
            self.trouble([message.trouble])
        self._figures = message.found
        if self.phase == "desk":
            self._show_lines()
        else:
            self._sheet(list(self._ending()))

    def _ending(self) -> Iterator[Text | Table]:
        yield shown.line(("All that was to be labelled is labelled.", "bold"))
        yield shown.line()
        if self._figures is None:
            yield shown.line(("counting …", shown.DIM))
        else:
            for words in summary(self._figures):
                yield shown.line(words)
        yield shown.line()
        yield shown.line(("next", f"bold {shown.DIM}"))
        run = str(self.at.path)
        yield shown.table(("", ""), [
            (f"selfalign labels ls {run}", ("who labelled what, and how far they agree", shown.DIM)),
            (f"selfalign judge calibrate {run}", ("the judge's temperature and bias, by these labels", shown.DIM)),
            (f"selfalign label {run} --count {2 * self.wish.count}", ("more of them; m on this screen", shown.DIM)),
        ])  # fmt: skip
        yield shown.line()
        yield shown.line(key("u"), " takes the last label back; ", key("Esc"), " leaves.")


def key(name: str) -> tuple[str, str]:
    return name, f"bold {shown.SKY}"


def _instead(what: str, *keys: str) -> Text:
    return shown.line(*(part for name in keys for part in (key(name), " ")), (what, shown.DIM))


def _principle(one: Principle) -> Text:
    return shown.lines([shown.line((one.id, f"bold {shown.SKY}")), shown.block(one.norm())])


def _named(wish: Wish) -> list[str]:
    return ["--labeller", wish.labeller] if wish.labeller else []


def _prompt(prompt: Prompt) -> Text:
    """One message without its role, more with theirs."""
    alone = len(prompt.messages) == 1
    return shown.block(prompt.messages[0].content) if alone else shown.conversation(prompt.messages)


def _taken_back(label: Label | None) -> str:
    if label is None:
        return "nothing to undo"
    side = "left" if label.preferred_id == label.left_id else "right"
    said = side if label.verdict == "preferred" else label.verdict.replace("_", " ")
    return f"taken back: {said}" + (f", of round {label.round}" if label.round is not None else "")


def _live(found: Figures | None) -> str:
    """How far judge and labeller agree so far, and the labeller's habits, in a line."""
    if found is None or found.habits is None:
        return f"agreement is shown from {MIN_LABELS} labels on, so that it does not steer you"
    shares = (("left", found.habits.left), ("longer", found.habits.longer), ("neither", found.habits.neither))
    parts = [_agreement(one) for one in found.judges.values()]
    return "  ".join(parts + [f"{name} {share:.0%}" for name, share in shares if share is not None])


def _agreement(one: HumanAgreement) -> str:
    kappa = "" if one.kappa is None else f"  κ {one.kappa:.2f} ({one.low:.2f} to {one.high:.2f})"
    return f"judge says the same of {one.raw:.0%}{kappa}"
