"""The pairs of a run as a list of any length: a few numbers for each pair, and the texts of those in sight alone.

A pair takes about forty bytes here. The numbers are read shard by shard, so that the first are there at once; the texts
stay on disk.
"""

from __future__ import annotations

import math
import re
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from selfalign.records import Candidate, Judgment, Pair, Prompt
from selfalign.stages.examples import Sources
from selfalign.store import Run, Step
from selfalign.text import one_line
from selfalign.tui.reading import UNREADABLE

SNIPPET = 240  # characters of a text in the list
SNIPPETS_KEPT = 4096
NUMBERS = ("p", "margin", "chosen", "rejected", "tokens", "round")


class Spot(NamedTuple):
    """Where a pair lies: its round, its shard, its place in the shard, and its place in the round."""

    round: int
    shard: int
    at: int
    place: int

    @property
    def name(self) -> str:
        """As `selfalign pairs` names it."""
        return f"{self.round}:{self.place}"


class Snippets(NamedTuple):
    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True, slots=True)
class Part:
    """The numbers of the pairs of one shard [N]. Lengths are in tokens, -1 where unknown (of gold answers).

    `orders`: whether some principle prefers one answer in one order and the other in the other. `against`: how many of
    the `principles` prefer the rejected answer. `sets` and `tags` are places in the index's lists.
    """

    round: int
    shard: int
    first: int  # place in the round of the first pair
    p: np.ndarray
    margin: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    orders: np.ndarray
    against: np.ndarray
    principles: np.ndarray
    tags: np.ndarray

    def __len__(self) -> int:
        return len(self.p)


class Interned:
    """Sets of names, each kept once."""

    def __init__(self) -> None:
        self.all: list[frozenset[str]] = []
        self._places: dict[frozenset[str], int] = {}

    def place(self, names: Iterable[str]) -> int:
        key = frozenset(names)
        if key not in self._places:
            self._places[key] = len(self.all)
            self.all.append(key)
        return self._places[key]


@dataclass(frozen=True)
class Held:
    """The sources of a round's pairs, each looked up once: the manifest of a large step takes a while to check."""

    whole: Sources
    steps: Mapping[str, Sequence[tuple[Step, frozenset[int]]]]  # by kind, with the shards that each has

    @staticmethod
    def of(sources: Sources) -> Held:
        kinds = ("prompts", "candidates", "judgments")
        return Held(sources, {k: [(step, frozenset(step.durable)) for step in sources.steps(k)] for k in kinds})

    def having(self, kind: str, shard: int) -> Iterator[Step]:
        """The steps of a kind that hold a shard of this number."""
        return (step for step, shards in self.steps[kind] if shard in shards)

    def prompts(self, shard: int) -> Iterator[Prompt]:
        for step in self.having("prompts", shard):
            yield from step.read(Prompt, shard)


