"""From a run's folder to what its principles did."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

from selfalign import config
from selfalign.constitution import Constitution, Principle, load
from selfalign.preferences import PairKey, pair_key
from selfalign.principles.conflicts import Conflict, conflicts
from selfalign.principles.figures import Figures, figures
from selfalign.principles.flags import Flag, flags
from selfalign.principles.opinions import Columns, Labels, Places, Preferred, Said, joined, said
from selfalign.records import Candidate, Judgment, Pair, Prompt, Ranking
from selfalign.store import Run, Step, StoreError

if TYPE_CHECKING:
    from selfalign.store.tables import Texts  # pyarrow takes half a second to import

_JUDGMENT = ("prompt_id", "first_id", "second_id", "principle_id", "principle_hash", "verdict", "p_first", "rating")


@dataclass(frozen=True, slots=True)
class Record:
    """One principle. `stated` is how the last constitution has it, `reworded` the rounds in which its words are new."""

    id: str
    stated: Principle | None
    over_all: Figures
    by_round: Mapping[int, Figures]
    reworded: tuple[int, ...]
    flags: tuple[Flag, ...]


@dataclass(frozen=True, slots=True)
class Stats:
    """What the principles did in some rounds, those first that the labels follow most.

    `rounds` are those that hold judgments. `num_pairs` counts the pairs of answers on which some principle spoke.
    """

    rounds: tuple[int, ...]
    num_judgments: int
    num_prompts: int
    num_pairs: int
    principles: tuple[Record, ...]
    conflicts: tuple[Conflict, ...]


def stats(run: Run, rounds: Sequence[int] | None = None, people: Preferred | None = None) -> Stats:
    """What the principles did in some rounds of a run (default: all).

    `people`: by pair of candidates, the smaller id first, the one that people prefer. Raises StoreError for damage.
    """
    wanted = [number for number in (run.rounds() if rounds is None else rounds) if _is_judged(run, number)]
    principles, prompts, reworded = Places(), Places(), _Wordings()
    files = {number: run.path / f"rounds/{number:03d}/constitution.yaml" for number in wanted}
    rules = {number: load(file) for number, file in files.items() if file.is_file()}
    principles.of(principle.id for one in rules.values() for principle in one.active)
    campaign = config.load(run.path / "campaign.yaml").campaign
    scales = {number: config.in_round(campaign, number).pairs.rating_scale for number in wanted}
    read = {n: _read(run, n, people or {}, principles, prompts, reworded, scales[n]) for n in wanted}
    return _stats(read, rules, list(principles), reworded)


def _stats(read: Mapping[int, Said], rules: Mapping[int, Constitution], names: list[str], reworded: _Wordings) -> Stats:
    if not read:
        return Stats((), 0, 0, 0, (), ())
    whole = joined(list(read.values()))
    over_all = figures(whole, len(names))
    by_round = (
        {number: figures(one, len(names)) for number, one in read.items()}
        if len(read) > 1
        else dict.fromkeys(read, over_all)
    )
    found = conflicts(whole, names)
    records = []
    for place, name in enumerate(names):
        stated = next((p for n in sorted(rules, reverse=True) for p in rules[n].principles if p.id == name), None)
        course = {number: each[place] for number, each in by_round.items()}
        edits = reworded.of(name)
        raised = flags(name, stated, over_all[place], course, found, edits)
        records.append(Record(name, stated, over_all[place], course, edits, tuple(raised)))
    records.sort(key=lambda record: math.inf if (s := record.over_all.strength) is None else -s)
    questions = whole.questions
    return Stats(
        tuple(sorted(read)),
        len(questions.prompt),
        len(whole.prompts),
        len(whole.pairs.prompt),
        tuple(records),
        tuple(found),
    )


class _Wordings(dict[str, dict[int, set[str]]]):
    """By principle and round, the hashes of the words that the judge saw."""

    def of(self, principle: str) -> tuple[int, ...]:
        """The rounds in which its words differ from those of the round before that asked it."""
        course = sorted(self.get(principle, {}).items())
        return tuple(number for (_, before), (number, now) in pairwise(course) if before != now)


def _is_judged(run: Run, number: int) -> bool:
    step = run.view(f"rounds/{number:03d}/judgments")
    return step is not None and step.num_shards > 0


def _read(
    run: Run,
    number: int,
    people: Preferred,
    principles: Places,
    prompts: Places,
    wordings: _Wordings,
    rating_scale: float,
) -> Said:
    folder = f"rounds/{number:03d}"
    judged, sampled = _step(run, f"{folder}/judgments"), _step(run, f"{folder}/candidates")
    judgments = judged.columns(Judgment, *_JUDGMENT)
    candidates = sampled.columns(Candidate, "id", "prompt_id", "token_ids")
    names, hashes = judgments["principle_id"], judgments["principle_hash"]
    for name, words in {*zip(names.codes.tolist(), hashes.codes.tolist(), strict=True)}:
        wordings.setdefault(names.distinct[name], {}).setdefault(number, set()).add(hashes.distinct[words])
    labels = Labels(dict(_chosen(run, folder, sampled)), people, dict(_gold(run, folder, sampled)))
    return said(judgments, candidates, labels, principles, prompts, rating_scale)


def _step(run: Run, name: str) -> Step:
    step = run.view(name)
    if step is None:
        raise StoreError(f"{run.path / name} is missing. See what else is: selfalign verify {run.path}")
    return step


def _chosen(run: Run, folder: str, sampled: Step) -> Iterator[tuple[PairKey, str]]:
    """What a round was trained on: pairs, each two answers of a ranking whose scores differ, or the best of each k."""
    if (step := run.view(f"{folder}/pairs")) is not None:
        for chosen, rejected in _rows(step.columns(Pair, "chosen_id", "rejected_id")):
            yield pair_key(chosen, rejected), chosen
    if (step := run.view(f"{folder}/rankings")) is not None:
        for _, rankings in step.shards(Ranking):
            for ranking in rankings:
                scored = zip(ranking.candidate_ids, ranking.scores, strict=True)
                for (better, high), (worse, low) in combinations(scored, 2):
                    if high != low:
                        yield pair_key(better, worse), better if high > low else worse
    if (step := run.view(f"{folder}/demonstrations")) is not None:
        kept = set(step.columns(Candidate, "id")["id"].distinct)
        rows = _rows(sampled.columns(Candidate, "id", "prompt_id"))
        yield from _better((one, prompt, one in kept) for one, prompt in rows)


def _gold(run: Run, folder: str, sampled: Step) -> Iterator[tuple[PairKey, str]]:
    """Of two answers the one that is, word for word, the gold answer of their prompt."""
    step = run.view(f"{folder}/prompts")
    golds = _golds(step.columns(Prompt, "id", "response")) if step is not None else {}
    if not golds:
        return
    rows = _rows(sampled.columns(Candidate, "id", "prompt_id", "text"))
    yield from _better((one, prompt, text.strip() == golds[prompt]) for one, prompt, text in rows if prompt in golds)


def _better(answers: Iterable[tuple[str, str, bool]]) -> Iterator[tuple[PairKey, str]]:
    """Of each two answers to a prompt, given as (id, prompt, is it good), the good one, where only one is."""
    by_prompt: dict[str, list[tuple[str, bool]]] = {}
    for one, prompt, good in answers:
        by_prompt.setdefault(prompt, []).append((one, good))
    for found in by_prompt.values():
        for (a, a_is), (b, b_is) in combinations(found, 2):
            if a_is != b_is:
                yield pair_key(a, b), a if a_is else b


def _golds(prompts: Columns) -> dict[str, str]:
    """The gold answer of each prompt that has one."""
    has = prompts["response"].codes >= 0
    kept = {name: column._replace(codes=column.codes[has]) for name, column in prompts.items()}
    return {prompt: response.strip() for prompt, response in _rows(kept) if response.strip()}


def _rows(columns: Mapping[str, Texts]) -> Iterator[tuple[str, ...]]:
    """Columns of texts, row by row."""
    return zip(*([column.distinct[code] for code in column.codes.tolist()] for column in columns.values()), strict=True)
