"""From files to a constitution: merged with those it extends, and every mistake told with its place."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from selfalign import resources, source
from selfalign.constitution.model import Constitution
from selfalign.source import HIDDEN, Document, InputError, Problem


class ConstitutionError(InputError):
    """The constitution is refused. Each of `problems` has the file, the line, what is wrong and what to write."""


def load(path: Path | str, text: str | None = None) -> Constitution:
    """Read a constitution with everything it extends, and validate it.

    `text` is read in the file's place: what somebody is about to save there.

    Raises ConstitutionError on an unreadable file, a value that the schema refuses, a principle without words, an id
    given twice, a circle of `extends`, a principle that yields to one unknown or to one that it outranks, hidden
    characters, and where no principle is active.
    """
    path = Path(path)
    try:
        merged = _read_merged(_document(path, text), path, (), {})
        _check(merged)
    except InputError as error:
        raise ConstitutionError(error.problems) from error
    constitution = msgspec.convert(merged.values(), Constitution)
    if not constitution.active:
        fix = "Add a principle, or give one of them `status: active`."
        raise ConstitutionError(
            Problem(str(path), None, "has no active principle, so there is nothing to judge by", fix)
        )
    return constitution


@dataclass(frozen=True)
class _Merged:
    """A constitution's values with those it extends, and which document last spoke of each principle."""

    header: dict[str, Any]
    principles: dict[str, dict[str, Any]]
    places: dict[str, tuple[Document, int]]

    def values(self) -> dict[str, Any]:
        return {**self.header, "principles": list(self.principles.values())}

    def problem(self, identity: str, place: source.KeyPath, message: str, suggestion: str) -> Problem:
        """What is wrong with a principle, at the line where it last stood."""
        document, index = self.places[identity]
        return document.problem(("principles", index, *place), message, suggestion)


def _load_merged(path: Path, children: tuple[Path, ...], known: dict[Path, _Merged]) -> _Merged:
    # Each file is merged once: parents that name the same parents over and over must not multiply.
    if (merged := known.get(path.resolve())) is None:
        merged = known[path.resolve()] = _read_merged(_document(path), path, children, known)
    return merged


def _document(path: Path, text: str | None = None) -> Document:
    return source.read_yaml(source.read_text(path) if text is None else text, str(path))


def _read_merged(document: Document, path: Path, children: tuple[Path, ...], known: dict[Path, _Merged]) -> _Merged:
    check_document(document)
    parents = [
        _load_merged(_parent(document, index, path, children), (*children, path.resolve()), known)
        for index in range(len(document.value.get("extends", ())))
    ]
    return _overlay(document, parents)


def check_document(document: Document) -> None:
    """Raise InputError where one file by itself is no constitution."""
    problems = [*_schema_problems(document), *_hidden_characters(document, document.value, ())]
    problems = problems or list(_duplicate_ids(document))
    if problems:
        raise InputError(problems)


def _parent(document: Document, index: int, path: Path, children: tuple[Path, ...]) -> Path:
    name = document.value["extends"][index]
    place = ("extends", index)
    found = resources.find_constitution(name, path.parent)
    if found is None:
        fix = source.did_you_mean(name, resources.constitutions()) or "Write a path relative to this file."
        raise InputError(document.problem(place, f"extends {name!r}, which is not found", fix))
    if found.resolve() in (*children, path.resolve()):
        raise InputError(
            document.problem(place, f"extends {name!r}, which extends this file again", "Break the circle.")
        )
    return found


def _overlay(document: Document, parents: Iterable[_Merged]) -> _Merged:
    """Merge by id, field by field: later parents over earlier ones, the document over all."""
    values = document.value
    preamble, principles, places = "", {}, {}
    for parent in parents:
        preamble = parent.header["preamble"] or preamble
        for identity, principle in parent.principles.items():
            principles[identity] = principles.get(identity, {}) | principle
        places |= parent.places
    for index, principle in enumerate(values.get("principles", ())):
        principles[principle["id"]] = principles.get(principle["id"], {}) | principle
        places[principle["id"]] = (document, index)
    header = {"name": values["name"], "version": values["version"], "preamble": values.get("preamble", preamble)}
    return _Merged(header, principles, places)


def _check(merged: _Merged) -> None:
    problems = [*_wordless(merged), *_unknown_references(merged)]
    problems = problems or [*_yields_to_weaker(merged), *_circles(merged)]
    if problems:
        raise InputError(problems)


def _wordless(merged: _Merged) -> Iterator[Problem]:
    for identity, principle in merged.principles.items():
        revision = "critique" in principle and "revise" in principle
        if not revision and not principle.keys() & {"text", "compare", "rubric"}:
            message = f'the principle "{identity}" has no words for a judge'
            yield merged.problem(identity, (), message, "Give it text or compare.")


def _unknown_references(merged: _Merged) -> Iterator[Problem]:
    for identity, principle in merged.principles.items():
        named = [(("yields_to", index), name) for index, name in enumerate(principle.get("yields_to", ()))]
        if "replaced_by" in principle:
            named.append((("replaced_by",), principle["replaced_by"]))
        for place, name in named:
            if name not in merged.principles:
                fix = source.did_you_mean(name, merged.principles) or "Write the id of a principle of this file."
                yield merged.problem(identity, place, f"{place[0]} names {name!r}, which is no principle", fix)


