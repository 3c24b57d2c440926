"""Screen 2: one campaign. Its rounds by stages, how the figures moved, what needs attention, and every decision."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widget import Widget

from selfalign.progress import OPTIONAL, STAGES, Progress, StageProgress
from selfalign.records import JudgeHealth, Report, WinRate
from selfalign.stages import report as pages
from selfalign.tui import shown
from selfalign.tui.alerts import alerts
from selfalign.tui.charts import Charted, ChartPage, Laid
from selfalign.tui.page import STATES, Page, Place, state_cell
from selfalign.tui.plotting import Curve
from selfalign.tui.reading import UNREADABLE, Watched, why
from selfalign.tui.widgets import Column, Grid, Scroll, Words
from selfalign.units import clock, duration
from selfalign.words import gate_text, guard_text, progress_text, reward_text, watched

ROUNDS_SEEN = 8  # lines of the table of rounds; the rest scrolls
LIVE = 11  # columns of a stage under way: ▸43% ~12:10
BAR = 8
TRAINED = {"loss": "Training loss", "objective/scores": "Training: score of rollouts"}
JUDGES = ("labelling", "evaluating")
ROUND = re.compile(r"round \d+")
FIGURES = (
    Column("win vs base", 11, right=True, drop=1),
    Column("vs prev", 10, right=True, drop=2),
    Column("KL nats", 7, right=True, drop=3),
    Column("length", 6, right=True, drop=4),
    Column("swap", 5, right=True, drop=5),
    Column("time", 6, right=True, drop=6),
)


@dataclass(frozen=True, slots=True)
class View:
    """What the screen shows, made in the thread that read it."""

    title: Text
    hand: Text
    columns: tuple[Column, ...]
    rows: tuple[tuple[Text, ...], ...]
    rounds: tuple[int | None, ...]
    current: int
    alerts: tuple[str, ...]
    gates: tuple[Text, ...]
    laid: Laid
    problems: tuple[str, ...]


def view_of(run: Watched, now: float, laid: Laid) -> View:
    """Everything there is to show of a run that is being read."""
    progress, reports, state = run.progress, run.evaluated(), run.state
    shown_at = now if run.alive else progress.last_time or now
    rounds = _rounds(progress, reports)
    stages = _stages(progress)
    return View(
        title=_title(run, state, now, shown_at),
        hand=_in_hand(progress, shown_at, live=state in ("running", "stalled")),
        columns=(
            Column("round", 5), *(_column(progress, name, state) for name in stages), Column("gate", 10), *FIGURES
        ),
        rows=tuple(_row(progress, run.reports, number, stages, state, shown_at) for number in rounds),
        rounds=tuple(rounds),
        current=rounds.index(progress.round) if progress.round in rounds else 0,
        alerts=tuple(alerts(progress, reports, state, f"selfalign run {run.path}", now, run.campaign)),
        gates=tuple(_decisions(progress)),
        laid=laid,
        problems=tuple(run.problems.values()),
    )  # fmt: skip


def _title(run: Watched, state: str, now: float, shown_at: float) -> Text:
    progress = run.progress
    parts: list[shown.Part] = [(run.name, "bold"), "  ", state_cell(state)]
    took = duration(progress.elapsed(shown_at if run.alive else None))
    parts.append((f"  {took} so far" if run.alive else f"  after {took}", shown.DIM))
    if state == "running":
        eta = progress.campaign_eta(now)
        end = time.strftime("%H:%M", time.localtime(now + eta)) if eta is not None and eta < 86400 else ""
        known = f"  ~{duration(eta)} left{f', until {end}' if end else ''}" if eta is not None else ""
        parts.append((known or f"  time left: known after round {progress.eta_known_after()}", shown.SKY))
    return shown.line(*parts)


def _in_hand(progress: Progress, now: float, *, live: bool) -> Text:
    stage = progress.current
    if stage is None or stage.finished:
        return shown.line("")
    where = "base" if stage.round is None else f"round {stage.round}"
    full = round(BAR * stage.fraction)
    loading = live and stage.first is None
    stopped = f"{stage.done:,}/{stage.total:,} {stage.unit} when it stopped"
    said = progress_text(stage, now, None) if live else stopped
    said = f"begun {duration(now - stage.started)} ago" if loading else said
    reused = f"  ({stage.reused:,} reused)" if stage.reused else ""
    return shown.line(
        (f"{where} · {stage.name}  ", "bold"),
        ("━" * full, shown.SKY),
        ("─" * (BAR - full), shown.DIM),
        f" {said}{reused}",
    )


def _stages(progress: Progress) -> list[str]:
    seen = {name for _, name in progress.stages}
    return [stage for stage in STAGES if stage in seen or stage not in OPTIONAL]


def _rounds(progress: Progress, reports: Sequence[Report]) -> list[int | None]:
    """The base policy's own row where it was sampled, then every round that is to be."""
    known = max([progress.rounds or 0, *(report.round + 1 for report in reports), (progress.round or 0) + 1])
    base: list[int | None] = [None] if any(number is None for number, _ in progress.stages) else []
    return base + list(range(known))


