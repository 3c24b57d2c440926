"""Labels and what is to be labelled in the files of other tools: Label Studio, Argilla, and ICAI's CSV.

- label-studio: a JSON array of tasks. What a person said is an annotation of a `Pairwise` control, or of `Choices`
  where neither answer won; what the judge says is a prediction. https://labelstud.io/guide/task_format
- argilla: a JSON array of records, as `dataset.records.to_json` writes them: responses to the question "preference",
  the judge's as a suggestion.
- icai: CSV with prompt, text_a, text_b and preferred_text (Findeis et al. 2024), a row for each label with a winner.
- jsonl: our own, a line for each label, as in the run folder.

Candidates are known by their ids, which our exports carry; where a file has none, by their texts.
"""

from __future__ import annotations

import csv
import io
import json
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from selfalign.compared import Comparison
from selfalign.records import Candidate, Label, Prompt, derived_seed
from selfalign.source import InputError, Problem, parse_json

Format = Literal["label-studio", "argilla", "icai", "jsonl"]
INTERFACE = """\
<View>
  <Text name="prompt" value="$prompt"/>
  <Pairwise name="preference" toName="left,right"/>
  <View style="display: flex;">
    <Text name="left" value="$left"/><Text name="right" value="$right"/>
  </View>
  <Choices name="verdict" toName="prompt">
    <Choice value="tie"/><Choice value="both_bad"/><Choice value="not_applicable"/><Choice value="skipped"/>
  </Choices>
</View>"""
QUESTION = "preference"
SAID = ("left", "right", "tie", "both_bad", "not_applicable", "skipped")
_COLUMNS = ("prompt", "text_a", "text_b", "preferred_text", "prompt_id", "a_id", "b_id", "labeller")
_PEOPLE = uuid.UUID("6f3d3c52-3b0e-4d7e-9a51-1f6f0d8a7f4e")  # Argilla knows people by UUIDs; ours are made from names
_NAME = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Task:
    """A comparison, the sides on which its answers stand in a file, and what people said of it so far."""

    comparison: Comparison
    labels: tuple[Label, ...]

    @property
    def sides(self) -> tuple[Candidate, Candidate]:
        a, b = self.comparison.a, self.comparison.b
        return (b, a) if derived_seed("exported side", a.id, b.id) % 2 else (a, b)

    def said(self, label: Label) -> str:
        """What a label says in terms of the sides."""
        if label.verdict != "preferred":
            return label.verdict
        return "left" if label.preferred_id == self.sides[0].id else "right"

    @property
    def p_left(self) -> float | None:
        """The judge's probability for the left answer."""
        p = self.comparison.p_a
        return p if p is None or self.sides[0].id == self.comparison.a.id else 1 - p


# Writing -------------------------------------------------------------------------------------------------------------


def write(tasks: Sequence[Task], format: Format, *, judge: bool = False) -> str:
    """The text of a file. With `judge` the judge's verdicts come along as suggestions, which sway whoever sees them."""
    if format == "icai":
        return _csv(row for task in tasks for row in _icai(task))
    if format == "jsonl":
        return "".join(
            json.dumps(msgspec.to_builtins(label), ensure_ascii=True) + "\n" for task in tasks for label in task.labels
        )
    rows = [(_label_studio if format == "label-studio" else _argilla)(task, judge) for task in tasks]
    return json.dumps(rows, indent=1, ensure_ascii=True) + "\n"


