"""The faces of a running campaign: plain lines, a live rich screen, or a log. All read the one event stream."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal, Protocol

from selfalign.cli.output import is_plain
from selfalign.progress import Progress, StageProgress
from selfalign.store.tail import Tail
from selfalign.text import clean, one_line
from selfalign.units import duration
from selfalign.words import (
    canaries_text,
    done_text,
    gate_text,
    guard_text,
    progress_text,
    proof_text,
    reused_text,
    reward_text,
)

PLAIN_SECONDS = 10.0  # between progress lines of one stage
POLL_SECONDS = 0.1

DisplayName = Literal["rich", "plain", "log"]


class Display(Protocol):
    """A face. `handle` takes the events of a run in order, and `close` leaves the terminal as it was."""

    def handle(self, event: Mapping[str, Any]) -> None: ...

    def notice(self, message: str) -> None:
        """Show a message that is no event of the run."""

    def close(self) -> None: ...


class PlainDisplay:
    """A line for each stage, and one every ten seconds in between. For pipes, logs, screen readers and NO_COLOR."""

    def __init__(self, stream: IO[str] | None = None, progress: Progress | None = None) -> None:
        self.stream = stream or sys.stderr
        self.progress = progress or Progress()
        self._printed = 0.0
        self._proven: set[Any] = set()

    def handle(self, event: Mapping[str, Any]) -> None:
        self.progress.handle(event)
        line = self._line(event)
        if line:
            self._printed = float(event.get("time") or 0.0)
            print(line, file=self.stream, flush=True)

    def notice(self, message: str) -> None:
        print(clean(message), file=self.stream, flush=True)

    def close(self) -> None:
        self.stream.flush()

    def _line(self, event: Mapping[str, Any]) -> str | None:
        match event.get("event"):
            case "campaign_started":
                return f"campaign: {event.get('rounds')} rounds"
            case "stage_started":
                self._printed = float(event.get("time") or 0.0)
                stage = self.progress.current
                return f"{_where(stage)}{reused_text(stage)}" if stage is not None and stage.reused else None
            case "progress" | "train_step":
                return self._progress_line(event)
            case "stage_done":
                stage = self.progress.stages[event.get("round"), str(event.get("stage"))]
                return f"{_where(stage)}{done_text(event, stage)}  ({duration(event.get('seconds'))})"
            case "stage_skipped":
                return f"{_where_of(event)}reused: done before"
            case "proof" if event.get("round") not in self._proven:
                self._proven.add(event.get("round"))
                return f"{_where_of({**event, 'stage': 'reload'})}{proof_text(event)}"
            case "reward_model":
                return f"{_where_of({**event, 'stage': 'reward'})}{reward_text(event)}"
            case "guard":
                return f"{_where_of({**event, 'stage': 'guard'})}{guard_text(event)}"
            case "canaries":
                return f"{_where_of({**event, 'stage': 'judge'})}{canaries_text(event)}"
            case "gate":
                return f"{_where_of({**event, 'stage': 'gate'})}{gate_text(event)}"
            case "warning":
                return f"warning: {one_line(event.get('message'))}"
            case "campaign_done":
                return f"campaign: done in {duration(self.progress.elapsed())}"
        return None

    def _progress_line(self, event: Mapping[str, Any]) -> str | None:
        now = float(event.get("time") or 0.0)
        training = event.get("event") == "train_step"
        where = event.get("round"), str(event.get("stage"))
        stage = self.progress.in_training(where[0]) if training else self.progress.stages.get(where)
        if stage is None or now - self._printed < PLAIN_SECONDS:
            return None
        return _where(stage) + progress_text(stage, now, self.progress.campaign_eta(now))


class LogDisplay:
    """One line an event, `time event key=value ...`, for log collectors."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.stream = stream or sys.stderr

    def handle(self, event: Mapping[str, Any]) -> None:
        stamp = datetime.fromtimestamp(float(event.get("time") or 0.0), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        fields = " ".join(f"{one_line(k)}={_log_value(v)}" for k, v in event.items() if k not in ("time", "event"))
        print(f"{stamp} {one_line(event.get('event'))} {fields}".rstrip(), file=self.stream, flush=True)

    def notice(self, message: str) -> None:
        print(clean(message), file=self.stream, flush=True)

    def close(self) -> None:
        self.stream.flush()


def open_display(name: DisplayName | None, title: str, progress: Progress | None = None) -> Display:
    """The face asked for; unasked, rich on a terminal and plain elsewhere. `progress` is what happened before."""
    if name is None:
        name = "plain" if is_plain(sys.stderr) else "rich"
    if name == "rich":
        from selfalign.cli.live import RichDisplay

        return RichDisplay(title, progress=progress)
    return LogDisplay() if name == "log" else PlainDisplay(progress=progress)


class Follower:
    """Feeds a display with what is appended to an event file, from a thread, until closed.

    The file is read, never the writer's memory: what the screen shows is what a second reader would see.
    """

    def __init__(self, path: Path, display: Display) -> None:
        self.path, self.display = path, display
        self.history = path.stat().st_size if path.exists() else 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5)
        self.display.close()

    def _follow(self) -> None:
        for event in follow(self.path, self._stop, start=self.history):
            self.display.handle(event)


def follow(path: Path, stop: threading.Event, *, start: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the events of a file from byte `start` on, waiting for more until `stop` is set; then those left over."""
    tail = Tail(path, start)
    while True:
        last = stop.is_set()  # asked before reading, so that what was written before is still delivered
        yield from tail.events()
        if last:
            return
        stop.wait(POLL_SECONDS)


def _where(stage: StageProgress) -> str:
    return _where_of({"round": stage.round, "stage": stage.name})


def _where_of(event: Mapping[str, Any]) -> str:
    round = event.get("round")
    place = f"round {round}" if isinstance(round, int) and round >= 0 else "base"
    return f"{place:<9}{one_line(event.get('stage')):<10}"


def _log_value(value: Any) -> str:
    line = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return line[1:-1] if isinstance(value, str) and line[1:-1] == value and " " not in value else line