def _column(progress: Progress, stage: str, state: str) -> Column:
    """A column of a stage, with room for the time left where it is under way."""
    current = progress.current
    live = state == "running" and current is not None and current.name == stage and not current.finished
    return Column(stage, max(LIVE if live else 6, len(stage)), right=True)


def _row(
    progress: Progress,
    reports: dict[int, Report],
    number: int | None,
    stages: Sequence[str],
    state: str,
    now: float,
) -> tuple[Text, ...]:
    name = "base" if number is None else str(number)
    cells = [_cell(progress.stages.get((number, stage)), state, now) for stage in stages]
    report = reports.get(number) if number is not None else None
    return (shown.cell(name, "bold"), *cells, _gate_cell(progress, number), *figures_of(report))


def _cell(stage: StageProgress | None, state: str, now: float) -> Text:
    """A stage of a round: the time it took, or how far it is and how long it will take, under the sign of the run."""
    if stage is None:
        return shown.cell("·", shown.DIM)
    if stage.seconds is not None:
        return shown.cell(clock(stage.seconds))
    if stage.skipped:
        return shown.cell("reused", shown.DIM)
    if state != "running":
        sign, _, style = STATES.get(state, ("▸", "", shown.DIM))
        return shown.cell(f"{sign} {stage.fraction:.0%}", style)
    eta = stage.eta(now)
    return shown.cell(f"▸{stage.fraction:.0%}{f' ~{clock(eta)}' if eta is not None else ''}", f"bold {shown.SKY}")


def _gate_cell(progress: Progress, number: int | None) -> Text:
    gate = progress.gates.get(number) if number is not None else None
    if gate is None:
        return shown.cell("")
    return shown.cell("✓ accepted", shown.GOOD) if gate.get("accepted") else shown.cell("✗ rejected", shown.BAD)


def figures_of(report: Report | None) -> list[Text]:
    """The figures of an evaluated round, in the order of FIGURES."""
    if report is None:
        return [shown.cell("")] * len(FIGURES)
    health = report.judges.get("labelling")
    swap = health.swap_consistency if health else None
    said = [
        *(win_text(report.win_rates.get(name)) for name in ("base", "previous")),
        f"{report.kl.mean + 0.0:.2f}" if report.kl else "–",
        f"×{report.length_ratio:.2f}" if report.length_ratio is not None else "–",
        f"{swap:.0%}" if swap is not None else "–",
        clock(sum(report.seconds.values())),
    ]
    return [shown.cell(one) for one in said]


def win_text(win: WinRate | None) -> str:
    """A win rate with half of its 95% interval."""
    return f"{win.rate:.2f} ±{(win.high - win.low) / 2:.2f}" if win else "–"


def _decisions(progress: Progress) -> Iterator[Text]:
    """What each round was decided on, the last round first."""
    for number in sorted({*progress.gates, *progress.reward_models, *progress.looks}, reverse=True):
        said = []
        if (gate := progress.gates.get(number)) is not None:
            said.append((gate_text(gate), shown.GOOD if gate.get("accepted") else shown.BAD))
        if (look := progress.looks.get(number)) is not None:
            said.append((guard_text(look), ""))
        if (reward := progress.reward_models.get(number)) is not None:
            said.append((reward_text(reward), ""))
        for index, (words, style) in enumerate(said):
            head = f"round {number}  " if index == 0 else " " * len(f"round {number}  ")
            yield shown.line((head, "bold"), (words, style))


