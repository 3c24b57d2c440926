"""One principle of a constitution: all its words, and what it did round after round. And which principles disagree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from string import ascii_uppercase
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widget import Widget

from selfalign.constitution import Principle
from selfalign.constitution.diff import in_words
from selfalign.principles import COLUMNS, FEWEST, Conflict, Estimate, Record, Stats, figure_text
from selfalign.text import one_line
from selfalign.tui import shown
from selfalign.tui.constitution.rules import Line
from selfalign.tui.page import Page, Place
from selfalign.tui.shown import Part
from selfalign.tui.widgets import Column, Grid, Scroll, Words
from selfalign.units import sparkline

WIDE = 120  # columns of a screen that has room for what each figure says
CLEAR = 0.2  # kappa beyond which two principles clearly agree, or clearly do not
CELL, LABEL = 5, 22  # columns of a cell of the matrix, and of its names
LONGEST = 600  # characters of a principle's words below the list


class OnePrinciple(Page):
    NUMBER, NAME = "5", "Principle"
    ABOUT = (
        "One principle whole: what a judge is asked, what a policy is asked where answers are revised, where it "
        "applies, what it yields to, and its figures over the rounds.\n\n"
        "■ hard: a hard constraint, never outvoted. Of the others a lower tier decides before a higher one; weights "
        "count within a tier. Words that the file does not have are derived from the norm, and are said to be."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "turn(1)", "next"),
        Binding("p", "turn(-1)", "previous"),
    ]
    DEFAULT_CSS = "OnePrinciple Words { height: auto; padding: 0 2; }"

    def __init__(
        self,
        place: Place,
        line: Callable[[int], Line | None],
        position: int,
        moved: Callable[[int], None],
        command: str,
    ) -> None:
        super().__init__(place)
        self.line, self.position, self.moved, self._command = line, position, moved, command

    def body(self) -> Iterator[Widget]:
        with Scroll():
            yield Words(id="words")

    def read(self) -> Line | None:
        return self.line(self.position)

    def show(self, view: Line | None) -> None:
        if view is None:
            return
        self.title_is((view.id, "bold"), "  ", *standing(view))
        self.query_one("#words", Words).show(shown.below(*whole(view, self.size.width)))

    def action_turn(self, by: int) -> None:
        if self.line(self.position + by) is not None:
            self.position += by
            self.moved(self.position)
            self.query_one(Scroll).scroll_home(animate=False)
            self.renew()

    def command(self) -> str:
        return self._command

    def copied(self) -> str:
        line = self.line(self.position)
        return line.copied() if line else ""


def rank(stated: Principle | None) -> Part:
    """Whether a principle is a hard constraint, or else its tier."""
    if stated is None:
        return ("–", shown.DIM)
    return ("■ hard", shown.WARN) if stated.kind == "hard_constraint" else str(stated.tier)


def standing(line: Line) -> Iterator[Part]:
    """How a principle stands among the others."""
    stated = line.stated
    if stated is None:
        yield ("judged by, but in no constitution of this run", shown.WARN)
        return
    hard = stated.kind == "hard_constraint"
    yield ("■ hard constraint", shown.WARN) if hard else f"tier {stated.tier}"
    yield f"  weight {stated.weight:g}"
    if line.principle is None:
        yield ("  not in this version", shown.WARN)
    elif stated.status != "active":
        yield (f"  {stated.status}", shown.WARN)
    yield (f"  {one_line(stated.title, 60)}", shown.DIM)


def brief(line: Line) -> Text:
    """What there is to know of the principle under the cursor, in a few lines."""
    parts = [shown.line((line.id, "bold"), "  ", *standing(line))]
    if (stated := line.stated) is not None:
        parts.append(shown.block(stated.norm()[:LONGEST]))
        facts = [scope(stated), f"yields to {', '.join(stated.yields_to)}" if stated.yields_to else ""]
        if any(facts):
            parts.append(shown.line(("; ".join(filter(None, facts)), shown.DIM)))
    return shown.lines([*parts, *flagged(line.record)] if line.record else parts)


def whole(line: Line, width: int) -> Iterator[Text | Table]:
    """All that there is to know of a principle, for a screen of some columns."""
    if line.stated is not None:
        yield from worded(line.stated)
    if line.record is not None:
        yield shown.line(("what it did", f"bold {shown.DIM}"))
        yield over_rounds(line.record, width)
        yield shown.line("")
        yield from flagged(line.record)


def flagged(record: Record) -> list[Text]:
    """What is wrong with a principle, and what to do about it."""
    said = []
    for flag in record.flags:
        said.append(
            _wrapped(shown.line(("! ", shown.WARN), one_line(flag.words), (f"  → {one_line(flag.fix)}", shown.DIM)))
        )
    return said


def _wrapped(text: Text) -> Text:
    text.no_wrap = False
    return text


def scope(stated: Principle) -> str:
    """Where a principle applies; "" where it always does."""
    applies = stated.applies_when
    tags = f"prompts tagged {', '.join(applies.prompt_tags)}" if applies.prompt_tags else ""
    asked = f"where the answer is yes: {applies.ask}" if applies.ask else ""
    return "; ".join(filter(None, (tags, asked)))


def worded(stated: Principle) -> Iterator[Text | Table]:
    """All the words of a principle, each under what it is for."""
    derived = {
        "compare": "" if stated.compare else stated.comparison(),
        "critique": "" if stated.critique else stated.critique_request(),
        "revise": "" if stated.revise else stated.revision_request(),
    }
    told = {
        "text": stated.text, "compare": stated.compare, "critique": stated.critique, "revise": stated.revise,
        "rubric": stated.rubric.words(), "applies to": scope(stated), "yields to": ", ".join(stated.yields_to),
        "replaced by": stated.replaced_by, "tags": ", ".join(stated.tags), "rationale": stated.rationale,
        "source": in_words(stated.source),
    }  # fmt: skip
    for name, words in told.items():
        if words or derived.get(name):
            note = "" if words else "  derived"
            yield shown.line((name, f"bold {shown.DIM}"), (note, shown.DIM))
            yield shown.block(words or derived[name], "" if words else shown.DIM)
            yield shown.line("")
    for number, example in enumerate(stated.examples, start=1):
        yield shown.line((f"example {number}  ", f"bold {shown.DIM}"))
        yield shown.block(example.prompt)
        heads = (
            (("+ better", f"bold {shown.GREEN}"), example.better),
            (("− worse", f"bold {shown.VERMILION}"), example.worse),
        )
        yield shown.columns(*(shown.lines([shown.line(head), shown.block(text)]) for head, text in heads))
        if example.critique:
            yield shown.block(example.critique, shown.DIM)
        yield shown.line("")


def over_rounds(record: Record, width: int) -> Table:
    """Every figure over all rounds with half its 95% interval, then of as many rounds as there is room for."""
    wide = width >= WIDE
    rounds = list(record.by_round)[-max(1, (width - (100 if wide else 40)) // 9) :]
    marks = ["*" if number in record.reworded else "" for number in rounds]
    rows: list[tuple[Part, ...]] = [
        ("asked", f"{record.over_all.judgments:,}", *(f"{record.by_round[n].judgments:,}" for n in rounds), "", "")
    ]
    for column in COLUMNS:
        found: Estimate | None = getattr(record.over_all, column.figure)
        if found is None:
            continue
        each = [getattr(record.by_round[number], column.figure) for number in rounds]
        course = sparkline([one.value if one else None for one in each], least=0.2) if len(rounds) > 1 else ""
        said = [figure_text(column.figure, one, detail=False) if one else "–" for one in each]
        whole = figure_text(column.figure, found, detail=True)
        flag = ("!", shown.WARN) if any(one.figure == column.figure for one in record.flags) else ""
        words = (column.words if wide else "", shown.DIM)
        rows.append((column.title, shown.line(flag, whole), *said, (course, shown.SKY), words))
    heads = ("", "together", *(f"round {n}{mark}" for n, mark in zip(rounds, marks, strict=True)), "", "")
    made = shown.table(heads, rows, right=tuple(range(1, len(rounds) + 2)))
    if any(marks):
        made.add_row(shown.line(("* reworded", shown.DIM)))
    return made


# Which of them disagree


class Conflicts(Page):
    NUMBER, NAME = "5", "Conflicts"
    ABOUT = (
        "Which principles say the same, and which contradict each other, where both spoke on the same answers.\n\n"
        "kappa: agreement beyond chance; 1 is always the same, 0 as often as by chance, −1 never. same: both say the "
        "same; opposite: each prefers the answer that the other does not, in percent of the pairs, with half of the "
        "95% interval. In the matrix kappa stands times 100; · is not known."
    )
    DEFAULT_CSS = """
    Conflicts #matrix { height: auto; padding: 0 2; margin-bottom: 1; max-height: 50%; }
    """

    def __init__(self, place: Place, found: Stats, command: str) -> None:
        super().__init__(place)
        self.found, self._command = found, command
        self.ranked = sorted(
            (one for one in found.conflicts if one.n >= FEWEST and one.kappa is not None),
            key=lambda one: one.kappa or 0,
        )

    def body(self) -> Iterator[Widget]:
        yield Words(id="matrix")
        yield Grid(())

    def read(self) -> None:
        return None

    def show(self, view: None) -> None:
        spoke = f"{len(self.ranked):,} pairs of principles, each with {FEWEST} or more pairs of answers"
        self.title_is(("conflicts", "bold"), f"  {spoke}")
        room = (self.size.width - LABEL - 4) // CELL
        self.query_one("#matrix", Words).show(matrix(self.found, room))
        if self.query_one(Grid).count != len(self.ranked):
            self.query_one(Grid).fill(len(self.ranked), self.row, columns=self._columns())

    def _columns(self) -> list[Column]:
        """On a wide screen the names stand close together, and the words have what is left."""
        wide = self.size.width >= WIDE
        return [
            Column("principle", 24 if wide else 0), Column("and", 24 if wide else 0),
            Column("pairs", 7, right=True), Column("kappa", 6, right=True), Column("same", 9, right=True),
            Column("opposite", 9, right=True), Column("", 0 if wide else 18, drop=1),
        ]  # fmt: skip

    def row(self, at: int) -> list[Text]:
        one = self.ranked[at]
        kappa = one.kappa or 0.0
        word, style = ("they contradict", shown.BAD) if kappa <= -CLEAR else ("", "")
        word, style = ("they say the same", shown.NOTE) if kappa >= CLEAR else (word, style)
        shares = (figure_text("", share, detail=True) for share in (one.agreement, one.opposite))
        return [
            shown.cell(one.a), shown.cell(one.b), shown.cell(f"{one.n:,}"), shown.cell(f"{kappa:+.2f}", style),
            *map(shown.cell, shares), shown.cell(word, style),
        ]  # fmt: skip

    def command(self) -> str:
        return self._command

    def copied(self) -> str:
        if not self.ranked:
            return ""
        one = self.ranked[self.query_one(Grid).cursor]
        return f"{one.a} and {one.b}: kappa {one.kappa:+.2f} on {one.n:,} pairs"


def matrix(found: Stats, room: int) -> Text:
    """Kappa times 100 of every two principles, of the fiercest where there is not room for all."""
    known: Mapping[tuple[str, str], Conflict] = {
        pair: one for one in found.conflicts for pair in ((one.a, one.b), (one.b, one.a))
    }
    names = [record.id for record in found.principles if any(a == record.id for a, _ in known)]
    if len(names) < 2:
        said = "No two principles were asked about the same answers; judge.principles: all puts them together."
        return shown.line((said, shown.DIM))
    furthest = {name: max(abs(one.kappa or 0) for (a, _), one in known.items() if a == name) for name in names}
    kept = set(sorted(names, key=lambda name: -furthest[name])[: max(2, min(room, len(ascii_uppercase)))])
    keys = dict(zip([name for name in names if name in kept], ascii_uppercase, strict=False))
    lines = [shown.line(("kappa × 100: 100 always the same, 0 as often as by chance, −100 never", shown.DIM))]
    for at, (name, key) in enumerate(keys.items()):
        cells = [_kappa(known.get((name, other))) for other in list(keys)[:at]]
        lines.append(
            shown.line(f"{key} {one_line(name, LABEL - 4):<{LABEL - 2}}", *cells, (f"{key:>{CELL}}", shown.DIM))
        )
    if len(kept) < len(names):
        lines.append(shown.line((f"and {len(names) - len(kept)} more, whose agreement is nearer to chance", shown.DIM)))
    return shown.lines(lines)


def _kappa(one: Conflict | None) -> Part:
    if one is None or one.kappa is None or one.n < FEWEST:
        return (f"{'·':>{CELL}}", shown.DIM)
    style = shown.BAD if one.kappa <= -CLEAR else "" if one.kappa >= CLEAR else shown.DIM
    return (f"{round(100 * one.kappa):>{CELL}}", style)
