"""What a run's rounds were trained on as a list of any length: a few numbers for each example, and the texts of those
in sight alone.

Examples are pairs, rankings or demonstrations; a fourth list is of the prompts that were left out. One takes about
fifty bytes here. The numbers are read shard by shard, so that the first are there at once; the texts stay on disk.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from selfalign.config import Campaign, load
from selfalign.records import GOLD, Candidate, Judgment, Pair, Prompt, Ranking, Revision
from selfalign.stages.examples import RECORDS, Kind, Sources
from selfalign.stages.outcome import Rules
from selfalign.store import Run, Step
from selfalign.store.run import CAMPAIGN
from selfalign.text import one_line
from selfalign.tui.reading import UNREADABLE, why

SNIPPET = 240  # characters of a text in the list
SNIPPETS_KEPT = 4096
AHEAD = 40  # examples on either side of those that are wanted, of which the texts are kept too
Listing = Kind | Literal["left out"]
LISTINGS: tuple[Listing, ...] = (*RECORDS, "left out")


class Spot(NamedTuple):
    """Where an example lies: its round, its shard, its place in the shard, and its place in the round."""

    round: int
    shard: int
    at: int
    place: int

    @property
    def name(self) -> str:
        """As `selfalign pairs` names it."""
        return f"{self.round}:{self.place}"


class Texts(NamedTuple):
    """Of a pair the prompt, the chosen and the rejected answer; of others the best answer and the worst, or none."""

    prompt: str
    first: str
    last: str

    def have(self, needle: str) -> bool:
        return any(needle in text.casefold() for text in self)


class Ends(NamedTuple):
    """What examples of one shard are about [N]: their prompts, and the ids of the best and the worst answer."""

    prompts: list[str]
    first: list[str]
    last: list[str]


@dataclass(frozen=True, slots=True)
class Part:
    """The numbers of the examples of one shard [N]. Lengths are in tokens, -1 where unknown (of gold answers).

    `orders`: whether some principle prefers one answer in one order and the other in the other. `against`: how many of
    the `principles` prefer the rejected answer. `invalid`: how many verdicts were none. `good` is -1 where answers have
    no labels. `principles`, `tags` and `labels` are places in the index's lists.
    """

    round: int
    shard: int
    first: int  # place in the round of the first example
    p: np.ndarray
    margin: np.ndarray
    answers: np.ndarray
    good: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    orders: np.ndarray
    against: np.ndarray
    invalid: np.ndarray
    principles: np.ndarray
    tags: np.ndarray
    labels: np.ndarray

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

    def names(self) -> list[str]:
        return sorted(frozenset().union(*list(self.all)))


@dataclass(frozen=True)
class Held:
    """The sources of a round's examples, each looked up once: the manifest of a large step takes a while to check."""

    whole: Sources
    steps: Mapping[str, Sequence[tuple[Step, frozenset[int]]]]  # by kind, with the shards that each has

    @staticmethod
    def of(sources: Sources) -> Held:
        kinds = ("prompts", "candidates", "judgments", "revisions")
        return Held(sources, {k: [(step, frozenset(step.durable)) for step in sources.steps(k)] for k in kinds})

    @property
    def kind(self) -> Kind:
        return next(kind for kind in RECORDS if self.whole.step.name.endswith(f"/{kind}"))

    def having(self, kind: str, shard: int) -> Iterator[Step]:
        """The steps of a kind that hold a shard of this number."""
        return (step for step, shards in self.steps[kind] if shard in shards)

    def records(self, kind: str, record_type: type[Any], shard: int) -> Iterator[Any]:
        for step in self.having(kind, shard):
            yield from step.read(record_type, shard)

    def prompts(self, shard: int, wanted: Iterable[str]) -> Mapping[str, Prompt]:
        """The prompts of a shard; all of the round where the shards of the examples are cut otherwise."""
        found = {prompt.id: prompt for prompt in self.records("prompts", Prompt, shard)}
        return found if all(one in found for one in wanted) else self._every_prompt

    @cached_property
    def _every_prompt(self) -> Mapping[str, Prompt]:
        every = (step.shards(Prompt) for step, _ in self.steps["prompts"])
        return {prompt.id: prompt for shards in every for _, rows in shards for prompt in rows}

    @cached_property
    def revised(self) -> Mapping[str, int]:
        """By id of each revision the step of critique and revision that wrote it."""
        return self.whole.revisions()

    @cached_property
    def learnt(self) -> frozenset[str]:
        """The prompts that have an example."""
        return frozenset(self.whole.step.columns(RECORDS[self.kind], "prompt_id")["prompt_id"].distinct)

    @cached_property
    def asked(self) -> Step | None:
        """The prompts that were drawn for the round itself."""
        folder = self.whole.step.name.rpartition("/")[0]
        return next((step for step, _ in self.steps["prompts"] if step.name == f"{folder}/prompts"), None)


