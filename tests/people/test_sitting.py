"""What a labeller is told of their own labels, and when."""

from __future__ import annotations

import getpass
from dataclasses import replace

import pytest

from selfalign.labels import MIN_LABELS, RANDOM
from selfalign.people.compared import Comparison
from selfalign.people.sitting import account, figures, habits, summary
from selfalign.records import Label
from tests.people.test_labelling import comparison

About = list[tuple[Label, Comparison]]


def about(count: int) -> About:
    """Of every four: two for `a`, shown on the left, one for `b`, one for neither. `b` is longer in every second."""
    found = []
    for number in range(count):
        one = comparison(number)
        one = replace(one, b=replace(one.b, text="a longer text than the other"), says=1.0) if number % 2 else one
        winner = (one.a.id, one.b.id, one.a.id, None)[number % 4]
        verdict = "preferred" if winner else "tie"
        label = Label("ann", one.prompt.id, one.a.id, one.b.id, verdict, winner, round=0, stratum=RANDOM)
        found.append((label, replace(one, says=1.0)))
    return found


def test_habits_are_shares_of_what_was_said() -> None:
    found = habits(about(40))
    assert found.left == pytest.approx(2 / 3) and found.neither == 0.25
    assert found.longer == 1.0  # of two preferences in four the lengths are equal; in the third b won, the longer
    assert habits([]).left is None


def test_judge_and_habits_are_not_told_before_there_are_enough_labels() -> None:
    few, enough = (about(count) for count in (MIN_LABELS - 1, MIN_LABELS))
    said = figures([label for label, _ in few], few)
    assert said.num_labels == MIN_LABELS - 1 and not said.judges and not said.fair and said.habits is None
    assert "told from 30 labels on" in "\n".join(summary(said))
    said = figures([label for label, _ in enough], enough)
    assert said.judges.keys() == said.fair.keys() == {"labelling"} and said.habits is not None
    words = "\n".join(summary(said))
    assert "the labelling judge says the same of 50% of 30 pairs" in words and "of the random sample alone" in words
    assert "are for the left answer" in words


def test_an_account_is_named_as_a_file_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "ann o'dell/../x")
    assert account() == "ann-o-dell-..-x"

    def nobody() -> str:
        raise OSError("no such user")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert account() == ""
