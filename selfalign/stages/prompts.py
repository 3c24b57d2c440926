"""Prompts: read the sets, keep training and held-out apart, and draw each round's share.

A set is JSON lines (one object a line with `prompt` or `messages`, and optionally `response`, which is a gold answer,
`id`, `source`, `tags`, `split`), Parquet with the same columns, or `datasets:NAME[:SPLIT][:COLUMN]` from the Hugging
Face Hub.
"""

from __future__ import annotations

import itertools
import math
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfalign import resources, source
from selfalign.records import Message, Prompt, digest
from selfalign.source import InputError, Problem

MAX_LINE_BYTES = 2**20
MAX_PROBLEMS = 20  # said at once; a file with more is the wrong file
COLUMNS = ("prompt", "messages", "response", "id", "source", "tags", "split")
ROLES = ("system", "user", "assistant")


class PromptError(InputError):
    """The prompts are refused. Each of `problems` has the file, the line, what is wrong and what to write."""


@dataclass(frozen=True)
class Repeat:
    """A prompt whose words stood before; both places are "file:line"."""

    first: str
    again: str


@dataclass(frozen=True)
class PromptSet:
    prompts: tuple[Prompt, ...]
    repeats: tuple[Repeat, ...]


def load(patterns: str | Sequence[str], split: str, folder: Path | None = None) -> list[Prompt]:
    """The prompts of a split, each once, in the order of the files. Repeats are left out with a warning.

    Raises PromptError: see `read`.
    """
    found = read(patterns, split, folder)
    if found.repeats:
        first = found.repeats[0]
        message = f"{len(found.repeats)} repeated prompts left out: {first.again} has the words of {first.first}"
        warnings.warn(message, stacklevel=2)
    return list(found.prompts)


