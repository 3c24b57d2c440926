"""Layered settings: merge what flags, variables and files say into a tree of dataclasses, and remember who said it.

Nothing here knows what the settings mean. A type that does not fit, a number out of range and an unknown name are
collected as problems, each at the line or flag that caused it.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from selfalign import source
from selfalign.source import HIDDEN, Document, InputError, Problem

Setting = tuple[str | int, ...]  # the path of a setting: ("train", "beta"), ("schedule", 0, "rounds")


@dataclass(frozen=True)
class Layer:
    """Settings from one place. `label` is the file as the user named it, a flag, a variable, or "recipe NAME"."""

    label: str
    document: Document

    @property
    def values(self) -> dict[str, Any]:
        return self.document.value

    def origin(self, path: Setting) -> str:
        """ "campaign.yaml:7" for a file the user wrote; else the label."""
        return (
            f"{self.label}:{self.document.line(path)}"
            if self.label == self.document.file and self.document.lines
            else self.label
        )


def flag_layer(label: str, path: Setting, text: str, root: type) -> Layer:
    """A layer of one setting given as text: YAML, but `2024` and `*.jsonl` are texts where the setting takes a text."""
    hint = _hint(root, path)
    try:
        value = source.read_yaml(text, label).value
        fits = _accepts(hint, value)
    except InputError:
        value, fits = text, True
    value = text if not fits and _accepts(hint, text) else value
    for key in reversed(path):
        value = {key: value}
    return Layer(label, Document(label, value))


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Sections merge key by key; every other value replaces what was below."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def origin_layer(layers: Sequence[Layer], path: Setting) -> Layer | None:
    """The strongest layer (the first) that sets `path`, or something around it as a whole."""
    return next((layer for layer in layers if _sets(layer.values, path)), None)


def problem_at(layers: Sequence[Layer], path: Setting, message: str, fix: str = "") -> Problem:
    """A problem where the setting was given, or at the strongest file where nobody gave it."""
    layer = origin_layer(layers, path)
    if layer is not None:
        return layer.document.problem(path, message, fix)
    files = [layer.document.file for layer in layers if layer.document.lines]
    return Problem(files[0] if files else "settings", None, message, fix)


def _sets(values: Any, path: Setting) -> bool:
    for key in path:
        if isinstance(values, list) and isinstance(key, int) and key < len(values):
            values = values[key]
            continue
        if not isinstance(values, dict):
            return True
        if key not in values:
            return False
        values = values[key]
    return True


def in_yaml(value: object) -> str:
    """A value as it would be written in YAML, on one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {in_yaml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(in_yaml, value)) + "]"
    return str(value)


def leaves(values: Mapping[str, Any], path: Setting = ()) -> Iterator[tuple[Setting, Any]]:
    """Every value that is not a section, with its path."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


class Builder:
    """Turns merged values into a tree of dataclasses, collecting every problem on the way."""

    def __init__(self, root: type, layers: Sequence[Layer]) -> None:
        self.root, self.layers = root, layers
        self.problems: list[Problem] = []

    def build(self, values: Mapping[str, Any]) -> Any:
        return self._section(self.root, values, ())

    def check(self, cls: type, values: Mapping[str, Any], path: Setting) -> None:
        """Collect the problems of a section that is kept as plain values."""
        self._section(cls, values, path)

    def refuse(self, path: Setting, message: str, fix: str = "") -> None:
        self.problems.append(problem_at(self.layers, path, message, fix))

    def _section(self, cls: type, values: Any, path: Setting, default: Any = None) -> Any:
        """The section with these values; the others are those of `default`, or else of the class."""
        if not isinstance(values, Mapping):
            self.refuse(
                path, f"{dotted(path)} has no settings under it", "Indent settings under it, or remove the line."
            )
            return None
        hints = get_type_hints(cls, include_extras=True)
        for key in values:
            if key not in hints:
                self.refuse((*path, key), f'unknown setting "{dotted((*path, key))}"', self._nearest(key, path, hints))
        missing = [field.name for field in dataclasses.fields(cls) if _required(field) and field.name not in values]
        if missing:
            self.refuse(
                path, f"{dotted(path)} needs {missing[0]}", f"Add `{missing[0]}:` with {describe(hints[missing[0]])}."
            )
            return None
        defaults = {field.name: field.default_factory() for field in dataclasses.fields(cls) if _is_section(field)}
        given = {
            key: self._value(hint, values[key], (*path, key), defaults.get(key))
            for key, hint in hints.items()
            if key in values
        }
        return cls(**given) if default is None else dataclasses.replace(default, **given)

    def _value(self, hint: Any, value: Any, path: Setting, default: Any = None) -> Any:
        section = _section_type(hint)
        if section is not None and not (value is None and _is_optional(hint)):
            return self._section(section, value, path, default)
        item = _item_section(hint)
        if item is not None and isinstance(value, list):
            return tuple(self._section(item, part, (*path, number)) for number, part in enumerate(value))
        try:
            converted = msgspec.convert(value, hint)
        except msgspec.ValidationError:
            self.refuse(path, f"{dotted(path)} is {_say(value)}, not {describe(hint)}", _value_fix(hint, value))
            return None
        for text in converted if isinstance(converted, list | tuple) else [converted]:
            if isinstance(text, str) and (HIDDEN.search(text) or "\n" in text):
                self.refuse(path, f"{dotted(path)} is {text[:60]!r}, which holds a hidden character", "Remove it.")
        return converted

    def _nearest(self, key: str, path: Setting, hints: Mapping[str, Any]) -> str:
        """A near name in the same section, or the same name in another one, or else the section's names."""
        elsewhere = [name for name in map(dotted, _names(self.root)) if name.split(".")[-1] == key]
        if near := difflib.get_close_matches(key, hints, n=1, cutoff=0.6):
            return f'Did you mean "{dotted((*path, near[0]))}"?'
        if elsewhere:
            return f'Did you mean "{min(elsewhere, key=lambda name: name.count("."))}"?'
        return f"{dotted(path) or 'A campaign'} has {', '.join(hints)}."


