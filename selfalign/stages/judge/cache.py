"""What judges have answered before: a question put a second time, in the same words, is not asked again.

The answers lie in one SQLite file beside the runs. They are found by their content: the judge, how it computes, the
words it was shown and the labels it could answer by. So an edited constitution asks only under the principles whose
words changed, other tie margins ask nothing, and what was asked before a crash is still known after it. The file is no
part of any run: it may be deleted whenever no campaign runs, and costs nothing but the answers. Campaigns of one
machine share it. Across a network file system SQLite's write-ahead log does not work; `judge.cache: false` does
without it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import queue
import sqlite3
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from selfalign.engines.base import Choice, ChoiceRequest, Engine, GenerateRequest, Generation, Sampling
from selfalign.records import Message, digest
from selfalign.stages.judge.budget import Budget

FILE = ".judgments.sqlite"  # in the folder of runs

_APPLICATION = 0x5E1FA116  # marks the file as ours
_VERSION = 1
_BUSY_SECONDS = 30.0  # campaigns beside one another take turns in milliseconds
_GATHER_SECONDS = 0.5  # answers are committed this often
_MOST_WAITING = 4096  # known answers held back while the engine is given what it does not know
_OPENING_ATTEMPTS = 20

Tell = Callable[[str], None]
_Chosen = tuple[tuple[float, ...], str, int]  # Choice.probabilities, raw, num_prompt_tokens
_Written = tuple[str, tuple[int, ...], str, int]  # Generation.text, token_ids, finish_reason, num_prompt_tokens
_SEAL = 8  # bytes of a digest before each value: SQLite does not notice a flipped bit


class AnswersUnusable(Exception):
    """The file cannot be read or written now; what, where and why."""


class Answers:
    """The file of answers, open. One thread of each process writes; readers are never held up.

    Trouble with the file costs answers, never a campaign: it is told once, and then nothing is known any more. What is
    no file of ours, or is damaged, is set aside under another name.
    """

    def __init__(self, path: Path, tell: Tell) -> None:
        """Open the file, or make it, readable for its owner alone. Raises AnswersUnusable where neither can be."""
        self._path, self._tell = path, tell
        self._database = _open(path, tell)
        self._unwritten: queue.SimpleQueue[tuple[bytes, bytes] | None] = queue.SimpleQueue()
        self._fault: sqlite3.Error | None = None
        self._usable = True
        self._writer = threading.Thread(target=self._write, name="answers", daemon=True)
        self._writer.start()

    def get(self, key: bytes, kind: Any) -> Any:
        """What was answered before, of this type; None where nothing was, or where it is not what was written."""
        if not self._usable:
            return None
        try:
            found = self._database.execute("SELECT value FROM answers WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            self._give_up(error)
            return None
        return _unsealed(key, found[0], kind) if found else None

    def put(self, key: bytes, answer: tuple[Any, ...]) -> None:
        """Keep an answer. It is on disk within a second."""
        if self._fault is not None:
            self._give_up(self._fault)
        if self._usable:
            self._unwritten.put((key, _sealed(key, answer)))

    def close(self) -> None:
        """Commit what is left, and close the file."""
        self._unwritten.put(None)
        self._writer.join()
        if self._fault is not None:
            self._give_up(self._fault)
        self._database.close()

    def _give_up(self, error: sqlite3.Error) -> None:
        if self._usable:
            self._usable = False
            fate = _set_aside(self._path) if _is_damage(error) else "it is left as it is"
            self._tell(f"{self._path}: answers of judges are neither found nor kept any more ({error}); {fate}")

    def _write(self) -> None:
        """Commit in short transactions, so that other campaigns get their turns."""
        try:
            with closing(_connect(self._path)) as database:
                ended = False
                while not ended:
                    batch, ended = self._gather()
                    with database:
                        database.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", batch)
        except sqlite3.Error as error:
            self._fault = error

    def _gather(self) -> tuple[list[tuple[bytes, bytes]], bool]:
        """Wait for an answer, then for those that follow it soon; and whether it was the end."""
        batch = []
        item, until = self._unwritten.get(), time.monotonic() + _GATHER_SECONDS
        while item is not None:
            batch.append(item)
            try:
                item = self._unwritten.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return batch, False
        return batch, True


@dataclass(frozen=True)
class _Call:
    """A way of asking an engine: what is kept of an answer (None: nothing), how it is read back, what it may cost."""

    ask: Callable[[Iterator[Any]], Iterator[Any]]
    key: Callable[[Any], bytes]
    kind: Any
    kept: Callable[[Any], tuple[Any, ...] | None]
    read: Callable[[str, Any], Any]
    answer_tokens: Callable[[Any], int]
    most_tokens: int  # of an answer


class RememberingJudge:
    """A judge's engine that answers from the file what it can; the engine is opened at the first question left.

    `identity` is whatever tells this judge, computing as it does, from any other. `asked` and `known` count the
    questions that went to the engine, and those that did not; `tokens` are those of the prompts that were asked.
    """

    def __init__(
        self,
        open_engine: Callable[[], Engine],
        path: Path | None,
        identity: Sequence[object],
        tell: Tell,
        budget: Budget | None = None,
    ) -> None:
        self._open, self._path, self._identity, self._tell = open_engine, path, digest("judge", *identity), tell
        self._budget = budget
        self._engine: Engine | None = None
        self._unchecked: list[tuple[str, ...]] = []
        self.asked = self.known = self.tokens = 0

    def __getattr__(self, name: str) -> object:
        """Everything but choosing and generating is the engine's own."""
        return getattr(self.engine, name)

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            self._engine = self._open()
        for labels in self._unchecked:
            self._engine.check_labels(labels)
        self._unchecked.clear()
        return self._engine

    def check_labels(self, labels: Sequence[str]) -> None:
        """Checked once the engine is open; a judge that has answered by them before knows them."""
        self._unchecked.append(tuple(labels))

    def choose(self, requests: Iterable[ChoiceRequest]) -> Iterator[Choice]:
        """As the engine. An invalid answer is never kept."""

        def kept(choice: Choice) -> _Chosen | None:
            return choice.probabilities and (choice.probabilities, choice.raw, choice.num_prompt_tokens)

        def key(request: ChoiceRequest) -> bytes:
            return self._key("answer", request.messages, request.labels, *filter(None, [request.prefix]))

        return self._answered(
            requests,
            _Call(
                lambda unknown: self.engine.choose(unknown), key, _Chosen, kept,
                lambda name, known: Choice(name, *known, seconds=0.0), lambda _: 1, most_tokens=1,
            ),
        )  # fmt: skip

    def generate(self, requests: Iterable[GenerateRequest], sampling: Sampling) -> Iterator[Generation]:
        """As the engine, whose log-probabilities are not kept. An error is never kept, a truncated text is."""

        def kept(found: Generation) -> _Written | None:
            if found.finish_reason == "error":
                return None
            return found.text, found.token_ids, found.finish_reason, found.num_prompt_tokens

        def read(name: str, known: _Written) -> Generation:
            text, token_ids, finish_reason, num_prompt_tokens = known
            return Generation(name, text, token_ids, finish_reason, None, num_prompt_tokens)

        def key(request: GenerateRequest) -> bytes:
            return self._key("text", request.messages, request.seed, dataclasses.astuple(sampling))

        return self._answered(
            requests,
            _Call(
                lambda unknown: self.engine.generate(unknown, sampling), key, _Written, kept, read,
                lambda found: len(found.token_ids), most_tokens=sampling.max_tokens,
            ),
        )  # fmt: skip

    def _answered(self, requests: Iterable[Any], call: _Call) -> Iterator[Any]:
        try:
            answers = Answers(self._path, self._tell) if self._path else None
        except AnswersUnusable as error:
            self._tell(f"answers of judges are neither found nor kept: {error}")
            self._path = answers = None
        try:
            with closing(answers) if answers else nullcontext():
                yield from self._remembered(iter(requests), answers, call)
        finally:
            if self._budget:
                self._budget.note()

    def _count(self, found: Iterator[Any], call: _Call) -> Iterator[Any]:
        with closing(found):  # type: ignore[type-var]
            for answer in found:
                self.asked += 1
                self.tokens += answer.num_prompt_tokens
                if self._budget:
                    self._budget.settle(answer.id, answer.num_prompt_tokens, call.answer_tokens(answer))
                yield answer

    def _remembered(self, source: Iterator[Any], answers: Answers | None, call: _Call) -> Iterator[Any]:
        """Known answers as they are met, between those of the engine.

        The engine reads ahead for what it can work on. Where it would have to read too far through what is known, its
        call ends, and another begins: memory stays flat, however much is known. It ends too where the budget cannot pay
        for a question before those under way are paid for; StageError is raised where none is.
        """
        known: deque[Any] = deque()
        keys: dict[str, bytes] = {}
        held: list[Any] = []
        ended = False

        def unknown() -> Iterator[Any]:
            nonlocal ended
            while len(known) < _MOST_WAITING:
                if (request := held.pop() if held else next(source, None)) is None:
                    ended = True
                    return
                key = call.key(request)
                if answers and (found := answers.get(key, call.kind)):
                    known.append(call.read(request.id, found))
                elif self._budget and not self._budget.admits(request, call.most_tokens):
                    held.append(request)
                    return
                else:
                    keys[request.id] = key
                    yield request

        while not ended:
            missing = unknown()
            if (first := next(missing, None)) is not None:
                with closing(self._count(call.ask(chain([first], missing)), call)) as found:
                    for answer in found:
                        key, keeping = keys.pop(answer.id, None), call.kept(answer)
                        if answers and key and keeping:
                            answers.put(key, keeping)
                        yield from self._drained(known)
                        yield answer
            elif held:
                raise self._budget.exhausted(held[0], call.most_tokens)
            yield from self._drained(known)

    def _drained(self, known: deque[Any]) -> Iterator[Any]:
        while known:
            self.known += 1
            yield known.popleft()

    def _key(self, kind: str, messages: Sequence[Message], *asked: Any) -> bytes:
        words = [(message.role, message.content) for message in messages]
        return bytes.fromhex(digest(kind, self._identity, words, *asked, size=16))