@dataclass(repr=False)  # a worker is described by its arguments, and these would be a million numbers
class PairIndex:
    """The examples of one kind of some rounds, or what they left out.

    `grow` and `search` are each called from one thread; what they have made may be read by others.
    """

    run: Run
    rounds: Sequence[int]
    kind: Listing = "pairs"
    parts: list[Part] = field(default_factory=list)
    principles: Interned = field(default_factory=Interned)
    tags: Interned = field(default_factory=Interned)
    labels: Interned = field(default_factory=Interned)  # of demonstrations where from, of what is left out why
    problems: dict[tuple[int, int], str] = field(default_factory=dict)  # by round and shard
    complete: bool = False
    _known: set[tuple[int, int]] = field(default_factory=set)
    _counts: Counter[int] = field(default_factory=Counter)
    _sources: dict[int, Held] = field(default_factory=dict)
    _rules: dict[int, Rules] = field(default_factory=dict)
    _snippets: OrderedDict[Spot, Texts] = field(default_factory=OrderedDict)
    _found: dict[str, list[np.ndarray]] = field(default_factory=dict)  # by needle and part, the examples that have it
    _starts: list[int] = field(default_factory=lambda: [0])  # row of the first example of each part, and their number

    def __len__(self) -> int:
        return self._starts[-1]

    def grow(self) -> Iterator[Part]:
        """Read the shards that are new, one after the other. One that cannot be read is in `problems` until it can."""
        for number in self.rounds:
            sources = self._open(number)
            for shard in self._shards(sources) if sources is not None else ():
                if (number, shard) in self._known:
                    continue
                try:
                    part = self._part(sources, number, shard, self._counts[number])
                except UNREADABLE as error:
                    self.problems[number, shard] = why(error)
                    continue
                self.problems.pop((number, shard), None)
                self._add(part)
                yield part
        self.complete = True

    def _open(self, number: int) -> Held | None:
        """The sources of a round, where it holds what is listed."""
        kinds: Iterable[str] = RECORDS if self.kind == "left out" else (self.kind,)
        step = next(filter(None, (self.run.view(f"rounds/{number:03d}/{kind}") for kind in kinds)), None)
        if step is None or (self.kind == "left out" and not step.done):
            return None
        self._sources[number] = Held.of(Sources(self.run, step))
        return self._sources[number]

    def _shards(self, sources: Held) -> list[int]:
        step = sources.asked if self.kind == "left out" else sources.whole.step
        return step.durable if step is not None else []

    def _add(self, part: Part) -> None:
        self._known.add((part.round, part.shard))
        self._counts[part.round] += len(part)
        self.parts.append(part)
        self._starts.append(self._starts[-1] + len(part))  # last: until then, readers do not see the part

    def _part(self, sources: Held, number: int, shard: int, first: int) -> Part:
        ends, numbers = self._read(sources, shard)
        tokens: dict[str, int] = numbers.pop("tokens", {})
        for source in sources.having("candidates", shard):
            found = source.columns(Candidate, "id", "token_ids", only=[shard])
            tokens.update(zip(texts_of(found["id"]), found["token_ids"].tolist(), strict=True))
        prompts = sources.prompts(shard, ends.prompts)
        tags = [prompts[one].tags if one in prompts else () for one in ends.prompts]
        labels = self._labels(sources, number, shard, ends, prompts)
        votes = self._votes(sources, shard) if any(ends.last) else Votes()
        judged = [votes.on(chosen, rejected) for chosen, rejected in zip(ends.first, ends.last, strict=True)]
        return Part(
            round=number,
            shard=shard,
            first=first,
            chosen=np.array([tokens.get(one, -1) for one in ends.first], dtype=np.int32),
            rejected=np.array([tokens.get(one, -1) for one in ends.last], dtype=np.int32),
            orders=np.array([one.orders for one in judged], dtype=bool),
            against=np.array([one.against for one in judged], dtype=np.int16),
            invalid=np.array([one.invalid for one in judged], dtype=np.int16),
            principles=np.array([self.principles.place(one.principles) for one in judged], dtype=np.int32),
            tags=np.array([self.tags.place(one) for one in tags], dtype=np.int32),
            labels=np.array([self.labels.place(one) for one in labels], dtype=np.int32),
            **numbers,
        )

    def _read(self, sources: Held, shard: int) -> tuple[Ends, dict[str, Any]]:
        """What the examples of a shard are about, and the numbers that stand in them."""
        step, only = sources.whole.step, [shard]
        if self.kind == "pairs":
            found = step.columns(Pair, "prompt_id", "chosen_id", "rejected_id", "p_chosen", "margin", only=only)
            ends = Ends(*(texts_of(found[name]) for name in ("prompt_id", "chosen_id", "rejected_id")))
            return ends, numbers_of(ends, p=found["p_chosen"], margin=found["margin"], answers=2)
        if self.kind == "rankings":
            rows = step.read(Ranking, shard)
            ids = [row.candidate_ids for row in rows]
            last = ["".join(one[1:][-1:]) for one in ids]
            ends = Ends([row.prompt_id for row in rows], [one[0] for one in ids], last)
            good = [sum(row.desirable) if row.desirable else -1 for row in rows]
            spans = [row.scores[0] - row.scores[-1] for row in rows]
            rates = [row.win_rates[0] for row in rows]
            return ends, numbers_of(ends, p=rates, margin=spans, answers=[len(one) for one in ids], good=good)
        if self.kind == "demonstrations":
            found = step.columns(Candidate, "prompt_id", "id", "token_ids", only=only)
            ids = texts_of(found["id"])
            ends = Ends(texts_of(found["prompt_id"]), ids, [""] * len(ids))
            tokens = {one: count or -1 for one, count in zip(ids, found["token_ids"].tolist(), strict=True)}
            return ends, {**numbers_of(ends, answers=1), "tokens": tokens}
        return self._read_left_out(sources, shard)

    def _read_left_out(self, sources: Held, shard: int) -> tuple[Ends, dict[str, Any]]:
        assert sources.asked is not None
        asked = texts_of(sources.asked.columns(Prompt, "id", only=[shard])["id"])
        none = [one for one in asked if one not in sources.learnt]
        sampled = Counter[str]()
        for step in sources.having("candidates", shard):
            sampled.update(texts_of(step.columns(Candidate, "prompt_id", only=[shard])["prompt_id"]))
        ends = Ends(none, [""] * len(none), [""] * len(none))
        return ends, numbers_of(ends, answers=[sampled[one] for one in none])

    def _labels(
        self, sources: Held, number: int, shard: int, ends: Ends, prompts: Mapping[str, Prompt]
    ) -> Iterable[Sequence[str]]:
        """Where each demonstration is from, and why each prompt was left out."""
        if self.kind == "demonstrations":
            return [(one,) for one in self._origins(sources, shard)]
        if self.kind != "left out" or not ends.prompts:
            return [()] * len(ends.prompts)
        wanted = set(ends.prompts)
        records: dict[type, dict[str, list[Any]]] = {}
        for kind, record in (("candidates", Candidate), ("judgments", Judgment), ("revisions", Revision)):
            records[record] = defaultdict(list)
            for row in sources.records(kind, record, shard):
                if row.prompt_id in wanted:
                    records[record][row.prompt_id].append(row)
        rules = self.rules(number)
        return [(rules.why_none(prompts[one], *(of[one] for of in records.values())),) for one in ends.prompts]

    def _origins(self, sources: Held, shard: int) -> Iterator[str]:
        found = sources.whole.step.columns(Candidate, "id", "policy_id", only=[shard])
        for one, policy in zip(texts_of(found["id"]), texts_of(found["policy_id"]), strict=True):
            step = sources.revised.get(one)
            yield "gold answer" if policy == GOLD else "sample" if step is None else f"revision {step}"

    def rules(self, number: int) -> Rules:
        """What decided in a round. Raises StoreError, ConfigError or ConstitutionError."""
        if number not in self._rules:
            campaign: Campaign = load(self.run.path / CAMPAIGN).campaign
            self._rules[number] = Rules.of(self.run, campaign, number)
        return self._rules[number]

    def _votes(self, sources: Held, shard: int) -> Votes:
        votes = Votes()
        names = ("first_id", "second_id", "principle_id", "verdict")
        for source in sources.having("judgments", shard):
            found = source.columns(Judgment, *names, "p_first", "rating", only=[shard])
            said = zip(*(texts_of(found[name]) for name in names), found["p_first"].tolist(), found["rating"].tolist(),
                       strict=True)  # fmt: skip
            for first, second, name, verdict, p, rating in said:
                votes.add(first, second, name, math.nan if verdict == "invalid" else p if second else rating, verdict)
        return votes

    # Rows

    def _place(self, row: int) -> tuple[Part, int]:
        index = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self.parts[index], row - self._starts[index]

    def spot(self, row: int) -> Spot:
        """Where the example of a row lies."""
        part, at = self._place(row)
        return Spot(part.round, part.shard, at, part.first + at)

    def sources(self, number: int) -> Held:
        return self._sources[number]

    def column(self, name: str) -> np.ndarray:
        """A number of all examples so far."""
        parts = self.parts[: len(self._starts) - 1]
        if name == "round":
            return np.repeat([part.round for part in parts], [len(part) for part in parts])
        if name == "tokens":
            return np.maximum(self.column("chosen"), self.column("rejected"))
        return np.concatenate([getattr(part, name) for part in parts]) if parts else np.zeros(0)

    def facts(self, row: int) -> dict[str, Any]:
        """The numbers of one row."""
        part, at = self._place(row)
        names = ("p", "margin", "answers", "good", "chosen", "rejected", "orders", "against", "invalid")
        found = {name: getattr(part, name)[at].item() for name in names}
        sets = {name: getattr(self, name).all[getattr(part, name)[at]] for name in ("principles", "tags", "labels")}
        return {**found, **sets}

    def snippets(self, spot: Spot) -> Texts | None:
        """The beginnings of the texts of an example; None where `load` has not read them."""
        found = self._snippets.get(spot)
        if found is not None:
            self._snippets.move_to_end(spot)
        return found

    def load(self, spots: Sequence[Spot]) -> None:
        """Read the beginnings of the texts of some examples, each shard once. To be called from a thread."""
        by_shard: dict[tuple[int, int], list[Spot]] = defaultdict(list)
        for spot in spots:
            by_shard[spot.round, spot.shard].append(spot)
        for (number, shard), wanted in by_shard.items():
            texts = self._texts(self._sources[number], shard)
            first = wanted[0].place - wanted[0].at
            near = {at for spot in wanted for at in range(spot.at - AHEAD, spot.at + AHEAD + 1)}
            for at in sorted(near.intersection(range(len(texts)))):
                snippets = Texts(*(one_line(text, SNIPPET) for text in texts[at]))
                self._snippets[Spot(number, shard, at, first + at)] = snippets
            while len(self._snippets) > SNIPPETS_KEPT:
                self._snippets.popitem(last=False)

    def _texts(self, sources: Held, shard: int) -> list[Texts]:
        """The texts of all examples of a shard."""
        ends, _ = self._read(sources, shard)
        prompts = sources.prompts(shard, ends.prompts)
        texts = {gold.id: gold.text for one in prompts.values() if (gold := one.gold()) is not None}
        steps = [*sources.having("candidates", shard), *([sources.whole.step] if self.kind == "demonstrations" else ())]
        for step in steps:
            found = step.columns(Candidate, "id", "text", only=[shard])
            texts.update(zip(texts_of(found["id"]), texts_of(found["text"]), strict=True))
        last = {one: prompts[one].messages[-1].content for one in ends.prompts if one in prompts}
        return [Texts(last.get(one, ""), texts.get(a, ""), texts.get(b, "")) for one, a, b in zip(*ends, strict=True)]

    # Search

    def search(self, needles: Sequence[str]) -> Iterator[float]:
        """Look for texts in prompts and answers, shard by shard; yields how much was read, from 0 to 1.

        What was found of other needles is forgotten. Rows of shards that were not read yet have no needle.
        """
        self._found = {needle: self._found.get(needle, []) for needle in needles}
        found, parts = self._found, self.parts[: len(self._starts) - 1]
        for index, part in enumerate(parts):
            missing = [needle for needle in needles if len(found[needle]) == index]
            texts = self._texts(self._sources[part.round], part.shard) if missing else []
            for needle in missing:
                found[needle].append(np.array([text.have(needle) for text in texts], dtype=bool))
            if missing:
                yield (index + 1) / len(parts)

    def lacks(self, needles: Iterable[str]) -> bool:
        """Whether some of the texts were not searched for some needle."""
        return any(len(self._found.get(needle, ())) < len(self._starts) - 1 for needle in needles)

    def having(self, needle: str) -> tuple[np.ndarray, np.ndarray]:
        """The rows whose texts were searched for a needle, and of these those that have it, both as booleans [N]."""
        found = self._found.get(needle, [])[: len(self._starts) - 1]
        searched = np.arange(len(self)) < self._starts[len(found)]
        return searched, np.concatenate([*found, np.zeros(len(self) - self._starts[len(found)], dtype=bool)])


