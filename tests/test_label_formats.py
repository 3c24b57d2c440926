"""Labels go out to other tools and come back as they were; what cannot be read is named by its line."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest

from selfalign.compared import Comparison
from selfalign.label_formats import Index, Task, read, write
from selfalign.records import Candidate, Label, LabelVerdict, Message, Prompt
from selfalign.source import InputError

TEXT = 'Line one, "quoted"\nline two; =SUM(A1) \u2028 ü\x1b[2J'
VERDICTS: tuple[LabelVerdict, ...] = ("preferred", "preferred", "tie", "both_bad", "not_applicable", "skipped")


def comparison(number: int, *, same_texts_as: int | None = None) -> Comparison:
    prompt = Prompt.make((Message("user", f"prompt {number} {TEXT}"),))
    text = number if same_texts_as is None else same_texts_as
    a, b = (
        Candidate(f"{side}{number}", prompt.id, "policy", 0, 0, f"{side} {text} {TEXT}", (1,), "stop") for side in "ab"
    )
    return Comparison(0, "training", prompt, a, b, 0.6, 0.8, 1.0, (0.6,), ())


def label(one: Comparison, verdict: LabelVerdict, winner: str | None, labeller: str = "ann") -> Label:
    """As an import leaves it: no stratum, no time."""
    return Label(labeller, one.prompt.id, one.a.id, one.b.id, verdict, winner, round=0)


POOL = [comparison(number) for number in range(len(VERDICTS))]
WINNERS = [POOL[0].a.id, POOL[1].b.id, None, None, None, None]
LABELS = [label(*row) for row in zip(POOL, VERDICTS, WINNERS, strict=True)]
TASKS = [Task(one, (said,)) for one, said in zip(POOL, LABELS, strict=True)]


def meaning(found: dict[str, list[Label]]) -> set[tuple[str, tuple[str, str], str, str | None]]:
    """What was said, whichever side the answers stand on."""
    return {(name, one.pair, one.verdict, one.preferred_id) for name, labels in found.items() for one in labels}


@pytest.mark.parametrize("format", ["label-studio", "argilla", "icai", "jsonl"])
def test_a_round_trip_keeps_what_was_said_and_by_whom(format: str) -> None:
    text = write(TASKS, format)
    found = read(text, "file", format, Index(POOL), "")
    kept = [said for said in LABELS if format != "icai" or said.verdict == "preferred"]
    assert meaning(found) == meaning({"ann": kept})
    assert meaning(read(text, "file", format, Index(POOL), "team")) == meaning({"team-ann": kept})


@pytest.mark.parametrize("format", ["label-studio", "argilla", "icai"])
def test_without_ids_answers_are_known_by_their_texts(format: str) -> None:
    found = read(_without_ids(write(TASKS, format), format), "file", format, Index(POOL), "")
    kept = [said for said in LABELS if format != "icai" or said.verdict == "preferred"]
    assert meaning(found) == meaning({"ann": kept})


def _without_ids(text: str, format: str) -> str:
    if format == "icai":
        rows = list(csv.DictReader(io.StringIO(text)))
        stream = io.StringIO()
        writer = csv.DictWriter(stream, ["text_a", "text_b", "preferred_text", "labeller"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        return stream.getvalue()
    rows = json.loads(text)
    for row in rows:
        for name in ("prompt_id", "left_id", "right_id"):
            row["data" if format == "label-studio" else "metadata"].pop(name)
    return json.dumps(rows)


def test_several_people_and_nobody_on_one_task() -> None:
    one, other = POOL[:2]
    said = (label(one, "tie", None, "ann"), label(one, "preferred", one.b.id, "bob"))
    for format in ("label-studio", "argilla"):
        text = write([Task(one, said), Task(other, ())], format)
        assert len(json.loads(text)) == 2
        found = read(text, "file", format, Index(POOL), "")
        assert meaning(found) == meaning({"ann": [said[0]], "bob": [said[1]]})


def test_the_judge_speaks_only_where_it_is_asked_to() -> None:
    for format, place in (("label-studio", "predictions"), ("argilla", "suggestions")):
        blind, told = (json.loads(write(TASKS, format, judge=judge))[0] for judge in (False, True))
        assert not blind[place] and told[place]
        assert read(write([Task(POOL[0], ())], format, judge=True), "file", format, Index(POOL), "") == {}
    task = Task(POOL[0], ())
    (prediction,) = json.loads(write([task], "label-studio", judge=True))[0]["predictions"]
    assert prediction["score"] == 0.8  # of a, on whichever side it stands
    (result,) = prediction["result"]
    assert result["value"]["selected"] == ("left" if task.sides[0] is POOL[0].a else "right")


def test_what_label_studio_itself_writes_is_read() -> None:
    """The shape of its documented export: ids of people as numbers, other keys beside ours."""
    task = Task(POOL[0], ())
    made = {
        "id": 7,
        "project": 83,
        "data": json.loads(write([task], "label-studio"))[0]["data"],
        "annotations": [
            {
                "id": 1001,
                "completed_by": 10,
                "was_cancelled": False,
                "lead_time": 4.288,
                "result": [
                    {
                        "value": {"selected": "right"},
                        "id": "Dx_aB91ISN",
                        "from_name": "pw",
                        "to_name": "text1,text2",
                        "type": "pairwise",
                        "origin": "manual",
                    }
                ],
            },
            {"id": 1002, "completed_by": {"id": 11}, "was_cancelled": True, "result": []},
        ],
    }
    (said,) = read(json.dumps([made]), "file", "label-studio", Index(POOL), "")["10"]
    assert said.preferred_id == task.sides[1].id and said.seconds == 4.288


def test_sides_are_drawn_so_that_none_of_them_wins_by_its_place() -> None:
    first = [Task(comparison(number), ()).sides[0].id[0] for number in range(200)]
    assert 70 < first.count("a") < 130


# What is refused.


@pytest.mark.parametrize(
    ("format", "text", "line", "words"),
    [
        ("icai", "text_a,text_b\n1,2\n", 1, "no column preferred_text"),
        ("icai", 'text_a,text_b,preferred_text\n"a\nb",c,text_a\n', 2, "no comparison of the run has these two texts"),
        ("icai", 'text_a,text_b,preferred_text\n"a\nb",c,text_a\nd,e,neither\n', 4, "neither text_a nor text_b"),
        ("icai", "text_a,text_b,preferred_text,a_id,b_id\na,b,text_a,x,y\n", 2, "compared no answers x and y"),
        ("label-studio", '{"data": {}}', None, "no JSON array"),
        ("label-studio", '[\n {"data": {}},\n {"data": }\n]', 3, "not valid JSON"),
        ("label-studio", '[\n {"data": {}},', None, "ends in the middle"),
        ("label-studio", '[\n {"annotations": [{"result": []}]}]', 2, "chooses nothing"),
        ("label-studio", '[{"annotations": [{"result": [{"value": {"selected": "up"}}]}]}]', 1, "'up' is no verdict"),
        ("label-studio", '[{"a": 1, "a": 2}]', 1, "twice"),
        ("argilla", '[\n\n{"responses": {"preference": [{"user_id": "x"}]}}]', 3, "has no value"),
        ("argilla", '[{"responses": {"preference": [{"value": NaN}]}}]', 1, "not valid JSON"),
        ("jsonl", '\n{"labeller": "ann"}\n', 2, "is no label of this run"),
        ("jsonl", "{", 1, "is no label of this run"),
    ],
)
def test_what_cannot_be_read_is_named_by_its_line(format: str, text: str, line: int | None, words: str) -> None:
    with pytest.raises(InputError, match=words) as raised:
        read(text, "people.json", format, Index(POOL), "")
    assert (raised.value.problems[-1].file, raised.value.problems[-1].line) == ("people.json", line)


def test_texts_that_several_comparisons_have_are_not_guessed_at() -> None:
    twins = [comparison(0), comparison(1, same_texts_as=0)]
    text = "text_a,text_b,preferred_text\n" + _row(twins[0].a.text, twins[0].b.text, "text_a")
    with pytest.raises(InputError, match="2 comparisons of the run have these two texts"):
        read(text, "file", "icai", Index(twins), "")
    prompt = twins[1].prompt.messages[0].content
    told = "prompt,text_a,text_b,preferred_text\n" + _row(prompt, twins[0].a.text, twins[0].b.text, "text_a")
    (said,) = read(told, "file", "icai", Index(twins), "me")["me"]
    assert said.prompt_id == twins[1].prompt.id


def _row(*cells: str) -> str:
    stream = io.StringIO()
    csv.writer(stream).writerow(cells)
    return stream.getvalue()


def test_a_name_cannot_lead_out_of_its_folder() -> None:
    said = replace(LABELS[0], labeller="../../etc/passwd")
    found = read(write([Task(POOL[0], (said,))], "label-studio"), "file", "label-studio", Index(POOL), "")
    assert list(found) == ["etc-passwd"]


def test_repeats_are_between_the_labeller_and_us() -> None:
    task = Task(POOL[0], (LABELS[0], replace(LABELS[0], repeat=True)))
    for format in ("label-studio", "argilla", "icai"):
        assert len(read(write([task], format), "file", format, Index(POOL), "")["ann"]) == 1
