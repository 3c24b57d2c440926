"""Runs as they are on disk at this moment. Read in threads; knows nothing of screens.

A run may be written while it is read, be half deleted, lie on a read-only mount, or come from another version of
selfalign: what cannot be read is said in words, and the rest is shown.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from selfalign.config import Campaign, ConfigError, load
from selfalign.progress import Progress, works_of
from selfalign.records import Report
from selfalign.stages import StageError
from selfalign.stages import report as reports
from selfalign.store import Holder, Run, StoreError, run_folders
from selfalign.store.run import CAMPAIGN, EVENTS
from selfalign.store.tail import Tail
from selfalign.words import place_of

UNREADABLE = (StoreError, StageError, ConfigError, msgspec.ValidationError, OSError, ValueError, KeyError, TypeError)
Found = TypeVar("Found")


def why(error: Exception, where: str = "") -> str:
    """Why something could not be read, in words."""
    if isinstance(error, msgspec.ValidationError | KeyError | TypeError):
        return f"{where or 'a file'}: written by another version of selfalign ({error})"
    if isinstance(error, ConfigError):
        first, *rest = str(error).splitlines() or [""]
        return f"{first}{f' (and {len(rest)} more)' if rest else ''}; the settings are of another version of selfalign?"
    if isinstance(error, FileNotFoundError):
        return f"{where or error.filename}: is gone"
    if not isinstance(error, UNREADABLE):
        return f"{type(error).__name__}: {error} ({place_of(error)}); this is a fault in selfalign: please report it"
    return str(error)


class Watched:
    """One run, read again and again: only what is new is read each time.

    Hold `reading()` while using what it holds: screens read from several threads.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name
        self.run = Run(path)
        self.progress = Progress()
        self.campaign: Campaign | None = None
        self.holder: Holder | None = None
        self.reports: dict[int, Report] = {}
        self.problems: dict[str, str] = {}
        self.disk: int | None = None  # bytes; `measure` fills it
        self._tail = Tail(path / EVENTS)
        self._lock = threading.RLock()
        self._seen: dict[str, tuple[int, int]] = {}
        self._restarts = 0

    @contextmanager
    def reading(self) -> Iterator[Watched]:
        """Read what is new, and keep others from doing so meanwhile."""
        with self._lock:
            self._refresh()
            yield self

    @property
    def state(self) -> str:
        """How it stands, in words."""
        if self.gone:
            return "deleted"
        return self.progress.state_of(self.holder, time.time())

    @property
    def gone(self) -> str:
        """What is said of a run that was deleted; "" of one that is there. Asks the disk."""
        there = (self.path / CAMPAIGN).is_file()
        return "" if there else f"{self.path}: this run is gone; what was read before is still shown"

    @property
    def intended(self) -> int | None:
        """How many rounds there are to be, by its events, or by its settings where it has not begun."""
        return self.progress.rounds or (self.campaign.num_rounds if self.campaign is not None else None)

    @property
    def alive(self) -> bool:
        return self.holder is not None

    def _refresh(self) -> None:
        if self.gone:
            self.problems = {"run": self.gone}
            return
        self.problems.pop("run", None)
        self._once_changed(CAMPAIGN, self._read_campaign)
        for event in self._tail.events():
            self._handle(event)
        self.holder = self.run.holder()
        for number in self._try("rounds", self.run.rounds) or []:
            self._once_changed(f"{reports.folder(number)}/report.json", lambda number=number: self._read_report(number))

    def _handle(self, event: dict[str, object]) -> None:
        if self._tail.restarts != self._restarts:  # another run took the place of the one that was watched
            self._restarts, self.progress = self._tail.restarts, Progress(self.progress.works)
            self.reports, self._seen = {}, {}
        try:
            self.progress.handle(event)
        except (ValueError, TypeError, KeyError, AttributeError):
            self.problems[EVENTS] = f"{EVENTS}: some events are not of the form this version of selfalign knows"

    def _read_campaign(self) -> None:
        self.campaign = load(self.path / CAMPAIGN).campaign
        self.progress.works = works_of(self.campaign)

    def _read_report(self, number: int) -> None:
        found = reports.read_round(self.run, number)
        if found is not None:
            self.reports[number] = found

    def _once_changed(self, name: str, read: Callable[[], None]) -> None:
        """Read a file whenever it looks another than at the last time."""
        try:
            status = os.stat(self.path / name)
        except OSError:
            return
        mark = (status.st_mtime_ns, status.st_size)
        if self._seen.get(name) != mark:
            self._seen[name] = mark
            self._try(name, read)

    def _try(self, name: str, read: Callable[[], Found]) -> Found | None:
        """Read something; where that fails, note why."""
        try:
            found = read()
        except UNREADABLE as error:
            self.problems[name] = why(error, f"{self.path.name}/{name}")
            return None
        self.problems.pop(name, None)
        return found

    def rounds(self) -> list[int]:
        """The rounds that were begun, as far as was read; asks no disk."""
        begun = {number for number, _ in self.progress.stages if number is not None}
        return sorted(begun | self.reports.keys())

    def evaluated(self) -> list[Report]:
        """The reports that there are, by round."""
        return [self.reports[number] for number in sorted(self.reports)]

    def measure(self) -> None:
        """Find out how much room the run takes on disk."""
        self.disk = disk_of(self.path)


def disk_of(folder: Path) -> int:
    """The bytes that a folder takes on disk; a file with several names counts once, one that vanishes not at all."""
    total, seen = 0, set()
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(os.path.join(parent, name))
            except OSError:
                continue
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                total += status.st_blocks * 512
    return total


class Library:
    """The runs of a folder, and one that was named and may lie elsewhere. Each stays open once it was seen."""

    def __init__(self, folder: Path, named: Path | None = None) -> None:
        self.folder, self.named = folder, named
        self._watched: dict[Path, Watched] = {}
        self._gone: set[Path] = set()  # of those, what was not there at the last look; screens may still show it
        self._lock = threading.Lock()

    def open(self, path: Path) -> Watched:
        """The run at a path."""
        with self._lock:
            return self._watched.setdefault(path.absolute(), Watched(path))

    def known(self) -> list[Watched]:
        """Those that were opened so far and are there; asks no disk."""
        with self._lock:
            return [one for path, one in self._watched.items() if path not in self._gone]

    def all(self) -> list[Watched]:
        """The runs there are now; one that was named comes along wherever it lies."""
        folders = run_folders(self.folder)
        if self.named is not None and self.named.absolute() not in {folder.absolute() for folder in folders}:
            folders.append(self.named)
        with self._lock:
            wanted = {folder.absolute() for folder in folders}
            self._gone = {path for path, one in self._watched.items() if path not in wanted and not one.alive}
        return [self.open(folder) for folder in folders]
