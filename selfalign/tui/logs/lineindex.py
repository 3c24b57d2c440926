"""Where the lines of a growing file begin: eight bytes a line, so that a log of any length can be shown."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import numpy as np

CHUNK = 1 << 22  # bytes read at a time
LONGEST = 16_384  # bytes of a line that are ever shown


class LineIndex:
    """The lines of a file, or those that have some words, whatever their case. `grow` is called from one thread."""

    def __init__(self, path: Path, words: str = "") -> None:
        self.path, self.needle = path, words.lower().encode("utf-8", "replace")
        self.restarts = 0  # how often the file turned out to be another
        self._ends = array("Q")  # the byte after each line's end
        self._found = array("Q")  # the numbers of the lines that have the words
        self._tail = b""  # the line that has no end yet
        self._offset = 0

    @property
    def total(self) -> int:
        return len(self._ends)

    def __len__(self) -> int:
        return len(self._found) if self.needle else len(self._ends)

    def grow(self) -> None:
        """Take in what was appended. A file that is not there has no lines; a shorter one is another file."""
        try:
            with open(self.path, "rb") as file:
                if file.seek(0, 2) < self._offset:
                    self._ends, self._found, self._tail, self._offset = array("Q"), array("Q"), b"", 0
                    self.restarts += 1
                file.seek(self._offset)
                for chunk in iter(lambda: file.read(CHUNK), b""):
                    self._take(chunk)
        except OSError:
            return

    def _take(self, chunk: bytes) -> None:
        ends = np.flatnonzero(np.frombuffer(chunk, dtype=np.uint8) == 10)
        if self.needle:
            self._search(chunk, ends)
        self._ends.extend((ends + self._offset + 1).tolist())
        self._offset += len(chunk)

    def _search(self, chunk: bytes, ends: np.ndarray) -> None:
        """Note the lines that end in this chunk and have the words."""
        lowered, first, known = (self._tail + chunk).lower(), len(self._tail), len(self._ends)
        whole = [int(end) + first for end in ends]
        at = lowered.find(self.needle)
        while at >= 0:
            line = bisect_right(whole, at - 1) if at else 0
            if line >= len(whole):
                break
            self._found.append(known + line)
            at = lowered.find(self.needle, whole[line] + 1)
        rest = (self._tail + chunk)[whole[-1] + 1 :] if whole else self._tail + chunk
        self._tail = rest[-CHUNK:]

    def number(self, at: int) -> int:
        """The line of the file that a row shows."""
        return self._found[at] if self.needle else at

    def lines(self, wanted: Sequence[int]) -> list[bytes]:
        """The lines of some rows, each up to LONGEST bytes; empty ones where the file is gone."""
        found = []
        try:
            with open(self.path, "rb") as file:
                for at in wanted:
                    number = self.number(at)
                    start = self._ends[number - 1] if number else 0
                    file.seek(start)
                    found.append(file.read(min(self._ends[number] - start, LONGEST)).rstrip(b"\r\n"))
        except (OSError, IndexError):
            pass
        return found + [b""] * (len(wanted) - len(found))
