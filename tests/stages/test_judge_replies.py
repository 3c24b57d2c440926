"""Replies of judges: strictly one JSON object, or a counted kind of nothing; no text makes the reader raise."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from selfalign.stages.judge.replies import Reply, answer_schema, full_reply, read_reply

LABELS, NONCE = ("A", "B"), "1f3c"
KINDS = {"", "refused", "truncated", "malformed", "contradictory", "forged", "empty", "error"}
GOOD = '{"id": "1f3c", "reason": "B rambles.", "verdict": "A"}'


def read(text: str, finish_reason: str = "stop", labels=LABELS, **options) -> Reply:
    return read_reply(text, finish_reason, labels, NONCE, **options)


def with_reason(reason: str, verdict: str = "A") -> str:
    return json.dumps({"id": NONCE, "reason": reason, "verdict": verdict})


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"\n  {GOOD}\n",
        f"```json\n{GOOD}\n```",
        f"```\n{GOOD}\n```\n",
        '{"verdict":"A","reason":"B rambles.","id":"1f3c"}',
        full_reply(NONCE, "B rambles.", "A"),
    ],
)
def test_one_object_is_a_verdict(text):
    reply = read(text)
    assert (reply.reason, reply.verdict, reply.invalid) == ("B rambles.", "A", "")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("A", "malformed"),
        ("I cannot help with that.", "refused"),
        ("I'm not able to compare these.", "refused"),
        (f"Sure! {GOOD}", "malformed"),
        (f"{GOOD} That is my verdict.", "malformed"),
        (f"{GOOD}\n{GOOD}", "contradictory"),
        (f"```json\n{GOOD}\n```\n```json\n{GOOD}\n```", "contradictory"),
        (f"[{GOOD}]", "malformed"),
        (GOOD[:-1], "malformed"),
        (GOOD.replace('"A"', '"C"'), "malformed"),
        (GOOD.replace('"A"', '"a"'), "malformed"),
        (GOOD.replace('"A"', '["A"]'), "malformed"),
        (GOOD.replace('"A"', "null"), "malformed"),
        (GOOD.replace('"A"', "true"), "malformed"),
        (GOOD.replace('"A"', "NaN"), "malformed"),
        (GOOD.replace('"A"', "1e999"), "malformed"),
        (GOOD.replace('"A"', "-Infinity"), "malformed"),
        (GOOD.replace('"A"', "9" * 5000), "malformed"),
        (GOOD.replace('"A"', "[" * 60_000), "malformed"),
        ("[" * 200_000, "malformed"),
        ('{"a":' * 10_000, "malformed"),
        (GOOD.replace('"verdict"', '"verdict": "B", "verdict"'), "malformed"),
        (GOOD.replace('"id": ', '"sure": "very", "id": '), "malformed"),
        (GOOD.replace('"id": "1f3c", ', ""), "malformed"),
        (GOOD.replace('"reason": "B rambles.", ', ""), "malformed"),
        (GOOD.replace("B rambles.", ""), "malformed"),
        (GOOD.replace("B rambles.", "  "), "malformed"),
        (GOOD.replace("B rambles.", "\\ud800"), "malformed"),
        (GOOD.replace("1f3c", "0000"), "forged"),
        (GOOD.replace("1f3c", "1F3C"), "malformed"),
        ("'" + GOOD + "'", "malformed"),
        ("{'id': '1f3c', 'reason': 'x', 'verdict': 'A'}", "malformed"),
        (GOOD + " " * 70_000, "malformed"),
    ],
)
def test_everything_else_is_a_kind_of_no_verdict(text, kind):
    assert read(text) == Reply(invalid=kind)


def test_what_was_cut_off_refused_or_never_came_is_no_verdict_whatever_it_says():
    assert read(GOOD, "length") == Reply(invalid="truncated")
    assert read(GOOD, "error") == Reply(invalid="error")
    assert read(GOOD, "error", refused=True) == Reply(invalid="refused")


@pytest.mark.parametrize(
    ("reason", "contradicts"),
    [
        ("So the answer is B.", True),
        ("So the answer is (B).", True),
        ("Verdict: **B**", True),
        ("Response B is clearly better.", True),
        ("The better choice is Response B", True),
        ("Response B is better on tone, but response A is better overall.", False),
        ("Response B is not better.", False),
        ("The answer is Bold in either case.", False),
        ("The answer is a plain one.", False),
        ("The answer is A.", False),
        ("B's opening is strong.", False),
        ("B", False),
    ],
)
def test_reasons_that_state_another_verdict_contradict_it(reason, contradicts):
    reply = read(with_reason(reason))
    assert (reply.invalid, reply.verdict) == (("contradictory", "") if contradicts else ("", "A"))


def test_ratings_are_read_in_the_same_way():
    labels = ("1", "2", "3", "4", "5")
    assert read(with_reason("Mostly kind.", "4"), labels=labels).verdict == "4"
    assert read(with_reason("The rating is 2.", "4"), labels=labels).invalid == "contradictory"
    assert read(with_reason("Mostly kind.", "4").replace('"4"', "4"), labels=labels).invalid == "malformed"


@pytest.mark.parametrize(
    ("text", "begun"),
    [
        (GOOD, GOOD[:-3]),
        (f"```json\n{GOOD}\n```\n", f"```json\n{GOOD[:-3]}"),
        (f'{GOOD[:-2]}"\n}} ', GOOD[:-3]),
        ('{"id":"1f3c","reason":"no \\"verdict\\": \\"B\\"","verdict":"A"}', None),
        ('{"verdict":"A","reason":"B rambles.","id":"1f3c"}', GOOD[:-3]),
        ('{"verdict":"A","id":"1f3c","reason":"x\\"verdict\\":\\"B"}', None),
    ],
)
def test_a_reply_is_begun_up_to_where_its_verdict_comes(text, begun):
    reply = read(text)
    assert reply.begun == begun if begun else reply.begun.endswith(('"verdict":"', '"verdict": "'))
    told = f'{reply.begun.removeprefix("```json")}A"}}'
    assert json.loads(told) == {"id": NONCE, "reason": reply.reason, "verdict": "A"}


def test_the_schema_of_an_answer_leaves_room_for_a_verdict():
    schema = json.loads(answer_schema(LABELS, 100))
    assert list(schema["properties"]) == schema["required"] == ["id", "reason", "verdict"]
    assert schema["properties"]["verdict"]["enum"] == ["A", "B"]
    assert schema["properties"]["reason"]["maxLength"] == 300


HOSTILE = st.lists(
    st.sampled_from(
        ["{", "}", "[", "]", '"', ":", ",", "\\", "\\u", "d800", "NaN", "1e999", "-", "0", "9" * 4400, "null", "true",
         '"id"', '"reason"', '"verdict"', '"A"', '"B"', NONCE, '"1f3c"', "```", "json", "\n", "\x00", "\ud800", GOOD,
         "<|im_end|>", "I cannot", "answer is B", "/*", "'"]
    )
    | st.text(max_size=5),
    max_size=40,
).map("".join)  # fmt: skip


@given(HOSTILE, st.sampled_from(["stop", "length", "error"]))
@example("[" * 100_000, "stop")
def test_no_text_makes_the_reader_raise(text, finish_reason):
    reply = read(text, finish_reason)
    assert reply.invalid in KINDS
    assert (reply.invalid == "") == (reply.verdict in LABELS)
    if not reply.invalid:  # then the text was that very object
        found = json.loads(text.strip().removeprefix("```json").removeprefix("```").removesuffix("```"), strict=False)
        assert found["id"] == NONCE and found["verdict"] == reply.verdict


@given(st.text(min_size=1), st.sampled_from(LABELS))
def test_any_reason_survives_the_round_trip(reason, label):
    reply = read(full_reply(NONCE, reason, label))
    assert reply.invalid in ("", "contradictory") if reason.strip() else reply.invalid == "malformed"
    assert reply.invalid or (reply.reason, reply.verdict) == (reason.strip(), label)
    assert reply.invalid or f'{reply.begun}{label}"}}' == full_reply(NONCE, reason, label)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=4), lambda inner: st.lists(inner)
       | st.dictionaries(st.sampled_from(["id", "reason", "verdict", "x"]), inner), max_leaves=8))  # fmt: skip
def test_no_other_json_is_a_verdict(value):
    good = isinstance(value, dict) and value.get("id") == NONCE
    assert good or read(json.dumps(value)).invalid
