"""Screen 3: one round. How it was trained, on what, what the judge is worth, what changed, and every file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rich.table import Table
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.events import Resize
from textual.widget import Widget

from selfalign.records import Report, Sample, WinRate
from selfalign.rewording import sides
from selfalign.stages.report import folder
from selfalign.stages.report.content import judge_cells
from selfalign.store import Run
from selfalign.store.audit import step_names
from selfalign.text import one_line
from selfalign.tui import shown
from selfalign.tui.page import Page, Place, state_cell
from selfalign.tui.reading import UNREADABLE, Watched, why
from selfalign.tui.shown import Part
from selfalign.tui.trainlog import TrainLog
from selfalign.tui.widgets import Chart, Scroll, Words
from selfalign.units import clock, size
from selfalign.words import gate_text

MOST_CHARTS = 6
ALIKE = 0.01  # probabilities this near to a half prefer neither answer
SAMPLES = 12  # held-out prompts shown before and after
BAR = 24
NOT_YET = "This round has not been evaluated yet: win rates, judge health and samples come with its report."


@dataclass(frozen=True, slots=True)
class View:
    """What the screen shows of a round, made in the thread that read it. `parts` are its sections by id."""

    round: int
    title: Text
    parts: Mapping[str, Text | Table]
    charts: Mapping[str, Any]
    steps: int
    problems: tuple[str, ...]


class Round(Page):
    NUMBER, NAME = "3", "Round"
    EVERY = 2.0
    ABOUT = (
        "One round: the curves of its training, what was made and what was left out and why, the judge's health, win "
        "rates, answers before and after, and every file with its size and digest.\n\n"
        "Tab goes from section to section. Swap: how often the judge agrees with itself when a pair is shown both "
        "ways; first: how often it prefers what is shown first, 50% being none the worse for it."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "turn(1)", "next"),
        Binding("p", "turn(-1)", "previous"),
        Binding("tab", "section(1)", "section"),
        Binding("shift+tab", "section(-1)", "section before", show=False),
        Binding("f", "files", "all files"),
    ]
    DEFAULT_CSS = """
    Round .part { height: auto; padding: 0 2; margin-bottom: 1; }
    Round #charts { layout: grid; grid-size: 2; grid-rows: 10; height: auto; margin-bottom: 1; padding: 0 1; }
    Round Chart { height: 10; }
    Round.wide #charts { grid-size: 3; grid-rows: 13; }
    Round.wide Chart { height: 13; }
    """
    SECTIONS: ClassVar[tuple[str, ...]] = ("gate", "charts", "data", "judge", "wins", "samples", "files")

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.number = place.round
        self.every_file = False
        self._train: tuple[int, TrainLog] | None = None
        self._listed: tuple[Any, Table] | None = None

    def body(self) -> Iterator[Widget]:
        with Scroll():
            yield Words(id="gate", classes="part")
            with Container(id="charts"):
                for index in range(MOST_CHARTS):
                    yield Chart("", id=f"chart{index}")
            for name in self.SECTIONS[2:]:
                yield Words(id=name, classes="part")

    def read(self) -> View:
        with self.watched.reading() as run:
            number = self._number(run)
            report, progress = run.reports.get(number), run.progress
            parts = {
                "gate": gate(run, number),
                "data": data(report, counts_of(run, number)),
                "judge": judge(report) if report else shown.line((NOT_YET, shown.DIM)),
                "wins": wins(report) if report else shown.line(""),
                "samples": samples(report) if report else shown.line(""),
            }
            title = title_of(run, number, report)
            mark = (number, self.every_file, progress.last_time, len(run.reports))
        parts["files"] = self._files(run.run, number, mark)
        if self._train is None or self._train[0] != number:
            self._train = (number, TrainLog(run.path / folder(number) / "policy"))
        log = self._train[1]
        log.grow()
        return View(number, title, parts, log.charts(), log.steps, tuple(run.problems.values()))

    def _number(self, run: Watched) -> int:
        if self.number is not None:
            return self.number
        begun = run.run.rounds()
        evaluated = list(run.reports)
        return max(evaluated) if evaluated else begun[-1] if begun else 0

    def _files(self, run: Run, number: int, mark: Any) -> Table:
        """The files, listed anew only when something has happened."""
        if self._listed is None or self._listed[0] != mark:
            self._listed = (mark, files(run, number, every=self.every_file))
        return self._listed[1]

    def show(self, view: View) -> None:
        self.number = view.round
        self.at = Place(self.at.path, view.round)
        self.query_one("#title", Words).show(view.title)
        for name, made in view.parts.items():
            words = self.query_one(f"#{name}", Words)
            words.show(made)
            words.display = not isinstance(made, Text) or bool(made.plain)
        charts = list(view.charts.items())[:MOST_CHARTS]
        for index in range(MOST_CHARTS):
            chart = self.query_one(f"#chart{index}", Chart)
            chart.display = index < len(charts)
            if chart.display:
                chart.title, curves = charts[index]
                chart.draw(curves)
        self.query_one("#charts").display = bool(charts)
        self.trouble(view.problems)

    def on_resize(self, event: Resize) -> None:
        self.set_class(event.size.width >= 120, "wide")

    def action_turn(self, by: int) -> None:
        if self.number is None or not 0 <= self.number + by < self._rounds():
            self.reader.say("there is no further round")
            return
        self.number += by
        self.query_one(Scroll).scroll_home(animate=False)
        self.renew()

    def _rounds(self) -> int:
        progress = self.watched.progress
        return max(progress.rounds or 0, (progress.round or 0) + 1)

    def action_section(self, by: int) -> None:
        """Bring the next section to the top."""
        scroll = self.query_one(Scroll)
        tops = [widget.virtual_region.y for name in self.SECTIONS if (widget := self.query_one(f"#{name}")).display]
        here = scroll.scroll_offset.y
        further = [y for y in tops if y > here] if by > 0 else [y for y in reversed(tops) if y < here]
        if further:
            scroll.scroll_to(y=further[0], animate=False)

    def action_files(self) -> None:
        self.every_file = not self.every_file
        self.renew()

    def command(self) -> str:
        return f"selfalign report {self.at.path} --round {self.number}"

    def copied(self) -> str:
        return f"{self.at.path}/{folder(self.number or 0)}"


def title_of(run: Watched, number: int, report: Report | None) -> Text:
    parts: list[Part] = [(run.name, "bold"), "  ", (f"round {number}", "bold")]
    if run.progress.rounds:
        parts.append((f" of 0 to {run.progress.rounds - 1}", shown.DIM))
    if report is not None:
        parts.append((f"  {clock(sum(report.seconds.values()))}", shown.DIM))
        parts.append((f"  {one_line(report.constitution, 40)}", shown.DIM))
    else:
        parts += ["  ", state_cell(run.state)]
    return shown.line(*parts)


def gate(run: Watched, number: int) -> Text:
    """The decision with its reason, in words."""
    found = run.progress.gates.get(number)
    report = run.reports.get(number)
    if found is None and report is not None:
        found = {"accepted": report.gate.accepted, "reason": report.gate.reason}
    if found is None:
        return shown.line(("Not decided yet.", shown.DIM))
    accepted = bool(found.get("accepted"))
    said = shown.line(("✓ " if accepted else "✗ ", ""), gate_text(found), style=shown.GOOD if accepted else shown.BAD)
    said.no_wrap = False
    return said


def counts_of(run: Watched, number: int) -> dict[str, Any]:
    """What the stages of a round have counted so far."""
    progress = run.progress
    return {stage: found.counts for (at, stage), found in progress.stages.items() if at == number and found.counts}


def data(report: Report | None, counts: Mapping[str, Any]) -> Table:
    """What was made, what was kept, and why the rest was left out; the bars are shares of all candidates or pairs."""
    if report is None:
        rows = [((stage, "bold"), *row) for stage, found in counts.items() for row in flat(found)]
        return shown.table(("so far", "", "count"), rows or [(("nothing yet", shown.DIM), "", "")], right=(2,))
    left_out = sum(report.discarded.values())
    most = max([*report.candidates.values(), 1])
    rows: list[tuple[Part, ...]] = []
    for name, count in report.candidates.items():
        rows.append((name.replace("_", " "), f"{count:,}", (bar(count / most), shown.SKY)))
    rows.append(((f"{report.examples} trained on", "bold"), (f"{report.num_examples:,}", "bold"), ""))
    total = report.num_examples + left_out or 1
    for reason, count in sorted(report.discarded.items(), key=lambda item: -item[1]):
        share = count / total
        rows.append((f"left out: {reason.replace('_', ' ')}", f"{count:,}", (f"{bar(share)} {share:.0%}", shown.WARN)))
    return shown.table(("data", "count", ""), rows, right=(1,))


def flat(found: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Counts within counts as lines of a table."""
    for name, value in found.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}: ")
        elif isinstance(value, int | float) and name != "seconds":
            yield f"{prefix}{name}".replace("_", " "), f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def bar(share: float) -> str:
    return "━" * max(1, round(BAR * min(1.0, share))) if share > 0 else ""


