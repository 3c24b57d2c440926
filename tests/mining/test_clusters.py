"""Near-duplicates: cosines and linkage by hand, opposites kept apart, the medoid as the name."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from selfalign.mining.clusters import agglomerate, cluster, similarities

OPENING = "Select the response that "


def test_average_linkage_by_hand() -> None:
    """0 and 1 join at .9; their mean similarity to 2 is (.6 + .5) / 2 = .55, and of all three to 3 is .2."""
    near = np.array([[1, 0.9, 0.6, 0.1], [0.9, 1, 0.5, 0.2], [0.6, 0.5, 1, 0.3], [0.1, 0.2, 0.3, 1]])
    assert agglomerate(near, 0.95) == [[0], [1], [2], [3]]
    assert agglomerate(near, 0.56) == [[0, 1], [2], [3]]
    assert agglomerate(near, 0.54) == [[0, 1, 2], [3]]
    assert agglomerate(near, 0.21) == [[0, 1, 2], [3]]
    assert agglomerate(near, 0.19) == [[0, 1, 2, 3]]
    assert agglomerate(np.zeros((0, 0)), 0.5) == []


def naive(near: np.ndarray, least: float) -> list[list[int]]:
    groups = [[i] for i in range(len(near))]
    while len(groups) > 1:
        pairs = [(a, b) for a in range(len(groups)) for b in range(a + 1, len(groups))]
        mean = {(a, b): np.mean([near[i, j] for i in groups[a] for j in groups[b]]) for a, b in pairs}
        a, b = max(pairs, key=lambda pair: mean[pair])
        if mean[a, b] < least:
            break
        groups[a] += groups.pop(b)
    return sorted(sorted(group) for group in groups)


@pytest.mark.parametrize("seed", range(5))
def test_average_linkage_against_a_naive_loop(seed: int) -> None:
    values = np.random.default_rng(seed).uniform(size=(20, 20))
    near = (values + values.T) / 2
    for least in (0.3, 0.5, 0.6, 0.8):
        assert agglomerate(near, least) == naive(near, least)


def test_cosines_by_hand() -> None:
    """Of "aa": the word, and its letters " aa ". With N = 2, what is in both weighs 1, what is in one log(3/2) + 1."""
    near = similarities([OPENING + "aa", OPENING + "aa bb"])
    own = math.log(3 / 2) + 1
    expected = 2 / math.sqrt(2 * (2 + 3 * own**2))  # of "aa bb" alone: the word, its letters, and both words
    assert near[0, 1] == pytest.approx(expected)
    assert np.diag(near) == pytest.approx([1, 1])
    assert similarities(["", OPENING + "x"])[0].tolist() == [0, 0]
    assert similarities([]).shape == (0, 0)


def test_near_duplicates_are_one_rule_named_by_its_medoid() -> None:
    proposed = {
        OPENING + "shows empathy for the user": ["a", "b", "c"],
        OPENING + "shows empathy to the user": ["c", "d"],
        OPENING + "shows more empathy for the user": ["e"],
        OPENING + "uses a numbered list": ["a", "f"],
    }
    found = cluster(proposed, most=9)
    assert [(c.text, c.support, len(c.wordings)) for c in found] == [
        (OPENING + "shows empathy for the user", 5, 3),
        (OPENING + "uses a numbered list", 2, 1),
    ]
    assert cluster(proposed, most=1) == found[:1]


def test_opposites_never_join() -> None:
    texts = [
        "is polite to the user",
        "is not polite to the user",
        "is never polite to the user",
        "isn't polite to the user",
    ]
    found = cluster({OPENING + text: [str(i)] for i, text in enumerate(texts)}, most=9)
    together = [c.wordings for c in found if OPENING + texts[0] in c.wordings]
    assert together == [(OPENING + texts[0],)]
    assert sum(len(c.wordings) for c in found) == 4


def test_the_order_of_proposals_does_not_count() -> None:
    words = ["clear", "clearer", "warm", "warmer words", "brief", "names a source", "names its source", "not rude"]
    proposed = [(OPENING + word, [str(i), str(i // 2)]) for i, word in enumerate(words)]
    expected = cluster(dict(proposed), most=9)
    for seed in range(5):
        random.Random(seed).shuffle(proposed)
        assert cluster(dict(proposed), most=9) == expected