def charts_of(run: Watched) -> list[Charted]:
    """How the figures of a run that is being read moved over the rounds."""
    reports = run.evaluated()
    lengths = _points("", [(r.round, r.length_ratio) for r in reports])
    return [
        Charted("Win rate", tuple(_wins(reports, name) for name in ("base", "previous")), 0.5, span=0.2),
        Charted("KL to base, nats per answer", (_kl(reports),), span=0.1),
        Charted("Length over the base's", (lengths,), 1.0, span=0.5),
        Charted("Judge swap consistency", tuple(_swaps(reports, name) for name in JUDGES), span=0.2),
        training(run.progress),
        Charted("Canaries the judge prefers", (_canaries(run.progress),), span=0.2),
        Charted("Behaviour", tuple(_behaviour(reports)), span=0.1),
        Charted("True score, by checkers", tuple(_gold(run)), span=0.1),
    ]


def _wins(reports: Sequence[Report], name: str) -> Curve:
    found = [(report.round, win) for report in reports if (win := report.win_rates.get(name))]
    x, wins = [number for number, _ in found], [win for _, win in found]
    return Curve(f"vs {name}", x, [w.rate for w in wins], [w.low for w in wins], [w.high for w in wins])


def _kl(reports: Sequence[Report]) -> Curve:
    found = [(report.round, report.kl) for report in reports if report.kl]
    means, errors = [kl.mean for _, kl in found], [1.96 * kl.standard_error for _, kl in found]
    lows = [mean - error for mean, error in zip(means, errors, strict=True)]
    highs = [mean + error for mean, error in zip(means, errors, strict=True)]
    return Curve("", [number for number, _ in found], means, lows, highs)


def _swaps(reports: Sequence[Report], name: str) -> Curve:
    none = JudgeHealth(0, 0.0, 0.0, 0, None, None, None)
    return _points(name, [(report.round, report.judges.get(name, none).swap_consistency) for report in reports])


def _points(name: str, found: Sequence[tuple[float, float | None]]) -> Curve:
    kept = [(x, y) for x, y in found if y is not None]
    return Curve(name, [x for x, _ in kept], [y for _, y in kept])


def _canaries(progress: Progress) -> Curve:
    names = ("rate", "low", "high")
    found = sorted((number, [event.get(name) for name in names]) for number, event in progress.canaries.items())
    kept = [(number, *rates) for number, rates in found if all(isinstance(rate, int | float) for rate in rates)]
    x, rates, lows, highs = zip(*kept, strict=True) if kept else ((), (), (), ())
    return Curve("", x, rates, lows, highs)


def _behaviour(reports: Sequence[Report]) -> Iterator[Curve]:
    for name in ("refusal", "repetition"):
        found = [(r.round, getattr(r.behaviour["policy"], name)) for r in reports if "policy" in r.behaviour]
        yield _points(name, found)


def _gold(run: Watched) -> Iterator[Curve]:
    """What checkers that know the truth say of each round's policy, where somebody has measured it; with 95%."""
    try:
        found = pages.gold(run.run)
    except UNREADABLE as error:
        run.problems["gold.json"] = why(error, "gold.json")
        return
    known = [(int(name.removeprefix("round ")), values) for name, values in found.items() if ROUND.fullmatch(name)]
    known = sorted((number, values) for number, values in known if "gold" in values)
    x, means = [number for number, _ in known], [values["gold"] for _, values in known]
    errors = [1.96 * values.get("gold_error", 0.0) for _, values in known]
    lows = [mean - error for mean, error in zip(means, errors, strict=True)]
    highs = [mean + error for mean, error in zip(means, errors, strict=True)]
    yield Curve("", x, means, lows, highs)


def training(progress: Progress) -> Charted:
    """How training went, round after round: round 1's steps lie between 1 and 2."""
    points: list[tuple[float, float | None]] = []
    name = "loss"
    for number, history in sorted(progress.train_history.items()):
        values = [step.get(name := watched(step)) for step in history]
        known = [value for value in values if isinstance(value, int | float)]
        points += [(number + index / len(known), value) for index, value in enumerate(known)]
    return Charted(TRAINED.get(name, f"Training: {name}"), (_points("", points),), along="training")


