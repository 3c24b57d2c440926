"""The constitution of a run as screen 5 looks at it: a round's own copy, and the file that later rounds will read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfalign import drafts, resources
from selfalign.constitution import Constitution, Principle, load
from selfalign.principles import Record
from selfalign.store import Run
from selfalign.tui.reading import UNREADABLE, Watched, why

RESULTS = 100  # constitutions that are kept once they were read


@dataclass(frozen=True, slots=True)
class Subject:
    """Which constitution is looked at. `frozen` is the copy of `round`, None before the first round has begun.

    `file` is what the campaign names, None where it is not there; `shut` says why it is not edited, "" where it is.
    """

    run: Path
    round: int | None
    rounds: tuple[int, ...]
    frozen: Path | None
    rules: Constitution | None
    file: Path | None
    shut: str
    problems: tuple[str, ...]

    @property
    def version(self) -> str:
        """How the constitution is called on the command line."""
        return f"{self.run}@{self.round}" if self.round is not None else str(self.file or "")


@dataclass(frozen=True, slots=True)
class Line:
    """A principle with what it did. It is not in this version where `principle` is None, and was never judged by where
    `record` is."""

    id: str
    principle: Principle | None
    record: Record | None

    @property
    def stated(self) -> Principle | None:
        """How this version has it, or the last that had it."""
        return self.principle or (self.record.stated if self.record else None)

    def copied(self) -> str:
        """The words of the principle as they reach a judge."""
        stated = self.stated
        return "\n\n".join(filter(None, (stated.text, stated.compare))) or stated.norm() if stated else self.id


class Parsed:
    """Constitutions that were read, each once for every change of its file or of its text."""

    def __init__(self) -> None:
        self._known: dict[Any, Constitution | Exception] = {}

    def load(self, path: Path, text: str | None = None) -> Constitution:
        """As `constitution.load` does."""
        status = path.stat() if text is None else None
        mark = (path, text, status and (status.st_mtime_ns, status.st_size))
        if mark not in self._known:
            if len(self._known) >= RESULTS:
                self._known.clear()
            self._known[mark] = _result(lambda: load(path, text))
        found = self._known[mark]
        if isinstance(found, Exception):
            raise found
        return found


def _result(read: Callable[[], Constitution]) -> Constitution | Exception:
    try:
        return read()
    except UNREADABLE as error:
        return error


def subject(watched: Watched, wanted: int | None, parsed: Parsed) -> Subject:
    """The constitution of a round, else of the last that has one, else the campaign's file."""
    with watched.reading() as run:
        campaign, problems = run.campaign, list(run.problems.values())
        rounds = run.run.rounds() if "run" not in run.problems else []
    copies = {number: frozen_in(watched.path, number) for number in rounds}
    copies = {number: path for number, path in copies.items() if path.is_file()}
    number = wanted if wanted in copies else max(copies, default=None)
    name = campaign.constitution if campaign is not None else ""
    file = resources.find_constitution(name) if name else None
    source, rules = copies[number] if number is not None else file, None
    try:
        rules = parsed.load(source) if source is not None else None
    except UNREADABLE as error:
        problems.append(near(why(error, str(source)), watched.path))
    return Subject(
        watched.path, number, tuple(sorted(copies)), copies.get(number) if number is not None else None, rules,
        file.resolve() if file is not None else None, _shut(watched.path, number, name, file), tuple(problems),
    )  # fmt: skip


def near(words: str, run: Path) -> str:
    """Words about a run's files, without the folder of runs before each: a line has room for what is wrong."""
    return words.replace(f"{run.parent}/", "")


def frozen_in(run: Path, number: int) -> Path:
    return run / f"rounds/{number:03d}/constitution.yaml"


def _shut(run: Path, number: int | None, name: str, file: Path | None) -> str:
    """Why the campaign's file is not edited, and what to do."""
    if file is not None:
        return drafts.protected(file)
    if not name:
        return "the campaign's settings name no constitution that this version of selfalign can read"
    if number is None:
        return f"{name}, which the campaign names, is not there"
    return (
        f"{name}, which the campaign names, is not there; a file to begin with: "
        f"selfalign constitution export {run}@{number} --format yaml > FILE"
    )


def judged_mark(run: Run, rounds: Sequence[int]) -> tuple[Any, ...]:
    """What changes whenever there are more verdicts, or more labels, to count."""
    steps = [(number, run.view(f"rounds/{number:03d}/judgments")) for number in rounds]
    counted = tuple((number, step.num_shards) for number, step in steps if step is not None and step.num_shards)
    said = tuple(sorted((path.name, path.stat().st_size) for path in (run.path / "labels").glob("*.jsonl")))
    return (counted, said) if counted else ()