def _names(cls: type, path: Setting = ()) -> Iterator[Setting]:
    for key, hint in get_type_hints(cls).items():
        section = _section_type(hint)
        yield from _names(section, (*path, key)) if section else [(*path, key)]


def dotted(path: Setting) -> str:
    return ".".join(map(str, path))


def _hint(root: type, path: Setting) -> Any:
    """The type of a setting; Any for one that does not exist, which `Builder` refuses."""
    hint: Any = root
    for key in path:
        section = _section_type(hint)
        hint = get_type_hints(section, include_extras=True).get(key, Any) if section else Any
    return hint


def _accepts(hint: Any, value: Any) -> bool:
    if _section_type(hint) is not None:
        return False
    try:
        msgspec.convert(value, hint)
    except msgspec.ValidationError:
        return False
    return True


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def _is_optional(hint: Any) -> bool:
    return _is_union(hint) and types.NoneType in get_args(hint)


def _section_type(hint: Any) -> type | None:
    options = get_args(hint) if _is_union(hint) else (hint,)
    return next((option for option in options if dataclasses.is_dataclass(option)), None)


def _item_section(hint: Any) -> type | None:
    """The dataclass of which a setting takes a list, if it takes one."""
    return _section_type(get_args(hint)[0]) if get_origin(hint) is tuple else None


def _is_section(field: dataclasses.Field) -> bool:
    """Whether the setting is a section with defaults of its own, which may not be those of its class."""
    made = field.default_factory is not dataclasses.MISSING
    return made and dataclasses.is_dataclass(field.default_factory())


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


# Words for types and values.

_PLAIN = {str: "a text", bool: "true or false", int: "a whole number", float: "a number", types.NoneType: "null"}


def describe(hint: Any) -> str:
    """What a setting takes, in words: "a number above 0", "one of dpo", "null"."""
    if get_origin(hint) is Annotated:
        base, *notes = get_args(hint)
        limits = [words for note in notes if isinstance(note, Meta) for words in _limits(note)]
        return " ".join([describe(base), " and ".join(limits)])
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if _is_union(hint):
        return " or ".join(describe(option) for option in get_args(hint))
    if get_origin(hint) in (list, tuple):
        item = next(option for option in get_args(hint) if option is not Ellipsis)
        return f"a list of items, each {describe(item)}"
    if get_origin(hint) is dict:
        return "several of them with a number each"
    return "a section" if dataclasses.is_dataclass(hint) else _PLAIN[hint]


def _limits(meta: Meta) -> Iterator[str]:
    for bound, words in ((meta.gt, "above"), (meta.ge, "of at least"), (meta.lt, "below"), (meta.le, "of at most")):
        if bound is not None:
            yield f"{words} {bound:g}"


def _say(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return "a section" if isinstance(value, dict) else "a list"
    return f"the text {value[:60]!r}" if isinstance(value, str) else repr(value)


def _value_fix(hint: Any, value: Any) -> str:
    takes = _plain_types(hint)
    if isinstance(value, str):
        if bool in takes and value.lower() in ("yes", "on", "no", "off", "y", "n"):
            return f"Write {'true' if value.lower() in ('yes', 'on', 'y') else 'false'}."
        choices = [choice for option in takes if get_origin(option) is Literal for choice in get_args(option)]
        if {int, float} & takes and _is_number(value):
            return "Remove the quotes."
        return source.did_you_mean(value, choices)
    if str in takes and isinstance(value, int | float):
        return "Put it in quotes."
    return ""


def _plain_types(hint: Any) -> set[Any]:
    if get_origin(hint) is Annotated or _is_union(hint):
        options = get_args(hint)[:1] if get_origin(hint) is Annotated else get_args(hint)
        return set().union(*map(_plain_types, options))
    return {hint}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
