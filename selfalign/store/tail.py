"""What is appended to a file of lines, as its writer writes on: for those who watch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfalign.store.files import FileDamaged, parse_json

CHUNK = 1 << 20  # bytes held at a time, and the longest line that is waited for


class Tail:
    """Reads whole lines from byte `start` on; a line that is still being written waits for its end.

    A file that is not there has no lines. One that became shorter is another file and is read from its beginning.
    """

    def __init__(self, path: Path, start: int = 0) -> None:
        self.path, self.offset = path, start
        self.restarts = 0  # how often the file turned out to be another

    def lines(self) -> Iterator[bytes]:
        """Yield the lines that were completed since the last call, without their ends; a longer one comes in parts."""
        try:
            with open(self.path, "rb") as file:
                if file.seek(0, 2) < self.offset:
                    self.offset, self.restarts = 0, self.restarts + 1
                file.seek(self.offset)
                for line in iter(lambda: file.readline(CHUNK), b""):
                    if not line.endswith(b"\n") and len(line) < CHUNK:
                        return
                    self.offset += len(line)
                    yield line.rstrip(b"\r\n")
        except OSError:
            return

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield the objects among the lines; one that a crash tore is passed over."""
        for line in self.lines():
            event = parse_event(line)
            if event is not None:
                yield event


def parse_event(line: bytes) -> dict[str, Any] | None:
    """An event, or None for a line that is not one."""
    try:
        event = parse_json(line, "an event")
    except FileDamaged:
        return None
    return event if isinstance(event, dict) else None