def numbers_of(
    ends: Ends, *, answers: Any, p: Any = math.nan, margin: Any = math.nan, good: Any = -1
) -> dict[str, Any]:
    """The numbers that stand in examples, as arrays [N]; one number stands for all."""
    size = len(ends.prompts)
    return {
        "p": np.broadcast_to(np.asarray(p, dtype=np.float32), size),
        "margin": np.broadcast_to(np.asarray(margin, dtype=np.float32), size),
        "answers": np.broadcast_to(np.asarray(answers, dtype=np.int16), size),
        "good": np.broadcast_to(np.asarray(good, dtype=np.int16), size),
    }


class Judged(NamedTuple):
    """What the judge's votes on two answers amount to; see Part."""

    principles: frozenset[str]
    orders: bool
    against: int
    invalid: int


NOT_JUDGED = Judged(frozenset(), False, 0, 0)


class Votes:
    """The verdicts of a shard by the answers shown: by principle the probability, or the rating, of the first.

    Those on (answer, "") are ratings of one answer; of these, only which is higher counts.
    """

    def __init__(self) -> None:
        self._said: dict[tuple[str, str], list[tuple[str, float, bool]]] = defaultdict(list)

    def add(self, first: str, second: str, principle: str, value: float, verdict: str) -> None:
        self._said[first, second].append((principle, value, verdict == "invalid"))

    def on(self, chosen: str, rejected: str) -> Judged:
        """Put the votes of both orders together: by principle the probability that the chosen answer is better."""
        if not chosen or not rejected:
            return NOT_JUDGED
        keys = ((chosen, rejected), (rejected, chosen), (chosen, ""), (rejected, ""))
        there, back, *alone = (self._said.get(key, ()) for key in keys)
        by_name: dict[str, list[float]] = defaultdict(list)
        for name, p, _ in there:
            by_name[name].append(p)
        for name, p, _ in back:
            by_name[name].append(1.0 - p)
        other = {name: rating for name, rating, _ in alone[1]}
        for name, rating, _ in alone[0]:
            lead = rating - other.get(name, math.nan)
            by_name[name].append(math.nan if lead != lead else 0.5 + 0.5 * np.sign(lead))
        known = [[p for p in found if p == p] for found in by_name.values()]
        orders = any(min(found) < 0.5 < max(found) for found in known if found)
        against = sum(sum(found) / len(found) < 0.5 for found in known if found)
        invalid = sum(is_none for found in (there, back, *alone) for *_, is_none in found)
        return Judged(frozenset(by_name), orders, against, invalid)


def texts_of(column: Any) -> list[str]:
    """A column of texts, row by row."""
    return [column.distinct[code] if code >= 0 else "" for code in column.codes.tolist()]
