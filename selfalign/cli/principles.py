"""`selfalign constitution stats`: what each principle did in a run, as a table, a matrix of conflicts, and words."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from selfalign import labels, principles
from selfalign.cli.arguments import Round, RunName, Runs
from selfalign.cli.examples import chosen_rounds
from selfalign.cli.output import console, is_unicode, make_table, print_json, say
from selfalign.cli.targets import RUNS, find_run
from selfalign.principles import FEWEST, Conflict, Estimate, Record, Stats, by_fix, worded
from selfalign.stages.examples import held
from selfalign.stages.report.content import NONE
from selfalign.store import Run
from selfalign.text import one_line
from selfalign.units import sparkline

WIDEST = 1000  # columns of no terminal: in a pipe nothing is cut or wrapped
_NAME, _TITLE = 24, 40  # characters of a principle's id and title in the table; the words below have the id whole
_LAYOUTS = ((19, 5), (3, 5), (3, 4))  # of the matrix: characters of a label and of a cell, for ever more principles
_PROSE = 100  # characters of a line of words, however wide the terminal is
_LEAST_COURSE, _LONGEST_COURSE = 0.2, 10  # what a sparkline spans, and how many rounds it shows
_JOINED = "\0"  # stands for a space at which no line is broken
_CLEAR = 0.2  # kappa beyond which a cell of the matrix is coloured


def stats(run: RunName, /, *, round: Round = None, json: bool = False, runs: Runs = RUNS) -> int:
    """Show what each principle did in a run: asked, decided, followed by the labels, fooled by order or length.

    Parameters
    ----------
    json
        Print JSON: every figure with its interval, by round and over all, the conflicts and the flags.
    """
    opened = find_run(run, runs)
    rounds = chosen_rounds(opened, round)
    found = principles.stats(opened, rounds, people_prefer(opened.path))
    if json:
        print_json(facts(found))
    elif found.rounds:
        _print(opened, found)
    else:
        _say_why(opened, rounds)
    return 0


def people_prefer(run: Path) -> dict[tuple[str, str], str]:
    """What all labellers of a run together prefer, by pair of candidates; pairs on which they are even are left out."""
    said = labels.together(labels.read(run).values())
    return {pair: pair[0] if lead > 0 else pair[1] for pair, lead in said.items() if lead}


def facts(found: Stats) -> dict[str, Any]:
    """Everything that was measured, for programs."""
    return {
        "rounds": found.rounds,
        "judgments": found.num_judgments,
        "prompts": found.num_prompts,
        "pairs": found.num_pairs,
        "principles": [_record_facts(record) for record in found.principles],
        "conflicts": found.conflicts,
    }


def _record_facts(record: Record) -> dict[str, Any]:
    stated = record.stated
    return {
        "id": record.id,
        "title": stated.title if stated else "",
        "status": stated.status if stated else None,
        "over_all": record.over_all,
        "by_round": record.by_round,
        "reworded": record.reworded,
        "flags": record.flags,
    }


def _say_why(run: Run, rounds: Sequence[int]) -> None:
    """Say why there is nothing to show, and what to do."""
    if not rounds:
        say(f"no round of {run.path} was begun: nothing was judged yet\nnext:  selfalign run {run.path}")
        return
    which = f"round {rounds[0]}" if len(rounds) == 1 else f"rounds {rounds[0]} to {rounds[-1]}"
    say(f"no principle was put before a judge in {which} of {run.path}")
    answers = [number for number in held(run).get("demonstrations", []) if number in rounds]
    if answers:
        say(f"round {answers[0]} learns from answers as they are, without a judge of their own")
        say(f"next:  selfalign revisions ls {run.path}")
    else:
        say(f"next:  selfalign status {run.path}")


# The screen ----------------------------------------------------------------------------------------------------------


def _print(run: Run, found: Stats) -> None:
    print_to = console()
    for part in screen(run.path.name, found, print_to.width, unicode=is_unicode(sys.stdout)):
        print_to.print(part, soft_wrap=False)
    flagged = [record for record in found.principles if record.flags and record.over_all.judgments]
    if flagged:
        say(f"\nnext:  selfalign pairs ls {run.path} --principle {one_line(flagged[0].id)}")


def screen(run: str, found: Stats, width: int, *, unicode: bool = True) -> Iterator[Text | Table]:
    """The parts of the screen, one below the other: table, legend, matrix of conflicts, flags."""
    drawn = _Screen(found, width, unicode)
    yield from (drawn.heading(run), drawn.table(), drawn.legend(), *drawn.conflicts(), *drawn.flags())


@dataclass(frozen=True, slots=True)
class Column:
    """A figure in the table. `course`: its way over the rounds is drawn too. `words` say what it is."""

    title: str
    figure: str
    words: str
    course: bool = False


COLUMNS = (
    Column("prompts", "coverage", "asked about"),
    Column("decides", "decisiveness", "0% a coin toss, 100% certain", course=True),
    Column("chosen", "chosen", "what it prefers, its own vote among others, was trained on", course=True),
    Column("orders", "swap_consistency", "same verdict when the answers change places"),
    Column("first", "first_preferred", "prefers the answer shown first"),
    Column("longer", "longer", "prefers the longer answer", course=True),
    Column("length r", "length_correlation", "correlation of its log-odds with length"),
    Column("invalid", "invalid", "no verdict that could be read"),
    Column("people", "people", "people agree"),
    Column("gold", "gold", "prefers the gold answer"),
)
# Where room is short, the columns that go, in this order.
_GIVEN_UP = ("length r", "first", "gold", "invalid", "people", "orders", "prompts", "longer", "asked")


class _Screen:
    """The parts of the screen, for a terminal of some width. The table is cut to fit, words are wrapped."""

    def __init__(self, found: Stats, width: int, unicode: bool) -> None:
        self.found, self.width, self.unicode = found, width, unicode
        self.keys = dict(zip((record.id for record in found.principles), _keys(), strict=False))
        measured = [column for column in COLUMNS if any(_value(r, column.figure) for r in found.principles)]
        clear = any((one := record.over_all.invalid) and one.value for record in found.principles)
        self.columns = [column for column in measured if clear or column.title != "invalid"]

    def heading(self, run: str) -> Text:
        rounds, found = self.found.rounds, self.found
        which = f"round {rounds[0]}" if len(rounds) == 1 else f"rounds {rounds[0]} to {rounds[-1]}"
        counts = (
            f"{found.num_judgments:,} judgments, {found.num_pairs:,} pairs of answers, {found.num_prompts:,} prompts"
        )
        name = one_line(run, 40)
        heading = Text("\n".join(self._wrapped(f"{name}, {which}: {counts}")) + "\n")
        heading.stylize("bold", 0, len(name))
        return heading

    def table(self) -> Table:
        titles, rows = self._fitted()
        return make_table(titles, rows, right=titles[titles.index("asked") if "asked" in titles else 2 :])

    def _fitted(self) -> tuple[list[str], list[list[Text]]]:
        """The titles and cells for which there is room: with intervals, or without, or fewer of them."""
        entitled = any(record.stated and record.stated.title for record in self.found.principles)
        for detail, titled in ((True, entitled), (True, False), (False, False)):
            titles, rows = self._cells(detail, titled)
            if _room(titles, rows) <= self.width:
                return titles, rows
        for title in _GIVEN_UP:
            if _room(titles, rows) > self.width and title in titles:
                place = titles.index(title)
                titles, rows = titles[:place] + titles[place + 1 :], [row[:place] + row[place + 1 :] for row in rows]
        return titles, rows

    def _cells(self, detail: bool, titled: bool) -> tuple[list[str], list[list[Text]]]:
        titles = ["", "principle", *["title"] * titled, "asked", *(column.title for column in self.columns)]
        return titles, [self._row(record, detail, titled) for record in self.found.principles]

    def _row(self, record: Record, detail: bool, titled: bool) -> list[Text]:
        unseen = not record.over_all.judgments
        style = "dim" if unseen else ""
        name = one_line(record.id, None if self.width > WIDEST else _NAME)
        key = Text(self.keys[record.id]).append(*self._mark(record, ""))
        title = Text(one_line(record.stated.title if record.stated else "", _TITLE), "dim")
        asked = Text("never" if unseen else f"{record.over_all.judgments:,}", style)
        cells = [key, Text(name, style), *[title] * titled, asked]
        return [*cells, *(self._figure(record, column, detail) for column in self.columns)]

    def _figure(self, record: Record, column: Column, detail: bool) -> Text:
        found = _value(record, column.figure)
        if found is None or not record.over_all.judgments:
            return Text(NONE if self.unicode else "-", "dim")
        mark, style = self._mark(record, column.figure)
        shown = Text().append(mark + _shown(column.figure, found, detail, self.unicode), style)
        if column.course and len(self.found.rounds) > 1 and (detail or column.title == "decides"):
            shown.append(f" {self._course(record, column)}", "dim")
        return shown

    def _course(self, record: Record, column: Column) -> str:
        """A bar for each of the last rounds, a dot where nothing was measured."""
        estimates = [getattr(found, column.figure) for found in record.by_round.values()][-_LONGEST_COURSE:]
        values = [one.value if one else None for one in estimates]
        return sparkline(values, unicode=self.unicode, least=_LEAST_COURSE).replace(" ", "·" if self.unicode else "?")

    def _mark(self, record: Record, figure: str) -> tuple[str, str]:
        """The sign of a flag on a figure ("" for the principle as a whole), and its style."""
        return ("!", "bold yellow") if any(flag.figure == figure for flag in record.flags) else ("", "")

    def legend(self) -> Text:
        titles, _ = self._fitted()
        said = [f"{column.title}: {column.words}" for column in self.columns if column.title in titles]
        if not any(column.title == "invalid" for column in self.columns):
            said.append("no judgment is invalid")
        said.append("first come those that the labels follow most")
        lines = self._wrapped("; ".join(text.replace(" ", _JOINED) for text in said))
        return Text("\n" + "\n".join(lines).replace(_JOINED, " "), "dim")

    # Conflicts

    def conflicts(self) -> Iterator[Text]:
        known = {(one.a, one.b): one for one in self.found.conflicts}
        known |= {(b, a): one for (a, b), one in known.items()}
        names = [record.id for record in self.found.principles if any(a == record.id for a, _ in known)]
        if sum(record.over_all.judgments > 0 for record in self.found.principles) < 2:
            return
        if all(one.n < FEWEST for one in known.values()):
            said = f"No two principles spoke on {FEWEST} pairs of answers or more, so their conflicts are unknown."
            hint = "" if known else " With judge.principles: all they are put to the judge together."
            yield Text("\n" + "\n".join(self._wrapped(said + hint)))
            return
        said = "Agreement beyond chance where two spoke on the same answers: 100 always, 0 by chance, -100 never"
        yield Text("\n" + "\n".join(self._wrapped(f"{said} (kappa x 100)")), "bold")
        yield from self._matrix(names, known)

    def _matrix(self, names: list[str], known: Mapping[tuple[str, str], Conflict]) -> Iterator[Text]:
        label, cell = next((one for one in _LAYOUTS if self._fitting(*one) >= len(names)), _LAYOUTS[-1])
        kept = self._fiercest(names, known, max(2, self._fitting(label, cell)))
        for i, name in enumerate(kept):
            line = Text(f"{self.keys[name]:<3}{one_line(name, label - 5) if label > 5 else '':<{label - 3}}")
            for other in kept[:i]:
                line.append(*self._kappa(known.get((name, other)), cell))
            yield line.append(f"{self.keys[name]:>{cell}}", "bold dim")
        left = len(names) - len(kept)
        if left:
            yield Text(f"{left} more, whose agreement is nearer to chance, are left out; --json has them", "dim")

    def _fitting(self, label: int, cell: int) -> int:
        """How many principles there is room for in a matrix."""
        return (self.width - label) // cell

    def _fiercest(self, names: list[str], known: Mapping[tuple[str, str], Conflict], count: int) -> list[str]:
        """The principles that are furthest from agreeing by chance with some other, in the order of the table."""
        furthest = {name: max(abs(one.kappa or 0.0) for (a, _), one in known.items() if a == name) for name in names}
        kept = sorted(names, key=lambda name: -furthest[name])[:count]
        return [name for name in names if name in kept]

    def _kappa(self, one: Conflict | None, cell: int) -> tuple[str, str]:
        if one is None or one.kappa is None or one.n < FEWEST:
            return f"{'·' if self.unicode else '.':>{cell}}", "dim"
        style = "bold red" if one.kappa <= -_CLEAR else "" if one.kappa >= _CLEAR else "dim"
        return f"{max(round(100 * one.kappa), -99):>{cell}}", style

    # Flags

    def flags(self) -> Iterator[Text]:
        """What is flagged, those together for which the same is to be done."""
        found = by_fix(flag for record in self.found.principles for flag in record.flags)
        if not found:
            yield Text("\nNothing to flag.")
        for fix, raised in found.items():
            yield Text("")
            for name, words in worded(raised).items():
                said = f"{self.keys[name]} {one_line(name)}: {one_line(words)}"
                yield Text("! ", "bold yellow").append("\n  ".join(self._wrapped(said, indent=2)), "not bold default")
            arrow = "→" if self.unicode else "->"
            yield Text("  " + "\n    ".join(self._wrapped(f"{arrow} {one_line(fix)}", indent=4)), "dim")

    def _wrapped(self, text: str, indent: int = 0) -> list[str]:
        if self.width > WIDEST:
            return [text]
        return textwrap.wrap(text, max(20, min(self.width, _PROSE) - indent), break_on_hyphens=False)


def _value(record: Record, figure: str) -> Estimate | None:
    return getattr(record.over_all, figure)


def _shown(figure: str, found: Estimate, detail: bool, unicode: bool) -> str:
    """A figure, and in detail half the width of its interval."""
    half = (found.high - found.low) / 2
    sign = "±" if unicode else "+-"
    if figure == "length_correlation":
        return f"{found.value:+.2f}" + (f" {sign}{half:.2f}" if detail else "")
    return f"{found.value:.0%}" + (f" {sign}{100 * half:.0f}" if detail else "")


def _room(titles: Sequence[str], rows: Sequence[Sequence[Text]]) -> int:
    """The columns that a table takes."""
    return sum(max(cell_len(title), *(cell.cell_len for cell in column)) + 2
               for title, column in zip(titles, zip(*rows, strict=True), strict=True)) - 2  # fmt: skip


def _keys() -> Iterator[str]:
    """A, B, ... Z, AA, AB, ..."""
    yield from ascii_uppercase
    yield from map("".join, product(ascii_uppercase, repeat=2))