def judge(report: Report) -> Table:
    columns = ("judge", "judgments", "invalid", "ties", "swap", "first", "longer")
    rows = [((name, "bold"), *judge_cells(health)) for name, health in report.judges.items()]
    return shown.table(columns, rows, right=tuple(range(1, 7)))


def wins(report: Report) -> Table:
    """Win rates as a whole, then by principle."""
    against = list(report.win_rates)
    rows: list[tuple[Part, ...]] = [
        (("all principles", "bold"), *(interval(report.win_rates[name]) for name in against))
    ]
    for name in sorted({name for rates in report.by_principle.values() for name in rates}):
        rows.append((one_line(name, 40), *(interval(report.by_principle.get(one, {}).get(name)) for one in against)))
    return shown.table(("win rate, 95%", *(f"vs {name}" for name in against)), rows)


def interval(win: WinRate | None) -> str:
    """A win rate with its 95% interval."""
    return f"{win.rate:.2f} ({win.low:.2f} to {win.high:.2f})" if win else "–"


def samples(report: Report) -> Table | Text:
    """Held-out prompts with the answer of the policy before and of this one, where they differ most first."""
    found = sorted(report.samples, key=lambda one: -abs((one.p_policy or 0.5) - 0.5))[:SAMPLES]
    if not found:
        return shown.line("")
    return shown.below(shown.line(("Before and after", "bold")), *(part for one in found for part in sample(one)))


