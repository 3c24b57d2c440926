"""What an edit would change, asked of the run's judge: flips by principle and by tag against noise, and each flip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rich.table import Table
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widget import Widget

from selfalign.records import Message
from selfalign.rewording import diff as coloured
from selfalign.rewording import sides
from selfalign.text import one_line
from selfalign.tui import shown
from selfalign.tui.constitution.bench import Asked, Bench
from selfalign.tui.constitution.changes import CAME, WENT
from selfalign.tui.constitution.rules import Subject
from selfalign.tui.page import Page, Place
from selfalign.tui.shown import Part
from selfalign.tui.widgets import Column, Grid, Scroll, Words
from selfalign.units import duration

WIDE = 100  # columns of a screen that has room for the kinds of flips
SPINNER = "◐◓◑◒"
LAST_LINES = 12  # of a process that failed
COLUMNS = (
    Column("number", 6, right=True),
    Column("principle", 14),
    Column("before", 13, drop=2),
    Column("after", 13),
    Column("noise", 7, drop=3),
    Column("prompt"),
    Column("first", drop=4),
    Column("second", drop=5),
)


@dataclass(frozen=True, slots=True)
class View:
    """How far a preview is. `found` is what the command line prints as JSON, empty while it is not there."""

    state: str
    seconds: float
    said: tuple[str, ...]
    found: Mapping[str, Any]


class Impact(Page):
    NUMBER, NAME = "5", "Impact"
    EVERY = 0.5
    ABOUT = (
        "Stored pairs of answers, judged by the old text and by the new one, by the run's own judge and in both "
        "orders. A flip is a verdict that changes.\n\n"
        "noise: the old text asked again with other marks around the answers, which mean nothing. Flips that are not "
        "beyond it are what chance makes of any edit. Shares stand with their 95% interval.\n\n"
        "It is asked for by a process of its own: leave the screen and it goes on, x ends it, quitting ends it too. "
        "Nothing is written into the run, and nothing is asked twice."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "open a flip"),
        Binding("tab", "other", "figures or flips"),
        Binding("x", "cancel", "end it"),
    ]
    DEFAULT_CSS = """
    Impact #state { height: auto; padding: 0 2; margin-bottom: 1; }
    Impact #figures { height: auto; max-height: 55%; padding: 0 2; display: none; }
    Impact #figures > Words { height: auto; }
    Impact Grid { display: none; }
    """

    def __init__(self, place: Place, at: Subject, bench: Bench) -> None:
        super().__init__(place)
        self.subject, self.bench = at, bench
        self.flips: Sequence[Mapping[str, Any]] = ()
        self.found: Mapping[str, Any] = {}
        self.state = ""  # as it was shown last

    def body(self) -> Iterator[Widget]:
        yield Words(id="state")
        with Scroll(id="figures"):
            yield Words(id="groups")
        yield Grid(COLUMNS)

    @property
    def asked(self) -> Asked | None:
        return self.bench.asked.get(self.subject.run)

    @property
    def settled(self) -> bool:
        return self.ready and self.state != "asking"

    def named_keys(self) -> list[tuple[str, str]]:
        """What is over cannot be ended."""
        return [one for one in super().named_keys() if self.state == "asking" or one[0] != "x"]

    def read(self) -> View | None:
        asked = self.asked
        return View(asked.state, asked.seconds, tuple(asked.said), asked.found) if asked else None

    def show(self, view: View | None) -> None:
        if view is None:
            return
        if view.state != self.state:
            self.state = view.state
            self.show_keys()
        self.query_one("#state", Words).show(self._state(view))
        self.title_is((self.subject.run.name, "bold"), "  impact of the edit", *self._what(view))
        if view.found and view.found is not self.found:
            self._show_found(view.found)

    def _what(self, view: View) -> Iterator[Part]:
        if view.found:
            change = view.found["change"]
            yield f"  {one_line(change['before'])} → {one_line(change['after'])}"
            yield (f"  {view.found['pairs']:,} pairs of round {view.found['round']}", shown.DIM)

    def _state(self, view: View) -> Text:
        took = duration(view.seconds)
        if view.state == "asking":
            turn = SPINNER[int(view.seconds * 2) % len(SPINNER)]
            last = one_line(view.said[-1]) if view.said else "starting"
            head = (
                (f"{turn} asking the judge for {took}", shown.SKY),
                ("   x ends it; Esc leaves it at work", shown.DIM),
            )
            return shown.lines([shown.line(*head), shown.line((last, shown.DIM))])
        if view.state == "failed":
            said = "\n".join(list(view.said)[-LAST_LINES:]) or "it said nothing"
            head = shown.line(
                (f"✗ the judge gave no answer, after {took}", shown.BAD), ("   p in the list asks again", shown.DIM)
            )
            return shown.lines([head, shown.block(said)])
        if view.state == "cancelled":
            return shown.line((f"‖ ended after {took}; what was asked until then is remembered", shown.WARN))
        return remarks(view.found)

    def _show_found(self, found: Mapping[str, Any]) -> None:
        self.found, self.flips = found, found["flips"]
        figures = self.query_one("#figures", Scroll)
        figures.display = self.query_one(Grid).display = True
        self.query_one("#groups", Words).show(groups(found, wide=self.size.width >= WIDE))
        self.query_one(Grid).fill(len(self.flips), self.row)
        self.query_one(Grid).focus()

    def main(self) -> Widget | None:
        return self.query_one(Grid)

    def row(self, at: int) -> list[Text]:
        case = self.flips[at]
        return [
            shown.cell(case["number"]),
            shown.cell(case["principle"]),
            shown.cell(verdict(case["before"])),
            shown.cell(verdict(case["after"]), "bold"),
            shown.cell("! noisy" if case["noisy"] else "", shown.WARN),
            shown.cell(case["messages"][-1]["content"] if case["messages"] else ""),
            *(shown.cell(case[side]["text"] or "(empty)") for side in ("first", "second")),
        ]

    def flip(self, at: int) -> Mapping[str, Any] | None:
        return self.flips[at] if 0 <= at < len(self.flips) else None

    def action_open(self) -> None:
        grid = self.query_one(Grid)
        if self.flip(grid.cursor) is not None:
            changes = self.found["change"]["changes"]
            self.app.push_screen(OneFlip(self.at, self.flip, changes, grid.cursor, grid.put_cursor, self.command()))

    def on_grid_opened(self) -> None:
        self.action_open()

    def action_other(self) -> None:
        grid, figures = self.query_one(Grid), self.query_one("#figures", Scroll)
        (figures if grid.has_focus and figures.display else grid).focus()

    def action_cancel(self) -> None:
        if self.asked is None or self.asked.state != "asking":
            self.reader.say("nothing is being asked")
            return
        self.asked.cancel()
        self.renew()

    def command(self) -> str:
        words = self.asked.command(str(self.subject.file)) if self.asked else []
        return " ".join(("selfalign", *words, "--flips"))

    def copied(self) -> str:
        case = self.flip(self.query_one(Grid).cursor)
        return written(case) if case else ""


class OneFlip(Page):
    NUMBER, NAME = "5", "Flip"
    ABOUT = (
        "One pair of answers whose verdict the edit changes: the words that changed, both answers side by side, and "
        "what the judge makes of them by the old text, by the new one, and by the old one asked again with other "
        "marks. The lead is that of the first answer, from −1 to 1; where answers are rated, by how much "
        "its rating is the higher one."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "turn(1)", "next"),
        Binding("p", "turn(-1)", "previous"),
    ]
    DEFAULT_CSS = """
    OneFlip Words { height: auto; }
    OneFlip .part { padding: 0 2; margin-bottom: 1; }
    OneFlip #answers { height: auto; padding: 0 2; margin-bottom: 1; }
    OneFlip #answers > Words { width: 1fr; }
    OneFlip #first { margin-right: 2; }
    """

    def __init__(
        self,
        place: Place,
        flip: Callable[[int], Mapping[str, Any] | None],
        changes: Sequence[Mapping[str, Any]],
        position: int,
        moved: Callable[[int], None],
        command: str,
    ) -> None:
        super().__init__(place)
        self.flip, self.changes, self.position, self.moved = flip, changes, position, moved
        self._command = command

    def body(self) -> Iterator[Widget]:
        with Scroll():
            yield Words(id="verdicts", classes="part")
            yield Words(id="prompt", classes="part")
            with Horizontal(id="answers"):
                yield Words(id="first")
                yield Words(id="second")
            yield Words(id="reworded", classes="part")

    def read(self) -> Mapping[str, Any] | None:
        return self.flip(self.position)

    def show(self, view: Mapping[str, Any] | None) -> None:
        if view is None:
            return
        self.title_is(
            (f"pair {view['number']}", "bold"), f"  {one_line(view['principle'])}  ", (view["flip"] or "", shown.SKY),
            (f"  {', '.join(map(one_line, view['tags']))}", shown.DIM),
        )  # fmt: skip
        self.query_one("#verdicts", Words).show(verdicts(view))
        messages = [Message(one["role"], one["content"]) for one in view["messages"]]
        self.query_one("#prompt", Words).show(shown.conversation(messages))
        texts = [view[side]["text"][: shown.LONGEST_BLOCK] for side in ("first", "second")]
        marked = sides(*texts, (f"underline {shown.ORANGE}", f"underline {shown.SKY}"))
        for side, text, made in zip(("first", "second"), texts, marked, strict=True):
            said = made if text else shown.line(("(empty)", shown.DIM))
            self.query_one(f"#{side}", Words).show(shown.lines([shown.line((side, "bold")), said]))
        self.query_one("#reworded", Words).show(reworded(self.changes, view["principle"]))

    def action_turn(self, by: int) -> None:
        if self.flip(self.position + by) is not None:
            self.position += by
            self.moved(self.position)
            self.query_one(Scroll).scroll_home(animate=False)
            self.renew()

    def command(self) -> str:
        case = self.flip(self.position)
        return self._command.replace("--flips", f"--show {case['number'] if case else 0}")

    def copied(self) -> str:
        case = self.flip(self.position)
        return written(case) if case else ""


def remarks(found: Mapping[str, Any]) -> Text:
    """What it cost, what it did not ask, and what it means."""
    cost, unchanged = found["cost"], found["unchanged"]
    dollars = f", {cost['dollars']:.2f} dollars" if cost["dollars"] is not None else ""
    beyond = [one_line(group["name"]) for group in found["principles"] if group["beyond_noise"]]
    head = f"beyond noise: {', '.join(beyond)}" if beyond else "nothing beyond what chance changes"
    if not found["principles"]:
        head = "no stored pair is under a principle that changed"
    asked = f"{cost['asked']:,} questions asked ({cost['tokens']:,} tokens{dollars}, {duration(cost['seconds'])})"
    parts = [f"{asked}, {cost['known']:,} known before"]
    if unchanged:
        parts.append(f"verdicts hold on {sum(unchanged.values()):,} pairs under {len(unchanged)} principles")
    lines = [shown.line((f"{'!' if beyond else '✓'} {head}", shown.WARN if beyond else shown.GOOD))]
    return shown.lines([*lines, *(shown.line((part, shown.DIM)) for part in parts)])


def groups(found: Mapping[str, Any], *, wide: bool) -> Table | Text:
    """Flips against noise, by principle and by the tags of prompts; then what was added."""
    parts: list[Table | Text] = []
    for name, key in (("principle", "principles"), ("tag of a prompt", "tags")):
        if found[key]:
            rows = [_group(group)[: 6 if wide else 5] for group in found[key]]
            heads = (name, "pairs", "flips", "noise", "", "which")[: 6 if wide else 5]
            parts += [shown.table(heads, rows, right=(1,)), shown.line("")]
    if found["added"]:
        rows = [(one_line(one["name"], 30), f"{one['flips']['n']:,}", share(one["flips"])) for one in found["added"]]
        heads = ("new principle", "pairs", "against the verdicts so far")
        parts += [shown.table(heads, rows, right=(1,)), shown.line("")]
    return shown.below(*parts) if parts else shown.line("")


def _group(group: Mapping[str, Any]) -> tuple[Part, ...]:
    beyond = ("! beyond", shown.WARN) if group["beyond_noise"] else ("within", shown.DIM)
    kinds = ", ".join(f"{count} {one_line(kind)}" for kind, count in group["kinds"].items())
    name = (one_line(group["name"], 18), "bold")
    return (name, f"{group['flips']['n']:,}", share(group["flips"]), share(group["noise"]), beyond, (kinds, shown.DIM))


def share(found: Mapping[str, Any]) -> str:
    """How many, and their share in percent with its 95% interval."""
    if not found["n"] or found["interval"] is None:
        return "–"
    low, high = found["interval"]
    return f"{found['count']:,} = {found['count'] / found['n']:.0%} ({100 * low:.0f} to {100 * high:.0f})"


def verdict(said: Mapping[str, Any]) -> str:
    """A verdict, with the lead of the first answer."""
    return said["verdict"] if said["lead"] is None else f"{said['verdict']} {said['lead']:+.2f}"


def verdicts(case: Mapping[str, Any]) -> Table:
    rows: list[tuple[Part, ...]] = [("by the old text", verdict(case["before"]))]
    rows.append((("by the new text", "bold"), (verdict(case["after"]), "bold")))
    if case["again"] is not None:
        noisy = ("  ! the old text itself is of two minds", shown.WARN) if case["noisy"] else ("", "")
        rows.append(("by the old text, asked again", shown.line(verdict(case["again"]), noisy)))
    return shown.table(("verdict", "better, and by how much"), rows)


def reworded(changes: Sequence[Mapping[str, Any]], principle: str) -> Text:
    """The words that changed in a principle, or in the preamble."""
    parts = []
    for change in changes:
        if change["kind"] == "reworded" and change["principle"] in ("", principle):
            parts.append(shown.line((one_line(change["field"]), f"bold {shown.DIM}")))
            made = coloured(one_line(change["before"]), one_line(change["after"]), (WENT, CAME))
            parts.append(made)
    return shown.lines(parts)


def written(case: Mapping[str, Any]) -> str:
    """A flip as plain text."""
    turns = [f"{one['role']}: {one['content']}" for one in case["messages"]]
    said = f"{case['principle']}: {verdict(case['before'])} → {verdict(case['after'])}"
    return "\n\n".join([said, *turns, *(f"{side}: {case[side]['text']}" for side in ("first", "second"))])
