"""What each principle says of each pair of answers, read off the columns of a round's judgments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from selfalign.preferences import PairKey

if TYPE_CHECKING:
    from selfalign.store.tables import Texts  # pyarrow takes half a second to import

TIE = 0.02  # a lead up to this (p from .49 to .51) is no preference: both orders' mean keeps some of a judge's noise

Columns = Mapping[str, Any]  # of records, as `Step.columns` has them
Preferred = Mapping[PairKey, str]  # by pair of candidates, the smaller id first, the one that somebody prefers


class Questions(NamedTuple):
    """One row for each judgment. [Q] each; `first` says of a `decided` comparison that the first shown won it."""

    principle: np.ndarray
    prompt: np.ndarray
    invalid: np.ndarray
    decided: np.ndarray
    first: np.ndarray


class Swaps(NamedTuple):
    """One row for each pair that a principle judged in both orders, both validly. [S] each."""

    principle: np.ndarray
    prompt: np.ndarray
    consistent: np.ndarray


class Pairs(NamedTuple):
    """One row for each pair of answers that some principle spoke on. [P] each.

    `longer`: tokens of the first less those of the second. The others are 1 where the first is preferred, -1 where the
    second is, 0 where nothing is known: by what was trained on, by people, and by a gold answer.
    """

    prompt: np.ndarray
    longer: np.ndarray
    chosen: np.ndarray
    people: np.ndarray
    gold: np.ndarray


class Opinions(NamedTuple):
    """One row for each pair and each principle that spoke on it. [O] each.

    `lead` in [-1, 1] is 2p - 1, p being the probability that the first of the pair is better: of comparisons the mean
    of the orders shown, of ratings sigmoid(rating_scale * difference).
    """

    principle: np.ndarray
    pair: np.ndarray
    lead: np.ndarray

    @property
    def side(self) -> np.ndarray:
        """1 where the first of the pair is preferred, -1 where the second is, 0 for neither. [O]"""
        return np.where(np.abs(self.lead) <= TIE, 0, np.sign(self.lead)).astype(np.int8)


class Said(NamedTuple):
    """All that was said in a round, or in several. `prompts` are those that were sampled; all are numbers of Places."""

    prompts: np.ndarray
    questions: Questions
    swaps: Swaps
    pairs: Pairs
    opinions: Opinions


class Places(dict[str, int]):
    """A number for each text, in order of appearance."""

    def of(self, texts: Iterable[str]) -> np.ndarray:
        return np.array([self.setdefault(text, len(self)) for text in texts], dtype=np.int64)


class Labels(NamedTuple):
    """Whom the principles are held against."""

    chosen: Preferred
    people: Preferred
    gold: Preferred


def said(
    judgments: Columns, candidates: Columns, labels: Labels, principles: Places, prompts: Places, rating_scale: float
) -> Said:
    """What was said in one round. `principles` and `prompts` take up those that are new to them.

    A comparison that is invalid in one order says nothing, as in `preferences.read_prompt`. Ratings say something of
    each pair of a prompt's candidates that one principle rated.
    """
    ids, (first, second) = _ranked(judgments["first_id"], judgments["second_id"])
    principle = principles.of(judgments["principle_id"].distinct)[judgments["principle_id"].codes]
    prompt = prompts.of(judgments["prompt_id"].distinct)[judgments["prompt_id"].codes]
    rows = _Rows(principle, prompt, first, second, judgments["p_first"], judgments["rating"], _verdicts(judgments))
    (compared, swaps), rated = _compared(rows, len(ids)), _rated(rows, len(ids), rating_scale)
    spoken = _stacked([compared, rated])
    keys, start, pair = np.unique(spoken.key, return_index=True, return_inverse=True)
    length = _lengths(candidates, ids)
    a, b = np.divmod(keys, max(len(ids), 1))
    sides = (_sides(preferred, ids, keys) for preferred in labels)
    return Said(
        prompts.of(candidates["prompt_id"].distinct),
        _questions(rows),
        swaps,
        Pairs(spoken.prompt[start], length[a] - length[b], *sides),
        Opinions(spoken.principle, pair, spoken.lead),
    )


def joined(rounds: Sequence[Said]) -> Said:
    """What was said in several rounds, as if in one."""
    starts = np.cumsum([0, *(len(one.pairs.prompt) for one in rounds)])
    moved = [one.opinions._replace(pair=one.opinions.pair + start) for one, start in zip(rounds, starts, strict=False)]
    parts = [[one[field] for one in rounds] for field in (1, 2, 3)]
    return Said(np.unique(np.concatenate([one.prompts for one in rounds])), *map(_stacked, parts), _stacked(moved))


class _Rows(NamedTuple):
    """Judgments. [N] each; `second` is -1 for a rating."""

    principle: np.ndarray
    prompt: np.ndarray
    first: np.ndarray
    second: np.ndarray
    p_first: np.ndarray
    rating: np.ndarray
    verdict: np.ndarray

    def where(self, kept: np.ndarray) -> _Rows:
        return _Rows(*(column[kept] for column in self))


class _Spoken(NamedTuple):
    """What a principle says of a pair, which `key` stands for: place of the first times the number of ids plus that of
    the second. [O] each."""

    key: np.ndarray
    prompt: np.ndarray
    principle: np.ndarray
    lead: np.ndarray


_VERDICTS = ("first", "second", "tie", "not_applicable", "invalid")
_FIRST, _SECOND, _TIE, _NOT_APPLICABLE, _INVALID = range(5)


def _verdicts(judgments: Columns) -> np.ndarray:
    names: Texts = judgments["verdict"]
    return np.array([_VERDICTS.index(name) for name in names.distinct], dtype=np.int8)[names.codes]


def _ranked(*columns: Texts) -> tuple[dict[str, int], list[np.ndarray]]:
    """The place of each id among all of them, sorted, and each column as such places; -1 for no id."""
    ids = sorted({text for column in columns for text in column.distinct} - {""})
    ranks = {text: rank for rank, text in enumerate(ids)}
    return ranks, [np.array([ranks.get(t, -1) for t in c.distinct], dtype=np.int64)[c.codes] for c in columns]


def _questions(rows: _Rows) -> Questions:
    won_first = rows.verdict == _FIRST
    return Questions(
        rows.principle, rows.prompt, rows.verdict == _INVALID, won_first | (rows.verdict == _SECOND), won_first
    )


def _compared(rows: _Rows, size: int) -> tuple[_Spoken, Swaps]:
    """What principles say of the pairs that they compared, and how they took an exchange of the two."""
    rows = rows.where((rows.second >= 0) & (rows.verdict != _NOT_APPLICABLE))
    key = np.minimum(rows.first, rows.second) * size + np.maximum(rows.first, rows.second)
    start, group = _groups(key, rows.principle)
    p, invalid = _p_of_smaller(rows), rows.verdict == _INVALID
    kept = np.bincount(group, weights=invalid, minlength=len(start)) == 0
    spoken = _Spoken(key[start], rows.prompt[start], rows.principle[start], 2 * _mean(group, p, len(start)) - 1)
    swaps = _swaps(rows.where(~invalid), np.sign(p - 0.5)[~invalid], start.size, group[~invalid])
    return _Spoken(*(column[kept] for column in spoken)), swaps


def _p_of_smaller(rows: _Rows) -> np.ndarray:
    """The probability that the one with the smaller id is better; a tie is 0.5, as in `preferences.p_of`. [N]"""
    p = np.where(rows.first > rows.second, 1 - rows.p_first, rows.p_first)
    return np.where((rows.verdict == _TIE) | np.isnan(p), 0.5, p)


def _swaps(rows: _Rows, side: np.ndarray, size: int, group: np.ndarray) -> Swaps:
    """Of valid comparisons, in `size` groups of one pair and one principle, those of both orders."""

    def met(which: np.ndarray) -> np.ndarray:
        return np.bincount(group[which], minlength=size) > 0

    turned = rows.first > rows.second
    both = met(turned) & met(~turned)
    agreed = met(side < 0).astype(int) + met(side == 0) + met(side > 0) == 1
    one = np.zeros(size, dtype=np.int64)
    one[group] = np.arange(len(group))  # some row of each group
    return Swaps(rows.principle[one[both]], rows.prompt[one[both]], agreed[both])


def _rated(rows: _Rows, size: int, rating_scale: float) -> _Spoken:
    """What principles say of each two candidates that they rated."""
    rows = rows.where((rows.second < 0) & ~np.isnan(rows.rating))
    start, group = _groups(rows.first, rows.principle)
    rows = rows.where(start)._replace(rating=_mean(group, rows.rating, len(start)))
    rows = rows.where(np.lexsort((rows.first, rows.principle, rows.prompt)))
    a, b = _each_two(rows)
    lead = np.tanh(rating_scale * (rows.rating[a] - rows.rating[b]) / 2)  # 2 sigmoid(x) - 1
    return _Spoken(rows.first[a] * size + rows.first[b], rows.prompt[a], rows.principle[a], lead)


def _each_two(rows: _Rows) -> tuple[np.ndarray, np.ndarray]:
    """The places of each two rows of one prompt and one principle, which stand beside one another."""
    found = [(np.zeros(0, dtype=np.int64),) * 2]
    ahead = np.arange(len(rows.first))
    for offset in range(1, len(rows.first)):
        ahead = ahead[ahead + offset < len(rows.first)]
        ahead = ahead[_same_panel(rows, ahead, ahead + offset)]
        if not len(ahead):
            break
        found.append((ahead, ahead + offset))
    a, b = map(np.concatenate, zip(*found, strict=True))
    return a, b


def _same_panel(rows: _Rows, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (rows.prompt[a] == rows.prompt[b]) & (rows.principle[a] == rows.principle[b])


def _groups(key: np.ndarray, principle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first row of each group of one pair and one principle, and the group of each row."""
    width = int(principle.max(initial=0)) + 1
    _, start, group = np.unique(key * width + principle, return_index=True, return_inverse=True)
    return start, group


