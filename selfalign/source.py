"""Files that people write by hand, YAML and JSON, read strictly and with the line of every value.

Strict means: no duplicate keys, no tags that build objects, no NaN or infinity, and bounds on size, depth and aliases.
What is refused is said as a list of problems, each with its file, its line and what to write instead.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAX_BYTES = 4 * 2**20
MAX_VALUES = 100_000  # after aliases are written out, so that nested aliases cannot multiply
MAX_DEPTH = 40
MAX_DIGITS = 20
BOOLEANS = {"true": True, "false": False, "yes": True, "no": False, "on": True, "off": False}  # YAML 1.1 has all six

KeyPath = tuple[str | int, ...]

# Characters that no screen shows and no author means: control characters but tab and newline, the direction overrides,
# lone surrogates, line separators, noncharacters of the byte-order kind, and the invisible tag alphabet.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\u2028\u2029\ufeff\U000e0000-\U000e007f]"
)
_SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


@dataclass(frozen=True)
class Problem:
    """One thing wrong in what a person wrote. `file` may also be the flag or the environment variable at fault."""

    file: str
    line: int | None
    message: str
    suggestion: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(filter(None, (place, sentences(self.message, self.suggestion))))


class InputError(ValueError):
    """Something that a person wrote is refused. Carries every problem found; the attributes are those of the first."""

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))

    @property
    def file(self) -> str:
        return self.problems[0].file

    @property
    def line(self) -> int | None:
        return self.problems[0].line

    @property
    def message(self) -> str:
        return self.problems[0].message

    @property
    def suggestion(self) -> str:
        return self.problems[0].suggestion


@dataclass(frozen=True)
class Document:
    """The value of a YAML file, and the line (from 1) of every key and list item in it."""

    file: str
    value: Any
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def line(self, path: Iterable[str | int]) -> int | None:
        """The line of a value, or of the nearest one around it."""
        path = tuple(path)
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)

    def problem(self, path: Iterable[str | int], message: str, suggestion: str = "") -> Problem:
        return Problem(self.file, self.line(path), message, suggestion)


def sentences(*parts: str) -> str:
    """Join parts into sentences: each ends in a full stop."""
    return " ".join(part if part.endswith((".", "?", "!")) else f"{part}." for part in parts if part)


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """`Did you mean "beta"?`, or nothing when no known word is near."""
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f'Did you mean "{near[0]}"?' if near else ""


def read_text(path: Path, name: str | None = None, max_bytes: int = MAX_BYTES) -> str:
    """Read a UTF-8 file of bounded size. A missing file is an InputError that says so."""
    name = name or str(path)
    try:
        with path.open("rb") as stream:
            content = stream.read(max_bytes + 1)
    except OSError as error:
        raise InputError(Problem(name, None, f"cannot be read: {error.strerror}")) from error
    if len(content) > max_bytes:
        raise InputError(Problem(name, None, f"is larger than {max_bytes:,} bytes", "Is this the right file?"))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(Problem(name, line, "is not UTF-8 text", "Save the file as UTF-8.")) from error


def read_yaml(text: str, file: str) -> Document:
    """Parse one YAML 1.2 document: `1e-6` is a number, `no` is a word.

    Raises InputError on a syntax error and on everything that the module's first lines refuse.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        node = YAML(typ="safe", pure=True).compose(text)
    except YAMLError as error:
        raise InputError(_syntax_problem(error, text, file)) from error
    except RecursionError as error:
        raise InputError(Problem(file, None, f"is nested deeper than {MAX_DEPTH} levels")) from error
    reader = _Reader(file)
    value = reader.value(node, ()) if node is not None else None
    return Document(file, value, reader.lines)


def _syntax_problem(error: Any, text: str, file: str) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is not None:
        what = f"is not valid YAML here: {error.problem}" if error.problem else "is not valid YAML here"
        return Problem(file, mark.line + 1, what, "Put a text that holds : # { [ * & ! or a comma in quotes.")
    position = getattr(error, "position", None)
    line = text[:position].count("\n") + 1 if position is not None else None
    return Problem(file, line, "holds a character that YAML does not allow", "Remove the invisible character.")


