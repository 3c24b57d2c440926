"""The constitution: principles as data, and the words in which each is put to a judge."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from selfalign import resources, source
from selfalign.records import Prompt, digest
from selfalign.source import HIDDEN, Document, InputError, Problem


class ConstitutionError(InputError):
    """The constitution is refused. Each of `problems` has the file, the line, what is wrong and what to write."""


@dataclass(frozen=True, kw_only=True)
class AppliesWhen:
    ask: str = ""
    prompt_tags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Level:
    """What one score of a rubric means."""

    score: int
    means: str


@dataclass(frozen=True, kw_only=True)
class Rubric:
    levels: tuple[Level, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Example:
    """A response that keeps a principle beside one that breaks it, and, where given, what is to be said of the latter.

    `critique` is the worked critique of `worse` that leads to `better`.
    """

    prompt: str
    better: str
    worse: str
    critique: str = ""


@dataclass(frozen=True, kw_only=True)
class Source:
    name: str = ""
    license: str = ""
    url: str = ""


@dataclass(frozen=True, kw_only=True)
class Principle:
    """One norm with a stable id. At least one of `text`, `compare`, `critique` and `revise`, `rubric` is given."""

    id: str
    title: str = ""
    status: Literal["draft", "active", "deprecated"] = "active"
    kind: Literal["principle", "hard_constraint"] = "principle"
    tier: int = 1
    weight: float = 1.0
    tags: tuple[str, ...] = ()
    text: str = ""
    compare: str = ""
    critique: str = ""
    revise: str = ""
    rubric: Rubric = field(default_factory=Rubric)
    applies_when: AppliesWhen = field(default_factory=AppliesWhen)
    examples: tuple[Example, ...] = ()
    rationale: str = ""
    source: Source = field(default_factory=Source)

    @property
    def hash(self) -> str:
        """The hash of the words that a judge sees: an edit of a weight or a title re-judges nothing."""
        return digest("principle", self.comparison(), self.norm())

    @property
    def revision_hash(self) -> str:
        """The hash of the words by which an answer is criticised and rewritten, worked examples included."""
        examples = [(e.prompt, e.better, e.worse, e.critique) for e in self.examples]
        return digest("revision", self.critique_request(), self.revision_request(), examples)

    def comparison(self) -> str:
        """The words for a pairwise judgment: `compare`, or derived from the norm."""
        return self.compare or f"Choose the response that follows this principle better: {self.norm()}"

    def critique_request(self) -> str:
        """The words that ask what is wrong with an answer: `critique`, or derived from the norm."""
        return (
            self.critique or f"Point out where your response falls short when judged by this principle: {self.norm()}"
        )

    def revision_request(self) -> str:
        """The words that ask for a better answer: `revise`, or derived from the norm."""
        return self.revise or f"Rewrite your response so that it does well when judged by this principle: {self.norm()}"

    def norm(self) -> str:
        """The words for a pointwise judgment: `text`, or else the nearest words there are."""
        return self.text or self.compare or self._rubric_words() or self.critique or self.revise

    def _rubric_words(self) -> str:
        return "\n".join(f"{level.score}: {level.means}" for level in self.rubric.levels)

    def applies_to(self, prompt: Prompt) -> bool:
        """Whether any of the prompt's tags is asked for; a principle that asks for none applies to all."""
        return not self.applies_when.prompt_tags or bool(set(self.applies_when.prompt_tags) & set(prompt.tags))