@dataclass
class PairIndex:
    """The pairs of some rounds of a run. `grow` is called from one thread; what it has made may be read by others."""

    run: Run
    rounds: Sequence[int]
    parts: list[Part] = field(default_factory=list)
    principles: Interned = field(default_factory=Interned)
    tags: Interned = field(default_factory=Interned)
    problems: dict[tuple[int, int], str] = field(default_factory=dict)  # by round and shard
    complete: bool = False
    _known: set[tuple[int, int]] = field(default_factory=set)
    _counts: Counter[int] = field(default_factory=Counter)
    _sources: dict[int, Held] = field(default_factory=dict)
    _snippets: OrderedDict[Spot, Snippets] = field(default_factory=OrderedDict)
    _starts: list[int] = field(default_factory=lambda: [0])  # row of the first pair of each part, and their number

    def __len__(self) -> int:
        return self._starts[-1]

    def grow(self) -> Iterator[Part]:
        """Read the shards that are new, one after the other. One that cannot be read is in `problems` until it can."""
        for number in self.rounds:
            step = self.run.view(f"rounds/{number:03d}/pairs")
            if step is None:
                continue
            sources = self._sources[number] = Held.of(Sources(self.run, step))
            for shard in step.durable:
                if (number, shard) in self._known:
                    continue
                try:
                    part = self._part(sources, number, shard, self._counts[number])
                except UNREADABLE as error:
                    self.problems[number, shard] = str(error)
                    continue
                self.problems.pop((number, shard), None)
                self._add(part)
                yield part
        self.complete = True

    def _add(self, part: Part) -> None:
        self._known.add((part.round, part.shard))
        self._counts[part.round] += len(part)
        self.parts.append(part)
        self._starts.append(self._starts[-1] + len(part))  # last: until then, readers do not see the part

    def _part(self, sources: Held, number: int, shard: int, first: int) -> Part:
        step, only = sources.whole.step, [shard]
        pairs = step.columns(Pair, "prompt_id", "chosen_id", "rejected_id", "p_chosen", "margin", only=only)
        ids = [texts_of(pairs[name]) for name in ("prompt_id", "chosen_id", "rejected_id")]
        tokens: dict[str, int] = {}
        for source in sources.having("candidates", shard):
            found = source.columns(Candidate, "id", "token_ids", only=only)
            tokens.update(zip(texts_of(found["id"]), found["token_ids"].tolist(), strict=True))
        votes = self._votes(sources, shard)
        tags = {prompt.id: prompt.tags for prompt in sources.prompts(shard)}
        judged = [votes_on(votes, chosen, rejected) for chosen, rejected in zip(ids[1], ids[2], strict=True)]
        return Part(
            round=number,
            shard=shard,
            first=first,
            p=np.asarray(pairs["p_chosen"], dtype=np.float32),
            margin=np.asarray(pairs["margin"], dtype=np.float32),
            chosen=np.array([tokens.get(one, -1) for one in ids[1]], dtype=np.int32),
            rejected=np.array([tokens.get(one, -1) for one in ids[2]], dtype=np.int32),
            orders=np.array([one.orders for one in judged], dtype=bool),
            against=np.array([one.against for one in judged], dtype=np.int16),
            principles=np.array([self.principles.place(one.principles) for one in judged], dtype=np.int32),
            tags=np.array([self.tags.place(tags.get(one, ())) for one in ids[0]], dtype=np.int32),
        )

    def _votes(self, sources: Held, shard: int) -> Votes:
        votes: Votes = defaultdict(list)
        for source in sources.having("judgments", shard):
            found = source.columns(Judgment, "first_id", "second_id", "principle_id", "p_first", "rating", only=[shard])
            firsts, seconds, names = (texts_of(found[name]) for name in ("first_id", "second_id", "principle_id"))
            said = zip(found["p_first"].tolist(), found["rating"].tolist(), strict=True)
            for first, second, name, (p, rating) in zip(firsts, seconds, names, said, strict=True):
                votes[first, second].append((name, p if second else rating))
        return votes

    # Rows

    def spot(self, row: int) -> Spot:
        """Where the pair of a row lies."""
        index = int(np.searchsorted(self._starts, row, side="right")) - 1
        part, at = self.parts[index], row - self._starts[index]
        return Spot(part.round, part.shard, at, part.first + at)

    def column(self, name: str) -> np.ndarray:
        """A number of all pairs so far."""
        parts = self.parts[: len(self._starts) - 1]
        if name == "round":
            return np.repeat([part.round for part in parts], [len(part) for part in parts])
        if name == "tokens":
            return np.maximum(self.column("chosen"), self.column("rejected"))
        return np.concatenate([getattr(part, name) for part in parts]) if parts else np.zeros(0)

    def facts(self, row: int) -> dict[str, Any]:
        """The numbers of one row."""
        index = int(np.searchsorted(self._starts, row, side="right")) - 1
        part, at = self.parts[index], row - self._starts[index]
        names = ("p", "margin", "chosen", "rejected", "orders", "against")
        found = {name: getattr(part, name)[at].item() for name in names}
        return {**found, "principles": self.principles.all[part.principles[at]], "tags": self.tags.all[part.tags[at]]}

    def snippets(self, spot: Spot) -> Snippets | None:
        """The beginnings of the texts of a pair; None where `load` has not read them."""
        found = self._snippets.get(spot)
        if found is not None:
            self._snippets.move_to_end(spot)
        return found

    def load(self, spots: Sequence[Spot]) -> None:
        """Read the beginnings of the texts of some pairs, each shard once. To be called from a thread."""
        by_shard: dict[tuple[int, int], list[Spot]] = defaultdict(list)
        for spot in spots:
            by_shard[spot.round, spot.shard].append(spot)
        for (number, shard), wanted in by_shard.items():
            for spot, found in self._read_snippets(self._sources[number], shard, wanted):
                self._snippets[spot] = found
            while len(self._snippets) > SNIPPETS_KEPT:
                self._snippets.popitem(last=False)

    def _read_snippets(self, sources: Held, shard: int, wanted: Sequence[Spot]) -> Iterator[tuple[Spot, Snippets]]:
        pairs = sources.whole.step.columns(Pair, "prompt_id", "chosen_id", "rejected_id", only=[shard])
        ids = [texts_of(pairs[name]) for name in ("prompt_id", "chosen_id", "rejected_id")]
        prompts = {prompt.id: prompt for prompt in sources.prompts(shard)}
        texts = {gold.id: gold.text for one in prompts.values() if (gold := one.gold()) is not None}
        for source in sources.having("candidates", shard):
            found = source.columns(Candidate, "id", "text", only=[shard])
            texts.update(zip(texts_of(found["id"]), texts_of(found["text"]), strict=True))
        for spot in wanted:
            prompt, chosen, rejected = (column[spot.at] for column in ids)
            last = prompts[prompt].messages[-1].content if prompt in prompts else ""
            yield (
                spot,
                Snippets(*(one_line(t, SNIPPET) for t in (last, texts.get(chosen, ""), texts.get(rejected, "")))),
            )

    def whole(self, spot: Spot) -> WholePair:
        """Everything about one pair. To be called from a thread."""
        sources = self._sources[spot.round].whole
        records = sources.step.read(Pair, spot.shard)
        record = records[spot.at]
        answers = sources.answers(spot.shard)
        judgments = [one for one in sources.read(Judgment, spot.shard) if is_of(one, record)]
        made = {step.name: step.digest for step in (sources.step, *self._made_from(sources)) if step.done}
        return WholePair(
            spot, record, sources.prompts(spot.shard, [record])[record.prompt_id],
            answers.get(record.chosen_id), answers.get(record.rejected_id), tuple(judgments), made,
            (policy := self.run.view(f"rounds/{spot.round:03d}/policy")) is not None and policy.done,
        )  # fmt: skip

    def _made_from(self, sources: Sources) -> Iterator[Step]:
        for kind in ("prompts", "candidates", "judgments"):
            yield from sources.steps(kind)


