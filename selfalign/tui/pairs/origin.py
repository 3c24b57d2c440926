"""One example with all it rests on, and what became of it: read for screen 4 when it is opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfalign.records import GOLD, Candidate, Judgment, Pair, Prompt, Ranking, Revision
from selfalign.stages import report as reports
from selfalign.stages.examples import RECORDS
from selfalign.store import Run, Step
from selfalign.text import one_line
from selfalign.tui.pairs.index import Held, Listing, PairIndex, Spot
from selfalign.tui.reading import UNREADABLE


@dataclass(frozen=True, slots=True)
class Origin:
    """An example with all it rests on.

    `record` is None for a prompt that was left out. `answers` are all that were sampled to the prompt and the gold
    answer, by id, the best first; `scores` what the judge makes of them (`scored` says in what). `judgments` are all on
    the prompt. `considered` counts by reason what else of the prompt is no example. `made` are the digests of the steps
    it comes from.
    """

    spot: Spot
    kind: Listing
    record: Pair | Ranking | Candidate | None
    prompt: Prompt
    answers: Mapping[str, Candidate]
    judgments: tuple[Judgment, ...]
    revisions: Mapping[str, Revision]
    scored: str
    scores: Mapping[str, float]
    considered: Mapping[str, str]
    training: Training
    made: Mapping[str, str]

    @property
    def first(self) -> Candidate | None:
        """The answer that was learned: chosen, ranked best, or demonstrated. None where its file is lost."""
        return self.answers.get(self.ends[0])

    @property
    def last(self) -> Candidate | None:
        """The answer it was compared with: rejected, or ranked worst."""
        return self.answers.get(self.ends[1])

    @property
    def ends(self) -> tuple[str, str]:
        """The ids of the first answer and of the last one; "" for none."""
        match self.record:
            case Pair(chosen_id=chosen, rejected_id=rejected):
                return chosen, rejected
            case Ranking(candidate_ids=ids):
                return ids[0], ids[-1] if len(ids) > 1 else ""
            case Candidate(id=one):
                return one, ""
        judged = [one for one in self.answers if one in self.scores]
        return (judged[0], judged[-1]) if len(judged) > 1 else (next(iter(self.answers), ""), "")

    @property
    def on_both(self) -> list[Judgment]:
        """The verdicts on the first answer and the last, or on one of them alone."""
        both = set(self.ends)
        return [one for one in self.judgments if {one.first_id, one.second_id} - {""} <= both] if all(both) else []

    def role(self, answer: Candidate) -> str:
        """What the example makes of an answer: chosen, rejected, good, bad, learned or nothing."""
        if isinstance(self.record, Pair):
            return {self.record.chosen_id: "chosen", self.record.rejected_id: "rejected"}.get(answer.id, "")
        if isinstance(self.record, Ranking) and answer.id in self.record.candidate_ids:
            place = self.record.candidate_ids.index(answer.id)
            label = "" if not self.record.desirable else " good" if self.record.desirable[place] else " bad"
            return f"{place + 1}{label}"
        return "learned" if isinstance(self.record, Candidate) and answer.id == self.record.id else ""

    def source_of(self, answer: Candidate) -> str:
        """Where an answer comes from."""
        if answer.policy_id == GOLD:
            return "gold answer"
        if (revision := self.revisions.get(answer.id)) is not None:
            return f"revision {revision.step}"
        return f"sample {answer.sample_index}"

    def revised_from(self, answer: Candidate | None) -> list[Revision]:
        """The critiques and revisions that led to an answer, the first one first."""
        found, one = [], answer.id if answer is not None else ""
        while (revision := self.revisions.get(one)) is not None and revision not in found:
            found.insert(0, revision)
            one = revision.before_id
        return found


@dataclass(frozen=True, slots=True)
class Training:
    """What became of an example: `rounds` are those that were trained on it, in the first as new, later replayed.

    `next` are the rounds that were begun since; `accepted` is whether the gate let the round's policy through.
    """

    rounds: tuple[int, ...] = ()
    next: tuple[int, ...] = ()
    accepted: bool | None = None


def origin_of(index: PairIndex, spot: Spot) -> Origin:
    """Everything about one example. To be called from a thread; raises StoreError where it cannot be read."""
    held = index.sources(spot.round)
    record, prompt = _record(index, held, spot)
    sampled = [one for one in held.records("candidates", Candidate, spot.shard) if one.prompt_id == prompt.id]
    said = [one for one in held.records("judgments", Judgment, spot.shard) if one.prompt_id == prompt.id]
    revisions = _revisions(held, spot.shard, prompt.id)
    scored, scores, considered = _decided(index, spot.round, prompt, sampled, said, revisions)
    if isinstance(record, Ranking):
        scored, scores = "score", dict(zip(record.candidate_ids, record.scores, strict=True))
    gold = prompt.gold()
    answers = {one.id: one for one in (*sampled, *(one.candidate() for one in revisions), *([gold] if gold else []))}
    if isinstance(record, Candidate):
        answers.setdefault(record.id, record)
    return Origin(
        spot, index.kind, record, prompt, _best_first(answers, scores, record), tuple(said),
        {one.id: one for one in revisions}, scored, scores, considered,
        _training(index.run, held, record, spot.round), dict(_made(held)),
    )  # fmt: skip


def _record(index: PairIndex, held: Held, spot: Spot) -> tuple[Any, Prompt]:
    if index.kind == "left out":
        assert held.asked is not None
        rows = held.asked.read(Prompt, spot.shard)
        return None, [row for row in rows if row.id not in held.learnt][spot.at]
    record = held.whole.step.read(RECORDS[index.kind], spot.shard)[spot.at]
    return record, held.prompts(spot.shard, [record.prompt_id])[record.prompt_id]


def _revisions(held: Held, shard: int, prompt_id: str) -> list[Revision]:
    if not held.steps["revisions"]:
        return []
    found = [row for row in held.records("revisions", Revision, shard) if row.prompt_id == prompt_id]
    if found:
        return found
    every = (step.shards(Revision) for step, _ in held.steps["revisions"])  # the examples may be cut otherwise
    return [row for shards in every for _, rows in shards for row in rows if row.prompt_id == prompt_id]


def _decided(
    index: PairIndex,
    number: int,
    prompt: Prompt,
    sampled: Sequence[Candidate],
    said: Sequence[Judgment],
    revisions: Sequence[Revision],
) -> tuple[str, Mapping[str, float], Mapping[str, str]]:
    """What the scores of answers are, the scores, and by reason what was left out; nothing where no file says."""
    try:
        rules = index.rules(number)
        left_out = rules.left_out(prompt, sampled, said, revisions)
        words = {
            one_line(reason, 40) + f" × {count}" * (count > 1): rules.words(reason)
            for reason, count in left_out.items()
        }
        return *(rules.scores(sampled, said) if said else ("", {})), words
    except UNREADABLE:
        return "", {}, {}


def _best_first(answers: Mapping[str, Candidate], scores: Mapping[str, float], record: Any) -> dict[str, Candidate]:
    ranked = record.candidate_ids if isinstance(record, Ranking) else ()

    def place(one: Candidate) -> tuple[float, ...]:
        rank = ranked.index(one.id) if one.id in ranked else len(ranked)
        return rank, -scores.get(one.id, float("-inf")), one.sample_index

    return {one.id: one for one in sorted(answers.values(), key=place)}


def _training(run: Run, held: Held, record: Any, number: int) -> Training:
    """The rounds whose training had a record, and what the gate said of the first."""
    later = [one for one in run.rounds() if one > number]
    trained = [number] if record is not None and _trained_on(run, number, held.whole.step.name) else []
    for one in later if record is not None else ():
        name = f"rounds/{one:03d}/replay/{held.kind}"
        if _trained_on(run, one, name) and record in _rows(run.view(name), RECORDS[held.kind]):
            trained.append(one)
    report = reports.read_round(run, number)
    gate = report.gate if report is not None else None
    return Training(tuple(trained), tuple(later), gate.accepted if gate is not None else None)


def _trained_on(run: Run, number: int, name: str) -> bool:
    policy = run.view(f"rounds/{number:03d}/policy")
    return policy is not None and policy.done and name in policy.inputs


def _rows(step: Step | None, record_type: type[Any]) -> list[Any]:
    return [row for _, rows in step.shards(record_type) for row in rows] if step is not None else []


def _made(held: Held) -> Iterator[tuple[str, str]]:
    steps = [held.whole.step, *(step for found in held.steps.values() for step, _ in found)]
    yield from ((step.name, step.digest) for step in steps if step.done)