def _yields_to_weaker(merged: _Merged) -> Iterator[Problem]:
    for identity, principle in merged.principles.items():
        for index, name in enumerate(principle.get("yields_to", ())):
            if _rank(merged.principles[name]) > _rank(principle):
                message = f'"{identity}" yields to "{name}", which it outranks by its tier or as a hard constraint'
                yield merged.problem(
                    identity, ("yields_to", index), message, "Drop one of the two, or change the tier."
                )


def _rank(principle: Mapping[str, Any]) -> tuple[bool, int]:
    return principle.get("kind") != "hard_constraint", principle.get("tier", 1)


def _circles(merged: _Merged) -> Iterator[Problem]:
    """One problem where `yields_to` leads from a principle back to itself."""
    waiting = {identity: set(p.get("yields_to", ())) for identity, p in merged.principles.items()}
    while free := [identity for identity, strong in waiting.items() if not strong & waiting.keys()]:
        for identity in free:
            del waiting[identity]
    if waiting:
        circle = _circle(waiting)
        said = " yields to ".join(f'"{name}"' for name in (*circle[:8], circle[0]))
        yield merged.problem(circle[0], ("yields_to",), f"{said}: a circle", "Drop one of them, or use tiers.")


def _circle(stronger: Mapping[str, set[str]]) -> list[str]:
    """The ids of a circle, where every id leads to another one."""
    path = [next(iter(stronger))]
    while (following := min(stronger[path[-1]] & stronger.keys())) not in path:
        path.append(following)
    return path[path.index(following) :]


def _duplicate_ids(document: Document) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, principle in enumerate(document.value.get("principles", ())):
        place = ("principles", index, "id")
        if principle["id"] in first:
            message = f'the id "{principle["id"]}" stands twice, first on line {first[principle["id"]]}'
            yield document.problem(place, message, "Give each principle its own id.")
        first.setdefault(principle["id"], document.line(place) or 0)


def _hidden_characters(document: Document, value: Any, path: source.KeyPath) -> Iterator[Problem]:
    if isinstance(value, str) and (found := HIDDEN.search(value)):
        message = f"holds the hidden character U+{ord(found.group()):04X}, which a judge would read and nobody sees"
        yield document.problem(path, message, "Delete it.")
    elif isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _hidden_characters(document, child, (*path, key))


def _schema_problems(document: Document) -> Iterator[Problem]:
    from jsonschema import Draft202012Validator

    validator = Draft202012Validator(json.loads(resources.schema("constitution")))
    for error in sorted(
        validator.iter_errors(document.value), key=lambda error: document.line(error.absolute_path) or 0
    ):
        yield from _explain(document, error)


def _explain(document: Document, error: Any) -> Iterator[Problem]:
    """A jsonschema error in our own words."""
    path, name = tuple(error.absolute_path), _name(error.absolute_path)
    match error.validator:
        case "additionalProperties":
            known = error.schema["properties"]
            for key in error.instance.keys() - known.keys():
                fix = source.did_you_mean(key, known) or f"Known here: {', '.join(known)}."
                yield document.problem((*path, key), f"unknown key {key!r}", fix)
        case "required":
            for key in error.validator_value:
                if key not in error.instance:
                    yield document.problem(path, f"{name} has no {key}", f"Add `{key}:`{_sample(key)}.")
        case "anyOf":
            yield document.problem(path, "has no principles", "Add `principles:` and a list of them.")
        case "enum" | "const":
            allowed = [error.validator_value] if error.validator == "const" else error.validator_value
            fix = source.did_you_mean(error.instance, allowed) or f"Write {' or '.join(map(str, allowed))}."
            yield document.problem(path, f"{name} is {_say(error.instance)}", fix)
        case "pattern":
            key = next(part for part in reversed(path) if isinstance(part, str))
            yield document.problem(path, f"{name} is {_say(error.instance)}, which is not allowed", _PATTERN_FIX[key])
        case "type":
            kinds = {
                "object": "a section",
                "array": "a list",
                "string": "a text",
                "number": "a number",
                "integer": "a whole number",
            }
            message = f"{name} is {_say(error.instance)}, not {kinds[error.validator_value]}"
            fix = (
                "Put it in quotes."
                if error.validator_value == "string" and isinstance(error.instance, int | float)
                else ""
            )
            yield document.problem(path, message, fix)
        case "maxItems":
            most = f"{name} has {len(error.instance):,} entries, more than {error.validator_value:,}"
            yield document.problem(path, most, "Keep those that a judge is to be asked about.")
        case _:
            yield document.problem(path, f"{name}: {error.message[:200]}")


_PATTERN_FIX = {
    "name": "Use 1 to 64 letters, digits, dots, dashes and underscores.",
    "version": "Write three numbers, such as 1.0.0.",
    "replaced_by": "Write the id of another principle.",
    "yields_to": "Write ids of other principles.",
    "id": "Use small letters, digits, dashes and underscores, such as no-flattery.",
}


def _name(path: Iterable[str | int]) -> str:
    """`principles[2].weight`; the file itself is "the constitution"."""
    name = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
    return re.sub(r"^principles\[(\d+)\]$", r"principle \1", name) or "the constitution"


def _sample(key: str) -> str:
    return {"schema": " selfalign.constitution/v1", "version": " 1.0.0"}.get(key, "")


def _say(value: Any) -> str:
    return "empty" if value is None else "a section" if isinstance(value, Mapping) else repr(value)[:80]