@dataclass(frozen=True, slots=True)
class WholePair:
    """A pair with all it rests on. `made` are the digests of the steps it comes from; an answer may be lost."""

    spot: Spot
    record: Pair
    prompt: Prompt
    chosen: Candidate | None
    rejected: Candidate | None
    judgments: tuple[Judgment, ...]
    made: Mapping[str, str]
    trained: bool


Votes = defaultdict[tuple[str, str], list[tuple[str, float]]]


class Judged(NamedTuple):
    """What the judge's votes on a pair amount to; see Part."""

    principles: frozenset[str]
    orders: bool
    against: int


def votes_on(votes: Mapping[tuple[str, str], list[tuple[str, float]]], chosen: str, rejected: str) -> Judged:
    """Put the votes of both orders together: by principle the probability that the chosen answer is better.

    Votes on (answer, "") are ratings of one answer; of these, only which is higher counts.
    """
    by_name: dict[str, list[float]] = defaultdict(list)
    for name, p in votes.get((chosen, rejected), ()):
        by_name[name].append(p)
    for name, p in votes.get((rejected, chosen), ()):
        by_name[name].append(1.0 - p)
    rated = dict(votes.get((rejected, ""), ()))
    for name, rating in votes.get((chosen, ""), ()):
        other = rated.get(name, math.nan)
        by_name[name].append(math.nan if rating != rating or other != other else 0.5 + 0.5 * np.sign(rating - other))
    known = {name: [p for p in found if p == p] for name, found in by_name.items()}
    orders = any(min(found) < 0.5 < max(found) for found in known.values() if found)
    against = sum(sum(found) / len(found) < 0.5 for found in known.values() if found)
    return Judged(frozenset(by_name), orders, against)


def is_of(judgment: Judgment, pair: Pair) -> bool:
    """Whether a judgment is about the two answers of a pair, or rates one of them."""
    shown = {judgment.first_id, judgment.second_id} - {""}
    return shown <= {pair.chosen_id, pair.rejected_id}


def texts_of(column: Any) -> list[str]:
    """A column of texts, row by row."""
    return [column.distinct[code] if code >= 0 else "" for code in column.codes.tolist()]


# Filters -----------------------------------------------------------------------------------------------------------

_COMPARISON = re.compile(r"([a-z]+)(<=|>=|<|>|=)(-?\d+(?:\.\d+)?)")
FILTER_HELP = "margin>0.3  p<0.9  tokens>200  chosen<50  round=1  principle:ID  tag:NAME  disagree  split"


class FilterError(ValueError):
    """A word of a filter that is none, with what could be meant."""


def selected(index: PairIndex, words: str) -> np.ndarray:
    """The rows that all words of a filter let through, in order. Raises FilterError.

    `disagree`: the judge changes its mind with the order; `split`: some principle prefers the rejected answer.
    """
    kept = np.ones(len(index), dtype=bool)
    for word in words.split():
        kept &= _passes(index, word)[: len(kept)]
    return np.flatnonzero(kept)


def _passes(index: PairIndex, word: str) -> np.ndarray:
    kind, colon, name = word.partition(":")
    if word == "disagree":
        return index.column("orders")
    if word == "split":
        return index.column("against") > 0
    if colon and kind in ("principle", "tag"):
        interned, column = (index.principles, "principles") if kind == "principle" else (index.tags, "tags")
        wanted = [place for place, names in enumerate(list(interned.all)) if any(name in one for one in names)]
        return np.isin(index.column(column), wanted)
    match = _COMPARISON.fullmatch(word)
    if match is None or match[1] not in NUMBERS:
        raise FilterError(f"{one_line(word, 40)!r} is no filter; try: {FILTER_HELP}")
    values, bound = index.column(match[1]), float(match[3])
    compare = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal, "=": np.equal}
    return compare[match[2]](values, bound)


SORTS = {"as made": None, "margin, widest first": ("margin", -1), "margin, narrowest first": ("margin", 1),
         "p(chosen), lowest first": ("p", 1), "longest first": ("tokens", -1)}  # fmt: skip


def ordered(index: PairIndex, rows: np.ndarray, by: str) -> np.ndarray:
    """The rows in the order of a name in SORTS."""
    sort = SORTS[by]
    if sort is None:
        return rows
    name, sign = sort
    return rows[np.argsort(sign * index.column(name)[rows], kind="stable")]
