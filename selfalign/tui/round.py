"""Screen 3: one round. How it was trained, on what, what the judge is worth, what changed, and every file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rich.table import Table
from rich.text import Text
from textual import work
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widget import Widget

from selfalign import principles
from selfalign.config import in_round
from selfalign.records import Report, Sample, WinRate
from selfalign.rewording import sides
from selfalign.stages.report import folder, guard, reward_model, training
from selfalign.stages.report import judge as judged
from selfalign.stages.report.content import judge_cells
from selfalign.stages.report.document import Block, Heading, Paragraph
from selfalign.store import Run
from selfalign.store.audit import step_names
from selfalign.text import one_line
from selfalign.tui import shown
from selfalign.tui.alerts import duplicates, in_training, left_out, of_round
from selfalign.tui.charts import Beside, Charted, ChartPage, Laid
from selfalign.tui.documents import told
from selfalign.tui.page import Place, state_cell
from selfalign.tui.plotting import Curve
from selfalign.tui.reading import UNREADABLE, Watched, why
from selfalign.tui.shown import Part
from selfalign.tui.trainlog import TrainLog
from selfalign.tui.widgets import Scroll, Words
from selfalign.units import clock, size
from selfalign.words import gate_text

LOGS_HELD = 4  # training logs: of the round in sight, of the one beside, and of those just left
ALIKE = 0.01  # probabilities this near to a half prefer neither answer
SAMPLES = 12  # held-out prompts shown before and after
BAR = 24
BEHAVIOUR = {"refusal": "refusals", "repetition": "repeated word triples", "truncated": "cut off", "empty": "empty"}
HEALTH = {"swap_consistency": "swap consistency", "longer_preferred": "longer preferred", "invalid": "invalid"}
NOT_YET = "This round has not been evaluated yet: win rates, judge health and samples come with its report."


@dataclass(frozen=True, slots=True)
class View:
    """What the screen shows of a round, made in the thread that read it. `parts` are its sections by id.

    `labelled` says that its labels are there, from which on what the principles did can be counted.
    """

    round: int
    title: Text
    parts: Mapping[str, Text | Table]
    laid: Laid
    labelled: bool
    problems: tuple[str, ...]


class Round(ChartPage):
    NUMBER, NAME = "3", "Round"
    EVERY = 2.0
    ABOUT = (
        "One round: the curves of its training, what was made and what was left out and why, the judge's health, its "
        "card and how it took canaries, win rates, what drifted since the round before, answers before and after, and "
        "every file with its size and digest.\n\n"
        "Tab goes from section to section. z makes a chart as large as the screen; o lays the round before, or another "
        "run's same round, beside it. Swap: how often the judge agrees with itself when a pair is shown both ways; "
        "first: how often it prefers what is shown first, 50% being none the worse for it; longer: how often it "
        "prefers the longer answer. Decides: how sure a principle is of its preference, 0% being a coin toss."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "turn(1)", "next", tooltip="the next round"),
        Binding("p", "turn(-1)", "previous", tooltip="the round before"),
        Binding("tab", "section(1)", "section", tooltip="the next section"),
        Binding("shift+tab", "section(-1)", "section before", show=False),
        *ChartPage.CHART_KEYS,
        Binding("f", "files", "all files of the steps, and back", show=False),
    ]
    MOST_CHARTS = 9
    DEFAULT_CSS = "Round .part { height: auto; padding: 0 2; margin-bottom: 1; }"
    SECTIONS: ClassVar[tuple[str, ...]] = (
        "gate", "charts", "method", "data", "reward", "judge", "wins", "drift", "principles", "samples", "files",
    )  # fmt: skip

    class Counted(Message):
        """What the principles did in a round."""

        def __init__(self, round: int, made: Table | Text) -> None:
            super().__init__()
            self.round, self.made = round, made

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.number = place.round
        self.every_file = False
        self._logs: dict[tuple[Path, int], TrainLog] = {}
        self._made: tuple[Any, dict[str, Text | Table]] | None = None  # made anew only when something has happened
        self._listed: tuple[Any, Table | Text] | None = None
        self._shown: dict[str, Text | Table] = {}
        self._counted: int | None = None  # the round whose principles were counted, or are being so
        self._counting = False

    def body(self) -> Iterator[Widget]:
        with Scroll():
            yield Words(id="gate", classes="part")
            yield from self.chart_widgets()
            for name in self.SECTIONS[2:]:
                yield Words(id=name, classes="part")

    def read(self) -> View:
        with self.watched.reading() as run:
            number = self.number = self._number(run)
            report, progress = run.reports.get(number), run.progress
            title = title_of(run, number, report)
            mark = (number, self.every_file, progress.last_time, len(run.reports), run.state)
            if self._made is None or self._made[0] != mark:
                self._made = (mark, sections(run, number))
            labels = progress.stages.get((number, "pairs"))
            labelled = report is not None or (labels is not None and labels.finished)
        parts = {**self._made[1], "files": self._files(run.run, number, mark)}
        return View(number, title, parts, self.charts(), labelled, tuple(run.problems.values()))

    def charted(self, run: Watched, back: int) -> list[Charted]:
        return charts_of(run, (self.number or 0) - back, self._logs)

    def others(self) -> list[Beside]:
        """The round before, and the same round of the other runs."""
        own = self.watched
        before = [Beside("the round before", own.path, back=1)] if self.number else []
        return before + super().others()

    @property
    def settled(self) -> bool:
        return self.ready and not self._counting

    def _number(self, run: Watched) -> int:
        if self.number is not None:
            return self.number
        begun = run.run.rounds()
        evaluated = list(run.reports)
        return max(evaluated) if evaluated else begun[-1] if begun else 0

    def _files(self, run: Run, number: int, mark: Any) -> Table | Text:
        """The files, listed anew only when something has happened."""
        if self._listed is None or self._listed[0] != mark:
            self._listed = (mark, files(run, number, every=self.every_file))
        return self._listed[1]

    def show(self, view: View) -> None:
        if view.round != self.number:  # another round was asked for meanwhile
            self.renew()
            return
        self.at = Place(self.at.path, view.round)
        self.query_one("#title", Words).show(view.title)
        for name, made in view.parts.items():
            self._part(name, made)
        self.show_charts(view.laid)
        self.trouble(view.problems)
        if self._counted != view.round:
            self._part("principles", shown.line(""))
            if view.labelled:
                self._counted, self._counting = view.round, True
                self._count(view.round)

    def _part(self, name: str, made: Text | Table) -> None:
        if self._shown.get(name) is made:
            return
        self._shown[name] = made
        words = self.query_one(f"#{name}", Words)
        words.show(made)
        words.display = not isinstance(made, Text) or bool(made.plain)

    @work(thread=True, group="principles", exit_on_error=False, description="principles")
    def _count(self, number: int) -> None:
        try:
            made = of_principles(self.watched.run, number)
        except UNREADABLE as error:
            made = shown.line((f"The principles could not be read: {why(error)}", shown.WARN))
        self.post_message(self.Counted(number, made))

    def on_round_counted(self, message: Round.Counted) -> None:
        self._counting = self._counting and message.round != self._counted
        if message.round == self.number:
            self._part("principles", message.made)

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


def sections(run: Watched, number: int) -> dict[str, Text | Table]:
    """What there is to say of a round of a run that is being read; a section that cannot be read says why."""
    report = run.reports.get(number)
    before = run.reports.get(number - 1)
    made = {
        "gate": lambda: gate(run, number),
        "method": lambda: method(run, number),
        "data": lambda: data(report, counts_of(run, number)),
        "reward": lambda: rewarded(run.run, number),
        "judge": lambda: judges(run.run, number, report),
        "wins": lambda: wins(report) if report else shown.line(""),
        "drift": lambda: drift(report, before) if report else shown.line(""),
        "samples": lambda: samples(report) if report else shown.line(""),
    }
    return {name: _said(make) for name, make in made.items()}


def _said(make: Callable[[], Text | Table]) -> Text | Table:
    try:
        return make()
    except UNREADABLE as error:
        return shown.line((f"! {why(error)}", shown.WARN))


def charts_of(run: Watched, number: int, logs: dict[tuple[Path, int], TrainLog]) -> list[Charted]:
    """The charts of a round's training. `logs` keeps what was read of the few that were looked at last."""
    key = run.path, number
    log = logs.pop(key, None) or TrainLog(run.path / folder(number) / "policy")
    for oldest in list(logs)[: len(logs) + 1 - LOGS_HELD]:
        del logs[oldest]
    logs[key] = log
    log.grow()
    return [*log.charts(), guarded(run, number)]


