"""Where labelling is done: a prompt, two answers, and keys that say which is better. Nothing tells whose they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual import work
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widget import Widget

from selfalign import labels as files
from selfalign.config import Campaign
from selfalign.constitution import Constitution
from selfalign.labels import MIN_LABELS
from selfalign.people.compared import Comparison, Source
from selfalign.people.labelling import Session, Shown, pace
from selfalign.people.sitting import Figures, figures, final_figures, summary
from selfalign.records import HumanAgreement, Label, Prompt
from selfalign.rewording import sides
from selfalign.store import StoreError
from selfalign.text import one_line
from selfalign.tui import shown
from selfalign.tui.asking import AskLine
from selfalign.tui.label.panes import Answers, Pane, Principles
from selfalign.tui.page import Page, Place
from selfalign.tui.reading import UNREADABLE, why
from selfalign.tui.shown import Part
from selfalign.tui.widgets import Scroll, Words
from selfalign.units import duration

TELL_EVERY = 5  # labels between two looks at agreement
SIDES = ("left", "right")
SAID = {"1": "left", "2": "right", "0": "tie", "9": "both bad", "s": "skipped", "x": "not applicable"}
WEIGHED = "1290"  # keys that say something of both answers, which should have been seen
WAITING = "Opening the labels. Esc goes back, where w takes another name."
ALIKE = "underline"  # how words are marked that the other side has not: the same on either
PAIRS_KEYS = ("flag", "comment", "difference", "principles", "pane")
ABOUT = (
    "Which of two answers is better, blind: nothing tells who wrote them or what the judge thinks of them, and the "
    "sides are drawn by lot. Half of the comparisons are a random sample of all, the others are those that tell most "
    "of a judge; which is which is not shown. Each label is on disk before the next pair appears, u takes back as many "
    "as you like, and the same labeller goes on where they stopped, here or with selfalign label.\n\n"
    f"From {MIN_LABELS} labels on you are told how far you and the judge say the same, and your habits; before, that "
    "would steer you.\n\n"
    "j, k, Space and G scroll both answers; Tab goes to the left one, the right one and the prompt. While pairs are "
    "shown 1, 2, 9 and 0 are verdicts and c is a comment; 3, 4, 5, 7 and 8 still lead to other screens, Esc and : to "
    "any."
)


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
    trouble: str = ""  # why they cannot be read

    @property
    def done(self) -> int:
        return len({label.pair for label in self.standing} & {one.pair for one, _ in self.items})


class Desk(Page):
    NUMBER, NAME = "6", "Label"
    ABOUT = ABOUT
    BINDINGS: ClassVar[list[BindingType]] = [
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
    Desk #ending { display: none; }
    Desk #ending > Words { padding: 1 2; }
    Desk #figures { height: auto; }
    Desk #pair > Words { height: 1; padding: 0 2; }
    Desk #prompt { height: auto; max-height: 30%; margin-bottom: 1; }
    """

    class Written(Message):
        """What was pressed is on disk: what to say of it; or it is not, and why."""

        def __init__(self, said: str, taken: Label | None = None, trouble: str = "") -> None:
            super().__init__()
            self.said, self.taken, self.trouble = said, taken, trouble

    class Figured(Message):
        """Figures for the line above the prompt, or for the last view."""

        def __init__(self, found: Figures | None, final: bool, trouble: str) -> None:
            super().__init__()
            self.found, self.final, self.trouble = found, final, trouble

    class Marked(Message):
        """A pair's answers with the words underlined that the other has not; None where all would be."""

        def __init__(self, pair: Shown, made: tuple[Text, Text] | None) -> None:
            super().__init__()
            self.pair, self.made = pair, made

    def __init__(self, place: Place, sheaf: Sheaf) -> None:
        super().__init__(place)
        self.sheaf = sheaf
        self.session: Session | None = None
        self._file = ExitStack()
        self._writing = self._figuring = False
        self._figures: Figures | None = None
        self._said = ""
        self._in_sight: Shown | None = None
        self._warned = self._marked = False
        self._flagged, self._comment = False, ""

    def body(self) -> Iterator[Widget]:
        with Scroll(id="ending"):
            yield Words(id="figures")
        with Vertical(id="pair"):
            yield Words((WAITING, shown.DIM), id="agreement")
            yield Words(("prompt", "bold"))
            yield Pane(id="prompt")
            yield Answers()
            yield Words(id="said")

    @property
    def pair(self) -> Shown | None:
        """What is to be labelled; None at the end, and before the labeller's file is open."""
        return self.session.current if self.session is not None else None

    @property
    def ended(self) -> bool:
        return self.session is not None and self.session.current is None

    @property
    def settled(self) -> bool:
        return self.ready and not (self._writing or self._figuring)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Without a pair c copies, as elsewhere. Digits stay verdicts: who presses one too many is to stay here."""
        return self.pair is not None or action not in PAIRS_KEYS

    def main(self) -> Widget | None:
        return self.query_one("#ending") if self.ended else self.query_one(Answers)

    def command(self) -> str:
        return command(self.at.path, self.sheaf.wish, self.at.round)

    def copied(self) -> str:
        """The prompt and both answers, and nothing that tells them apart but their sides."""
        pair = self.pair
        if pair is None:
            return str(self.at.path)
        said = [f"{one.role}: {one.content}" for one in pair.comparison.prompt.messages]
        return "\n\n".join([*said, f"left: {pair.left.text}", f"right: {pair.right.text}"])

    # The labeller's file

    def read(self) -> Session | None:
        """Open it, once; None where it is open. A labeller of this name who is at it elsewhere is waited for."""
        if self.session is not None:
            return None
        try:
            file = self._file.enter_context(files.opened(self.watched.path, self.sheaf.wish.labeller))
        except StoreError as error:  # a path may be long, and the end of the line is what counts
            raise StoreError(str(error).replace(f"{self.at.path}/", "")) from error
        if not self.is_attached:  # left meanwhile
            self._file.close()
        return Session(file, self.sheaf.wish.labeller, self.sheaf.items)

    def on_unmount(self) -> None:
        self._file.close()

    def show(self, view: Session | None) -> None:
        if view is not None and self.session is None:
            self.session = view
            self.trouble([])
            self._figure()
            self._show_pair()

    # The pair

    def _show_pair(self, taken: Label | None = None) -> None:
        """The pair that is due, with the marks it had where its label was taken back; the figures where none is."""
        self._change_view()
        if self.pair is None:
            self._show_ending()
            return
        if self.pair == self._in_sight:  # what was taken back is of another queue, or there was nothing
            self._show_lines()
            return
        self._in_sight, self._warned = self.pair, False
        again = taken is not None and taken.pair == self.pair.comparison.pair
        self._flagged, self._comment = (taken.flagged, taken.comment) if taken and again else (False, "")
        self.query_one("#prompt", Pane).put(_prompt(self.pair.comparison.prompt))
        self._show_answers(self.pair)
        self._show_lines()

    def _change_view(self) -> None:
        """Pairs, or the figures at the end, with the keys that each has."""
        self._in_sight = self._in_sight if self.pair is not None else None
        ending = self.query_one("#ending")
        changed = ending.display != self.ended
        ending.display, self.query_one("#pair").display = self.ended, not self.ended
        if changed and (main := self.main()) is not None:
            main.focus()
        self.show_keys()

    def named_keys(self) -> list[tuple[str, str]]:
        if self.pair is None:
            return [("u", "undo"), ("c", "command"), ("Esc", "more to label")]
        said = [("1", "left"), ("2", "right"), ("0", "tie"), ("9", "both bad"), ("s", "skip"), ("x", "n/a")]
        more = [("b", "principles"), ("f", "flag"), ("c", "comment"), ("d", "diff"), ("Tab", "pane")]
        return [*said, ("u", "undo"), *more]

    def _show_answers(self, pair: Shown) -> None:
        for side, made in zip(SIDES, _plain(pair), strict=True):
            self.query_one(f"#{side}", Pane).put(made)
        if self._marked:
            self._mark(pair)

    @work(thread=True, group="mark", exclusive=True, exit_on_error=False, description="mark")
    def _mark(self, pair: Shown) -> None:
        """Find the words that the other answer has not; of long ones that takes a second."""
        self.post_message(self.Marked(pair, _underlined(pair)))

    def on_desk_marked(self, message: Marked) -> None:
        if self._marked and self.pair is message.pair:
            self._style(message.made)
            if message.made is None:
                self._say("these two have too little in common to underline words")

    def _style(self, made: Sequence[Text] | None) -> None:
        for side, text in zip(SIDES, made or (), strict=False):
            self.query_one(f"#{side}", Pane).style_again(text)

    def _show_lines(self) -> None:
        """What is said above the prompt and below the answers."""
        assert self.session is not None
        speed, going = pace(self.session.standing), self.session
        left = max(0, going.expected - going.number + 1)
        told = [f"  {duration(speed)} each", f"  about {duration(speed * left)} left"] if speed else []
        self.title_is((f"{going.number:,} of about {going.expected:,}", "bold"), *told,
                      (f"  {self._where()}", shown.DIM))  # fmt: skip
        self.query_one("#agreement", Words).say((_live(self._figures), shown.DIM))
        marks: list[Part] = [("⚑ flagged  ", shown.WARN)] * self._flagged
        marks += [f"comment: {one_line(self._comment, 60)}  "] * bool(self._comment)
        self.query_one("#said", Words).say(*marks, (self._said, shown.NOTE))

    def action_verdict(self, pressed: str) -> None:
        """Record a verdict; where an answer was not read to its end, say so first."""
        if self._writing or self.session is None:  # the pair in sight has a verdict, which is being written
            return
        if self.pair is None:
            self.reader.say("all are labelled; u takes the last label back, Esc leaves")
            return
        below = [side for side in SIDES if self.query_one(f"#{side}", Pane).goes_on]
        if below and pressed in WEIGHED and not self._warned:
            self._warned = True
            which = "both answers go on" if len(below) > 1 else f"the {below[0]} answer goes on"
            self._say(f"{which} below; press again to record")
            return
        self._writing = True
        self._write(self.session, pressed, self._flagged, self._comment)

    def action_undo(self) -> None:
        if not self._writing and self.session is not None:
            self._writing = True
            self._write(self.session, "u", False, "")

    @work(thread=True, group="write", exit_on_error=False, description="write")
    def _write(self, session: Session, pressed: str, flagged: bool, comment: str) -> None:
        """Do what a key says; it is on disk before anything else is shown."""
        said, taken, trouble = "", None, ""
        try:
            if pressed == "u":
                taken = session.undo()
                said = _taken_back(taken, self.at.round)
            else:
                session.press(pressed, flagged=flagged, comment=comment)
                said = f"recorded: {SAID[pressed]} · u undoes"
        except UNREADABLE as error:
            trouble = f"not saved, and the pair stays here: {why(error)}".replace(f"{self.at.path}/", "")
        self.post_message(self.Written(said, taken, trouble))

    def on_desk_written(self, message: Written) -> None:
        assert self.session is not None
        self._writing = False
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
        self._say("stored with your verdict" if self._flagged else "no flag")

    def action_comment(self) -> None:
        ask = AskLine("What is to be said of this pair?", "Stored with your verdict.", self._comment)
        self.app.push_screen(ask, self._commented)

    def _commented(self, answer: str | None) -> None:
        if answer is not None:
            self._comment = answer.strip()
            self._say("stored with your verdict" if self._comment else "no comment")

    def action_difference(self) -> None:
        assert self.pair is not None
        self._marked = not self._marked
        if self._marked:
            self._mark(self.pair)
        else:
            self._style(_plain(self.pair))
        self._say("words that the other has not are underlined; d ends that" if self._marked else "not underlined")

    def action_principles(self) -> None:
        if self.pair is not None and self.sheaf.principles is not None:
            self.app.push_screen(Principles(self.sheaf.principles, self.pair.comparison.prompt))

    def action_pane(self, by: int) -> None:
        """The keys to both answers, to the left one, the right one, the prompt, and around."""
        stops: list[Widget] = [self.query_one(Answers), *(self.query_one(f"#{name}") for name in SIDES)]
        stops += [self.query_one("#prompt")]
        here = stops.index(self.focused) if self.focused in stops else 0
        stops[(here + by) % len(stops)].focus()

    # Figures

    def _due(self) -> bool:
        """Whether it is time to count again: now and then, at the end, and where telling begins or ends."""
        assert self.session is not None
        count = len(self.session.about())
        told = self._figures is not None and self._figures.habits is not None
        return self.ended or count % TELL_EVERY == 0 or told != (count >= MIN_LABELS)

    def _figure(self) -> None:
        assert self.session is not None
        if not self._figuring:
            self._figuring = True
            self._count(self.session, self.sheaf.settings, self.ended)

    @work(thread=True, group="figures", exit_on_error=False, description="figures")
    def _count(self, session: Session, settings: Campaign, final: bool) -> None:
        """Figures of this queue; at its end of all labels there are, which reads the run."""
        found, trouble = None, ""
        try:
            if final:
                found = final_figures(self.watched.run, list(session.standing), settings)
            else:
                found = figures(list(session.standing), session.about())
        except UNREADABLE as error:
            trouble = why(error)
        self.post_message(self.Figured(found, final, trouble))

    def on_desk_figured(self, message: Figured) -> None:
        self._figuring = False
        if message.final != self.ended:  # it ended, or went on, meanwhile
            self._figure()
            return
        if message.trouble:
            self.trouble([message.trouble])
        self._figures = message.found
        if self.ended:
            self._show_ending()
        else:
            self._show_lines()

    def _show_ending(self) -> None:
        self.title_is(("Label", "bold"), f"  {self.watched.name}", (f"  {self._where()}", shown.DIM))
        self.query_one("#figures", Words).show(shown.below(*self._ending()))

    def _where(self) -> str:
        held_out = ", held-out" if self.sheaf.wish.of == "heldout" else ""
        return f"{self.sheaf.wish.labeller}, round {self.at.round}{held_out}"

    def _ending(self) -> Iterator[Text | Table]:
        yield shown.line(("All that was to be labelled is labelled.", "bold"))
        yield shown.line()
        if self._figures is None:
            yield shown.line(("counting …", shown.DIM))
        else:
            for words in summary(self._figures):
                yield shown.block(words)
        yield shown.line()
        yield shown.line(("next", f"bold {shown.DIM}"))
        run, wish = self.at.path, self.sheaf.wish
        more = command(run, replace(wish, count=2 * wish.count), self.at.round)
        for what, line in (
            ("who labelled what, and how far they agree", f"selfalign labels ls {run}"),
            ("the judge's temperature and bias, by these labels", f"selfalign judge calibrate {run}"),
            *[("more pairs; on this screen Esc, then m", more)] * (len(self.sheaf.items) == wish.count),
        ):
            yield shown.line((what, shown.DIM))
            yield shown.block(f"  {line}")
        yield shown.line()
        yield shown.line(key("u"), " takes the last label back; ", key("Esc"), " leaves.")


def key(name: str) -> tuple[str, str]:
    return name, f"bold {shown.SKY}"


def _prompt(prompt: Prompt) -> Text:
    """One message without its role, more with theirs."""
    alone = len(prompt.messages) == 1
    return shown.block(prompt.messages[0].content) if alone else shown.conversation(prompt.messages)


def _plain(pair: Shown) -> list[Text]:
    texts = pair.left.text, pair.right.text
    return [shown.block(text) if text else shown.line(("(empty)", shown.DIM)) for text in texts]


def _underlined(pair: Shown) -> tuple[Text, Text] | None:
    texts = pair.left.text, pair.right.text
    if not all(0 < len(text) <= shown.LONGEST_BLOCK for text in texts):
        return None
    made = sides(*texts, (ALIKE, ALIKE))
    return made if any(text.spans for text in made) else None


def _taken_back(label: Label | None, here: int | None) -> str:
    if label is None:
        return "nothing to undo"
    side = "left" if label.preferred_id == label.left_id else "right"
    said = side if label.verdict == "preferred" else label.verdict.replace("_", " ")
    return f"taken back: {said}" + (f", of round {label.round}" if label.round != here else "")


def _live(found: Figures | None) -> str:
    """How far judge and labeller agree so far, and the labeller's habits, in a line."""
    if found is None or found.habits is None:
        return f"agreement is shown from {MIN_LABELS} labels on, so that it does not steer you"
    shares = (("left", found.habits.left), ("longer", found.habits.longer), ("neither", found.habits.neither))
    parts = [_agreement(one) for one in found.judges.values()]
    return "  ".join(parts + [f"{name} {share:.0%}" for name, share in shares if share is not None])


def _agreement(one: HumanAgreement) -> str:
    kappa = "" if one.kappa is None else f"  κ {one.kappa:.2f} ({one.low:.2f} to {one.high:.2f})"
    return f"same as judge {one.raw:.0%}{kappa}"


def command(path: Path | None, wish: Wish, number: int | None) -> str:
    """The command line that shows the same pairs to the same labeller."""
    options = ["--of heldout"] * (wish.of == "heldout") + [f"--round {number}"] * (number is not None)
    options += [f"--count {wish.count}"] + [f"--labeller {wish.labeller}"] * bool(wish.labeller)
    return " ".join(["selfalign label", str(path), *options])