class _Reader:
    """Builds plain values out of composed YAML nodes, noting where each stands."""

    def __init__(self, file: str) -> None:
        self.file, self.lines, self.count = file, {}, 0

    def refuse(self, node: Any, message: str, suggestion: str = "") -> InputError:
        return InputError(Problem(self.file, node.start_mark.line + 1, message, suggestion))

    def value(self, node: Any, path: KeyPath) -> Any:
        self.count += 1
        if self.count > MAX_VALUES:
            raise self.refuse(
                node, f"expands to more than {MAX_VALUES:,} values", "Write the values out, without aliases."
            )
        if len(path) > MAX_DEPTH:
            raise self.refuse(node, f"is nested deeper than {MAX_DEPTH} levels", "An alias must not hold itself.")
        kind = str(node.tag).removeprefix("tag:yaml.org,2002:")
        if kind == "map" and node.id == "mapping":
            return self.mapping(node, path)
        if kind == "seq" and node.id == "sequence":
            return [self.item(child, (*path, index)) for index, child in enumerate(node.value)]
        if node.id == "scalar" and kind in ("str", "int", "float", "bool", "null", "timestamp"):
            return self.scalar(node, kind)
        raise self.refuse(node, f"has the tag {node.tag!r}, which is not allowed", "Remove the tag.")

    def item(self, node: Any, path: KeyPath) -> Any:
        self.lines[path] = node.start_mark.line + 1
        return self.value(node, path)

    def mapping(self, node: Any, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, child in node.value:
            name = self.key(key)
            if name in values:
                first = self.lines[(*path, name)]
                raise self.refuse(key, f'"{name}" stands twice, first on line {first}', "Keep one of the two.")
            self.lines[(*path, name)] = key.start_mark.line + 1
            values[name] = self.value(child, (*path, name))
        return values

    def key(self, node: Any) -> str:
        if node.id == "scalar" and str(node.tag) == "tag:yaml.org,2002:merge":
            raise self.refuse(node, "the merge key << is not supported", "Write the settings out, or use an alias.")
        if node.id != "scalar" or not str(node.tag).endswith(":str"):
            raise self.refuse(node, "a key must be a word", "Put the key in quotes.")
        return node.value

    def scalar(self, node: Any, kind: str) -> Any:
        # JSON writes an emoji as two escapes, \ud83d\ude00, which YAML reads as two halves of a character.
        text = _SURROGATE_PAIR.sub(_joined, node.value)
        try:
            match kind:
                case "null":
                    return None
                case "bool":
                    return BOOLEANS[text.lower()]
                case "int":
                    return self.integer(node, text.replace("_", ""))
                case "float":
                    return self.number(node, text.replace("_", ""))
        except InputError:
            raise
        except (KeyError, ValueError) as error:
            kinds = {"bool": "true or false", "int": "a whole number", "float": "a number"}
            raise self.refuse(node, f"{text[:40]!r} is not {kinds[kind]}", "Put a text in quotes.") from error
        return text

    def integer(self, node: Any, text: str) -> int:
        if len(text) > MAX_DIGITS:
            raise self.refuse(node, f"a number of {len(text)} digits is too large", "Put a text in quotes.")
        return int(text, 0) if text.lstrip("+-")[:2].lower() in ("0x", "0o", "0b") else int(text)

    def number(self, node: Any, text: str) -> float:
        value = float(re.sub(r"\.(inf|nan)$", r"\1", text, flags=re.IGNORECASE))
        if not math.isfinite(value):
            raise self.refuse(node, f"{node.value} is not a finite number", "Write a finite number.")
        return value


def _joined(pair: re.Match[str]) -> str:
    return pair.group().encode("utf-16", "surrogatepass").decode("utf-16")


def parse_json(text: str) -> Any:
    """Parse strict JSON: ValueError on duplicate keys, NaN, infinities, huge integers and deep nesting."""
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_int=_bounded_int,
            parse_float=_finite_float,
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"is not valid JSON at character {error.pos + 1}: {error.msg}") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"has the key {twice[:80]!r} twice")
    return values


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"holds {name}, which is not a JSON number")


def _bounded_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"holds a number of {len(digits)} digits")
    return int(digits)


def _finite_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"holds {digits[:40]}, which is not a finite number")
    return value
