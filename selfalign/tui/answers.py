"""What every policy of a run says to one prompt, and what the judge makes of it.

Of the prompts only ids are read, column by column; answers and verdicts come from the shards that hold them. What was
read once of a finished step is not read again.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from selfalign import constitution as constitutions
from selfalign.config import Campaign, in_round, load
from selfalign.constitution import Constitution
from selfalign.preferences import read_prompt
from selfalign.records import Candidate, Judgment, Prompt
from selfalign.store import Run, Step
from selfalign.store.run import CAMPAIGN
from selfalign.store.step import DONE
from selfalign.tui.reading import UNREADABLE, why

RUNS_KEPT = 8
SHARDS_KEPT = 64
Mark = tuple[int, int] | None  # what a finished step's manifest looks like on disk


@dataclass(frozen=True, slots=True)
class Answer:
    """What one policy says to a prompt: that of round `policy`, or the base policy where it is None.

    `p_previous` and `p_base` are the judge's probabilities that it is better than the answers of the policy before and
    of the base policy, None where it was not asked. `trouble`: why an answer that was given, or what the judge says
    of it, cannot be read.
    """

    policy: int | None
    samples: tuple[Candidate, ...]
    p_previous: float | None = None
    p_base: float | None = None
    trouble: str = ""

    @property
    def name(self) -> str:
        return policy_name(self.policy)

    @property
    def first(self) -> Candidate | None:
        """The sample that is judged: the first without an error."""
        return next((one for one in self.samples if one.finish_reason != "error"), None)


def policy_name(policy: int | None) -> str:
    return "base" if policy is None else f"round {policy}"


def answers_to(run: Run, prompt_id: str) -> list[Answer]:
    """The answers of a run's policies to one prompt, the base policy's first; those that were not asked are left out.

    Held-out prompts are put to every policy, once; a training prompt to the policy that its round began with, several
    times. To be called from a thread: the first call for a run reads the ids of all its prompts.
    """
    return answers_of(run).to(prompt_id)


@lru_cache(maxsize=RUNS_KEPT)
def answers_of(run: Run) -> Answers:
    """The answers of a run, with what was read of them so far."""
    return Answers(run)


@dataclass(slots=True)
class Places:
    """Which shards of a step hold records of a prompt, by its id."""

    shards: dict[str, list[int]] = field(default_factory=dict)
    known: set[int] = field(default_factory=set)

    def grow(self, step: Step, record_type: type, column: str) -> Iterator[str]:
        """Take in the shards that are new; yields why one cannot be read."""
        for shard in step.durable:
            if shard in self.known:
                continue
            try:
                found = step.columns(record_type, column, only=[shard])[column].distinct
            except UNREADABLE as error:
                yield why(error)
                continue
            self.known.add(shard)
            for one in found:
                self.shards.setdefault(one, []).append(shard)


class Answers:
    """All answers of a run. Several threads may ask."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.problems: dict[str, str] = {}  # by step
        self._lock = threading.RLock()
        self._steps: dict[str, tuple[Mark, Step]] = {}
        self._places: dict[str, Places] = {}
        self._rows: OrderedDict[tuple[str, Mark, int], Mapping[str, Sequence[Any]]] = OrderedDict()
        self._rules: dict[int, tuple[Constitution, Campaign]] = {}
        self._answered: dict[int | None, tuple[object, list[str]]] = {}

    def to(self, prompt_id: str) -> list[Answer]:
        """As `answers_to`."""
        with self._lock:
            rounds = self.run.rounds()
            policies: list[int | None] = [None, *rounds]
            asked = [self._trained_on(n, prompt_id) for n in rounds] + [self.of(one, prompt_id) for one in policies]
            found = {answer.policy: answer for answer in asked if answer is not None}
        return [found[policy] for policy in policies if policy in found]

    def of(self, policy: int | None, prompt_id: str) -> Answer | None:
        """A policy's answer to a held-out prompt; None where it gave none (yet)."""
        with self._lock:
            answer = self._answer(policy, "baseline/prompts", _answers_step(policy), prompt_id)
            if policy is None or answer is None or answer.first is None:
                return answer
            base = self._answer(None, "baseline/prompts", _answers_step(None), prompt_id)
            previous = base
            if policy > 0:
                previous = self._answer(policy - 1, "baseline/prompts", _answers_step(policy - 1), prompt_id) or base
            try:
                p = [self._p(policy, answer.first, old.first if old else None) for old in (previous, base)]
            except UNREADABLE as error:
                said = f"what the judge says cannot be read: {why(error, f'rounds/{policy:03d}')}"
                return Answer(policy, answer.samples, trouble=said)
            return Answer(policy, answer.samples, p[0], p[1])

    def prompt(self, prompt_id: str) -> Prompt | None:
        """A held-out prompt, or one that some round was trained on."""
        with self._lock:
            for name in ("baseline/prompts", *(f"rounds/{n:03d}/prompts" for n in self.run.rounds())):
                if (step := self._step(name)) is not None:
                    for shard in self._shards(step, Prompt, "id", prompt_id):
                        return self._of_shard(step, Prompt, "id", shard)[prompt_id][0]
        return None

    def answered(self, policy: int | None) -> list[str]:
        """The ids of the held-out prompts that a policy has answered so far, in the order of the prompts.

        The same list as before, where nothing has come: not to be changed.
        """
        with self._lock:
            asked, step = self._step("baseline/prompts"), self._step(_answers_step(policy))
            if asked is None or step is None:
                return []
            places, there = self._grown(asked, Prompt, "id").shards, set(step.durable)
            mark = len(places), len(there), self._steps[step.name][0]
            if policy not in self._answered or self._answered[policy][0] != mark:
                found = [one for one, shards in places.items() if there.issuperset(shards)]
                self._answered[policy] = mark, found
            return self._answered[policy][1]

    def _trained_on(self, number: int, prompt_id: str) -> Answer | None:
        """What the policy that a round began with says to a prompt of this round."""
        folder = f"rounds/{number:03d}"
        return self._answer(number - 1 if number else None, f"{folder}/prompts", f"{folder}/candidates", prompt_id)

    def _answer(self, policy: int | None, prompts: str, answers: str, prompt_id: str) -> Answer | None:
        """Answers lie in the shards of the numbers that their prompts' shards have."""
        try:
            asked, step = self._step(prompts), self._step(answers)
            if asked is None or step is None:
                return None
            shards = set(step.durable).intersection(self._shards(asked, Prompt, "id", prompt_id))
            rows = [self._of_shard(step, Candidate, "prompt_id", shard).get(prompt_id, ()) for shard in sorted(shards)]
        except UNREADABLE as error:
            return Answer(policy, (), trouble=why(error))
        samples = sorted((row for found in rows for row in found), key=lambda one: one.sample_index)
        return Answer(policy, tuple(samples)) if samples else None

    # What the judge says

    def _p(self, number: int, new: Candidate, old: Candidate | None) -> float | None:
        """The probability that an answer of a round is better than an earlier one, by the round's evaluation."""
        step = self._step(f"rounds/{number:03d}/heldout/judgments")
        if old is None or step is None:
            return None
        if new.text == old.text:
            return 0.5
        shards = self._shards(step, Judgment, "prompt_id", new.prompt_id)
        said = [one for s in shards for one in self._of_shard(step, Judgment, "prompt_id", s).get(new.prompt_id, ())]
        rules, settings = self._judged_by(number)
        readings = read_prompt(said, rules, settings.pairs.rating_scale)
        lead = readings.decision(new.id, old.id, settings.pairs.min_margin)
        return None if lead is None else readings.probability(lead)

    def _judged_by(self, number: int) -> tuple[Constitution, Campaign]:
        if number not in self._rules:
            folder = self.run.path / f"rounds/{number:03d}"
            names = (folder / "evaluation.yaml", folder / "constitution.yaml")
            rules = constitutions.load(next((path for path in names if path.is_file()), names[1]))
            self._rules[number] = rules, in_round(load(self.run.path / CAMPAIGN).campaign, number)
        return self._rules[number]

    # What was read

    def _step(self, name: str) -> Step | None:
        """A step; one that is finished is opened once, for its manifest may be long."""
        mark = self._mark(name)
        before, held = self._steps.get(name, (None, None))
        if held is not None and mark is not None and mark == before:
            return held
        step = self.run.view(name)
        if step is None or (before is not None and mark != before):  # gone, or made anew
            self._steps.pop(name, None)
            self._places.pop(name, None)
        if step is not None:
            self._steps[name] = mark, step
        return step

    def _mark(self, name: str) -> Mark:
        try:
            status = os.stat(self.run.path / name / DONE)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size

    def _grown(self, step: Step, record_type: type, column: str) -> Places:
        places = self._places.setdefault(step.name, Places())
        self.problems.pop(step.name, None)
        for problem in places.grow(step, record_type, column):
            self.problems[step.name] = problem
        return places

    def _shards(self, step: Step, record_type: type, column: str, prompt_id: str) -> Sequence[int]:
        return self._grown(step, record_type, column).shards.get(prompt_id, ())

    def _of_shard(self, step: Step, record_type: type, column: str, shard: int) -> Mapping[str, Sequence[Any]]:
        """The records of a shard by the id of their prompt."""
        key = step.name, self._steps[step.name][0], shard
        if key not in self._rows:
            found: dict[str, list[Any]] = defaultdict(list)
            for row in step.read(record_type, shard):
                found[getattr(row, column)].append(row)
            self._rows[key] = dict(found)
            while len(self._rows) > SHARDS_KEPT:
                self._rows.popitem(last=False)
        self._rows.move_to_end(key)
        return self._rows[key]


def _answers_step(policy: int | None) -> str:
    return "baseline/candidates" if policy is None else f"rounds/{policy:03d}/heldout/candidates"
