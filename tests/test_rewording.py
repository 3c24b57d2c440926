"""Two wordings shown as one."""

from __future__ import annotations

from rich.style import Style

from selfalign import rewording
from selfalign.rewording import diff, marked


def test_a_diff_marks_words_that_went_and_came() -> None:
    shown = diff("keep the old words\nhere", "keep new words\nhere \x1b[2Jtoo")
    assert shown.plain == "keep the oldnew words\nhere too"
    styles = {shown.plain[span.start : span.end]: Style.parse(str(span.style)) for span in shown.spans}
    assert styles["the old"].strike
    assert styles["new"].color.name == "green"
    assert styles[" too"].color.name == "green"
    assert not diff("same", "same").spans


def test_long_texts_are_not_compared() -> None:
    long = "word other " * rewording.MAX_DIFF_WORDS
    assert diff(long, long[::-1]).plain == long[::-1]


def test_without_colours_changes_stand_in_brackets() -> None:
    assert marked("keep the old words", "keep new words \x1b[2Jtoo") == "keep [-the old-]{+new+} words{+ too+}"
    assert marked("tell the truth now", "say what is true now") == "[-tell the truth-]{+say what is true+} now"
    assert marked("", "new") == "{+new+}"
    assert marked("same", "same") == "same"


def test_two_columns_mark_what_the_other_has_not() -> None:
    left, right = rewording.sides("be kind today", "be brief today", ("underline", "underline"))
    assert (left.plain, right.plain) == ("be kind today", "be brief today")
    assert [left.plain[span.start : span.end] for span in left.spans if "underline" in str(span.style)] == ["kind"]
    assert [right.plain[span.start : span.end] for span in right.spans if "underline" in str(span.style)] == ["brief"]


def test_columns_with_nothing_in_common_are_left_unmarked() -> None:
    for before, after in (("one two", "three four"), ("a " * 4000, "b " * 4000), ("", "x")):
        left, right = rewording.sides(before, after, ("underline", "underline"))
        assert (left.plain, right.plain) == (before, after)
        assert not left.spans and not right.spans