def sample(one: Sample) -> Sequence[Text | Table]:
    p = one.p_policy
    verdict, style = ("as good", shown.DIM) if p is None or abs(p - 0.5) < ALIKE else ("better", shown.GOOD)
    verdict, style = ("worse", shown.WARN) if p is not None and p <= 0.5 - ALIKE else (verdict, style)
    before, after = one.previous[:2000], one.policy[:2000]
    left, right = sides(before, after, (f"underline {shown.VERMILION}", f"underline {shown.GREEN}"))
    head = shown.line(("after", "bold"), (f"  {verdict} {p:.2f}" if p is not None else "", style))
    return [
        shown.line(""),
        shown.conversation(one.messages),
        shown.columns(
            shown.lines([shown.line(("before", "bold")), left if before else shown.line(("(empty)", shown.DIM))]),
            shown.lines([head, right if after else shown.line(("(empty)", shown.DIM))]),
        ),
    ]


def files(run: Run, number: int, *, every: bool) -> Table:
    """The steps of a round with their files, sizes and digests; with `every`, each file."""
    rows: list[tuple[Part, ...]] = []
    prefix = folder(number) + "/"
    for name in step_names(run.path):
        if name.startswith(prefix):
            rows += step_rows(run, name, name.removeprefix(prefix), every=every)
    rows = rows or [(("no files yet", shown.DIM), "", "", "")]
    return shown.table(("step" if not every else "file", "files", "size", "SHA-256"), rows, right=(1, 2))


def step_rows(run: Run, name: str, label: str, *, every: bool) -> Iterator[tuple[Part, ...]]:
    try:
        step = run.view(name)
    except UNREADABLE as error:
        yield (label, "bold"), "", "", (why(error), shown.BAD)
        return
    if step is None:
        return
    if not step.done:
        yield (label, "bold"), f"{len(step.durable)}", "", ("under way", shown.SKY)
        return
    sizes, digests = step.sizes, step.files
    digest = step.digest.removeprefix("step:")[:16]
    yield (label, "bold"), f"{len(sizes):,}", size(sum(sizes.values())), (f"{digest}…  of the step", shown.DIM)
    if every:
        for file in sorted(sizes):
            yield f"  {file}", "", size(sizes[file]), f"{digests[file][:16]}…"