def guarded(run: Watched, number: int) -> Charted:
    """What the held-out judge said of a policy that is trained on rollouts, on its way."""
    found = guard.read(run.run, number)
    looks = found.looks if found is not None else ()
    x, rates = [look.iteration for look in looks], [look.rate for look in looks]
    curve = Curve("", x, rates, [look.low for look in looks], [look.high for look in looks])
    return Charted("Held-out judge: win rate against the base", (curve,), 0.5, "iteration")


def title_of(run: Watched, number: int, report: Report | None) -> Text:
    parts: list[Part] = [(run.name, "bold"), "  ", (f"round {number}", "bold")]
    if run.progress.rounds:
        parts.append((f" of {run.progress.rounds}, from 0 on", shown.DIM))
    if report is not None:
        parts.append((f"  took {clock(sum(report.seconds.values()))}", shown.DIM))
        parts.append((f"  constitution {one_line(report.constitution, 40)}", shown.DIM))
    else:
        parts += ["  ", state_cell(run.state)]
    return shown.line(*parts)


def gate(run: Watched, number: int) -> Text:
    """The decision with its reason, and what of the round needs attention, in words."""
    found = run.progress.gates.get(number)
    report = run.reports.get(number)
    if found is None and report is not None:
        found = {"accepted": report.gate.accepted, "reason": report.gate.reason}
    said = [shown.line(("Not decided yet.", shown.DIM))] if found is None else [decided(found)]
    alerts = (
        of_round(report, run.reports.get(number - 1))
        if report is not None
        else in_training(run.progress, number, run.campaign)
    )
    said += [shown.line((f"! {one.removeprefix(f'round {number}: ')}", shown.WARN)) for one in alerts]
    for one in said:
        one.no_wrap = False
    return shown.lines(said)


