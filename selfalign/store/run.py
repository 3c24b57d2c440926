"""The run folder: one writer at a time, any number of readers, and nothing lost when either dies."""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock

from selfalign.store import audit, files
from selfalign.store.files import Digests, FileDamaged, Problem, RunLocked, StoreError
from selfalign.store.step import BEGUN, Step

CAMPAIGN, EVENTS, WRITTEN, BRANCH = "campaign.yaml", "events.jsonl", "written.json", "branch.json"
LOCK, HOLDER, STOP = "run.lock", "lock.json", "stop.json"
_ROUND = re.compile(r"\d{3,}")
_LOCK_PATIENCE = 1.0  # seconds; covers the instant in which a reader asks who holds the lock
_UNSYNCED = frozenset({"progress"})  # events that may be lost to a power cut


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that writes to a run."""

    pid: int
    host: str
    since: str  # ISO 8601, UTC


@dataclass(frozen=True, slots=True)
class StopAsked:
    """Somebody wants the writer to stop at the end of a round. `id` tells one such wish from another."""

    round: int
    id: str


class Run:
    """One run folder. `Run.create` makes one, `Run.open` opens one; whatever writes needs `lock()`.

    An open Run takes every digest once and remembers it for as long as the file looks untouched.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digests = Digests()
        self._lock = filelock.FileLock(path / LOCK, timeout=_LOCK_PATIENCE, thread_local=False, mode=0o644)
        self._emitting = threading.Lock()
        self._inherited: frozenset[str] = frozenset()

    @staticmethod
    def create(path: Path | str, config_yaml: str) -> Run:
        """Make a run folder with its resolved configuration. Raises StoreError if there is one already."""
        path = Path(path)
        files.check_name(path.name)
        early = {LOCK, HOLDER, WRITTEN}  # all that a crash of this function can leave
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise StoreError(f"{path} is not a folder. Choose another name for the run.")
        if path.is_dir() and any(e.name not in early and not files.is_temporary(e) for e in path.iterdir()):
            raise StoreError(
                f"{path} is there already. To go on with it: selfalign run {path}. For a new run, choose another name: "
                "selfalign run FILE --set name=NEW_NAME"
            )
        files.make_folder(path.absolute())
        run = Run(path)
        with run.lock():
            run.write_text(CAMPAIGN, config_yaml)
        return run

    @staticmethod
    def open(path: Path | str) -> Run:
        """Open an existing run. Nothing is written."""
        path = Path(path)
        if not (path / CAMPAIGN).is_file():
            raise StoreError(
                f"{path} is not a run folder: it has no {CAMPAIGN}. See the runs there are: selfalign runs ls"
            )
        run = Run(path)
        if (parent := run.parent()) is not None:
            run._inherited = frozenset(parent["steps"])
        return run

    def parent(self) -> dict[str, Any] | None:
        """Return what branch.json says of the run this one branched from (parent, round, steps), or None."""
        path = self.path / BRANCH
        return files.read_sealed(path) if path.exists() else None

    # The lock

    @contextmanager
    def lock(self) -> Iterator[Run]:
        """Be the one writer of this run. Raises RunLocked, which names pid, host and since, if another process is.

        The operating system frees the lock when its holder dies, however it dies.
        """
        try:
            self._lock.acquire()
        except (filelock.Timeout, RuntimeError) as error:  # RuntimeError: this very process holds it elsewhere
            raise RunLocked(self._locked_message()) from error
        except OSError as error:
            files.refuse_write(self.path / LOCK, error)
        try:
            if self._lock.lock_counter == 1:
                files.sweep(self.path)
                self._write_holder()
            yield self
        finally:
            if self._lock.lock_counter == 1:
                with suppress(OSError):
                    (self.path / HOLDER).unlink(missing_ok=True)
            self._lock.release()

    def _write_holder(self) -> None:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        files.atomic_write(self.path / HOLDER, files.to_json(holder))

    def _locked_message(self) -> str:
        holder = self._read_holder()
        who = f"process {holder.pid} on {holder.host} since {holder.since}" if holder else "another process"
        return (
            f"{self.path} is being written by {who}. One run has one writer. "
            f"Wait for it, or end it: selfalign stop {self.path}. To watch it: selfalign status {self.path}"
        )

    def _read_holder(self) -> Holder | None:
        with suppress(StoreError, TypeError):
            return Holder(**files.parse_json(files.read_bytes(self.path / HOLDER), HOLDER))
        return None

    def holder(self) -> Holder | None:
        """Return who writes to this run at this moment, or None. Holds up no writer, and works on a read-only mount."""
        try:
            descriptor = os.open(self.path / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
        except OSError:
            return self._read_holder()
        finally:
            os.close(descriptor)

    # A wish to stop, which any process may leave here and only the writer fulfils

    def ask_stop(self, round: int) -> None:
        """Ask the writer to stop at the end of a round; in place of what was asked before."""
        files.write_sealed(self.path / STOP, {"round": round, "id": secrets.token_hex(8)})

    def stop_asked(self) -> StopAsked | None:
        """Return the wish that is open, or None. One that was fulfilled by a writer who then died is not."""
        try:
            found = files.read_sealed(self.path / STOP)
            asked = StopAsked(int(found["round"]), str(found["id"]))
        except (StoreError, KeyError, TypeError, ValueError):
            return None
        return None if any(event.get("asked") == asked.id for event in self.events()) else asked

    def withdraw_stop(self) -> None:
        """Take back what was asked; nothing, where nothing was."""
        try:
            (self.path / STOP).unlink(missing_ok=True)
            files.fsync_folder(self.path)
        except OSError as error:
            files.refuse_write(self.path / STOP, error)

    def _require_lock(self, what: str) -> None:
        if not self._lock.is_locked:
            raise StoreError(f"{self.path}: {what} needs the lock of the run: do it inside `with run.lock():`.")

    # Events

    def emit(self, event: str, **fields: Any) -> None:
        """Append one event. It is on disk when this returns, but for progress, which a power cut may take."""
        self._require_lock("an event")
        line = json.dumps(files.plain({"time": time.time(), "event": event, **fields}), separators=(",", ":"))
        path = self.path / EVENTS
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._emitting:
            try:
                with open(os.open(path, flags, 0o644), "rb+", buffering=0) as file:
                    files.append_line(file.fileno(), line.encode("ascii"))
                    if event not in _UNSYNCED:
                        os.fsync(file.fileno())
            except OSError as error:
                files.refuse_write(path, error)

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield the events in order, leaving out a line that a crash or a full disk tore."""
        with suppress(FileNotFoundError), open(self.path / EVENTS, "rb") as file:
            for line in file:
                with suppress(FileDamaged):
                    event = files.parse_json(line, EVENTS)
                    if isinstance(event, dict):
                        yield event

    # Steps and documents

    def step(self, name: str, *, inputs: Mapping[str, str], config: Any = None) -> Step:
        """Begin a step, or take it up again; see Step for what `inputs` should name.

        Raises StepChanged if it was begun with other inputs or another configuration (but a step that came with a
        branch is taken as it is), and StepDamaged, once what is damaged is in quarantine, if a finished step is not
        what was written. Every file of a finished step is checked against its digest.
        """
        self._require_lock("a step")
        files.inside(self.path, name)
        return Step(self.path, name, self._digests).begin(inputs, config, inherited=name in self._inherited)

    def view(self, name: str) -> Step | None:
        """Return a step as it is now, finished or not, for reading only; None if it was not begun."""
        if not (files.inside(self.path, name) / BEGUN).exists():
            return None
        return Step(self.path, name, self._digests).look()

    def rounds(self) -> list[int]:
        """Return the numbers of the rounds that were begun, in order."""
        folder = self.path / "rounds"
        names = [entry.name for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []
        return sorted(int(name) for name in names if _ROUND.fullmatch(name))

    def write_text(self, name: str, text: str) -> None:
        """Write a document of the run (a report, a round's constitution) atomically, and note its digest."""
        self._require_lock(name)
        path, data = files.inside(self.path, name), files.to_utf8(text)
        files.make_folder(path.parent)
        self._note(name, files.sha256(data))
        files.atomic_write(path, data)

    def write_json(self, name: str, value: Any) -> None:
        """Write a document as JSON; dataclasses become objects. Raises StoreError on NaN and the like."""
        self.write_text(name, files.to_json(value).decode("ascii"))

    def read_text(self, name: str) -> str:
        """Return a document of the run. Raises StoreError naming it if it is missing or not what was written."""
        path = files.inside(self.path, name)
        for _ in range(3):  # a writer may replace the document between the two reads
            data = files.read_bytes(path)
            known = audit.written(self.path).get(name)
            if known is None or files.sha256(data) in known:
                return data.decode("utf-8", "replace")
        raise FileDamaged(f"{path} was changed after it was written. Put it back; see selfalign verify {self.path}")

    def read_json(self, name: str) -> Any:
        """Return a document of the run, parsed as strict JSON."""
        return files.parse_json(self.read_text(name), str(self.path / name))

    def _note(self, name: str, digest: str) -> None:
        """Record a document's digest before it is written; the digest before it stays valid until then."""
        known = audit.written(self.path)
        if known.get(name, [])[-1:] != [digest]:
            known[name] = [*known.get(name, [])[-1:], digest]
            files.write_sealed(self.path / WRITTEN, {"files": known})

    def verify(self) -> list[Problem]:
        """Check every artifact against its digest and every step against its inputs, the first broken link first."""
        return audit.verify(self.path)


def run_folders(folder: Path) -> list[Path]:
    """Return the run folders right under a folder, by name; none where there is no such folder."""
    with suppress(OSError):
        return sorted(entry for entry in folder.iterdir() if (entry / CAMPAIGN).is_file())
    return []
