"""What a labeller is shown, and that their key means the answer they saw."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from selfalign import labels
from selfalign.labels import RANDOM
from selfalign.people.compared import Comparison
from selfalign.people.labelling import KEYS, REPEAT_AFTER, Session, pace, queue
from selfalign.records import Candidate, Judgment, Label, Message, Prompt


def candidate(prompt: Prompt, name: str) -> Candidate:
    return Candidate(name, prompt.id, "policy", 0, 0, f"text of {name}", (1,), "stop")


def judgment(prompt: Prompt, first: str, second: str, p: float, principle: str = "kind") -> Judgment:
    verdict = "first" if p > 0.5 else "second"
    return Judgment(f"{first}{second}{principle}", prompt.id, first, second, principle, "h", "j", "t", verdict, p)


def comparison(number: int, *, p_a: float | None = 0.9, swap: bool = False, conflict: bool = False) -> Comparison:
    prompt = Prompt.make((Message("user", f"prompt {number}"),))
    a, b = candidate(prompt, f"a{number:03d}"), candidate(prompt, f"b{number:03d}")
    said = (judgment(prompt, a.id, b.id, 0.9), judgment(prompt, b.id, a.id, 0.8 if swap else 0.1))
    leads = (0.6, -0.4) if conflict else (0.8,)
    return Comparison(0, "training", prompt, a, b, None if p_a is None else 2 * p_a - 1, p_a, None, leads, said)


def pool(count: int = 60) -> list[Comparison]:
    """Every fourth swapped, every fourth undecided, every fourth in conflict."""
    kinds = ({}, {"swap": True}, {"p_a": 0.55}, {"conflict": True})
    return [comparison(number, **kinds[number % 4]) for number in range(count)]


def clock() -> float:
    return 0.0


@pytest.fixture
def file(tmp_path: Path):
    with labels.opened(tmp_path, "ann") as opened:
        yield opened


def session(file: labels.Labels, items: list[tuple[Comparison, str]] | None = None) -> Session:
    return Session(file, "ann", items or list(queue(pool(), 17)), clock)


# The queue.


def test_half_of_the_queue_is_random_and_the_rest_tells_of_the_judge() -> None:
    found = list(queue(pool(), 17))
    assert len({one.pair for one, _ in found}) == len(found)
    strata = Counter(stratum for _, stratum in found[:20])
    assert strata[RANDOM] == 10 and {"swap", "margin", "conflict"} <= strata.keys()
    for one, stratum in found:
        assert {"swap": one.swap_gap, "margin": one.p_a == 0.55, "conflict": one.conflict, RANDOM: 1}[stratum]


def test_the_random_stratum_is_a_fair_sample_whatever_else_is_shown() -> None:
    counts: Counter[int] = Counter()
    for seed in range(400):
        drawn = [one for one, stratum in queue(pool(), seed) if stratum == RANDOM][:10]
        counts.update(int(one.a.id[1:]) % 4 for one in drawn)
    assert all(0.22 < counts[kind] / counts.total() < 0.28 for kind in range(4))


def test_a_longer_queue_begins_with_the_shorter_one_and_hangs_on_the_seed_alone() -> None:
    shuffled = pool()
    random.Random(1).shuffle(shuffled)
    assert [one.pair for one, _ in queue(shuffled, 17)] == [one.pair for one, _ in queue(pool(), 17)]
    assert [one.pair for one, _ in queue(pool(), 18)] != [one.pair for one, _ in queue(pool(), 17)]


# The session.


def test_a_key_means_the_answer_that_stood_there(file: labels.Labels) -> None:
    going = session(file)
    for key in "12" * 10:
        shown = going.current
        label = going.press(key)
        assert label.preferred_id == (shown.left.id if key == "1" else shown.right.id)
        assert (label.left_id, label.right_id) == (shown.left.id, shown.right.id)
    sides = Counter(label.left_id[0] for label in file.standing)
    assert set(sides) == {"a", "b"}


@pytest.mark.parametrize(("key", "verdict"), list({k: v for k, v in KEYS.items() if k not in "12"}.items()))
def test_keys_without_a_winner(file: labels.Labels, key: str, verdict: str) -> None:
    label = session(file).press(key)
    assert (label.verdict, label.preferred_id) == (verdict, None)


def test_a_key_that_means_nothing_changes_nothing(file: labels.Labels) -> None:
    going = session(file)
    shown = going.current
    with pytest.raises(KeyError):
        going.press("7")
    assert going.current == shown and not file.standing


def test_a_tenth_of_the_pairs_comes_again_unannounced(file: labels.Labels) -> None:
    going = session(file)
    while len(file.standing) < 33:
        going.press("1")
    again = [place for place, label in enumerate(file.standing) if label.repeat]
    assert again == [10, 21, 32]
    pairs = [label.pair for label in file.standing]
    for place in again:
        assert pairs.index(pairs[place]) < place - REPEAT_AFTER
    assert len({pairs[place] for place in again}) == 3


def test_undo_reaches_back_to_the_first_label_and_shows_the_same_pair_again(file: labels.Labels) -> None:
    going, shown = session(file), []
    for _ in range(12):
        shown.append(going.current)
        going.press("1")
    for expected in reversed(shown):
        assert going.undo()
        assert going.current == expected
    assert going.undo() is None
    assert going.done == 0


def test_flags_and_comments_are_kept_with_the_label_and_come_back_with_it(tmp_path: Path) -> None:
    with labels.opened(tmp_path, "ann") as file:
        session(file).press("1", flagged=True, comment="odd")
    with labels.opened(tmp_path, "ann") as file:
        taken = session(file).undo()
    assert taken is not None and taken.flagged and taken.comment == "odd"


def test_labels_of_another_queue_are_not_counted_in_this_one(file: labels.Labels) -> None:
    items = list(queue(pool(), 17))
    first = session(file, items[:3])
    for _ in range(3):
        first.press("1")
    other = session(file, items[3:9])
    assert (other.number, other.expected, other.done, other.about()) == (1, 6, 0, [])
    other.press("0")
    assert [label.verdict for label, _ in other.about()] == ["tie"]


def test_a_session_goes_on_where_another_stopped(tmp_path: Path) -> None:
    whole, parts = [], []
    with labels.opened(tmp_path, "whole") as file:
        going = Session(file, "ann", list(queue(pool(), 17)), clock)
        for _ in range(25):
            whole.append(going.press("1"))
    for _ in range(25):  # one label a session
        with labels.opened(tmp_path, "parts") as file:
            parts.append(Session(file, "ann", list(queue(pool(), 17)), clock).press("1"))
    assert parts == whole


def test_the_end_is_reached_and_nothing_can_be_labelled_past_it(file: labels.Labels) -> None:
    going = session(file, list(queue(pool(8), 17)))
    while going.current is not None:
        going.press("0")
    assert going.done == going.total
    with pytest.raises(KeyError):
        going.press("1")
    assert going.undo() and going.current is not None


def test_labellers_see_the_same_pairs_on_sides_of_their_own(tmp_path: Path) -> None:
    items, seen = list(queue(pool(), 17)), {}
    for name in ("ann", "bob"):
        with labels.opened(tmp_path, name) as file:
            going = Session(file, name, items, clock)
            seen[name] = [(shown := going.current, going.press("1")) for _ in range(10)]
    shown = {name: [shown for shown, _ in rows] for name, rows in seen.items()}
    assert [one.comparison for one in shown["ann"]] == [one.comparison for one in shown["bob"]]
    assert [one.left for one in shown["ann"]] != [one.left for one in shown["bob"]]


def test_the_pace_leaves_pauses_out() -> None:
    said = [Label("ann", "p", "a", "b", "tie", seconds=s) for s in (0.0, 4.0, 6.0, 8.0, 4000.0)]
    assert pace(said) == 6.0
    assert pace(said[:1]) is None