def decided(found: Mapping[str, Any]) -> Text:
    accepted = bool(found.get("accepted"))
    return shown.line(("✓ " if accepted else "✗ ", ""), gate_text(found), style=shown.GOOD if accepted else shown.BAD)


def method(run: Watched, number: int) -> Text | Table:
    """How the round is trained: on what, by which algorithm, kept near to which policy, and why it ended early."""
    if run.campaign is None:
        return shown.line("")
    settings, report = in_round(run.campaign, number), run.reports.get(number)
    rows = [("method", training.method(settings)), ("kept near to", training.reference(settings, number))]
    if report is not None:
        rows = [*training.learned_from(run.run, report, settings), *rows, *training.stopped(run.run, report)]
    seen = guard.read(run.run, number)
    if seen is not None:
        rows.append(("guard", guard.outcome(seen) if seen.looks else "the held-out judge has not looked yet"))
    return shown.facts(rows, "How it is trained" if report is None else "How it was trained")


def rewarded(run: Run, number: int) -> Text | Table:
    """What the round's reward model is worth, where it has one."""
    blocks = reward_model.blocks(run, number)
    return told(blocks) if blocks else shown.line("")


def counts_of(run: Watched, number: int) -> dict[str, Any]:
    """What the stages of a round have counted so far."""
    progress = run.progress
    return {stage: found.counts for (at, stage), found in progress.stages.items() if at == number and found.counts}


def data(report: Report | None, counts: Mapping[str, Any]) -> Table | Text:
    """What was made, what was kept, and why the rest was left out; the bars are shares of all candidates or pairs."""
    if report is None:
        rows = [((stage, "bold"), *row) for stage, found in counts.items() for row in flat(found)]
        if not rows:
            return shown.line(("No data were made in this round yet.", shown.DIM))
        return shown.table(("so far", "", "count"), rows, right=(2,))
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


def judges(run: Run, number: int, report: Report | None) -> Text | Table:
    """The judges' health, the card of each, and how they took canaries: what is known of it so far."""
    parts: list[Text | Table] = [health(report)] if report else [shown.block(NOT_YET, shown.DIM)]
    cards, canaries = judged.read_cards(run, number), judged.read_canaries(run, number)
    blocks: list[Block] = [judged.card_table(cards)] if cards else []
    if blocks:
        parts += [shown.line(""), told(blocks)]
    if canaries is not None:
        stopped = [Paragraph(canaries.stopped, "bad")] if canaries.stopped else []
        parts += [shown.line(""), told([Heading("Canaries"), *stopped, judged.canary_table(canaries)])]
    return shown.below(*parts)


def health(report: Report) -> Table:
    columns = ("judge", "judgments", "invalid", "ties", "swap", "first", "longer")
    rows = [((name, "bold"), *judge_cells(found)) for name, found in report.judges.items()]
    return shown.table(columns, rows, right=tuple(range(1, 7)))


def wins(report: Report) -> Table:
    """Win rates as a whole, then by principle."""
    against = list(report.win_rates)
    rows: list[tuple[Part, ...]] = [
        (("all principles", "bold"), *(interval(report.win_rates[name]) for name in against))
    ]
    for name in sorted({name for rates in report.by_principle.values() for name in rates}):
        rows.append((one_line(name, 40), *(interval(report.by_principle.get(one, {}).get(name)) for one in against)))
    return shown.table(("win rate (95% interval)", *(f"vs {name}" for name in against)), rows)