def _csv(rows: Iterable[Mapping[str, str]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _icai(task: Task) -> Iterator[dict[str, str]]:
    left, right = task.sides
    for label in task.labels:
        if label.verdict == "preferred" and not label.repeat:
            yield {
                "prompt": prompt_text(task.comparison.prompt),
                "text_a": left.text,
                "text_b": right.text,
                "preferred_text": "text_a" if task.said(label) == "left" else "text_b",
                "prompt_id": task.comparison.prompt.id,
                "a_id": left.id,
                "b_id": right.id,
                "labeller": label.labeller,
            }


def _shared(task: Task) -> tuple[dict[str, str], dict[str, Any]]:
    """What a person sees of a task, and what names it."""
    prompt, (left, right) = task.comparison.prompt, task.sides
    seen = {"prompt": prompt_text(prompt), "left": left.text, "right": right.text}
    return seen, {"prompt_id": prompt.id, "left_id": left.id, "right_id": right.id}


def _label_studio(task: Task, judge: bool) -> dict[str, Any]:
    seen, names = _shared(task)
    annotations = [
        {"completed_by": {"email": label.labeller}, "lead_time": label.seconds, "result": [_result(task.said(label))]}
        for label in task.labels
        if not label.repeat
    ]
    predictions = []
    if judge and task.p_left is not None:
        score = max(task.p_left, 1 - task.p_left)
        predictions = [{"model_version": "judge", "score": score, "result": [_result(_favourite(task.p_left))]}]
    return {"data": {**seen, **names}, "annotations": annotations, "predictions": predictions}


def _result(said: str) -> dict[str, Any]:
    if said in ("left", "right"):
        value = {"selected": said}
        return {"from_name": QUESTION, "to_name": "left,right", "type": "pairwise", "value": value}
    return {"from_name": "verdict", "to_name": "prompt", "type": "choices", "value": {"choices": [said]}}


def _argilla(task: Task, judge: bool) -> dict[str, Any]:
    seen, names = _shared(task)
    fresh = [label for label in task.labels if not label.repeat]
    responses = [{"value": task.said(label), "user_id": str(_person(label.labeller))} for label in fresh]
    suggestions = {}
    if judge and task.p_left is not None:
        score = max(task.p_left, 1 - task.p_left)
        suggestions = {QUESTION: {"value": _favourite(task.p_left), "score": score, "agent": "judge"}}
    people = {"labellers": [label.labeller for label in fresh]} if fresh else {}
    return {
        "id": f"{names['left_id']}-{names['right_id']}",
        "fields": seen,
        "metadata": {**names, **people},
        "suggestions": suggestions,
        "responses": {QUESTION: responses} if responses else {},
        "vectors": {},
    }


def _favourite(p_left: float) -> str:
    return "tie" if p_left == 0.5 else "left" if p_left > 0.5 else "right"


def _person(name: str) -> uuid.UUID:
    return uuid.uuid5(_PEOPLE, name)


def prompt_text(prompt: Prompt) -> str:
    """A conversation as one text: a single message as it is, several with their roles."""
    if len(prompt.messages) == 1:
        return prompt.messages[0].content
    return "\n\n".join(f"{message.role}: {message.content}" for message in prompt.messages)


# Reading -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Said:
    """What a file says of two answers at a line; ids are "" where it names none."""

    line: int
    rater: str
    verdict: str
    left: str
    right: str
    left_id: str = ""
    right_id: str = ""
    prompt: str | None = None
    seconds: float = 0.0


class Index:
    """The comparisons of a run, found by the ids of their answers, or by their texts."""

    def __init__(self, comparisons: Iterable[Comparison]) -> None:
        self._by_ids: dict[frozenset[str], Comparison] = {}
        self._by_texts: dict[frozenset[str], list[Comparison]] = {}
        for one in comparisons:
            if self._by_ids.setdefault(frozenset(one.pair), one) is one:
                self._by_texts.setdefault(frozenset((one.a.text, one.b.text)), []).append(one)

    def find(self, said: _Said) -> tuple[Comparison, str]:
        """The comparison, and the id of its left answer. Raises ValueError that says why there is none."""
        if said.left_id and said.right_id:
            one = self._by_ids.get(frozenset((said.left_id, said.right_id)))
            if one is None:
                raise ValueError(f"the run compared no answers {said.left_id[:40]} and {said.right_id[:40]}")
            return one, said.left_id
        found = self._by_texts.get(frozenset((said.left, said.right)), [])
        if said.prompt is not None:
            found = [one for one in found if prompt_text(one.prompt) == said.prompt]
        if len(found) != 1:
            many = f"{len(found)} comparisons of the run have" if found else "no comparison of the run has"
            raise ValueError(f"{many} these two texts, and the file names no ids")
        one = found[0]
        return one, one.a.id if one.a.text == said.left else one.b.id


def read(text: str, name: str, format: Format, index: Index, labeller: str) -> dict[str, list[Label]]:
    """The labels in the text of a file that errors call `name`, by labeller.

    `labeller` is the name of whoever the file does not name, and stands before the names of those whom it does. Raises
    InputError with the line of every row that is refused, the first twenty.
    """
    problems: list[Problem] = []
    found: dict[str, list[Label]] = {}
    if format == "jsonl":
        for label in _own(text, name, index, problems):
            found.setdefault(rater(labeller, label.labeller), []).append(label)
    else:
        reader = {"label-studio": _read_label_studio, "argilla": _read_argilla, "icai": _read_icai}[format]
        for said in reader(text, name, problems):
            try:
                label = _label(said, index, rater(labeller, said.rater))
            except ValueError as error:
                problems.append(Problem(name, said.line, str(error), _FIX))
            else:
                found.setdefault(label.labeller, []).append(label)
    if problems:
        raise InputError(sorted(problems, key=lambda problem: problem.line or 0)[:20])
    return found


_FIX = "Is the file about this run? selfalign labels export RUN FILE writes one that is."


def rater(labeller: str, named: str) -> str:
    """The name of a labeller's file: whom a file names, after the name that was given for all of it."""
    clean = _NAME.sub("-", named).strip("-.")[:60]
    return f"{labeller}-{clean}" if clean and labeller else clean or labeller


def _label(said: _Said, index: Index, labeller: str) -> Label:
    if said.verdict not in SAID:
        raise ValueError(f"{said.verdict[:40]!r} is no verdict; it must be one of {', '.join(SAID)}")
    one, left_id = index.find(said)
    right_id = one.b.id if left_id == one.a.id else one.a.id
    winner = {"left": left_id, "right": right_id}.get(said.verdict)
    verdict = "preferred" if winner else said.verdict
    return Label(
        labeller, one.prompt.id, left_id, right_id, verdict, winner, round=one.round, seconds=float(said.seconds)
    )


def _own(text: str, name: str, index: Index, problems: list[Problem]) -> Iterator[Label]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            label = msgspec.convert(parse_json(line), Label)
            index.find(_Said(number, "", "", "", "", label.left_id, label.right_id))
            yield label
        except (ValueError, msgspec.ValidationError) as error:
            problems.append(Problem(name, number, f"is no label of this run: {error}", _FIX))


def _read_icai(text: str, name: str, problems: list[Problem]) -> Iterator[_Said]:
    reader = csv.DictReader(io.StringIO(text))
    missing = [column for column in ("text_a", "text_b", "preferred_text") if column not in (reader.fieldnames or ())]
    if missing:
        raise InputError(Problem(name, 1, f"has no column {', '.join(missing)}", "ICAI's format names them so."))
    words, before = {"text_a": "left", "text_b": "right"}, reader.line_num
    for row in reader:
        line, before = before + 1, reader.line_num
        said = words.get(row["preferred_text"])
        if said is None:
            wrong = f"preferred_text is {str(row['preferred_text'])[:40]!r}, neither text_a nor text_b"
            problems.append(Problem(name, line, wrong, "Leave rows without a winner out."))
            continue
        ids = (row.get("a_id") or "", row.get("b_id") or "")
        yield _Said(line, row.get("labeller") or "", said, row["text_a"], row["text_b"] or "", *ids, row.get("prompt"))


def _read_label_studio(text: str, name: str, problems: list[Problem]) -> Iterator[_Said]:
    for line, task in _elements(text, name):
        data = _object(task, "data")
        for annotation in task.get("annotations") or [] if isinstance(task, dict) else []:
            if not isinstance(annotation, dict) or annotation.get("was_cancelled"):
                continue
            said = _chosen(annotation.get("result"))
            if said is None:
                problems.append(Problem(name, line, "an annotation chooses nothing", "Annotate it, or remove it."))
                continue
            by = annotation.get("completed_by")
            rater = str(by.get("email") or by.get("id") or "") if isinstance(by, dict) else str(by or "")
            seconds = annotation.get("lead_time")
            yield _said(line, rater, said, data, data, seconds if isinstance(seconds, int | float) else 0.0)


def _chosen(result: Any) -> str | None:
    """What the results of an annotation say; a choice of neither outweighs a side."""
    values = [one["value"] for one in result or [] if isinstance(one, dict) and isinstance(one.get("value"), dict)]
    for value in values:
        if isinstance(value.get("choices"), list) and value["choices"]:
            return str(value["choices"][0])
    return next((str(value["selected"]) for value in values if "selected" in value), None)


def _read_argilla(text: str, name: str, problems: list[Problem]) -> Iterator[_Said]:
    for line, record in _elements(text, name):
        fields, metadata = _object(record, "fields"), _object(record, "metadata")
        known = metadata.get("labellers") if isinstance(metadata.get("labellers"), list) else []
        people = {str(_person(str(person))): str(person) for person in known}
        for response in _object(record, "responses").get(QUESTION) or []:
            if not isinstance(response, dict) or "value" not in response:
                problems.append(Problem(name, line, f"a response to {QUESTION!r} has no value", "Remove it."))
                continue
            user = str(response.get("user_id") or "")
            yield _said(line, people.get(user, user), str(response["value"]), fields, metadata, 0.0)


def _said(
    line: int, rater: str, verdict: str, texts: Mapping[str, Any], names: Mapping[str, Any], seconds: float
) -> _Said:
    left, right, left_id, right_id = (
        str(where.get(key) or "") for where, key in
        ((texts, "left"), (texts, "right"), (names, "left_id"), (names, "right_id"))
    )  # fmt: skip
    prompt = texts.get("prompt")
    return _Said(line, rater, verdict, left, right, left_id, right_id, None if prompt is None else str(prompt), seconds)


def _object(value: Any, key: str) -> Mapping[str, Any]:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _elements(text: str, name: str) -> Iterator[tuple[int, Any]]:
    """The elements of a JSON array, each with its line. Raises InputError where it is none."""
    decode: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().raw_decode
    position, line, counted = _skip(text, 0, " \t\r\n"), 1, 0
    if text[position : position + 1] != "[":
        raise InputError(Problem(name, None, "is no JSON array", "Export it as JSON."))
    position = _skip(text, position + 1, " \t\r\n")
    while text[position : position + 1] not in ("]", ""):
        line, counted = line + text.count("\n", counted, position), position
        try:
            _, end = decode(text, position)
            yield line, parse_json(text[position:end])
        except (ValueError, RecursionError) as error:
            raise InputError(Problem(name, line, f"is not valid JSON: {error}", "Export it anew.")) from error
        position = _skip(text, end, " \t\r\n,")
    if position >= len(text):
        raise InputError(Problem(name, None, "ends in the middle of its JSON array", "Export it anew."))


def _skip(text: str, position: int, characters: str) -> int:
    while position < len(text) and text[position] in characters:
        position += 1
    return position
