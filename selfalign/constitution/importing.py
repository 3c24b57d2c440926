"""Principles that others have published, each in a format of its own, as principles of ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfalign.constitution import foreign, model_spec
from selfalign.constitution.foreign import Foreign
from selfalign.constitution.model import SCHEMA, Example, Level, Principle, Rubric, Source
from selfalign.source import MAX_DEPTH, Document, InputError, KeyPath, Problem, did_you_mean

MAX_PRINCIPLES = 1000  # as in the schema
LONG = 1500  # characters of a norm beyond which a judge reads badly
TIERS = {
    "root": 0,
    "system": 1,
    "developer": 2,
    "user": 3,
    "guideline": 4,
}  # of the Model Spec, highest authority first


@dataclass(frozen=True)
class Imported:
    """What a file held, and notes on what was left out or should be looked at."""

    format: str
    principles: tuple[Principle, ...]
    notes: tuple[str, ...]


def read(path: Path | str, format: str = "") -> Imported:
    """Read the principles in a file. The format is recognised by the file's shape where it is not named.

    Raises InputError with file, line and what to do: an unknown shape, an entry without words, hidden characters.
    """
    file = foreign.read(Path(path))
    if format and format not in FORMATS:
        fix = did_you_mean(format, FORMATS) or f"Known: {', '.join(FORMATS)}."
        raise InputError(Problem("--format", None, f"{format!r} is no format", fix))
    format = format or detect(file)
    notes: list[str] = []
    found = list(FORMATS[format].read(file, notes))
    if not found:
        raise file.refuse((), f"holds no principle in the format {format}", f"It has {FORMATS[format].shape}.")
    principles = _distinct(found, notes)
    if len(principles) > MAX_PRINCIPLES:
        message = f"holds {len(principles):,} principles, more than {MAX_PRINCIPLES:,}"
        raise file.refuse((), message, "Keep those that a judge is to be asked about.")
    return Imported(format, tuple(with_ids(principles)), (*notes, *_advice(principles)))


def detect(file: Foreign) -> str:
    """The format that a file has the shape of. Raises InputError where it has none."""
    if isinstance(file.value, dict) and file.value.get("schema") == SCHEMA:
        raise file.refuse((), "is a constitution already", f"selfalign constitution lint {file.path}")
    for name, format in FORMATS.items():
        if format.fits(file):
            return name
    raise file.refuse((), "has the shape of no format that is known", f"Name it by --format: {', '.join(FORMATS)}.")


@dataclass(frozen=True)
class _Format:
    """`shape` says what such a file holds; `fits` whether a file looks like one."""

    shape: str
    fits: Callable[[Foreign], bool]
    read: Callable[[Foreign, list[str]], Iterator[Principle]]


def _distinct(found: Sequence[Principle], notes: list[str]) -> list[Principle]:
    """Each principle once: two with the same words would be one question to a judge."""
    kept = list({(principle.hash, principle.revision_hash): principle for principle in reversed(found)}.values())[::-1]
    if len(kept) < len(found):
        notes.append(f"{len(found) - len(kept)} that say what another one says were left out")
    return kept


def with_ids(principles: Iterable[Principle]) -> Iterator[Principle]:
    """The principles with ids of their own, made of their ids, their titles or the first words of their norms."""
    taken: set[str] = set()
    for principle in principles:
        plain = slug(principle.id) or slug(principle.title) or _handle(principle.norm()) or "principle"
        number, identity = 1, plain
        while identity in taken:
            number += 1
            identity = f"{plain[:56]}-{number}"
        taken.add(identity)
        yield replace(principle, id=identity)


def slug(words: str) -> str:
    """Words as an id: small letters, digits, dashes and underscores."""
    return re.sub(r"[^a-z0-9_]+", "-", words.lower()).strip("-_")[:56].rstrip("-_")


def _handle(words: str) -> str:
    plain = re.findall(r"[a-z0-9]{2,}", words[:500].lower())
    return "-".join([word for word in plain if word not in _COMMON][:4])[:56]


_COMMON = frozenset(
    re.findall(
        r"\w+",
        "the an of to in on for with that which is are be it its as and or by this at does do should would choose pick "
        "select please response responses answer answers assistant these compare prefer more most less if not has you",
    )
)


def _advice(principles: Iterable[Principle]) -> Iterator[str]:
    bare = sum(not (p.text or p.compare or p.rubric.levels) for p in principles)
    if bare:
        yield f"{bare} ask for critique and revision alone: add `text` or `compare` before a judge compares by them"
    if long := sum(len(p.norm()) > LONG for p in principles):
        yield f"{long} have more than {LONG:,} characters: judges follow a short `compare` better"


# Critiques with their revisions.


def _revision(
    file: Foreign, place: KeyPath, row: dict[str, Any], keys: tuple[str, str], name: str = "", title: str = ""
) -> Principle:
    critique, revise = (_field(file, place, row, key) for key in keys)
    return Principle(id=name, title=title, critique=critique, revise=revise, source=Source(name=file.path.name))


def _field(file: Foreign, place: KeyPath, row: dict[str, Any], key: str) -> str:
    if key not in row:
        raise file.refuse(place, f"has no {key!r}", did_you_mean(key, row) or "Add it, or delete the entry.")
    return _unscaffolded(file.words((*place, key), row[key]))


_BEFORE = re.compile(r"^\s*(?:Critique\s?Request|Revision\s?Request)\s*:\s*")
_AFTER = re.compile(r"\s*\b(?:Critique|Revision|Options)\s*:\s*$")


def _unscaffolded(words: str) -> str:
    """The words without what belongs to a few-shot prompt around them."""
    return _AFTER.sub("", _BEFORE.sub("", words)).strip() or words


def _anthropic_critiques(file: Foreign, notes: list[str]) -> Iterator[Principle]:
    for place, row in file.rows():
        prompt = row.get("prompt")
        if isinstance(prompt, list) and len(prompt) == 1:  # as published: a list of one
            row = {**row, "prompt": prompt[0]}
        yield _revision(file, place, row, ("prompt", "edit_request"), name=str(place[-1]) if place else "")


def _llm_swarm(file: Foreign, notes: list[str]) -> Iterator[Principle]:
    wrapped = isinstance(file.value, dict) and "constitutions" in file.value
    inner = replace(file, value=file.value["constitutions"]) if wrapped else file
    for place, row in inner.rows():
        place = ("constitutions", *place) if wrapped else place
        yield _revision(file, place, row, ("critic", "revision"))
    if wrapped and file.value.get("system_chat"):
        notes.append(f"system_chat: {len(file.value['system_chat'])} worked conversations were left out")


def _langchain(file: Foreign, notes: list[str]) -> Iterator[Principle]:
    for place, row in file.rows():
        row = {_snake(key): value for key, value in row.items()}
        if "critique_request" not in row and "revision_request" not in row:
            continue
        name = str(row.get("name") or (place[-1] if place and isinstance(place[-1], str) else ""))
        title = name if " " in name else ""
        yield _revision(file, place, row, ("critique_request", "revision_request"), name=name, title=title)


def _snake(key: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower()


# Lists of sentences.


def _lines(file: Foreign) -> list[tuple[KeyPath, Any]]:
    """The sentences of a list, of a mapping of numbers to sentences, or of a numbered text."""
    value = file.text if file.value is None else file.value
    if not isinstance(value, str | list | dict):
        return []
    if isinstance(value, str):
        value = [line for line in map(_unnumbered, value.split("\n")) if line]
    children = value.items() if isinstance(value, dict) else enumerate(value)
    return [((key,), child) for key, child in children]


def _unnumbered(line: str) -> str:
    return re.sub(r"^\s*(?:\d{1,4}[.)]|[-*•])\s+", "", line).strip()


def _sentence(file: Foreign, place: KeyPath, value: Any) -> Principle:
    words = _unscaffolded(file.words(place, value))
    asks = re.match(r"(?:please\s+)?(?:select|choose|pick|prefer|which|compare)\b", words, re.IGNORECASE)
    given = {"compare" if asks else "text": words}
    return Principle(id="", **given, source=Source(name=file.path.name))


def _sentences(file: Foreign, notes: list[str]) -> Iterator[Principle]:
    for place, value in _lines(file):
        yield _sentence(file, place, value)


# Rubrics and criteria.


_SCORE = re.compile(r"^(?:orig_)?score(\d{1,2})_description$")
_SCORE_LINE = re.compile(r"^\s*Score\s+(\d{1,2})\s*:\s*(\S.*)$", re.MULTILINE)


def _prometheus(file: Foreign, notes: list[str]) -> Iterator[Principle]:
    if file.value is None:
        yield _rubric_text(file, (), file.text)
        return
    for place, row in file.rows():
        if isinstance(row.get("rubric"), str):
            yield _rubric_text(file, (*place, "rubric"), row["rubric"])
            continue
        scores = {int(found[1]): key for key in row if (found := _SCORE.match(key))}
        if len(scores) < 2:
            continue
        levels = [Level(score=s, means=file.words((*place, k), row[k])) for s, k in sorted(scores.items())]
        key = next((key for key in ("criteria", "orig_criteria") if key in row), "")
        text = file.words((*place, key), row[key]) if key else ""
        name = str(row.get("name") or (place[-1] if place and isinstance(place[-1], str) else ""))
        yield _rated(file, text, levels, name)


def _rubric_text(file: Foreign, place: KeyPath, text: str) -> Principle:
    """`[criterion]`, then a line "Score n: ..." for each level."""
    levels = [Level(score=int(n), means=file.words(place, means)) for n, means in _SCORE_LINE.findall(text)]
    if len(levels) < 2:
        raise file.refuse(place, "has fewer than two lines such as `Score 1: ...`", "Write what each score means.")
    criterion = text[: _SCORE_LINE.search(text).start()].strip().strip("[]")
    return _rated(file, file.words(place, criterion) if criterion else "", levels)


def _rated(file: Foreign, text: str, levels: list[Level], name: str = "") -> Principle:
    return Principle(id=name, text=text, rubric=Rubric(levels=tuple(levels)), source=Source(name=file.path.name))


def _g_eval(file: Foreign, notes: list[str]) -> Iterator[Principle]:
    for place, row in file.rows():
        row = {_snake(key): value for key, value in row.items()}
        if row.get("criteria") is None and not row.get("evaluation_steps"):
            continue
        name = str(row.get("name") or "")
        levels = _outcomes(file, place, row.get("rubric"))
        principle = _rated(file, _criterion(file, place, row), levels, name)
        yield replace(principle, title=name if " " in name else "")


def _criterion(file: Foreign, place: KeyPath, row: dict[str, Any]) -> str:
    parts = [file.words((*place, "criteria"), row["criteria"])] if row.get("criteria") else []
    if row.get("evaluation_steps"):
        parts.append(_steps(file, (*place, "evaluation_steps"), row["evaluation_steps"]))
    return "\n".join(parts)


def _steps(file: Foreign, place: KeyPath, value: Any) -> str:
    """One text as it is, several as a numbered list."""
    if not isinstance(value, list):
        return file.words(place, value)
    steps = [_unnumbered(file.words((*place, index), step)) for index, step in enumerate(value)]
    return "\n".join(f"{number}. {step}" for number, step in enumerate(steps, start=1))


def _outcomes(file: Foreign, place: KeyPath, rubric: Any) -> list[Level]:
    """Levels of ranges of scores: each is given its lowest score."""
    levels = []
    for index, entry in enumerate(rubric if isinstance(rubric, list) else ()):
        here = (*place, "rubric", index)
        scores = entry.get("score_range") if isinstance(entry, dict) else None
        if not isinstance(scores, list | tuple) or not scores or not isinstance(scores[0], int):
            raise file.refuse(here, "has no score_range of whole numbers", "Write score_range: [0, 2].")
        levels.append(Level(score=scores[0], means=_field(file, here, entry, "expected_outcome")))
    return levels if len(levels) > 1 else []


_GRADED = {"llm-rubric": "text", "g-eval": "text", "model-graded-closedqa": "text", "select-best": "compare"}


def _promptfoo(file: Foreign, notes: list[str]) -> Iterator[Principle]:
    outside = other = thresholds = 0
    for place, row in _assertions(file.value, ()):
        kind, value = row["type"], row.get("value")
        if kind not in _GRADED:
            other += 1
        elif isinstance(value, str) and value.startswith("file://"):
            outside += 1
        else:
            thresholds += "threshold" in row
            yield _graded(file, place, row)
    if other:
        notes.append(f"{other} assertions that no judge reads (such as contains or javascript) were left out")
    if outside:
        notes.append(f"{outside} that stand in files of their own (file://) were left out")
    if thresholds:
        notes.append(f"{thresholds} thresholds were left out: a comparison has none")


def _graded(file: Foreign, place: KeyPath, row: dict[str, Any]) -> Principle:
    words, weight, metric = _steps(file, (*place, "value"), row.get("value")), row.get("weight", 1), row.get("metric")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
        raise file.refuse((*place, "weight"), "is not a number from 0 up", "Write 1.")
    title = file.words((*place, "metric"), metric) if metric else ""
    given = {_GRADED[row["type"]]: words}
    return Principle(id="", title=title, weight=float(weight), **given, source=Source(name=file.path.name))


def _assertions(value: Any, place: KeyPath) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    """Everything under an `assert:` that has a type, however deep; the members of a set for the set."""
    if not isinstance(value, dict | list) or len(place) > MAX_DEPTH:
        return
    for key, child in value.items() if isinstance(value, dict) else enumerate(value):
        kind = child.get("type") if isinstance(child, dict) and place and place[-1] == "assert" else None
        if isinstance(kind, str) and kind != "assert-set":
            yield (*place, key), child
        else:
            yield from _assertions(child, (*place, key))


def _model_spec(file: Foreign, notes: list[str]) -> Iterator[Principle]:
    found = model_spec.sections(file.text)
    lines = Document(str(file.path), None, {(section.id,): section.line for section in found})
    file = replace(file, lines=lambda: lines)
    worded = [section for section in found if model_spec.paragraphs(section.prose)]
    if len(worded) < len(found):
        notes.append(f"{len(found) - len(worded)} headings without words of their own were left out")
    for section in worded:
        yield _section(file, (section.id,), section)


def _section(file: Foreign, here: KeyPath, section: model_spec.Section) -> Principle:
    commentary = model_spec.paragraphs(section.commentary)
    url = f"https://model-spec.openai.com/#{section.id}"
    return Principle(
        id=section.id,
        title=file.words(here, section.title),
        tier=TIERS.get(section.authority, max(TIERS.values())),
        tags=(section.authority,),
        text=file.words(here, model_spec.paragraphs(section.prose)),
        rationale=file.words(here, commentary) if commentary else "",
        examples=tuple(_example(file, here, example) for example in section.examples()),
        source=Source(name="OpenAI Model Spec", license="CC0-1.0", url=url),
    )


def _example(file: Foreign, here: KeyPath, example: Example) -> Example:
    for words in filter(None, (example.prompt, example.better, example.worse, example.critique)):
        file.words(here, words)
    return example


# How each format is recognised. The first that fits counts.


_SCORES = [f"{before}score{number}_description" for before in ("", "orig_") for number in range(1, 11)]


def _any_row(file: Foreign, *keys: str) -> bool:
    return any(row.keys() & set(keys) for _, row in file.rows(strict=False))


def _first(file: Foreign, key: str) -> Any:
    """The first value of a key in the rows; of a file of plain text, the text."""
    return file.text if file.value is None else next((row[key] for _, row in file.rows(strict=False) if key in row), "")


def _is_sentences(file: Foreign) -> bool:
    value = file.value
    if isinstance(value, dict) and all(key.isdigit() for key in value):
        value = list(value.values())
    return isinstance(value, str) or (
        isinstance(value, list) and bool(value) and all(isinstance(child, str) for child in value)
    )


FORMATS: dict[str, _Format] = {
    "model-spec": _Format(
        "headings such as `## Be honest {#be_honest authority=user}`",
        lambda file: file.value is None and any(map(model_spec.AUTHORITY.search, file.text.split("\n"))),
        _model_spec,
    ),
    "anthropic-critiques": _Format(
        '"prompt" and "edit_request" for each', lambda file: _any_row(file, "edit_request"), _anthropic_critiques
    ),
    "llm-swarm": _Format(
        '"constitutions", a list with "critic" and "revision" for each',
        lambda file: _any_row(file, "critic") or (isinstance(file.value, dict) and "constitutions" in file.value),
        _llm_swarm,
    ),
    "langchain": _Format(
        "critique_request and revision_request for each, in JSON, YAML or Python",
        lambda file: _any_row(file, "critique_request", "critiqueRequest"),
        _langchain,
    ),
    "promptfoo": _Format(
        "`assert:` lists with `type: llm-rubric`",
        lambda file: next(_assertions(file.value, ()), None) is not None,
        _promptfoo,
    ),
    "prometheus": _Format(
        'score1_description, score2_description ... for each, or lines such as "Score 1: ..."',
        lambda file: _any_row(file, *_SCORES) or _SCORE_LINE.search(str(_first(file, "rubric"))) is not None,
        _prometheus,
    ),
    "g-eval": _Format(
        "criteria or evaluation_steps for each, in JSON, YAML or Python",
        lambda file: _any_row(file, "criteria", "evaluation_steps", "evaluationSteps"),
        _g_eval,
    ),
    "anthropic-comparisons": _Format(
        'a list of questions that end in "Options:"',
        lambda file: _is_sentences(file) and any(str(v).rstrip().endswith("Options:") for _, v in _lines(file)),
        _sentences,
    ),
    "icai": _Format(
        "a list of sentences, or a numbered text",
        lambda file: _is_sentences(file) or (file.value is None and file.path.suffix.lower() == ".txt"),
        _sentences,
    ),
}
