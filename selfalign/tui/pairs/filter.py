"""The filter of screen 4: what its words mean, and which rows of an index they let through."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfalign.source import did_you_mean
from selfalign.text import one_line
from selfalign.tui.pairs.index import PairIndex

NUMBERS = ("margin", "p", "tokens", "chosen", "rejected", "answers", "good", "round")
NAMES = {"principle": "principles", "tag": "tags", "reason": "labels", "from": "labels"}
FLAGS = {"disagree": "orders", "split": "against", "invalid": "invalid"}
COMPARE = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal, "=": np.equal}
FILTER_HELP = 'margin>0.3  tokens>200  p<0.9  principle:ID  tag:NAME  disagree  split  invalid  "words"  -not'

_WORD = re.compile(
    r"""
    (?P<negative>-?)
    (?: (?P<name>[a-z]+):(?:"(?P<quoted>[^"]*)"?|(?P<value>\S*))
      | "(?P<text>[^"]*)"?
      | (?P<bare>\S+))
    """,
    re.VERBOSE,
)
_COMPARISON = re.compile(r"([a-z]+)(<=|>=|<|>|=)(-?\d+(?:\.\d+)?)")


class FilterError(ValueError):
    """A word of a filter that is none, with what could be meant."""


@dataclass(frozen=True, slots=True)
class Test:
    """One word of a filter: column `name` compared with `bound`, or having `text`; without a name, texts have it."""

    name: str = ""
    sign: str = ""
    bound: float = 0.0
    text: str = ""
    negative: bool = False


def parse(words: str) -> list[Test]:
    """The tests that a filter stands for. Raises FilterError."""
    return [_test(match) for match in _WORD.finditer(words) if match[0].strip('-"')]


def _test(match: re.Match[str]) -> Test:
    negative = bool(match["negative"])
    if (name := match["name"]) is not None:
        if name not in NAMES:
            raise _error(match[0], name, [*NAMES, *NUMBERS])
        return Test(name, text=match["quoted"] if match["quoted"] is not None else match["value"], negative=negative)
    if match["text"] is not None:
        return Test(text=match["text"].casefold(), negative=negative)
    bare = match["bare"]
    if bare in FLAGS:
        return Test(bare, ">", 0.0, negative=negative)
    if re.search("[<>=]", bare):
        found = _COMPARISON.fullmatch(bare)
        if found is None or found[1] not in NUMBERS:
            raise _error(bare, re.split("[<>=]", bare)[0], NUMBERS)
        return Test(found[1], found[2], float(found[3]), negative=negative)
    return Test(text=bare.casefold(), negative=negative)


def _error(word: str, name: str, known: Sequence[str]) -> FilterError:
    near = did_you_mean(name, known)
    return FilterError(" ".join(filter(None, (f"{one_line(word, 40)!r} is no filter.", near, f"Try: {FILTER_HELP}"))))


def needles(tests: Sequence[Test]) -> list[str]:
    """What has to be looked for in the texts."""
    return sorted({test.text for test in tests if not test.name})


def selected(index: PairIndex, tests: Sequence[Test]) -> np.ndarray:
    """The rows that all tests let through, in order. Raises FilterError for a name that nothing has.

    `disagree`: the judge changes its mind with the order; `split`: some principle prefers the rejected answer;
    `invalid`: the judge gave a verdict that is none. Rows whose texts were not searched yet are not let through.
    """
    kept = np.ones(len(index), dtype=bool)
    for test in tests:
        passes = _passes(index, test)
        kept &= passes[: len(kept)]
    return np.flatnonzero(kept)


def _passes(index: PairIndex, test: Test) -> np.ndarray:
    if not test.name:
        searched, found = index.having(test.text)
        return searched & (found != test.negative)
    if test.name in NAMES:
        return _named(index, test) != test.negative
    values = index.column(FLAGS.get(test.name, test.name))
    return COMPARE[test.sign](values, test.bound) != test.negative


def _named(index: PairIndex, test: Test) -> np.ndarray:
    column = NAMES[test.name]
    interned = getattr(index, column)
    wanted = [place for place, names in enumerate(list(interned.all)) if any(test.text in one for one in names)]
    if not wanted and index.complete and len(index):
        known = ", ".join(interned.names()) or "none"
        text = one_line(test.text, 40)
        raise FilterError(f"no {test.name} has {text!r} in its name; there are: {one_line(known, 200)}")
    return np.isin(index.column(column), wanted)


SORTS = {"as made": None, "margin, widest first": ("margin", -1), "margin, narrowest first": ("margin", 1),
         "p(chosen), lowest first": ("p", 1), "longest first": ("tokens", -1)}  # fmt: skip


def ordered(index: PairIndex, rows: np.ndarray, by: str) -> np.ndarray:
    """The rows in the order of a name in SORTS."""
    sort = SORTS[by]
    if sort is None:
        return rows
    name, sign = sort
    return rows[np.argsort(sign * index.column(name)[rows], kind="stable")]