def _open(path: Path, tell: Tell) -> sqlite3.Connection:
    for attempt in range(_OPENING_ATTEMPTS):
        try:
            _make_private(path)
            return _prepared(path)
        except OSError as error:
            raise AnswersUnusable(f"{path}: {error.strerror or error}") from error
        except sqlite3.Error as error:
            if _is_damage(error):
                tell(f"{path} is no file of answers of judges ({error}); {_set_aside(path)}")
            elif attempt == _OPENING_ATTEMPTS - 1:
                raise AnswersUnusable(f"{path}: {error}") from error
            else:
                time.sleep(0.05)  # two that change a new file to write-ahead logging at once do not wait by themselves
    raise AnswersUnusable(f"{path} cannot be opened")


def _make_private(path: Path) -> None:
    """Make the file where there is none, readable for its owner alone; refuse what is no plain file."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    if not stat.S_ISREG(path.lstat().st_mode):
        raise OSError("it is a link or a folder; remove it")


def _prepared(path: Path) -> sqlite3.Connection:
    """A connection to a file of this version. Any other is left as it is: sqlite3.DatabaseError."""
    database = _connect(path)
    try:
        if _is_fresh(database):
            _fill(database)
    except BaseException:
        database.close()
        raise
    return database


def _is_fresh(database: sqlite3.Connection) -> bool:
    """Whether the file is empty, rather than ours. Raises sqlite3.DatabaseError where it is neither."""
    names = ("application_id", "user_version")
    with database:
        database.execute("BEGIN")  # one look: another campaign may be filling it
        found = tuple(database.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
        empty = database.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone() is None
    if found == (_APPLICATION, _VERSION):
        return False
    if found == (0, 0) and empty:
        return True
    raise sqlite3.DatabaseError("another program's database, or another version's")


def _fill(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA journal_mode = WAL")  # readers and the writer do not wait for one another
    with database:
        database.execute("BEGIN IMMEDIATE")
        table = "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"
        database.execute(table)
        database.execute(f"PRAGMA application_id = {_APPLICATION}")
        database.execute(f"PRAGMA user_version = {_VERSION}")


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=_BUSY_SECONDS)
    database.execute("PRAGMA synchronous = NORMAL")  # a power cut may take the last answers, and nothing else
    return database


def _sealed(key: bytes, answer: tuple[Any, ...]) -> bytes:
    body = msgspec.msgpack.encode(answer)
    return _seal(key, body) + body


def _unsealed(key: bytes, value: object, kind: Any) -> Any:
    if not isinstance(value, bytes) or value[:_SEAL] != _seal(key, value[_SEAL:]):
        return None
    return msgspec.msgpack.decode(value[_SEAL:], type=kind)


def _seal(key: bytes, body: bytes) -> bytes:
    return hashlib.blake2b(key + body, digest_size=_SEAL).digest()


def _is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is not what it should be; locks, full disks and read-only folders are OperationalErrors."""
    return type(error) is sqlite3.DatabaseError


def _set_aside(path: Path) -> str:
    """Rename the file and what belongs to it, and say where it is now."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{aside}{suffix}")
    return f"it is kept as {aside.name}"
