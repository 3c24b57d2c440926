"""Rules that say nearly the same, put together by their words."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

ALIKE = 0.5  # cosine at which two groups of wordings are one rule, by average linkage
MOST = 1500  # wordings that are compared each with each; the rarest of more are left out
_OPENING = re.compile(r"^select the response that ")
_COMMON = frozenset(  # what nearly every rule says
    re.findall(
        r"\w+",
        "a an the of to in on for with that which is are be it its as and or by this has have more most provides gives "
        "offers uses shows includes contains makes user answer response question",
    )
)
_AGAINST = frozenset(
    re.findall(
        r"\w+",
        "not no never without avoids avoid less fewer least lacks lack refuses refuse refrains ignores fails cannot",
    )
)


@dataclass(frozen=True)
class Cluster:
    """Wordings of one rule. `text` is the one nearest to all of them, `support` how many pairs proposed any of them."""

    text: str
    wordings: tuple[str, ...]
    support: int


def cluster(proposed: Mapping[str, Iterable[str]], *, most: int) -> list[Cluster]:
    """Put rules together that say nearly the same; return the `most` clusters that most pairs support, most first.

    `proposed` has for each rule the pairs that proposed it. Rules are compared by the cosine of their TF-IDF vectors
    over words, pairs of words and the letters of words, and merged by average linkage while it is at least `ALIKE`. One
    with a negation never joins one without: they have nearly the same words and say the opposite. Nothing is drawn:
    where two choices are equal, the rule that comes first in the alphabet decides.
    """
    supporters = {text: frozenset(names) for text, names in proposed.items()}
    kept = sorted(supporters, key=lambda text: (-len(supporters[text]), text))[:MOST]
    found = []
    for against in (False, True):
        texts = sorted(text for text in kept if _is_against(text) == against)
        similarity = similarities(texts)
        for members in agglomerate(similarity, ALIKE):
            found.append(_described([texts[i] for i in members], similarity[np.ix_(members, members)], supporters))
    return sorted(found, key=lambda cluster: (-cluster.support, cluster.text))[:most]


def similarities(texts: Sequence[str]) -> np.ndarray:
    """Cosines [N, N] of TF-IDF vectors, with the smoothed inverse document frequency log((1 + N) / (1 + df)) + 1."""
    counts = [Counter(_features(text)) for text in texts]
    columns = {name: i for i, name in enumerate(sorted(set().union(*counts)))} if counts else {}
    vectors = np.zeros((len(texts), len(columns)))
    for row, count in enumerate(counts):
        for name, times in count.items():
            vectors[row, columns[name]] = times
    vectors *= np.log((1 + len(texts)) / (1 + (vectors > 0).sum(axis=0))) + 1
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return vectors @ vectors.T


def agglomerate(similarity: np.ndarray, least: float) -> list[list[int]]:
    """Merge the two nearest groups, by average linkage, until none are as near as `least`. Returns groups of indexes.

    Similarities [N, N] are symmetric; those of merged groups are means weighted by size (Lance and Williams 1967).
    """
    groups = {i: [i] for i in range(len(similarity))}
    near = similarity.astype(np.float64, copy=True)
    np.fill_diagonal(near, -math.inf)
    while len(groups) > 1:
        i, j = np.unravel_index(np.argmax(near), near.shape)
        if near[i, j] < least:
            break
        n_i, n_j = len(groups[i]), len(groups[j])
        merged = (n_i * near[i] + n_j * near[j]) / (n_i + n_j)
        near[i], near[:, i], near[j], near[:, j] = merged, merged, -math.inf, -math.inf
        near[i, i] = -math.inf
        groups[i] += groups.pop(j)
    return [sorted(members) for _, members in sorted(groups.items())]


def _described(texts: Sequence[str], similarity: np.ndarray, supporters: Mapping[str, frozenset[str]]) -> Cluster:
    """A cluster by its medoid: the wording most like the others, each weighed by the pairs that proposed it."""
    weights = np.array([len(supporters[text]) for text in texts], dtype=np.float64)
    medoid = int(np.argmax(np.round(similarity @ weights, 9)))
    pairs = frozenset().union(*(supporters[text] for text in texts))
    return Cluster(texts[medoid], tuple(texts), len(pairs))


def _features(text: str) -> list[str]:
    words = [word for word in _words(text) if word not in _COMMON]
    letters = [f" {word} "[i : i + 4] for word in words for i in range(max(1, len(word) - 1))]
    return [*words, *(" ".join(two) for two in pairwise(words)), *letters]


def _is_against(text: str) -> bool:
    """Whether a rule is turned round by its negations: by an odd number of them."""
    return sum(word in _AGAINST or word.endswith("n't") for word in _words(text)) % 2 == 1


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:'[^\W_]+)?", _OPENING.sub("", text.lower().replace("\u2019", "'")))