def read(patterns: str | Sequence[str], split: str, folder: Path | None = None) -> PromptSet:
    """Read a split: rows that name it, and rows that name none. `folder` is that of the file with the patterns.

    Raises PromptError on a missing or empty set, an unreadable row, and an id that names two different prompts.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    prompts: dict[str, Prompt] = {}
    places: dict[str, str] = {}
    names: dict[str, str] = {}
    repeats: list[Repeat] = []
    problems: list[Problem] = []
    for place, row in _rows(patterns, folder):
        prompt = _prompt(place, row, split, problems)
        if prompt is None:
            if len(problems) >= MAX_PROBLEMS:
                break
            continue
        _check_name(place, row, prompt, names, problems)
        if prompt.id in prompts:
            repeats.append(Repeat(places[prompt.id], str(place)))
        else:
            prompts[prompt.id], places[prompt.id] = prompt, str(place)
    if problems:
        raise PromptError(problems)
    if not prompts:
        message = f"holds no prompt of the split {split!r}"
        raise PromptError(
            Problem(", ".join(patterns), None, message, f"Add rows, or name other files in prompts.{split}.")
        )
    return PromptSet(tuple(prompts.values()), tuple(repeats))


# Rows: from a place to the values that stand there.


@dataclass(frozen=True)
class Place:
    """Where a row stands. `label` names the set: the source of rows that name none."""

    file: str
    line: int
    label: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    def problem(self, message: str, suggestion: str = "") -> Problem:
        return Problem(self.file, self.line, message, suggestion)


def _rows(patterns: Iterable[str], folder: Path | None) -> Iterator[tuple[Place, Any]]:
    for pattern in patterns:
        if pattern.startswith("datasets:"):
            yield from _dataset_rows(pattern)
            continue
        found = resources.find_pattern(pattern, folder)
        if found is None:
            raise PromptError(Problem(pattern, None, "matches no file", "Write a path to .jsonl or .parquet files."))
        for path in resources.expand(found):
            yield from _file_rows(path)


def _file_rows(path: Path) -> Iterator[tuple[Place, Any]]:
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    if path.suffix in (".jsonl", ".ndjson"):
        return json_rows(path)
    raise PromptError(Problem(str(path), None, "is neither .jsonl nor .parquet", "Convert it, or narrow the pattern."))


def json_rows(path: Path) -> Iterator[tuple[Place, Any]]:
    """The values of the lines that are not blank, or the ValueError that says why one holds none, with their places.

    Lines are cut at newlines alone: a U+2028 inside a text does not end its row.
    """
    with path.open("rb") as stream:
        for number in itertools.count(1):
            line = stream.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            place = Place(str(path), number, path.stem)
            if len(line) > MAX_LINE_BYTES:
                message = f"the line is longer than {MAX_LINE_BYTES:,} bytes"
                raise PromptError(place.problem(message, "One line is one prompt: is this the right file?"))
            if line.strip():
                yield place, _json_row(place, line)


def _json_row(place: Place, line: bytes) -> Any:
    """The row, or the ValueError that says why it is none, so that one bad line does not hide the next."""
    try:
        return source.parse_json(line.decode("utf-8-sig" if place.line == 1 else "utf-8"))
    except UnicodeDecodeError:
        return ValueError("is not UTF-8 text")
    except ValueError as error:
        return error


def _parquet_rows(path: Path) -> Iterator[tuple[Place, Any]]:
    """Rows of a Parquet file; their "line" is the row's number, from 1."""
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(path)
        columns = [name for name in table.schema_arrow.names if name in COLUMNS]
        number = 0
        for batch in table.iter_batches(batch_size=1024, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield (
                    Place(str(path), number, path.stem),
                    {key: value for key, value in row.items() if value is not None},
                )
    except (pyarrow.ArrowException, OSError) as error:
        raise PromptError(Problem(str(path), None, f"cannot be read as Parquet: {str(error)[:200]}")) from error


def _dataset_rows(pattern: str) -> Iterator[tuple[Place, Any]]:
    """`datasets:NAME[:SPLIT][:COLUMN]`; the split is "train" and the column "messages" or "prompt" where not given."""
    _, name, split, column, *rest = *pattern.split(":"), "", ""
    if not name or any(rest):
        raise PromptError(Problem(pattern, None, "is not datasets:NAME[:SPLIT][:COLUMN]"))
    try:
        import datasets
    except ImportError as error:
        fix = "Install it with `pip install 'selfalign[datasets]'`, or use .jsonl files."
        raise PromptError(Problem(pattern, None, "needs the package datasets, which is not installed", fix)) from error
    try:
        table = datasets.load_dataset(name, split=split or "train")
    except Exception as error:  # the package raises many kinds, of its own and of its transports
        raise PromptError(Problem(pattern, None, f"cannot be loaded: {str(error)[:300]}")) from error
    column = column or next((known for known in ("messages", "prompt") if known in table.column_names), "")
    if column not in table.column_names:
        fix = f"Its columns are {', '.join(table.column_names)}: write datasets:{name}:{split or 'train'}:COLUMN."
        raise PromptError(Problem(pattern, None, "has no column of prompts by the names messages or prompt", fix))
    for number, row in enumerate(table, start=1):
        value = row[column]
        kept = {key: row[key] for key in ("response", "id", "source", "tags", "split") if row.get(key) is not None}
        yield Place(pattern, number, name), {"messages" if isinstance(value, list) else "prompt": value, **kept}


# From a row to a prompt.


def _prompt(place: Place, row: Any, split: str, problems: list[Problem]) -> Prompt | None:
    """The prompt of a row of this split, or None; what is wrong with the row is added to `problems`."""
    try:
        return _parse(place, row, split)
    except ValueError as error:
        message, _, fix = str(error).partition("\n")
        problems.append(place.problem(message, fix))
        return None


def _parse(place: Place, row: Any, split: str) -> Prompt | None:
    if isinstance(row, ValueError):
        raise row
    if not isinstance(row, dict):
        raise ValueError('is not a JSON object\nWrite {"prompt": "..."}.')
    _check_keys(row)
    if row.get("split", split) != split:
        return None
    origin = _text(row, "source", place.label)
    if "id" in row:
        origin = f"{origin}#{_text(row, 'id', '')}"
    tags = row.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise ValueError("tags is not a list of texts")
    response = _text(row, "response", "") if "response" in row else None
    return Prompt.make(messages_of(row), source=origin, split=split, tags=tuple(tags), response=response)


def _check_keys(row: dict[str, Any]) -> None:
    """Columns that are not ours may stay, but a near miss of one of ours is a misspelling."""
    for key in row.keys() - set(COLUMNS):
        near = source.did_you_mean(key, [name for name in COLUMNS if name not in row])
        if near:
            raise ValueError(f"has the unknown key {key[:80]!r}\n{near}")


def _text(row: dict[str, Any], key: str, default: str) -> str:
    value = row.get(key, default)
    value = str(value) if key == "id" and isinstance(value, int) else value
    if not isinstance(value, str):
        raise ValueError(f"{key} is not a text")
    return _storable(value)


def messages_of(row: dict[str, Any]) -> tuple[Message, ...]:
    """The conversation of a row, which ends with the user. Raises ValueError: what is wrong, and how to mend it."""
    if ("prompt" in row) == ("messages" in row):
        raise ValueError('needs either prompt or messages\nWrite {"prompt": "..."}.')
    given = [{"role": "user", "content": row["prompt"]}] if "prompt" in row else row["messages"]
    if not isinstance(given, list) or not given:
        raise ValueError("messages is not a list of messages")
    messages = tuple(_message(message) for message in given)
    if messages[-1].role != "user":
        raise ValueError(
            f"ends with a message of the {messages[-1].role}\n"
            "End where the policy is to answer: with the user. A gold answer goes into `response`."
        )
    if any(message.role == "system" for message in messages[1:]):
        raise ValueError("has a system message that is not the first")
    return messages


def _message(message: Any) -> Message:
    role = message.get("role") if isinstance(message, dict) else None
    if role not in ROLES:
        raise ValueError(f"has a message whose role is not {', '.join(ROLES)}")
    content = message.get("content")
    if not isinstance(content, str) or not content.strip():
        raise ValueError(f"has a {role} message without text")
    return Message(role, _storable(content))


def _storable(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("holds half of a surrogate pair, which is no character") from error
    return text


def _check_name(place: Place, row: Any, prompt: Prompt, names: dict[str, str], problems: list[Problem]) -> None:
    if "id" in row and names.setdefault(prompt.source, prompt.id) != prompt.id:
        problems.append(
            place.problem(f"the id {str(row['id'])[:80]!r} names another prompt already", "Give each its own.")
        )


# What the rounds do with the prompts.


def check_gold(prompts: Sequence[Prompt], setting: str, reader: str) -> None:
    """Raise PromptError unless some prompt has a gold answer; `reader` says which setting wants one."""
    if not any(prompt.response for prompt in prompts):
        message = f"{reader} learns from gold answers, and none of the {len(prompts)} prompts has one"
        raise PromptError(Problem(setting, None, message, 'Write {"prompt": "...", "response": "..."}.'))


def check_held_out(count: int, share: float, fewest: int) -> None:
    """Raise PromptError where too few of a round's prompts would be held out to judge a reward model by them."""
    if count * share < fewest:
        message = (
            f"holds out about {count * share:.0f} of a round's {count} prompts; a reward model is judged on {fewest}"
        )
        fix = (
            f"Set it to {math.ceil(120 * fewest / count) / 100:g} or more."
            if count > 3 * fewest
            else "Draw more prompts."
        )
        raise PromptError(Problem("reward_model.holdout", None, message, fix))


def check_disjoint(train: Iterable[Prompt], heldout: Iterable[Prompt]) -> None:
    """Raise PromptError where a held-out prompt is a training prompt, but for case, spaces and Unicode form."""
    trained = {_normalised(prompt) for prompt in train}
    shared = [prompt for prompt in heldout if _normalised(prompt) in trained]
    if shared:
        named = "; ".join(f"{prompt.messages[-1].content[:80]!r} ({prompt.source})" for prompt in shared[:3])
        message = f"{len(shared)} held-out prompts are training prompts too, so they would measure memory: {named}"
        raise PromptError(Problem("prompts.heldout", None, message, "Remove them from one of the two sets."))


def _normalised(prompt: Prompt) -> tuple[tuple[str, str], ...]:
    def fold(text: str) -> str:
        return " ".join(unicodedata.normalize("NFKC", text).casefold().split())

    return tuple((message.role, fold(message.content)) for message in prompt.messages)


def draw(prompts: Sequence[Prompt], per_round: int | None, seed: int, round: int) -> list[Prompt]:
    """A round's prompts: every prompt is drawn once before any is drawn again, and none twice in a round.

    Rounds walk through a permutation of all prompts, and then through the next one. It depends on the seed and the
    prompts' words alone, not on the order or the names of files.
    """
    count = len(prompts) if per_round is None else per_round
    if count > len(prompts):
        message = f"asks for {count} prompts a round, and there are {len(prompts)}"
        raise PromptError(Problem("prompts.per_round", None, message, f"Set it to {len(prompts)} or less."))
    waiting: list[Prompt] = []
    epoch, drawn = 0, []
    for _ in range(round + 1):
        drawn, waiting = waiting[:count], waiting[count:]
        if len(drawn) < count:
            # A prompt that this round has already drawn waits for a later round of the new epoch.
            already = {prompt.id for prompt in drawn}
            order = _permutation(prompts, seed, epoch)
            fresh = [prompt for prompt in order if prompt.id not in already][: count - len(drawn)]
            taken = {prompt.id for prompt in fresh}
            drawn, waiting = drawn + fresh, [prompt for prompt in order if prompt.id not in taken]
            epoch += 1
    return drawn


def _permutation(prompts: Sequence[Prompt], seed: int, epoch: int) -> list[Prompt]:
    return sorted(prompts, key=lambda prompt: digest("draw", seed, epoch, prompt.id))
