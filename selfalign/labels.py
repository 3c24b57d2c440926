"""Labels by people: append-only files in the run folder, `labels/LABELLER.jsonl`, one line for each key pressed.

A line is a label, or `{"undo": true}`, which takes back the last label that is not yet taken back. Nothing is ever
rewritten, so that a crash at any instant loses at most the line in hand; a torn line is left out on reading. The lock
of the run is not needed: people label while a campaign runs.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from selfalign.records import Label
from selfalign.store import FileDamaged, StoreError, append_line, atomic_write, parse_json

FOLDER = "labels"
MIN_LABELS = 30  # below, agreement is not told: it would say little, and sway whoever goes on labelling
UNDO = {"undo": True}
RANDOM = "random"  # the stratum that is a fair sample


class Labels:
    """One labeller's file, open for appending. `standing` are the labels that were not taken back, in order."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor
        self.standing = list(_standing(_lines(path)))

    def add(self, label: Label) -> None:
        """Append a label; it is on disk when this returns. Raises StoreError where the disk refuses."""
        self._append(msgspec.to_builtins(label))
        self.standing.append(label)

    def undo(self) -> Label | None:
        """Take back the last label, and return it; None where there is none."""
        if not self.standing:
            return None
        self._append(UNDO)
        return self.standing.pop()

    def _append(self, value: Mapping[str, Any]) -> None:
        line = json.dumps(value, ensure_ascii=True, allow_nan=False).encode("ascii")
        if os.fstat(self._descriptor).st_nlink == 0:  # what is written to it now, nobody would find
            raise StoreError(f"{self.path}: was deleted while it was open. Put it back, or begin again.")
        try:
            append_line(self._descriptor, line)
            os.fsync(self._descriptor)
        except OSError as error:
            raise StoreError(
                f"{self.path}: could not be written ({error.strerror}). Every label before it is kept. Make room, "
                "then go on where you stopped."
            ) from error


@contextmanager
def opened(run: Path, labeller: str) -> Iterator[Labels]:
    """A labeller's file in a run's folder, made where there is none. Raises StoreError where it is open elsewhere."""
    path = run / FOLDER / f"{labeller}.jsonl"
    try:
        path.parent.mkdir(exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o644)
    except OSError as error:
        raise StoreError(f"{path}: could not be opened ({error.strerror}).") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreError(f"{path}: {labeller} is labelling elsewhere. End that, or give --labeller.") from error
        yield Labels(path, descriptor)
    finally:
        os.close(descriptor)


def said_by(run: Path, labeller: str) -> list[Label]:
    """The standing labels of one labeller. Raises FileDamaged with the line of one that is no label."""
    return list(_standing(_lines(run / FOLDER / f"{labeller}.jsonl")))


def read(run: Path) -> dict[str, list[Label]]:
    """The standing labels in a run's folder, by labeller; of those who have any.

    Raises FileDamaged with the line of one that is no label.
    """
    found = {path.stem: list(_standing(_lines(path))) for path in sorted((run / FOLDER).glob("*.jsonl"))}
    return {name: labels for name, labels in found.items() if labels}


def write(run: Path, labeller: str, labels: Iterable[Label]) -> Path:
    """Write the labels of one labeller as a new file, whole or not at all; the same labels again are no change.

    Raises StoreError where there are other labels of this name.
    """
    path = run / FOLDER / f"{labeller}.jsonl"
    text = "".join(json.dumps(msgspec.to_builtins(label), ensure_ascii=True) + "\n" for label in labels)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise StoreError(f"{path}: there are labels of this name already. Choose another name: --labeller NAME.")
    path.parent.mkdir(exist_ok=True)
    atomic_write(path, text.encode("ascii"))
    return path


def scored(labels: Iterable[Label]) -> list[Label]:
    """The labels that say who is better, or that neither is; without repeats, so that each pair counts once."""
    return [label for label in labels if label.lead is not None and not label.repeat]


def fair(labels: Iterable[Label]) -> list[Label]:
    """The labels that no search for hard pairs has chosen: of the random stratum, and those made elsewhere."""
    return [label for label in labels if label.stratum in (RANDOM, "imported")]


def leads(labels: Iterable[Label]) -> dict[tuple[str, str], float]:
    """What was said of each pair, by pair; of a pair that was labelled twice the first word."""
    found: dict[tuple[str, str], float] = {}
    for label in scored(labels):
        found.setdefault(label.pair, label.lead)
    return found


def together(labellers: Iterable[Iterable[Label]]) -> dict[tuple[str, str], float]:
    """What several labellers prefer taken together, by pair: the sum of their leads, 0 where they are even."""
    found: dict[tuple[str, str], float] = {}
    for labels in labellers:
        for pair, lead in leads(labels).items():
            found[pair] = found.get(pair, 0.0) + lead
    return found


def repeats(labels: Iterable[Label]) -> tuple[list[float], list[float]]:
    """What was said of the pairs that were shown twice: the first time, and again."""
    labels = list(labels)
    first = leads(labels)
    again = [label for label in labels if label.repeat and label.lead is not None and label.pair in first]
    return [first[label.pair] for label in again], [label.lead for label in again]


def _standing(lines: Iterable[tuple[str, Any]]) -> list[Label]:
    standing: list[Label] = []
    for where, value in lines:
        if value == UNDO:
            del standing[-1:]
        else:
            try:
                standing.append(msgspec.convert(value, Label))
            except (msgspec.ValidationError, ValueError) as error:
                raise FileDamaged(f"{where}: is no label ({error}). Remove the line, or put it back.") from error
    return standing


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Each line that is whole, with the place where it stands."""
    with suppress(FileNotFoundError), open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            with suppress(FileDamaged):
                yield f"{path}:{number}", parse_json(line, str(path))