class Rounds(Grid):
    """The table of rounds; paging moves the whole screen, whose table is short."""

    def action_page(self, by: int) -> None:
        scroll = self.screen.query_one(Scroll)
        scroll.action_page_down() if by > 0 else scroll.action_page_up()


class Campaign(ChartPage):
    NUMBER, NAME = "2", "Campaign"
    ABOUT = (
        "A campaign: its rounds by stages, with the time each stage took, and the figures of each round. Below, what "
        "needs attention, how the figures moved (bars are 95% intervals), and what each round was decided on.\n\n"
        "▸43% is under way; 'reused' was done before; · is to come. Win vs base, vs prev: win rates against the base "
        "policy and the one before, ± half of the 95% interval. KL: nats per answer from the base policy. Length: over "
        "the base's. Swap: how often the judge agrees with itself when a pair is shown both ways.\n\n"
        "Space pages down to the figures; z makes a chart as large as the screen, o lays another run beside it, dotted "
        "and with hollow signs."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "open round"),
        Binding("space", "page", "down", tooltip="down to the figures"),
        *ChartPage.CHART_KEYS,
    ]
    MOST_CHARTS = 8
    DEFAULT_CSS = """
    Campaign #hand, Campaign #alerts, Campaign #gates { height: auto; padding: 0 2; }
    Campaign #alerts, Campaign #gates { margin-top: 1; }
    Campaign #charts { margin: 1 0 0 0; }
    Campaign #beside { margin-top: 1; }
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.rounds: tuple[int | None, ...] = ()
        self._current: int | None = None  # the row of the round in hand, with which the cursor goes if it is there

    def body(self) -> Iterator[Widget]:
        with Scroll(can_focus=False):
            yield Rounds([Column("round")])
            yield Words(id="hand")
            yield Words(id="alerts")
            yield from self.chart_widgets()
            yield Words(id="gates")

    def read(self) -> View:
        laid = self.charts()
        with self.watched.reading() as run:
            return view_of(run, time.time(), laid)

    def charted(self, run: Watched, back: int) -> list[Charted]:
        return charts_of(run)

    def show(self, view: View) -> None:
        self.rounds = view.rounds
        self.query_one("#title", Words).show(view.title)
        grid = self.query_one(Rounds)
        grid.styles.height = min(len(view.rows), ROUNDS_SEEN) + 1
        grid.fill(len(view.rows), lambda index: view.rows[index], columns=view.columns)
        if self._current is None or (grid.cursor == self._current and view.current != self._current):
            self.call_after_refresh(self._go_to, view.current)  # once the table has its height
        self._current = view.current
        self.query_one("#hand", Words).show(view.hand)
        self.query_one("#hand").display = bool(view.hand.plain)
        self._say("#alerts", [shown.line(("! ", shown.WARN), (one, shown.WARN)) for one in view.alerts])
        self._say("#gates", [shown.line(("Decisions", "bold"))] * bool(view.gates) + list(view.gates))
        self.show_charts(view.laid)
        self.trouble(view.problems)

    def _go_to(self, row: int) -> None:
        """Put the cursor on a row, with those before it in sight."""
        grid = self.query_one(Rounds)
        grid.put_cursor(row)
        grid.scroll_to(y=max(0, row + 2 - ROUNDS_SEEN), animate=False, force=True)

    def _say(self, name: str, made: list[Text]) -> None:
        words = self.query_one(name, Words)
        words.display = bool(made)
        for one in made:
            one.no_wrap = False
        words.show(shown.lines(made))

    def place(self) -> Place:
        cursor = self.query_one(Rounds).cursor
        return Place(self.at.path, self.rounds[cursor] if cursor < len(self.rounds) else None)

    def place_for(self, kind: type[Page]) -> Place:
        """To label: a round only where the cursor was put on it, else where the labeller stopped."""
        place = self.place()
        chosen = self.query_one(Rounds).cursor != self._current
        return place if kind.NUMBER != "6" or chosen else replace(place, round=None)

    def action_open(self) -> None:
        self.reader.action_go("3")

    def on_grid_opened(self) -> None:
        self.action_open()

    def action_page(self) -> None:
        self.query_one(Rounds).action_page(1)

    def command(self) -> str:
        return f"selfalign status {self.at.path}"