def interval(win: WinRate | None) -> str:
    """A win rate with its 95% interval."""
    return f"{win.rate:.2f} ({win.low:.2f} to {win.high:.2f})" if win else "–"


def drift(report: Report, before: Report | None) -> Table:
    """How the answers, the data and the judge moved since the round before; what moved much has an arrow."""
    rows = [
        (name, _figure(old, kind), (_figure(new, kind), "bold"), _moved(old, new, kind, least))
        for name, old, new, kind, least in moves(report, before)
        if old is not None or new is not None
    ]
    heads = ("drift", f"round {report.round - 1}" if report.round else "base", f"round {report.round}", "")
    return shown.table(heads, rows, right=(1, 2))


def moves(report: Report, before: Report | None) -> Iterator[tuple[str, float | None, float | None, str, float]]:
    """Figures before and now: their name, both values, how they are written, and the move that is worth an arrow."""
    old, new = report.behaviour.get("previous"), report.behaviour.get("policy")
    yield "answer length, tokens", *(one and one.mean_tokens for one in (old, new)), "tokens", 0.1
    for name, words in BEHAVIOUR.items():
        yield words, *(getattr(one, name) if one else None for one in (old, new)), "share", 0.05
    yield "different word pairs", *(one and one.distinct_2 for one in (old, new)), "share", 0.05
    yield "duplicate samples", *(one and duplicates(one) for one in (before, report)), "share", 0.05
    yield "left out of training", *(one and left_out(one) for one in (before, report)), "share", 0.1
    yield "KL to base, nats", *(one.kl.mean if one and one.kl else None for one in (before, report)), "nats", 0.5
    for name, words in HEALTH.items():
        found = [one.judges.get("labelling") if one else None for one in (before, report)]
        yield f"judge: {words}", *(getattr(one, name) if one else None for one in found), "share", 0.05


def _figure(value: float | None, kind: str) -> str:
    if value is None:
        return "–"
    return f"{value:.1%}" if kind == "share" else f"{value + 0.0:.1f}" if kind == "tokens" else f"{value + 0.0:.2f}"


def _moved(old: float | None, new: float | None, kind: str, least: float) -> Part:
    """Up or down, where it is by enough: of tokens a share, else points or nats."""
    if old is None or new is None:
        return ""
    by = (new - old) / old if kind == "tokens" and old else new - old
    said = f"{by:+.0%}" if kind == "tokens" else f"{100 * by:+.1f} points" if kind == "share" else f"{by:+.2f}"
    said = said.replace("-", "−")
    return (f"{'▲' if by > 0 else '▼'} {said}", shown.WARN) if abs(by) >= least else ""


def of_principles(run: Run, number: int) -> Table | Text:
    """What each principle did in a round and in the one before it, and what is wrong with it."""
    rounds = [number - 1, number] if number else [number]
    found = principles.stats(run, rounds)
    if number not in found.rounds:
        return shown.line("")
    rows = [_principle_row(record, rounds) for record in found.principles]
    columns = ("principle", "chosen", "decides", "swap", "longer")
    note = "Of each, the round before → this one. Chosen: what it prefers was trained on as the better."
    flags = principles.worded(flag for record in found.principles for flag in record.flags)
    said = [shown.block(f"! {name}: {words}", shown.WARN) for name, words in flags.items()]
    return shown.below(shown.table(columns, rows), shown.block(note, shown.DIM), *said)


def _principle_row(record: principles.Record, rounds: Sequence[int]) -> tuple[Part, ...]:
    def cell(figure: str) -> str:
        found = [getattr(record.by_round[n], figure) if n in record.by_round else None for n in rounds]
        return " → ".join(f"{one.value:.0%}" if one is not None else "–" for one in found)

    return (one_line(record.id, 40), *map(cell, ("chosen", "decisiveness", "swap_consistency", "longer")))


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
    head = shown.line(("after", "bold"), (f"  {verdict}, by the judge {p:.2f}" if p is not None else "", style))
    return [
        shown.line(""),
        shown.conversation(one.messages),
        shown.columns(
            shown.lines([shown.line(("before", "bold")), left if before else shown.line(("(empty)", shown.DIM))]),
            shown.lines([head, right if after else shown.line(("(empty)", shown.DIM))]),
        ),
    ]


def files(run: Run, number: int, *, every: bool) -> Table | Text:
    """The steps of a round with their files, sizes and digests; with `every`, each file."""
    rows: list[tuple[Part, ...]] = []
    prefix = folder(number) + "/"
    for name in step_names(run.path):
        if name.startswith(prefix):
            rows += step_rows(run, name, name.removeprefix(prefix), every=every)
    if not rows:
        return shown.line(("No files were written in this round yet.", shown.DIM))
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
