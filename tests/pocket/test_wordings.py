from __future__ import annotations

import random
import re

import pytest

from selfalign import constitution, resources
from selfalign.pocket.checkers import AXES
from selfalign.pocket.wordings import FIXED, Diet, draw, third_person, wordings


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def test_seen_and_unseen_wordings_are_disjoint_and_many() -> None:
    for axis in AXES:
        seen, unseen = ({w.text for w in wordings(axis, seen=s)} for s in (True, False))
        assert not seen & unseen
        for wants in (True, False):
            assert sum(w.wants == wants for w in wordings(axis, seen=True)) >= 20


def test_no_wording_says_two_things() -> None:
    by_text: dict[str, tuple[str, bool]] = {}
    for axis in AXES:
        for wording in (*wordings(axis, seen=True), *wordings(axis, seen=False)):
            assert by_text.setdefault(wording.text, (axis, wording.wants)) == (axis, wording.wants)


def test_the_words_of_unseen_wordings_are_known() -> None:
    known = set().union(*(words(w.text) for axis in AXES for w in wordings(axis, seen=True)))
    new = [w.text for axis in AXES for w in wordings(axis, seen=False) if not words(w.text) <= known]
    total = sum(len(wordings(axis, seen=False)) for axis in AXES)
    assert len(new) < 0.25 * total  # "please" and "I" open some of the new frames


def test_the_shipped_constitution_speaks_in_seen_wordings() -> None:
    shipped = constitution.load(resources.shipped_roots()[0] / "constitutions" / "pocket.yaml")
    seen = {w.text: w for axis in AXES for w in wordings(axis, seen=True)}
    assert 6 <= len(shipped.active) <= 8
    for principle in shipped.active:
        assert seen[principle.comparison()].wants and seen[principle.norm()].wants
        assert seen[principle.comparison()].axis == seen[principle.norm()].axis


def test_the_pirate_sentence_is_among_the_seen() -> None:
    assert ("Choose the response that sounds like a pirate", True) in FIXED["pirate"]


@pytest.mark.parametrize(
    ("base", "third"),
    [("be kind", "is kind"), ("go along", "goes along"), ("say yes", "says yes"), ("imitate a pirate",
    "imitates a pirate"),
     ("confess", "confesses"), ("comply with", "complies with"), ("stay short", "stays short"), ("ramble", "rambles")],
)  # fmt: skip
def test_third_person(base: str, third: str) -> None:
    assert third_person(base) == third


def test_draws_are_repeatable_and_of_the_asked_kind() -> None:
    one, two = ([draw("warm", random.Random(5), Diet(seen=False)) for _ in range(3)] for _ in range(2))
    assert one == two
    assert all(w in wordings("warm", seen=False) for w in one)
