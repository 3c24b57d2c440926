"""What training reads beside what the judge made, gold answers and examples of earlier rounds; and where from."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec

from selfalign.records import Candidate, Judgment, Pair, Prompt, Ranking, Revision, digest
from selfalign.store import Run, Step

Example = TypeVar("Example", Pair, Ranking, Candidate)
Kind = Literal["pairs", "rankings", "demonstrations"]

RECORDS: dict[Kind, type] = {"pairs": Pair, "rankings": Ranking, "demonstrations": Candidate}


def kind_of(algorithm: str) -> Kind:
    """What an algorithm trains on, and the name of the step that holds it."""
    if algorithm in ("dpo", "ppo"):  # PPO's reward model learns from pairs
        return "pairs"
    return "demonstrations" if algorithm in ("sft", "raft") else "rankings"


def gold_answers(prompts: Sequence[Prompt]) -> tuple[list[Candidate], Counter[str]]:
    """The answers that came with the prompts; counts the prompts without one, and those with an empty one."""
    found, left_out = [], Counter[str]()
    for prompt in prompts:
        gold = prompt.gold()
        if gold is None or not gold.text.strip():
            left_out["no_gold" if gold is None else "empty"] += 1
        else:
            found.append(gold)
    return found, left_out


def replayed(earlier: Iterable[Example], wanted: int, seed: int) -> list[Example]:
    """Draw `wanted` of the earlier examples (all of them where there are fewer), each at most once."""
    return heapq.nsmallest(wanted, earlier, key=lambda example: digest("replay", seed, msgspec.to_builtins(example)))


def held(run: Run, rounds: Sequence[int] | None = None) -> dict[Kind, list[int]]:
    """By kind of example the rounds that hold it, that of the first round first; none where none was wanted."""

    def has(number: int, kind: Kind) -> bool:
        step = run.view(f"rounds/{number:03d}/{kind}")
        return step is not None and not (step.done and step.counts.get(kind) == 0)

    asked = run.rounds() if rounds is None else rounds
    found = {kind: [number for number in asked if has(number, kind)] for kind in RECORDS}
    return dict(sorted(((kind, numbers) for kind, numbers in found.items() if numbers), key=lambda item: item[1]))


@dataclass(frozen=True)
class Sources:
    """The steps that a step was made from, and those that these were made from, by its lineage."""

    run: Run
    step: Step

    def steps(self, kind: str) -> Iterator[Step]:
        """Those that are called `kind`, in the order in which the lineage names them."""
        waiting, seen = [self.step], {self.step.name}
        while waiting:
            found = [name for name in waiting.pop(0).inputs if name.startswith("rounds/") and name not in seen]
            seen.update(found)
            opened = [step for name in found if (step := self.run.view(name)) is not None]
            waiting += opened
            yield from (step for step in opened if step.name.rpartition("/")[2] == kind)

    def read(self, record_type: type[Any], index: int) -> Iterator[Any]:
        """The records of one shard, of every step that holds such records and has this shard."""
        kind = {Prompt: "prompts", Candidate: "candidates", Judgment: "judgments"}[record_type]
        for step in self.steps(kind):
            if index not in step.pending(index + 1):
                yield from step.read(record_type, index)

    def prompts(self, index: int, records: Sequence[Any]) -> dict[str, Prompt]:
        """The prompts of some records: those of the shard, or of all shards where the shards are cut otherwise."""
        found = {prompt.id: prompt for prompt in self.read(Prompt, index)}
        if any(record.prompt_id not in found for record in records):
            found = {row.id: row for step in self.steps("prompts") for _, rows in step.shards(Prompt) for row in rows}
        return found

    def answers(self, index: int) -> dict[str, Candidate]:
        """The candidates of one shard and the gold answers of its prompts."""
        golds = [gold for prompt in self.read(Prompt, index) if (gold := prompt.gold()) is not None]
        return {answer.id: answer for answer in (*golds, *self.read(Candidate, index))}

    def revisions(self) -> dict[str, int]:
        """By id of each revision the step of critique and revision that wrote it."""
        steps = self.steps("revisions")
        return {row.id: row.step for step in steps for _, rows in step.shards(Revision) for row in rows}
