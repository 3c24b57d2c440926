"""Records: ids that name the work, and Parquet that gives back what was put in, whatever text that was."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfalign.records import Candidate, Judgment, Message, Pair, Prompt, Scored, derived_seed, digest
from selfalign.store import FileDamaged, StoreError, tables

ODD = [
    "",
    "\0",
    "\u2028\u2029\x85\r\n",
    "\ufeff",
    "👩‍👩‍👧 🏴‍☠️",
    "\u202eright to left",
    "\x1b[31m",
    "e\u0301",
    "\U0010ffff\ufffe",
]
TEXT = st.text() | st.sampled_from(ODD)
ID = st.text(alphabet="0123456789abcdef", min_size=1, max_size=20)
INT64 = st.integers(-(2**63), 2**63 - 1)
REAL = st.floats(allow_nan=False)

RECORDS: dict[type, st.SearchStrategy[Any]] = {
    Prompt: st.builds(
        Prompt, id=ID, source=TEXT, split=TEXT, tags=st.lists(TEXT).map(tuple),
        messages=st.lists(
            st.builds(Message, st.sampled_from(["system", "user", "assistant"]), TEXT), max_size=4
        ).map(tuple),
    ),
    Candidate: st.builds(
        Candidate, id=ID, prompt_id=ID, policy_id=ID, sample_index=INT64, seed=INT64, text=TEXT,
        token_ids=st.lists(INT64).map(tuple), finish_reason=TEXT, logprob=st.none() | REAL, duplicate_of=st.none() | ID,
    ),
    Judgment: st.builds(
        Judgment, id=ID, prompt_id=ID, first_id=ID, second_id=TEXT, principle_id=TEXT, principle_hash=ID, judge_id=TEXT,
        template_hash=ID, verdict=st.sampled_from(["first", "second", "tie", "not_applicable", "invalid"]),
        p_first=st.none() | REAL, rating=st.none() | REAL, reason=TEXT, raw=TEXT, num_tokens=INT64, seconds=REAL,
    ),
    Pair: st.builds(
        Pair, prompt_id=TEXT, chosen_id=ID.map("c{}".format), rejected_id=ID.map("r{}".format),
        p_chosen=st.floats(0, 1), margin=st.floats(-1e300, 1e300), weight=st.floats(0, 1e300),
        judgment_ids=st.lists(TEXT).map(tuple),
    ),
    Scored: st.builds(Scored, candidate_id=ID, policy_id=TEXT, logp=REAL),
}  # fmt: skip
ROWS = st.sampled_from(list(RECORDS)).flatmap(
    lambda kind: st.tuples(st.just(kind), st.lists(RECORDS[kind], max_size=6))
)

PROMPT = Prompt.make((Message("user", "Why?"),))
CANDIDATE = Candidate("c", "p", "policy", 0, 1, "Because.", (1, 2), "stop", -1.0)
JUDGMENT = Judgment("j", "p", "a", "b", "honest", "h", "judge", "t", "first", 0.7)


def round_trip(rows: list[Any]) -> list[Any]:
    kind = type(rows[0])
    return tables.decode(tables.encode(rows, kind, {}), kind, "part-00000.parquet")


@settings(deadline=None, max_examples=100)
@given(ROWS)
def test_parquet_gives_back_what_was_put_in(kind_and_rows: tuple[type, list[Any]]) -> None:
    kind, rows = kind_and_rows
    data = tables.encode(rows, kind, {"rows": len(rows)})
    again = tables.decode(data, kind, "part-00000.parquet")
    assert again == rows
    assert [type(getattr(row, field.name)) for row in again for field in fields(kind)] == [
        type(getattr(row, field.name)) for row in rows for field in fields(kind)
    ]
    assert tables.encode(again, kind, {"rows": len(rows)}) == data


def test_other_tools_read_the_files_as_they_are() -> None:
    rows = pq.read_table(pa.BufferReader(tables.encode([PROMPT], Prompt, {}))).to_pylist()
    messages = [{"role": "user", "content": "Why?"}]
    plain = {"source": "", "split": "train", "tags": [], "response": None}
    assert rows == [{"id": PROMPT.id, "messages": messages, **plain}]


def test_lone_surrogates_are_stored_as_replacement_characters() -> None:
    assert round_trip([replace(CANDIDATE, text="a\ud800b\udfff😀")])[0].text == "a\ufffdb\ufffd😀"


def test_numbers_keep_what_json_would_lose() -> None:
    kept = round_trip([replace(JUDGMENT, p_first=x) for x in (5e-324, 0.1, -0.0, float("inf"), None)])
    assert [str(row.p_first) for row in kept] == ["5e-324", "0.1", "-0.0", "inf", "None"]
    assert round_trip([replace(JUDGMENT, p_first=float("nan")), JUDGMENT])[0].p_first != 0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (replace(CANDIDATE, text=None), "Candidate.text is None in row 0"),
        (replace(CANDIDATE, text=3), "Candidate.text holds a value of the wrong type"),
        (replace(CANDIDATE, seed=2**63), "Candidate.seed holds a value of the wrong type"),
        (replace(CANDIDATE, seed=1.5), "Candidate.seed holds a value of the wrong type"),
        (replace(CANDIDATE, seed=True), "Candidate.seed holds a value of the wrong type"),
        (replace(CANDIDATE, token_ids=(1, None)), "Candidate.token_ids is None in row 1"),
        (replace(JUDGMENT, verdict="maybe"), "Judgment.verdict holds 'maybe', which is none of first, invalid"),
        (replace(PROMPT, messages=(Message("robot", "x"),)), "Prompt.messages.role holds 'robot'"),
    ],
)
def test_a_wrong_value_is_refused_by_name(row: Any, message: str) -> None:
    with pytest.raises(StoreError, match=message.replace(".", r"\.")):
        tables.encode([row], type(row), {})


def test_a_shard_holds_one_kind_of_record() -> None:
    with pytest.raises(StoreError, match="a shard of Prompt cannot hold a Pair"):
        tables.encode([PROMPT, Pair("p", "a", "b", 0.6, 0.1)], Prompt, {})


def test_a_flip_anywhere_in_a_file_is_refused() -> None:
    names_the_seal = replace(CANDIDATE, text="selfalign.sha256" * 3, finish_reason="selfalign.sha256\x18@" + "0" * 64)
    data = tables.encode([CANDIDATE, names_the_seal], Candidate, {"kept": 2})
    tables.check_seal(data, "part-0")
    assert tables.decode(data, Candidate, "part-0") == [CANDIDATE, names_the_seal]
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        with pytest.raises(FileDamaged, match="part-0"):
            tables.check_seal(bytes(flipped), "part-0")


def test_a_file_of_another_kind_is_refused() -> None:
    with pytest.raises(FileDamaged, match=r"part-7.*Candidate.*column prompt_id is missing"):
        tables.decode(tables.encode([PROMPT], Prompt, {}), Candidate, "part-7")
    with pytest.raises(FileDamaged, match="not a whole Parquet file"):
        tables.decode(b"PAR1 and so on", Prompt, "part-7")


def test_a_pair_that_breaks_its_own_rules_is_refused_on_reading() -> None:
    pair = Pair("p", "a", "b", 0.6, 0.1)
    object.__setattr__(pair, "rejected_id", "a")
    with pytest.raises(FileDamaged, match="chosen and rejected are the same candidate"):
        round_trip([pair])


def test_a_field_added_later_reads_as_its_default() -> None:
    @dataclass(frozen=True)
    class Before:
        id: str

    @dataclass(frozen=True)
    class After:
        id: str
        note: str = "none"

    assert tables.decode(tables.encode([Before("a")], Before, {}), After, "x") == [After("a")]


def test_a_type_without_a_column_is_named() -> None:
    @dataclass(frozen=True)
    class Odd:
        table: dict[str, int]

    with pytest.raises(TypeError, match="no Parquet column can hold"):
        tables.schema_of(Odd)


def test_ids_keep_field_boundaries_and_depend_on_every_field() -> None:
    assert digest("ab", "c") != digest("a", "bc") != digest("a", "b", "c")
    assert digest({"x": 1, "y": 2}) == digest({"y": 2, "x": 1})
    assert digest("\ud800") and len(digest("é", size=16)) == 32
    names = ["prompt", "policy", 0, 7]
    changed = [[*names[:i], other, *names[i + 1 :]] for i, other in enumerate(["p2", "q2", 1, 8])]
    assert len({Candidate.make_id(*fields) for fields in [names, *changed]}) == 5  # type: ignore[arg-type]


def test_the_same_words_are_the_same_prompt_wherever_they_come_from() -> None:
    there = Prompt.make(PROMPT.messages, source="elsewhere", split="heldout", tags=("x",))
    assert there.id == PROMPT.id
    assert Prompt.make((Message("system", "Why?"),)).id != PROMPT.id


def test_the_order_shown_is_part_of_a_judgments_identity() -> None:
    assert Judgment.make_id("p", "a", "b", "h", "j", "t") != Judgment.make_id("p", "b", "a", "h", "j", "t")


@given(st.lists(st.integers() | st.text(), max_size=4))
def test_derived_seeds_are_stable_and_in_range(parts: list[int | str]) -> None:
    assert 0 <= derived_seed(*parts) < 2**31
    assert derived_seed(*parts) == derived_seed(*parts)
    assert derived_seed(*parts) != derived_seed(*parts, 1)


@pytest.mark.parametrize(
    "wrong", [{"rejected_id": "a"}, {"p_chosen": 1.1}, {"p_chosen": float("nan")}, {"margin": float("inf")}]
)
def test_a_pair_that_teaches_nothing_or_is_no_number_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="prompt p"):
        Pair(**{"prompt_id": "p", "chosen_id": "a", "rejected_id": "b", "p_chosen": 0.6, "margin": 0.1, **wrong})
