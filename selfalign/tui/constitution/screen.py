"""Screen 5: the principles of a run, what each of them did, and the ways to edit them and to see what that changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from rich.text import Text
from textual import work
from textual.binding import Binding, BindingType
from textual.events import Resize
from textual.message import Message
from textual.timer import Timer
from textual.widget import Widget

from selfalign import labels
from selfalign.constitution import Principle
from selfalign.principles import COLUMNS, Estimate, Record, Stats, figure_text, stats
from selfalign.text import one_line
from selfalign.tui import shown
from selfalign.tui.constitution.changes import compared, summary
from selfalign.tui.constitution.editor import Drafting, Editor
from selfalign.tui.constitution.principle import Conflicts, OnePrinciple, brief, rank, whole
from selfalign.tui.constitution.rules import Line, Subject, judged_mark, near, subject
from selfalign.tui.page import Place
from selfalign.tui.reading import UNREADABLE, why
from selfalign.tui.shown import Part
from selfalign.tui.widgets import Column, Grid, Scroll, Words

ROOMY = 130  # columns of a screen that has room for intervals
REST = 0.06  # seconds without a key after which the principle under the cursor is told
TALL = 40  # lines of one that has room for the whole principle below the list
GIVEN_UP = ("length r", "first", "gold", "invalid", "people", "orders", "prompts")  # where room is short, in this order
IN_SHORT = {  # flags, by their kinds
    "never asked": "never fires", "never decides": "hardly decides", "length": "length detector",
    "order": "order decides", "people": "people disagree", "gold": "gold disagrees", "same": "says the same as another",
    "opposite": "contradicts another", "drift": "drifts",
}  # fmt: skip
UNJUDGED = "No verdicts yet: figures come when the judge has compared the first answers."
NOTHING = "No constitution yet: the first round freezes a copy of the campaign's file."


def _figure(line: Line, name: str) -> float | None:
    found: Estimate | None = getattr(line.record.over_all, name) if line.record is not None else None
    return found.value if found is not None else None


def _least(name: str) -> Callable[[Line], Any]:
    return lambda line: (value is None, value) if (value := _figure(line, name)) is not None else (True, 0.0)


def _flags(line: Line) -> int:
    return len(line.record.flags) if line.record is not None else 0


SORTS: dict[str, Callable[[Line], Any] | None] = {
    "as in the file": None,
    "most flags first": lambda line: -_flags(line),
    "least decisive first": _least("decisiveness"),
    "least followed by labels first": _least("chosen"),
    "most for the longer answer first": lambda line: -(_figure(line, "longer") or 0.0),
}


@dataclass(frozen=True, slots=True)
class View:
    """What a thread has read. `mark` changes with the verdicts; `edit` says what the file has over the round."""

    subject: Subject
    mark: tuple[Any, ...]
    edit: str
    everywhere: bool


class Constitution(Drafting):
    NUMBER, NAME = "5", "Constitution"
    FILTER = "words of a principle, its id, tag, status or: hard"
    EVERY = 2.0
    ABOUT = (
        "The principles that a round was judged by, with what each did. ■ hard: a hard constraint, which no vote "
        "overrules. Of the others, a lower tier decides before a higher one; weights count within a tier.\n\n"
        + "; ".join(f"{column.title}: {column.words}" for column in COLUMNS)
        + ".\n! stands before what is out of the ordinary: not by chance, for its 95% interval lies beyond the "
        "threshold. What to do about it stands below the list.\n\n"
        "A round keeps the copy of the file that it began with, and nobody edits that. What is saved in the "
        "campaign's file counts from the next round that begins. p asks the run's judge what an edit would change "
        "before a round is spent on it."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "open"),
        Binding("i", "edit", "edit"),
        Binding("d", "difference", "diff"),
        Binding("p", "preview", "preview"),
        Binding("e", "other_editor", "edit in $EDITOR", show=False),
        Binding("m", "conflicts", "which principles contradict each other", show=False),
        Binding("s", "sort", "sort", show=False),
        Binding("a", "all", "figures of this round, or of all", show=False),
        Binding("left_square_bracket", "round(-1)", "the round before", show=False),
        Binding("right_square_bracket", "round(1)", "the round after", show=False),
    ]
    WRITES = frozenset({"e", "p"})
    DEFAULT_CSS = """
    Constitution #none { height: auto; padding: 0 2; }
    Constitution #brief { height: 1fr; border-top: solid $surface; }
    Constitution #brief > Words { height: auto; padding: 0 2; }
    """

    class Measured(Message):
        """What the principles did, or why that is not known."""

        def __init__(self, mark: tuple[Any, ...], found: Stats | None, trouble: str = "") -> None:
            super().__init__()
            self.mark, self.found, self.trouble = mark, found, trouble

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.number = place.round
        self.everywhere = True
        self.words, self.sort = "", next(iter(SORTS))
        self.lines: list[Line] = []
        self.figures: Stats | None = None
        self._measured: tuple[Any, ...] = ()
        self._measuring = False
        self._unmeasured: tuple[str, ...] = ()  # why there are no figures
        self._edit = ""
        self._resting: Timer | None = None

    def body(self) -> Iterator[Widget]:
        yield Grid(())
        yield Words(id="none")
        with Scroll(id="brief"):
            yield Words(id="about")

    @property
    def settled(self) -> bool:
        return self.ready and self._resting is None and not (self._measuring or self._preparing)

    # Reading

    def read(self) -> View:
        everywhere, at = self.everywhere, subject(self.watched, self.number, self.parsed)
        if self.subject is not None and self.watched.state == "deleted":  # what was read before is still shown
            return View(replace(self.subject, problems=at.problems), self._measured, self._edit, everywhere)
        rounds = self.watched.run.rounds() if at.round is not None else []
        wanted = rounds if everywhere else [at.round] if at.round is not None else []
        mark = judged_mark(self.watched.run, wanted)
        return View(at, (everywhere, *mark) if mark else (), self._edited(at), everywhere)

    def _edited(self, at: Subject) -> str:
        """What the campaign's file has that the round has not, in a few words."""
        if at.file is None or at.rules is None or at.round is None:
            return ""
        view = compared(at, self.bench, self.parsed)
        unsaved = "✎ unsaved: " if at.file in self.bench.unsaved() else "the file: "
        if view.found is None:
            return f"{unsaved}has errors"
        return f"{unsaved}{summary(view.found)}" if view.found.changes else ""

    def show(self, view: View) -> None:
        if view.everywhere != self.everywhere:  # asked for otherwise meanwhile
            self.renew()
            return
        self.subject, self._edit = view.subject, view.edit
        self.number = view.subject.round
        self.at = Place(self.at.path, self.at.round if self.number is None else self.number)
        self.trouble(list(dict.fromkeys((*view.subject.problems, *self._unmeasured))))
        if view.mark != self._measured and not self._measuring:
            self._measured = view.mark
            if view.mark:
                self._measuring = True
                self._measure(view.mark, None if self.everywhere else [self.number or 0])
            else:
                self.figures = None
        self._arrange()

    @work(thread=True, group="measure", exit_on_error=False, description="measure")
    def _measure(self, mark: tuple[Any, ...], rounds: Sequence[int] | None) -> None:
        try:
            run = self.watched.run
            self.post_message(self.Measured(mark, stats(run, rounds, labels.preferred(run.path))))
        except UNREADABLE as error:
            self.post_message(self.Measured(mark, None, near(why(error), self.watched.path)))

    def on_constitution_measured(self, message: Measured) -> None:
        self._measuring = False
        self._unmeasured = (message.trouble,) * bool(message.trouble)
        if message.mark[:1] == (self.everywhere,):
            self.figures = message.found
        self._arrange()
        self.renew()

    # Showing

    def _arrange(self) -> None:
        """Put the rows in order again; the cursor stays on its principle where that is still there."""
        grid = self.query_one(Grid)
        at = self.lines[grid.cursor].id if grid.cursor < len(self.lines) else ""
        self.lines = [line for line in self._all() if matches(line, self.words)]
        if (key := SORTS[self.sort]) is not None:
            self.lines.sort(key=key)
        grid.styles.height = min(len(self.lines) + 1, max(6, self.size.height * 55 // 100))
        grid.fill(len(self.lines), self.row, columns=self._columns())
        where = next((index for index, line in enumerate(self.lines) if line.id == at), grid.cursor)
        if where != grid.cursor:
            grid.put_cursor(where)
        self._title()
        self._show_brief()

    def _all(self) -> Iterator[Line]:
        """The principles of this version, then those that the judge was asked about in other rounds."""
        at = self.subject
        records = {record.id: record for record in self.figures.principles} if self.figures is not None else {}
        for stated in at.rules.principles if at is not None and at.rules is not None else ():
            yield Line(stated.id, stated, records.pop(stated.id, None))
        yield from (Line(name, None, record) for name, record in records.items() if record.over_all.judgments)

    def _columns(self) -> list[Column]:
        roomy = self.size.width >= ROOMY
        heads = [Column("principle", 24 if roomy else 15), Column("tier", 6), Column("weight", 6, right=True, drop=1)]
        several = any(line.principle is None or line.principle.status != "active" for line in self.lines)
        if several:
            heads.append(Column("status", 10))
        if self.figures is None:
            return [*heads, Column("text")]
        for column in self._measured_columns():
            drop = len(GIVEN_UP) - GIVEN_UP.index(column.title) + 1 if column.title in GIVEN_UP else 0
            width = 12 if column.title == "length r" else 9
            heads.append(Column(column.title, width if roomy else max(len(column.title), 5), right=True, drop=drop))
        asked = [index for index, head in enumerate(heads) if head.name in ("weight", "status")][-1] + 1
        return [
            *heads[:asked],
            Column("asked", 6, right=True),
            *heads[asked:],
            Column("flags", least=13 if several else 17),
        ]

    def _measured_columns(self) -> list[Any]:
        """The figures that there are of any principle; that none is invalid is not worth a column."""
        known = self.figures.principles if self.figures is not None else ()
        found = {
            column.title: [one for record in known if (one := getattr(record.over_all, column.figure)) is not None]
            for column in COLUMNS
        }
        return [
            column for column in COLUMNS
            if found[column.title] and (column.title != "invalid" or any(one.value for one in found["invalid"]))
        ]  # fmt: skip

    def row(self, at: int) -> list[Text]:
        line = self.lines[at]
        stated = line.stated
        quiet = shown.DIM if line.principle is None or line.principle.status != "active" else ""
        cells: list[Text] = [shown.cell(line.id, quiet), shown.line(rank(stated))]
        cells.append(shown.cell(f"{stated.weight:g}" if stated else "–", quiet))
        titles = [column.name for column in self.query_one(Grid).columns]
        if "status" in titles:
            cells.append(
                shown.cell(line.principle.status if line.principle else "not here", shown.WARN if quiet else "")
            )
        if self.figures is None:
            return [*cells, shown.cell(stated.norm() if stated else "", quiet)]
        return [*cells, *self._did(line.record)]

    def _did(self, record: Record | None) -> Iterator[Text]:
        asked = record.over_all.judgments if record is not None else 0
        yield shown.cell(f"{asked:,}" if asked else "never", "" if asked else shown.DIM)
        detail = self.size.width >= ROOMY
        for column in self._measured_columns():
            found: Estimate | None = getattr(record.over_all, column.figure) if record is not None and asked else None
            flagged = record is not None and any(flag.figure == column.figure for flag in record.flags)
            words = figure_text(column.figure, found, detail=detail) if found is not None else "–"
            style = shown.WARN if flagged else "" if found is not None else shown.DIM
            yield shown.line(("!" if flagged else "", shown.WARN), (words, style))
        kinds = dict.fromkeys(IN_SHORT.get(flag.kind, flag.kind) for flag in record.flags) if record is not None else {}
        yield shown.cell(f"! {', '.join(kinds)}" if kinds else "", shown.WARN)

    def _title(self) -> None:
        at, rules = self.subject, self.subject.rules if self.subject is not None else None
        none = self.query_one("#none", Words)
        if at is None or rules is None:
            self.title_is((self.watched.name, "bold"))
            none.say((NOTHING if at is not None and not at.problems else "", shown.DIM))
            return
        hard = sum(one.kind == "hard_constraint" for one in rules.principles)
        which = f"round {at.round}" if at.round is not None else "the file, no round has begun"
        total = len(rules.principles)
        count = f"{len(self.lines)} of {total}" if self.words else f"{total}"
        self.title_is(
            (self.watched.name, "bold"), f"  {which}  ", (f"{one_line(rules.name)} {rules.version}", "bold"),
            f"  {count} principle{'s' * (total != 1)}{', ' * bool(hard)}",
            (f"■ {hard} hard" if hard else "", shown.WARN),
            (f"  {self._edit}" if self._edit else "", shown.SKY),
            (f"  {self.sort}" if self.sort != next(iter(SORTS)) else "", shown.DIM), (f"  {self.words}", shown.SKY),
        )  # fmt: skip
        none.say(*self._counted())

    def _counted(self) -> Iterator[Part]:
        """What the figures are of, or why there are none."""
        found = self.figures
        if self._measuring and found is None:
            yield ("reading the verdicts …", shown.SKY)
        elif self._unmeasured:
            yield ("! no figures: why is said above", shown.WARN)
        elif found is None or not found.rounds:
            yield (UNJUDGED, shown.DIM)
        else:
            rounds = found.rounds
            which = f"round {rounds[0]}" if len(rounds) == 1 else f"rounds {rounds[0]} to {rounds[-1]}"
            counts = f"{which}: {found.num_judgments:,} verdicts on {found.num_pairs:,} pairs of answers"
            yield (counts, shown.DIM)
            yield ("  reading more …" if self._measuring else "", shown.SKY)

    def _show_brief(self) -> None:
        self._resting = None
        at = self.query_one(Grid).cursor
        if at >= len(self.lines):
            made = shown.line("")
        elif self.size.height >= TALL:
            made = shown.below(*whole(self.lines[at], self.size.width))
        else:
            made = brief(self.lines[at])
        self.query_one("#about", Words).show(made)

    def on_grid_moved(self) -> None:
        """The cursor moves at once; what it stands on is told when it rests."""
        if self._resting is not None:
            self._resting.stop()
        self._resting = self.set_timer(REST, self._show_brief)

    def on_resize(self, event: Resize) -> None:
        if self.ready:
            self._arrange()

    def filtered(self, words: str) -> None:
        self.words = words.strip()
        self._arrange()

    # Keys

    def own_keys(self) -> list[Binding]:
        """Where nothing may be written, the editor is there to read."""
        if not self.reader.read_only:
            return super().own_keys()
        return [replace(one, description="read the file") if one.key == "i" else one for one in super().own_keys()]

    def named_keys(self) -> list[tuple[str, str]]:
        """Where there is room, also the keys that change what the list shows."""
        own, rest = super().named_keys()[:-2], super().named_keys()[-2:]
        return [*own, ("m", "conflicts"), rest[0], ("s", "sort"), ("a", "rounds"), ("[ ]", "round"), rest[1]]

    def line(self, at: int) -> Line | None:
        return self.lines[at] if 0 <= at < len(self.lines) else None

    def action_open(self) -> None:
        grid = self.query_one(Grid)
        if self.line(grid.cursor) is not None:
            self.app.push_screen(OnePrinciple(self.at, self.line, grid.cursor, grid.put_cursor, self.command()))

    def on_grid_opened(self) -> None:
        self.action_open()

    def action_sort(self) -> None:
        names = list(SORTS)
        self.sort = names[(names.index(self.sort) + 1) % len(names)]
        self._arrange()
        self.query_one(Grid).put_cursor(0)

    def action_all(self) -> None:
        """Between the figures of all rounds and those of this one."""
        self.everywhere = not self.everywhere
        self.renew()

    def action_round(self, by: int) -> None:
        at = self.subject
        if at is None or at.round is None:
            return
        place = at.rounds.index(at.round) + by
        if not 0 <= place < len(at.rounds):
            self.reader.say("there is no further round")
            return
        self.number = at.rounds[place]
        self.renew()

    def action_edit(self) -> None:
        if self.subject is not None:
            line = self.line(self.query_one(Grid).cursor)
            self.app.push_screen(Editor(self.at, self.subject, self.parsed, line.id if line else ""))

    def action_other_editor(self) -> None:
        if self.in_other_editor():
            self.action_edit()

    def action_conflicts(self) -> None:
        if self.figures is None:
            self.reader.say("no verdicts to compare yet")
            return
        self.app.push_screen(Conflicts(self.at, self.figures, self.command()))

    def command(self) -> str:
        rounds = "" if self.everywhere or self.number is None else f" --round {self.number}"
        if self.figures is not None:
            return f"selfalign constitution stats {self.at.path}{rounds}"
        return f"selfalign constitution export {self.subject.version if self.subject else self.at.path}"

    def copied(self) -> str:
        line = self.line(self.query_one(Grid).cursor)
        return line.copied() if line else ""


def matches(line: Line, words: str) -> bool:
    """Whether every word is somewhere in a principle."""
    stated: Principle | None = line.stated
    facts = [line.id]
    if stated is not None:
        facts += [stated.title, stated.status, *stated.tags, stated.text, stated.compare]
        facts.append("hard" if stated.kind == "hard_constraint" else f"tier {stated.tier}")
    said = " ".join(facts).lower()
    return all(word in said for word in words.lower().split())
