"""What may reach a screen: no control of a terminal, no reordering, and none of the text itself lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfalign.text import clean, one_line

FORBIDDEN = {*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), *map(chr, range(0x202A, 0x202F)), "\u2066", "\u2069"}


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("plain\ttext\nsecond line", "plain\ttext\nsecond line"),
        ("a\x1b[31mred\x1b[0m", "ared"),
        ("a\x1b]52;c;aGVsbG8=\x07b", "ab"),
        ("a\x1b]0;title\x1b\\b", "ab"),
        ("a\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "alink"),
        ("a\x1bPpayload\x1b\\b", "ab"),
        ("a\x9b2Jb", "ab"),
        ("a\x9d0;t\x9cb", "ab"),
        ("never ends \x1b]52;c;rest stays readable", "never ends 52;c;rest stays readable"),
        ("lone \x1b", "lone "),
        ("\u202egnp.exe", "gnp.exe"),
        ("cr\r\nlf\rover", "cr\nlfover"),
        ("[/INST] [@click=app.quit]x[/] <s>", "[/INST] [@click=app.quit]x[/] <s>"),
        ("lone \ud800 surrogate", "lone \ufffd surrogate"),
        ("👩‍👩‍👧 ok", "👩‍👩‍👧 ok"),
        ("", ""),
    ],
)
def test_clean_drops_sequences_and_keeps_text(hostile: str, shown: str) -> None:
    assert clean(hostile) == shown


HOSTILE = st.text(alphabet=st.characters() | st.sampled_from("\x1b\x9b\x9d\x07\x9c[]P\\"))


@given(HOSTILE)
def test_clean_leaves_no_control_and_is_idempotent(text: str) -> None:
    cleaned = clean(text)
    assert not (set(cleaned) & (FORBIDDEN - {"\t", "\n"}))
    assert clean(cleaned) == cleaned


def test_clean_is_linear_in_hostile_input() -> None:
    for hostile in ("\x1b]" * 200_000, "\x9d" * 400_000, "\x1b[" + "0" * 400_000):
        assert "\x1b" not in clean(hostile)


@pytest.mark.parametrize(
    ("value", "limit", "line"),
    [
        (None, None, ""),
        (3.5, None, "3.5"),
        ("  two\n\nlines\tand more ", None, "two lines and more"),
        ("exactly", 7, "exactly"),
        ("one too many", 11, "one too ma…"),
        ("\x1b[31mred\x1b[0m", 3, "red"),
        ("ab", 1, "…"),
    ],
)
def test_one_line(value: object, limit: int | None, line: str) -> None:
    assert one_line(value, limit) == line


@given(HOSTILE, st.integers(1, 40))
def test_one_line_is_one_line_within_its_limit(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert len(line) <= limit and len(line.splitlines()) <= 1
    assert not set(line) & FORBIDDEN


def test_one_line_of_a_huge_text_is_its_beginning() -> None:
    assert one_line("word " * 10_000_000, 12) == "word word w…"