def _mean(group: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """The mean of the values of each group."""
    return np.bincount(group, weights=values, minlength=size) / np.bincount(group, minlength=size).clip(1)


def _lengths(candidates: Columns, ids: Mapping[str, int]) -> np.ndarray:
    """The tokens of each id's answer; 0 for one that is not among the candidates."""
    lengths = np.zeros(len(ids))
    names: Texts = candidates["id"]
    places = np.array([ids.get(name, -1) for name in names.distinct], dtype=np.int64)[names.codes]
    lengths[places[places >= 0]] = candidates["token_ids"][places >= 0]
    return lengths


def _sides(preferred: Preferred, ids: Mapping[str, int], keys: np.ndarray) -> np.ndarray:
    """Which of each pair is preferred: 1 the first, -1 the second, 0 unknown. [P] `keys` are sorted."""
    sides = np.zeros(len(keys), dtype=np.int8)
    met = ((pair, won) for pair, won in preferred.items() if pair[0] in ids and pair[1] in ids)
    known = [(ids[a] * len(ids) + ids[b], 1 if won == a else -1) for (a, b), won in met]
    if known and len(keys):
        wanted, side = np.array(known).T
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        found = keys[place] == wanted
        sides[place[found]] = side[found]
    return sides


def _stacked(parts: Sequence[Any]) -> Any:
    return type(parts[0])(*map(np.concatenate, zip(*parts, strict=True)))
