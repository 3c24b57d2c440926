"""Hand-written files: whatever they hold, the answer is a plain value or a refusal in our own words."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfalign import source
from selfalign.source import InputError, Problem

YAMLISH = st.text(st.sampled_from("ab1e-.:,[]{}&*!|>#%@?'\"\\\n \t~<=\u2028\x00é0xo_"), max_size=40)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False),
    lambda child: (
        st.lists(child, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=3), child, max_size=3)
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=400)
@given(YAMLISH)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        document = source.read_yaml(text, "a.yaml")
    except InputError as error:
        assert error.file == "a.yaml"
        assert error.message
    else:
        json.dumps(document.value, allow_nan=False)


@settings(deadline=None)
@given(VALUES)
def test_json_is_read_as_itself_in_both_readers(value: object) -> None:
    text = json.dumps(value)
    assert source.parse_json(text) == value
    assert source.read_yaml(text, "a.yaml").value == value


def test_json_text_beyond_the_basic_plane_is_read_as_yaml_too() -> None:
    text = json.dumps({"a": "😀 and é"})
    assert source.read_yaml(text, "a.yaml").value == source.parse_json(text) == {"a": "😀 and é"}


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_json_text_is_read_or_refused(text: str) -> None:
    try:
        source.parse_json(text)
    except ValueError as error:
        assert str(error)


def test_scalars_follow_yaml_1_2() -> None:
    text = "{a: 1e-6, b: no, c: 0x10, d: 0o17, e: 1_000, f: 010, g: 2024-01-01, h: ~, i: '', j: -.5, k: +3, l: 1:30}"
    expected = {"a": 1e-6, "b": "no", "c": 16, "d": 15, "e": 1000, "f": 10, "g": "2024-01-01"}
    expected |= {"h": None, "i": "", "j": -0.5, "k": 3, "l": "1:30"}
    assert source.read_yaml(text, "a.yaml").value == expected


def test_every_value_has_its_line() -> None:
    document = source.read_yaml("a: 1\nb:\n  - x\n  - c: 2\n    d: 3\n", "a.yaml")
    assert [document.line(path) for path in [("a",), ("b",), ("b", 1), ("b", 1, "d")]] == [1, 2, 4, 5]
    assert document.line(("b", 1, "missing")) == 4
    assert document.line(("missing",)) is None


@pytest.mark.parametrize("text", ["-.inf", ".NaN", "1e400", "!!float nan", "!!int x", "!!bool maybe", "!!int ''"])
def test_odd_scalars_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        source.read_yaml(f"a: {text}", "a.yaml")


def test_floats_never_overflow_in_json() -> None:
    with pytest.raises(ValueError, match="not a finite number"):
        source.parse_json("[1e999]")
    assert math.isfinite(source.parse_json("[1e308]")[0])


def test_a_problem_reads_as_place_what_and_fix() -> None:
    problem = Problem("a.yaml", 3, "train.beta is -1, not a number above 0", "Write 0.1.")
    assert str(problem) == "a.yaml:3: train.beta is -1, not a number above 0. Write 0.1."
    assert str(Problem("--set", None, "is wrong")) == "--set: is wrong."
    error = InputError([problem, Problem("b", None, "x")])
    assert (error.file, error.line, error.suggestion) == ("a.yaml", 3, "Write 0.1.")
    assert len(str(error).splitlines()) == 2
