"""A file of someone else's: its values, where each stands, and words that are fit for a principle."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfalign import source
from selfalign.source import HIDDEN, Document, InputError, KeyPath, Problem

MAX_WORDS = 20_000  # characters of one text, as in the schema
CALLED = ("ConstitutionalPrinciple", "GEval")  # what a Python file is searched for


@dataclass(frozen=True)
class Foreign:
    """A file as plain values; `lines` finds the line of each, and is made only where something is wrong."""

    path: Path
    text: str
    value: Any
    lines: Callable[[], Document]

    def refuse(self, place: KeyPath, message: str, fix: str = "") -> InputError:
        return InputError(Problem(str(self.path), self.lines().line(place), f"{said(place)} {message}", fix))

    def words(self, place: KeyPath, value: Any) -> str:
        """A text with something in it, trimmed. Raises InputError on anything else, and on hidden characters."""
        if not isinstance(value, str):
            raise self.refuse(place, f"is {_kind(value)}, not a text", "Is --format the right one?")
        words = value.replace("\r\n", "\n").strip()
        if not words:
            raise self.refuse(place, "is empty", "Write the words, or delete the entry.")
        if len(words) > MAX_WORDS:
            raise self.refuse(
                place, f"has {len(words):,} characters, more than {MAX_WORDS:,}", "Is this one principle?"
            )
        if found := HIDDEN.search(words):
            message = f"holds the hidden character U+{ord(found.group()):04X}, which a judge would read and nobody sees"
            raise self.refuse(place, message, "Delete it.")
        return words

    def rows(self, *, strict: bool = True) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
        """The records of the file with their places: those of a list or of a mapping of records, or the one it is.

        Strict, an item of a list that is no record is refused.
        """
        value = self.value
        if isinstance(value, dict) and not any(isinstance(item, dict) for item in value.values()):
            yield (), value
            return
        children = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
        for key, child in children:
            if isinstance(child, dict):
                yield (key,), child
            elif strict and isinstance(value, list):
                raise self.refuse((key,), f"is {_kind(child)}, not a mapping", "Is --format the right one?")


def read(path: Path) -> Foreign:
    """Read JSON, JSON lines, YAML, plain text, Markdown, or the calls in a Python file, which is parsed and never run.

    Raises InputError with the line at fault.
    """
    text = source.read_text(path)
    if not text.strip():
        raise InputError(Problem(str(path), None, "is empty", "Is this the right file?"))
    match path.suffix.lower():
        case ".yaml" | ".yml":
            document = source.read_yaml(text, str(path))
            return Foreign(path, text, document.value, lambda: document)
        case ".py":
            return _python(path, text)
        case ".jsonl":
            lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
            values = [_json(path, line, number) for number, line in lines]
            places = Document(str(path), values, {(index,): number for index, (number, _) in enumerate(lines)})
            return Foreign(path, text, values, lambda: places)
        case suffix if suffix == ".json" or (suffix not in (".md", ".txt") and text.lstrip()[0] in '[{"'):
            return Foreign(path, text, _json(path, text), lambda: _places(path, text))
        case _:
            return Foreign(path, text, None, lambda: Document(str(path), None))


def said(place: KeyPath) -> str:
    """A place in words: `[3].critic`; of the file itself "the file"."""
    parts = (f"[{part + 1}]" if isinstance(part, int) else f".{part[:60]}" for part in place[:12])
    return "".join(parts).removeprefix(".") or "the file"


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "a text", bool: "true or false", type(None): "empty"}
    return names.get(type(value), "a number")


def _json(path: Path, text: str, first_line: int = 1) -> Any:
    try:
        return source.parse_json(text)
    except ValueError as error:
        cause = error.__cause__
        line = cause.lineno + first_line - 1 if isinstance(cause, json.JSONDecodeError) else None
        raise InputError(Problem(str(path), line, str(error), "Is the file whole, and is it JSON?")) from error


def _places(path: Path, text: str) -> Document:
    try:
        return source.read_yaml(text, str(path))  # JSON is YAML
    except InputError:
        return Document(str(path), None)


def _python(path: Path, text: str) -> Foreign:
    """The keyword arguments of the calls that name a principle or a metric, as rows; their place is the call's line."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        raise InputError(Problem(str(path), line, "is not valid Python", "Does Python itself read it?")) from error
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _callee(node) in CALLED]
    calls.sort(key=lambda node: node.lineno)
    places = Document(str(path), None, {(index,): node.lineno for index, node in enumerate(calls)})
    values = [{k.arg: _constant(k.value) for k in node.keywords if k.arg} for node in calls]
    return Foreign(path, text, values, lambda: places)


def _callee(node: ast.Call) -> str:
    return getattr(node.func, "id", getattr(node.func, "attr", ""))


def _constant(node: ast.expr) -> Any:
    """The value of an expression that is written out; None for one that would have to be run."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
