"""The live screen of `selfalign run`: a table of rounds by stages, the stage in hand, and what needs attention."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from typing import IO, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from selfalign.cli.output import console, is_unicode
from selfalign.progress import OPTIONAL, STAGES, Progress, StageProgress
from selfalign.text import one_line
from selfalign.units import clock, duration, sparkline
from selfalign.words import canaries_text, gate_text, guard_text, metrics_text, rate_text, reward_text, watched

REFRESH_PER_SECOND = 4
ROUNDS_SHOWN = 8
WARNINGS_SHOWN = 3
MODEL_STAGES = frozenset({"generate", "revise", "judge", "reward", "train", "evaluate"})


class RichDisplay:
    """Redraws in place on stderr. Says everything in words too: colour is never the only sign."""

    def __init__(self, title: str, console: Console | None = None, progress: Progress | None = None) -> None:
        self.title = title
        self.console = console or Console(file=sys.stderr, markup=False, highlight=False, emoji=False)
        self.progress = progress or Progress()
        self._lock = threading.Lock()
        self._notice = ""
        self._live = Live(
            console=self.console,
            get_renderable=self.render,
            refresh_per_second=REFRESH_PER_SECOND,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def handle(self, event: Mapping[str, Any]) -> None:
        with self._lock:
            self.progress.handle(event)

    def notice(self, message: str) -> None:
        self._notice = message

    def close(self) -> None:
        self._live.stop()

    def render(self) -> RenderableType:
        with self._lock:
            screen = render(self.progress, self.title, time.time(), unicode=is_unicode(self.console.file))
        return Group(screen, Text(one_line(self._notice), style="bold yellow")) if self._notice else screen


def render(
    progress: Progress, title: str, now: float, *, state: str | None = None, unicode: bool = True
) -> RenderableType:
    """The whole screen for one moment."""
    parts: list[RenderableType] = [
        _header(progress, title, now, state or progress.state),
        Text(""),
        _rounds_table(progress, now, unicode),
    ]
    if progress.gates:
        round = max(progress.gates)
        parts.append(Text(f"round {round} {gate_text(progress.gates[round])}", style="dim"))
    if progress.reward_models:
        round = max(progress.reward_models)
        parts.append(Text(f"round {round} {reward_text(progress.reward_models[round])}", style="dim"))
    if progress.looks:
        round = max(progress.looks)
        parts.append(Text(f"round {round} {guard_text(progress.looks[round])}", style="dim"))
    if progress.canaries:
        round = max(progress.canaries)
        parts.append(Text(f"round {round} {canaries_text(progress.canaries[round])}", style="dim"))
    parts.append(Text(""))
    if progress.current is not None and not progress.current.finished:
        parts.append(_current(progress.current, now, live=(state or progress.state) in ("running", "stalled")))
        if progress.current.name in ("train", "reward"):
            parts.append(_training(progress, progress.current, unicode))
    parts += [Text(f"warning: {one_line(message)}", style="yellow") for message in progress.warnings[-WARNINGS_SHOWN:]]
    if progress.failure and state is not None:  # `run` itself says it as its error
        parts.append(Text(f"failed: {one_line(progress.failure)}", style="red"))
    return Group(*parts)


def _header(progress: Progress, title: str, now: float, state: str) -> Text:
    header = Text(one_line(title), style="bold")
    header.append(f"  {state}", style="default not bold")
    header.append(f"  {duration(progress.elapsed(now))} so far", style="not bold dim")
    if state == "running":
        eta = progress.campaign_eta(now)
        unknown = f"time left: known after round {progress.eta_known_after()}"
        said = f"about {duration(eta)} left" if eta is not None else unknown
        header.append(f"  {said}", style="not bold cyan")
    return header


def _rounds_table(progress: Progress, now: float, unicode: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold dim")
    seen = {name for _, name in progress.stages}
    stages = [stage for stage in STAGES if stage in seen or stage not in OPTIONAL]
    for column in ("round", *stages):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("gate", no_wrap=True)
    for round in _rounds_shown(progress):
        cells = [_cell(progress.stages.get((round, stage)), unicode) for stage in stages]
        table.add_row(Text("base" if round is None else str(round)), *cells, _gate_cell(progress, round, unicode))
    return table


def _rounds_shown(progress: Progress) -> list[int | None]:
    """The base policy's own row where it was sampled, then the last rounds up to one that is still to come."""
    base: list[int | None] = [None] if any(round is None for round, _ in progress.stages) else []
    known = progress.rounds or 0
    current = progress.round or 0
    first = max(0, min(current + 2, known) - ROUNDS_SHOWN)
    return base + list(range(first, min(known, first + ROUNDS_SHOWN)))


def _cell(stage: StageProgress | None, unicode: bool) -> Text:
    if stage is None:
        return Text("·" if unicode else ".", style="dim")
    if stage.seconds is not None:
        return Text(clock(stage.seconds), style="green")
    if stage.skipped:
        return Text("reused", style="blue")
    return Text(f"{'▸' if unicode else '>'}{stage.fraction:.0%}", style="bold cyan")


def _gate_cell(progress: Progress, round: int | None, unicode: bool) -> Text:
    gate = progress.gates.get(round) if round is not None else None
    if gate is None:
        return Text("")
    mark = ("✓ " if gate.get("accepted") else "✗ ") if unicode else ""
    accepted = bool(gate.get("accepted"))
    return Text(mark + ("accepted" if accepted else "rejected"), style="green" if accepted else "bold red")


def _current(stage: StageProgress, now: float, *, live: bool) -> Table:
    line = Table.grid(padding=(0, 1))
    where = "base" if stage.round is None else f"round {stage.round}"
    bar = ProgressBar(total=max(1, stage.total), completed=stage.done, width=24, complete_style="cyan")
    facts = [f"{stage.done:,}/{stage.total:,} {one_line(stage.unit)}".rstrip()] if stage.total else []
    rate, eta = (stage.rate(now), stage.eta(now)) if live else (None, None)
    if live and stage.first is None and stage.name in MODEL_STAGES:
        facts.append(f"loading models, {duration(now - stage.started)} so far")
    facts += [rate_text(rate)] if rate is not None else []
    facts += [f"{duration(eta)} left"] if eta is not None else []
    facts += [f"({stage.reused:,} reused)"] if stage.reused else []
    line.add_row(Text(f"{where} · {one_line(stage.name)}", style="bold"), bar, Text("  ".join(facts)))
    return line


def _training(progress: Progress, stage: StageProgress, unicode: bool) -> Text:
    history = progress.train_history.get(stage.round, ()) if stage.name == "train" else ()
    name = watched(stage.metrics)
    course = [metrics[name] for metrics in history if isinstance(metrics.get(name), int | float)]
    step = max(1, len(course) // 40)
    return Text(f"  {metrics_text(stage.metrics)}  {sparkline(course[::step], unicode=unicode)}", style="dim")


def snapshot(progress: Progress, title: str, now: float, stream: IO[str], state: str) -> None:
    """Print the screen once, as `selfalign status` does; `state` is what the reader knows of the writer."""
    to = console(stream)
    to.print(render(progress, title, now, state=state, unicode=is_unicode(stream)), soft_wrap=False)
