"""Preferences in files of others: every shape, and every mistake with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfalign.mining import Preference, read
from selfalign.records import Message
from selfalign.source import InputError

USER = {"role": "user", "content": "q"}
HEADER = "index,text_a,text_b,preferred_text,input\n"


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def written(folder: Path, text: str, name: str = "pairs.jsonl") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        read(path)
    return [str(problem).removeprefix(f"{path.parent}/") for problem in caught.value.problems]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"prompt": [USER], "chosen": [said("good")], "rejected": [said("bad")]},
        {"messages": [USER], "chosen": "good", "rejected": "bad", "margin": 0.4},
        {"chosen": [USER, said("good")], "rejected": [USER, said("bad")]},
        {
            "prompt": "q",
            "messages": 1,
            "chosen": [USER, said("good")],
            "rejected": [USER, said("bad")],
            "score_chosen": 8,
        },
        {"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"},
    ],
)
def test_trl_and_hh_say_the_same(row: dict, tmp_path: Path) -> None:
    (pair,) = read(written(tmp_path, json.dumps(row) + "\n\n"))
    assert pair.prompt.messages == (Message("user", "q"),)
    assert (pair.chosen, pair.rejected, pair.p_chosen, pair.chosen_first) == ("good", "bad", 1.0, None)


def test_transcripts_of_several_turns(tmp_path: Path) -> None:
    start = "\n\nHuman: one\n\nAssistant: two\n\nHuman: three\nmore\n\nAssistant:"
    row = {"chosen": f"{start} good", "rejected": f"{start} bad", "p_chosen": 0.75}
    (pair,) = read(written(tmp_path, json.dumps(row)))
    assert [(m.role, m.content) for m in pair.prompt.messages] == [
        ("user", "one"), ("assistant", "two"), ("user", "three\nmore"),
    ]  # fmt: skip
    assert (pair.chosen, pair.rejected, pair.p_chosen) == ("good", "bad", 0.75)


def test_every_mistake_has_its_line(tmp_path: Path) -> None:
    rows = [
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"prompt": "q", "chosne": "good", "rejected": "bad"},
        {"prompt": "q", "chosen": "good", "rejected": 3},
        {"prompt": "q", "chosen": "good", "rejected": "bad", "p_chosen": 0.3},
        {"prompt": "", "chosen": "good", "rejected": "bad"},
        {"chosen": "good", "rejected": "bad"},
        {"chosen": [USER, said("a"), USER, said("good")], "rejected": [USER, said("b"), USER, said("bad")]},
        ["q", "good", "bad"],
        {"prompt": "q", "chosen": "\ud800", "rejected": "bad"},
        {"chosen": [{**USER, "content": None}], "rejected": []},
    ]
    lines = refused(written(tmp_path, "\n".join(map(json.dumps, rows)) + '\n{"a": 1, "a": 2}\n{"prompt"'))
    assert [line.partition(":")[2].partition(":")[0] for line in lines] == [str(n) for n in range(2, 13)]
    for line, what in zip(
        lines,
        ['chosen is not a text. Did you mean "chosne"?', "rejected is not a text", "p_chosen is 0.3", "without text",
         "no conversation, and there is no prompt", "do not differ in their last answer alone", "not a JSON object",
         "half of a surrogate", "no conversation", "twice", "not valid JSON"],
        strict=True,
    ):  # fmt: skip
        assert what in line, line


def test_the_csv_of_inverse_constitutional_ai(tmp_path: Path) -> None:
    text = HEADER + '0,"one, with a comma","two ""quoted""\nin lines",text_b,q\n1,x,y,tie,q\n2,x,y,text_a,\n'
    first, tie, unasked = read(written(tmp_path, text, "pairs.csv"))
    assert (first.chosen, first.rejected) == ('two "quoted"\nin lines', "one, with a comma")
    assert first.chosen_first is False and first.prompt.messages[0].content == "q"
    assert tie == "tied"
    assert (unasked.chosen, unasked.chosen_first) == ("x", True)
    other = next(iter(read(written(tmp_path, "text_a,text_b,preferred_text\nx,z,text_a\n", "other.csv"))))
    assert isinstance(other, Preference) and other.prompt.id != unasked.prompt.id


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "pairs.csv:1: has no column 'text_a'. The first line names text_a, text_b and preferred_text."),
        (
            "text_a,text_b,prefered_text\n",
            "pairs.csv:1: has no column 'preferred_text'. Did you mean \"prefered_text\"?",
        ),
        (HEADER + '0,"a\nb",c,text_a,q\n1,a,b,text_c,q\n', "pairs.csv:4: preferred_text is 'text_c'. Write"),
        (HEADER + "0,a,b,c,text_a,q\n", "pairs.csv:2: has 6 values, not 5. Put texts with commas in quotes."),
        (
            HEADER + '0,a,b,text_a,q\n1,"a',
            "pairs.csv:3: is not valid CSV: unexpected end of data. Is a quote",
        ),
        (
            HEADER + "0," + "a" * 200_000 + ",b,text_a,q\n",
            "pairs.csv:2: is not valid CSV: field larger than",
        ),
    ],
)
def test_mistakes_in_csv_have_their_line(text: str, expected: str, tmp_path: Path) -> None:
    (line,) = refused(written(tmp_path, text, "pairs.csv"))
    assert line.startswith(expected)


def test_other_files_are_refused(tmp_path: Path) -> None:
    assert "neither .jsonl nor .csv" in refused(written(tmp_path, "x", "pairs.txt"))[0]
    assert len(refused(written(tmp_path, "[]\n" * 50))) == 20
