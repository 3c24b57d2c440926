"""Screen 7: two rounds, or two runs. Figures, curves, settings, constitutions, and answers to the same prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual import work
from textual.binding import Binding, BindingType
from textual.events import Resize
from textual.widget import Widget

from selfalign.stages.report import folder
from selfalign.text import one_line
from selfalign.tui import shown
from selfalign.tui.answers import Answers, answers_of, policy_name
from selfalign.tui.campaign import charts_of
from selfalign.tui.charts import Charted, ChartPage, Laid, hollow, overlaid
from selfalign.tui.compare.differences import (
    SNIPPET,
    Lines,
    beginning,
    changed_most,
    columns_of,
    figures,
    likeness,
    notes,
    odds,
    probability,
    rules,
    same_head,
    settings,
    title_of,
)
from selfalign.tui.compare.prompt import OnePrompt
from selfalign.tui.compare.sides import Policy, Side, mark_of, side_of
from selfalign.tui.page import ROOMY, LazyPage, Place
from selfalign.tui.picking import PickRun
from selfalign.tui.reading import UNREADABLE, why
from selfalign.tui.trainlog import TrainLog
from selfalign.tui.widgets import Column, Grid, Scroll, Words

MOST_SORTED, LINES_KEPT = 5_000, 10_000  # prompts
FRAME = 7  # lines of a screen that are not its body, and the head of the prompts


@dataclass(frozen=True, slots=True)
class View:
    """What the screen shows, made in the thread that read it. `parts` are its sections by id, `ids` the prompts."""

    left: Side
    right: Side
    parts: Mapping[str, Text | Table]
    laid: Laid
    ids: Sequence[str]


class Compare(ChartPage, LazyPage):
    NUMBER, NAME = "7", "Compare"
    EVERY = 2.0
    ABOUT = (
        "Two policies: of two rounds of a run, or of two runs. Differences say what the right one has more or less of; "
        "within noise: the 95% intervals overlap, so the difference may be chance. Labelling and "
        "evaluating: the judges of both, as on Round.\n\n"
        "[ and ] choose another round for the left side, { and } for the right one, w another run for the right side. "
        "On Campaigns, Space marks two runs to compare. The last section lists the held-out prompts that both "
        "answered (s: most changed first); Enter opens one, where the arrow keys go through the answers of all rounds."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "section(1)", "section", tooltip="the next section, and to the prompts"),
        Binding("shift+tab", "section(-1)", "section before", show=False),
        Binding("left_square_bracket", "round('left', -1)", "left: round before", show=False),
        Binding("right_square_bracket", "round('left', 1)", "left: next round", show=False),
        Binding("left_curly_bracket", "round('right', -1)", "right: round before", show=False),
        Binding("right_curly_bracket", "round('right', 1)", "right: next round", show=False),
        Binding("w", "which", "other run", tooltip="another run for the right side"),
        Binding("enter", "open", "open", tooltip="to the prompts; there, open one"),
        Binding("x", "swap", "swap", tooltip="swap left and right"),
        Binding("s", "sort", "sort", tooltip="prompts: as asked, or most changed first"),
        Binding("z", "enlarge", "enlarge", tooltip="a chart as large as the screen, with its values"),
        Binding("l", "log", "charts on a log scale, and back", show=False),
    ]
    DEFAULT_CSS = """
    Compare .part { height: auto; padding: 0 2; margin-bottom: 1; }
    Compare #samehead { margin-bottom: 0; }
    """
    SECTIONS: ClassVar[tuple[str, ...]] = ("figures", "charts", "settings", "rules", "samehead")

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.left: Policy | None = None
        self.right: Policy | None = None
        self.chosen = False  # whether the sides were chosen here
        self.view: View | None = None
        self._lines: dict[tuple[Policy, Policy, str], Lines] = {}
        self._logs: dict[Policy, TrainLog] = {}
        self._held: dict[Policy, tuple[object, Side]] = {}
        self._both: tuple[list[str], list[str], list[str]] | None = None  # of each side, and of both
        self._changed: tuple[object, list[str]] | None = None  # of what, and its prompts with what changed most first
        self.sorted = False

    def body(self) -> Iterator[Widget]:
        with Scroll():
            yield Words(id="notes", classes="part")
            yield Words(id="figures", classes="part")
            yield from self.chart_widgets()
            for name in ("settings", "rules", "samehead"):
                yield Words(id=name, classes="part")
            yield Prompts([Column("prompt")])

    def main(self) -> Widget | None:
        return self.query_one(Scroll)

    def named_keys(self) -> list[tuple[str, str]]:
        """With the pairs of keys that choose the rounds, which are what this screen is for."""
        section, *rest = super().named_keys()
        return [section, ("[ ]", "left"), ("{ }", "right"), *rest]

    @property
    def settled(self) -> bool:
        return self.ready and not self.fetching

    # Reading

    def read(self) -> View:
        left, right = self._sides()
        one, other = self._read_side(left), self._read_side(right)
        ids, asked = self._shared(one, other)
        return View(one, other, {
            "notes": notes(one, other, len(ids), asked),
            "figures": figures(one, other),
            "settings": settings(one, other),
            "rules": rules(one, other),
            "samehead": same_head(one, other, len(ids), asked),
        }, self.charts(), ids)  # fmt: skip

    def _sides(self) -> tuple[Policy, Policy]:
        """The two sides; where nobody has chosen them yet, what the screen was opened for says."""
        waiting = not self.chosen and self.right is not None and self.right.round is None
        if self.left is None or self.right is None or waiting:  # waiting for the first round to be evaluated
            place, against = self.at, self.at.against
            assert place.path is not None
            last = self._last(place)
            if against is not None and against.path is not None:
                self.left, self.right = Policy(place.path, last), Policy(against.path, self._last(against))
            else:
                self.left, self.right = Policy(place.path, last - 1 if last else None), Policy(place.path, last)
        return self.left, self.right

    def _read_side(self, policy: Policy) -> Side:
        """A side; what was read of it before, where its files look as they did then."""
        watched = self.reader.library.open(policy.path)
        mark = mark_of(policy)
        if policy not in self._held or self._held[policy][0] != mark:
            self._held[policy] = mark, side_of(watched, policy.round)
        return self._held[policy][1]

    def _last(self, place: Place) -> int | None:
        """The round of a place if it was evaluated, else the last one that was; None where there is none."""
        assert place.path is not None
        with self.reader.library.open(place.path).reading() as run:
            return place.round if place.round in run.reports else max(run.reports, default=None)

    def _shared(self, left: Side, right: Side) -> tuple[list[str], tuple[int, int]]:
        """The ids of the prompts that both sides answered, and how many each did."""
        one, other = (self._answers(side.policy).answered(side.policy.round) for side in (left, right))
        if self._both is None or self._both[0] is not one or self._both[1] is not other:
            known = set(other)
            self._both = one, other, [identity for identity in one if identity in known]
        return self._both[2], (len(one), len(other))

    def _answers(self, policy: Policy) -> Answers:
        return answers_of(self.reader.library.open(policy.path).run)

    def charts(self) -> Laid:
        """Two runs over their rounds, or two rounds of a run as they were trained."""
        left, right = self._sides()
        if left.path == right.path:
            names = policy_name(left.round), policy_name(right.round)
            found = overlaid(self._trained(left), self._trained(right), *names)
        else:
            names = left.path.name, right.path.name
            found = overlaid(self._moved(left), self._moved(right), *names)
        made = tuple(found)[: self.MOST_CHARTS]
        return Laid(made, shown.line(*hollow(names[1])) if made else shown.line(""))

    def _moved(self, policy: Policy) -> list[Charted]:
        with self.reader.library.open(policy.path).reading() as run:
            return charts_of(run)

    def _trained(self, policy: Policy) -> list[Charted]:
        if policy.round is None:
            return []
        log = self._logs.setdefault(policy, TrainLog(policy.path / folder(policy.round) / "policy"))
        log.grow()
        return log.charts()

    # Showing

    def show(self, view: View) -> None:
        if (view.left.policy, view.right.policy) != (self.left, self.right):  # chosen otherwise meanwhile
            self.renew()
            return
        self.view = view
        self._title(view)
        for name, made in view.parts.items():
            words = self.query_one(f"#{name}", Words)
            words.show(made)
            words.display = not isinstance(made, Text) or bool(made.plain)
        self.show_charts(view.laid)
        grid = self.query_one(Prompts)
        grid.display = bool(view.ids)
        self._put_in_order()
        self._fit()
        self.trouble([f"left: {one}" for one in view.left.problems] + [f"right: {one}" for one in view.right.problems])

    def on_resize(self, event: Resize) -> None:
        self._fit()

    def _fit(self) -> None:
        """The prompts take the whole screen, once one has come down to them."""
        grid = self.query_one(Prompts)
        if self.view is not None:
            grid.fill(len(self.view.ids), self.row, columns=self._columns(self.view))
        grid.styles.height = min(grid.count + 1, max(6, self.size.height - FRAME))

    def _columns(self, view: View) -> tuple[Column, ...]:
        return columns_of(view.left, view.right, wide=self.size.width >= ROOMY)

    def row(self, index: int) -> list[Text] | None:
        view = self.view
        assert view is not None
        identity = self.ids[index]
        found = self._lines.get(self._key(identity))
        if found is None:
            self.want(identity)
            return None
        return [
            shown.cell(found.prompt),
            *(probability(p) for p in odds(view.left, view.right, found)),
            likeness(found),
            *(beginning(one) for one in (found.left, found.right)),
        ]

    def _key(self, identity: str) -> tuple[Policy, Policy, str]:
        assert self.left is not None and self.right is not None
        return self.left, self.right, identity

    def load(self, wanted: Sequence[str]) -> None:
        left, right = self._sides()
        answers = self._answers(left), self._answers(right)
        if len(self._lines) + len(wanted) > LINES_KEPT:
            self._lines.clear()
        for identity in wanted:
            prompt = answers[0].prompt(identity)
            said = one_line(prompt.messages[-1].content, SNIPPET) if prompt and prompt.messages else ""
            found = [one.of(side.round, identity) for one, side in zip(answers, (left, right), strict=True)]
            self._lines[left, right, identity] = Lines(said or "(empty)", *found)

    @property
    def ids(self) -> Sequence[str]:
        """The prompts in the order in which they are shown."""
        assert self.view is not None
        known = self._changed is not None and self._changed[0] == self._sorted_of(self.view)
        return self._changed[1] if self.sorted and known and self._changed else self.view.ids

    def _sorted_of(self, view: View) -> object:
        return view.left.policy, view.right.policy, len(view.ids)

    def _put_in_order(self) -> None:
        """See to it that the prompts are in the order that was asked for."""
        view = self.view
        if not (self.sorted and view is not None and len(view.ids) <= MOST_SORTED):
            return
        if self._changed is None or self._changed[0] != self._sorted_of(view):
            self.fetching = True
            self._sort(view)

    @work(thread=True, group="sort", exclusive=True, exit_on_error=False, description="sort")
    def _sort(self, view: View) -> None:
        trouble, keys = "", {one: (view.left.policy, view.right.policy, one) for one in view.ids}
        try:
            self.load([one for one, key in keys.items() if key not in self._lines])
            found = {one: self._lines.get(key) for one, key in keys.items()}
            order = sorted(view.ids, key=lambda one: changed_most(view.left, view.right, found[one]))
            self._changed = self._sorted_of(view), order
        except UNREADABLE as error:
            trouble = why(error)
        self.post_message(self.Loaded(trouble))

    def on_lazy_page_loaded(self, message: LazyPage.Loaded) -> None:
        super().on_lazy_page_loaded(message)
        self._fit()

    # Keys

    def action_sort(self) -> None:
        """The prompts as they were asked, or those first whose answers became better or worse by most."""
        view = self.view
        if view is None or not 0 < len(view.ids) <= MOST_SORTED:
            many = f"too many to put in order: {len(view.ids):,} prompts" if view and view.ids else "no prompts to sort"
            self.reader.say(many)
            return
        self.sorted = not self.sorted
        self.query_one(Prompts).put_cursor(0)
        self._title(view)
        self._put_in_order()
        self._fit()

    def _title(self, view: View) -> None:
        order = "  most changed first" if self.sorted else ""
        self.title_is(title_of(view.left, view.right), (order, shown.DIM))

    def action_round(self, which: str, by: int) -> None:
        """Another round for one side; before the first comes the base policy."""
        if self.view is None or self.left is None or self.right is None:
            return
        side = self.view.left if which == "left" else self.view.right
        policy = self.left if which == "left" else self.right
        choices: list[int | None] = [
            None,
            *sorted({*side.rounds, *([policy.round] if policy.round is not None else [])}),
        ]
        at = choices.index(policy.round) + by
        if not 0 <= at < len(choices):
            self.reader.say(f"{side.run} has no evaluated round {'after' if by > 0 else 'before'} this one")
            return
        self._choose(**{which: policy._replace(round=choices[at])})

    def action_swap(self) -> None:
        if self.left is not None and self.right is not None:
            self._choose(left=self.right, right=self.left)

    def action_which(self) -> None:
        runs = PickRun("Compare with which run?", "take it")
        self.app.push_screen(runs, lambda at: self._picked(runs.paths[at]) if at is not None else None)

    action_beside = action_which  # of an enlarged chart: what is laid beside is the other side

    def _picked(self, path: Path) -> None:
        """The last evaluated round of a run, whose reports the list of runs has just read.

        It is laid beside the last round of this run, unless another one was chosen here.
        """
        begun = not self.chosen and self.at.against is None and path != self.at.path
        right = Policy(path, max(self.reader.library.open(path).reports, default=None))
        self._choose(self.right if begun else None, right)

    def _choose(self, left: Policy | None = None, right: Policy | None = None) -> None:
        self.left, self.right, self.chosen = left or self.left, right or self.right, True
        if self.right is not None:
            self.at = Place(self.right.path, self.right.round, self.at.against)
        self.renew()

    def action_section(self, by: int) -> None:
        """Bring the next section to the top, or the first one after the last; at the prompts, they have the keys."""
        scroll, grid = self.query_one(Scroll), self.query_one(Prompts)
        tops = [one.virtual_region.y for name in self.SECTIONS if (one := self.query_one(f"#{name}")).display]
        here, end = scroll.scroll_offset.y, scroll.max_scroll_y
        further = [y for y in tops if here < y] if by > 0 else [y for y in reversed(tops) if y < here]
        down = by > 0 and grid.display and not grid.has_focus and (here >= end or further[:1] == tops[-1:])
        if by > 0 and not down and (here >= end or grid.has_focus):
            further = [0]
        if further:
            scroll.scroll_to(y=further[0], animate=False)
        (grid if down else scroll).focus(scroll_visible=False)

    def action_open(self) -> None:
        grid, view = self.query_one(Prompts), self.view
        if view is None or not view.ids:
            self.reader.say("there is no prompt that both have answered")
            return
        if not grid.has_focus:
            grid.focus()
            return
        self.app.push_screen(OnePrompt(self.at, view.left, view.right, self.ids, grid.cursor, grid.put_cursor))

    def on_grid_opened(self) -> None:
        self.action_open()

    def command(self) -> str:
        left, right = self._sides()
        if left.path != right.path:
            return f"selfalign runs compare {left.path} {right.path}"
        return f"selfalign report {right.path}"

    def copied(self) -> str:
        grid, view = self.query_one(Prompts), self.view
        found = self._lines.get(self._key(self.ids[grid.cursor])) if view is not None and grid.has_focus else None
        if found is not None:
            texts = [one.first.text if one and one.first else "" for one in (found.left, found.right)]
            return "\n\n".join((found.prompt, *texts))
        return " ".join(str(one.path / folder(one.round)) if one.round is not None else str(one.path)
                        for one in self._sides())  # fmt: skip


class Prompts(Grid):
    """The prompts; before the first one comes the rest of the screen."""

    def action_move(self, by: int) -> None:
        if by < 0 and self.cursor == 0:
            self.screen.query_one(Scroll).focus(scroll_visible=False)
            self.screen.query_one(Scroll).action_scroll_up()
        else:
            super().action_move(by)