@dataclass(frozen=True, kw_only=True)
class Constitution:
    """Principles in the order of the file, those of extended constitutions first."""

    name: str
    version: str
    preamble: str = ""
    principles: tuple[Principle, ...]

    @property
    def active(self) -> tuple[Principle, ...]:
        return tuple(principle for principle in self.principles if principle.status == "active")

    @property
    def hash(self) -> str:
        """The hash of all that can change a label: the preamble, and each active principle but for its prose."""
        kept = [
            (p.id, p.hash, p.kind, p.tier, p.weight, p.applies_when.ask, p.applies_when.prompt_tags)
            for p in self.active
        ]
        return digest("constitution", self.preamble, kept)

    @property
    def revision_hash(self) -> str:
        """The hash of all that can change a revision: which principle is drawn, and its words and examples."""
        kept = [(p.id, p.revision_hash, p.weight, p.applies_when.prompt_tags) for p in self.active]
        return digest("constitution of revisions", kept)

    def applicable(self, prompt: Prompt) -> tuple[Principle, ...]:
        """The active principles that apply to a prompt."""
        return tuple(principle for principle in self.active if principle.applies_to(prompt))

    def sample(self, prompt: Prompt, seed: int) -> Principle | None:
        """Draw one applicable principle with probability in proportion to its weight; None where there is none.

        An exponential race (Efraimidis and Spirakis 2006): each principle draws a time from an exponential
        distribution of rate `weight`, and the earliest wins. As each time hangs on nothing but the seed, the prompt
        and the principle's id, a principle added later changes only the draws that it wins.
        """
        racing = [principle for principle in self.applicable(prompt) if principle.weight > 0]
        return min(racing, key=lambda principle: _arrival(principle, prompt, seed), default=None)

    def to_yaml(self) -> str:
        """The whole constitution as one file, with what it extends merged in. Loading it gives the same one."""
        values = {"schema": "selfalign.constitution/v1", "name": self.name, "version": self.version}
        if self.preamble:
            values["preamble"] = self.preamble
        values["principles"] = [_stated(principle) for principle in self.principles]
        return dump(values)


def _arrival(principle: Principle, prompt: Prompt, seed: int) -> float:
    uniform = (int(digest("principle", seed, prompt.id, principle.id, size=8), 16) + 0.5) / 2.0**64
    return -math.log(uniform) / principle.weight


def _stated(value: Any) -> Any:
    """A dataclass as its fields that differ from their defaults, all the way down."""
    if isinstance(value, tuple):
        return [_stated(item) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    stated = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return {f.name: _stated(stated[f.name]) for f in dataclasses.fields(value) if stated[f.name] != _default(f)}


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def load(path: Path | str) -> Constitution:
    """Read a constitution with everything it extends, and validate it.

    Raises ConstitutionError on an unreadable file, a value that the schema refuses, a principle without words, an id
    given twice, a circle of `extends`, hidden characters, and where no principle is active.
    """
    path = Path(path)
    try:
        merged = _load_merged(path, ())
        _check_words(merged)
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


def _load_merged(path: Path, children: tuple[Path, ...]) -> _Merged:
    document = source.read_yaml(source.read_text(path), str(path))
    problems = [*_schema_problems(document), *_hidden_characters(document, document.value, ())]
    if not problems:
        problems = list(_duplicate_ids(document))
    if problems:
        raise InputError(problems)
    parents = [
        _load_merged(_parent(document, index, path, children), (*children, path.resolve()))
        for index in range(len(document.value.get("extends", ())))
    ]
    return _overlay(document, parents)


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


def _check_words(merged: _Merged) -> None:
    problems = []
    for identity, principle in merged.principles.items():
        revision = "critique" in principle and "revise" in principle
        if not revision and not principle.keys() & {"text", "compare", "rubric"}:
            document, index = merged.places[identity]
            message = f'the principle "{identity}" has no words for a judge'
            problems.append(document.problem(("principles", index), message, "Give it text or compare."))
    if problems:
        raise InputError(problems)


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
            yield document.problem(
                path, f"{name} is {_say(error.instance)}, which is not allowed", _PATTERN_FIX[path[-1]]
            )
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
        case _:
            yield document.problem(path, f"{name}: {error.message[:200]}")


_PATTERN_FIX = {
    "name": "Use 1 to 64 letters, digits, dots, dashes and underscores.",
    "version": "Write three numbers, such as 1.0.0.",
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


# Edits that keep comments and order: open a file's text, change the document, write it back.


def open_document(text: str) -> Any:
    """The file as a ruamel.yaml mapping that remembers comments, order and quotes; for text that `load` accepts."""
    return _editor().load(text)


def dump(document: Any) -> str:
    """The text of a document of `open_document`, or of plain values."""
    stream = io.StringIO()
    _editor().dump(document, stream)
    return stream.getvalue()


def _editor() -> Any:
    from ruamel.yaml import YAML

    editor = YAML()
    editor.preserve_quotes, editor.width = True, 120
    editor.indent(mapping=2, sequence=4, offset=2)
    return editor
