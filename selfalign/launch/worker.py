"""The inference worker: one process that holds the engines for as long as the campaign runs.

It reads frames on stdin and answers on stdout; whatever libraries print goes to stderr, the worker's log. When the
controller is gone, its end of stdin closes, and the worker ends itself rather than hold a GPU as an orphan.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from selfalign import engines
from selfalign.config import EngineSettings
from selfalign.engines.base import Engine, Sampling
from selfalign.launch import wire

_BATCH = 64
_BATCH_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Start:
    """The first frame: how engines are to be opened."""

    settings: EngineSettings


@dataclass(frozen=True)
class Use:
    """Put a model in place. Each model is trusted, or not, by itself."""

    model: str
    trust_remote_code: bool = False


class Inbox:
    """Frames from the controller, read by a thread, so that neither side ever waits for the other to read."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._frames: queue.SimpleQueue[wire.Frame] = queue.SimpleQueue()
        self.cancelled = 0  # the highest call number that the controller has cancelled
        self._ended = 0  # the highest call number whose requests have all been read
        threading.Thread(target=self._read, args=(pipe,), daemon=True).start()

    def _read(self, pipe: BinaryIO) -> None:
        while (frame := wire.receive(pipe)) is not None:
            if frame.op == "cancel":
                self.cancelled = max(self.cancelled, frame.call)
            self._frames.put(frame)
        os._exit(0)

    def next(self) -> wire.Frame:
        """The next call. What an ended call has left behind is passed over."""
        while (frame := self._frames.get()).op in ("requests", "end", "cancel"):
            pass
        return frame

    def requests(self, call: int, kind: Any) -> Iterator[Any]:
        """The requests of a streaming call, as they come, until the controller says that there are no more."""
        while self._ended < call:
            frame = self._frames.get()
            if frame.op == "end":
                self._ended = frame.call
            elif self.cancelled >= call:
                return  # `drain` reads the rest
            elif frame.op == "requests":
                yield from wire.decode(frame.body, list[kind])

    def drain(self, call: int) -> None:
        """Drop the requests that a failed or cancelled call has left behind."""
        while self._ended < call:
            if (frame := self._frames.get()).op == "end":
                self._ended = frame.call


class Worker:
    """Serves calls one after another. Models of one architecture share an engine, whose weights are reloaded."""

    def __init__(self, inbox: Inbox, out: BinaryIO, start: Start) -> None:
        self.inbox, self.out, self.start = inbox, out, start
        self.engines: list[Engine] = []
        self.current: Engine | None = None

    def serve(self) -> None:
        while (frame := self.inbox.next()).op != "quit":
            try:
                self.answer(frame)
            except Exception as error:  # the controller decides what an error means; the worker lives on
                traceback.print_exception(error, file=sys.stderr)
                wire.send(self.out, "error", frame.call, f"{type(error).__name__}: {error}")
                if frame.op in wire.REQUESTS:
                    self.inbox.drain(frame.call)

    def answer(self, frame: wire.Frame) -> None:
        reply = None
        if frame.op == "use":
            self.use(wire.decode(frame.body, Use))
            reply = self.engine.dtype
        elif frame.op == "sleep":
            for engine in self.engines:
                engine.sleep()
        elif frame.op == "check_labels":
            self.engine.check_labels(wire.decode(frame.body, tuple[str, ...]))
        else:
            self.stream(frame)
        wire.send(self.out, "done", frame.call, reply)

    @property
    def engine(self) -> Engine:
        if self.current is None:
            raise RuntimeError("no model has been loaded")
        return self.current

    def use(self, wanted: Use) -> None:
        """Hold a model: in an engine of its architecture by reloading the weights, else in a new one."""
        holder = next((engine for engine in self.engines if engine.accepts(wanted.model)), None)
        for other in self.engines:
            if other is not holder:
                other.sleep()  # a GPU may have no room for two
        if holder is None:
            holder = engines.open_engine(wanted.model, self.start.settings, trust_remote_code=wanted.trust_remote_code)
            self.engines.append(holder)
        else:
            holder.load(wanted.model)
        self.current = holder

    def stream(self, frame: wire.Frame) -> None:
        requests = self.inbox.requests(frame.call, wire.REQUESTS[frame.op])
        if frame.op == "generate":
            results = self.engine.generate(requests, wire.decode(frame.body, Sampling))
        else:
            results = getattr(self.engine, frame.op)(requests)
        try:
            self.send_results(frame.call, results)
        finally:
            results.close()
        self.inbox.drain(frame.call)

    def send_results(self, call: int, results: Iterator[Any]) -> None:
        batch: list[Any] = []
        sent_at = time.monotonic()
        for result in results:
            if self.inbox.cancelled >= call:
                return
            batch.append(result)
            if len(batch) >= _BATCH or time.monotonic() - sent_at > _BATCH_SECONDS:
                wire.send(self.out, "results", call, batch)
                batch, sent_at = [], time.monotonic()
        if batch:
            wire.send(self.out, "results", call, batch)


def main() -> None:
    """Take over stdout for frames, then serve until told to quit."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    inbox = Inbox(sys.stdin.buffer)
    Worker(inbox, out, wire.decode(inbox.next().body, Start)).serve()


if __name__ == "__main__":
    main()
