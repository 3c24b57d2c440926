"""What an edit of the constitution would change, before a round is spent on it: stored answers judged by both texts.

The judge of a round reads pairs of answers that it has compared before, under the principle as it was and as it is
edited. What it said of them then is taken from the run. Beside the flips stands what chance makes: the old text asked
again with other marks around the answers, which mean nothing. Nothing is written into the run.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean
from typing import Any, Literal

from selfalign import constitution as constitutions
from selfalign.calibration import wilson_interval
from selfalign.config import Campaign, in_round
from selfalign.constitution import Constitution, Principle
from selfalign.constitution.diff import Diff, diff
from selfalign.engines.base import ChoiceRequest
from selfalign.preferences import p_of, pair_key
from selfalign.records import Candidate, Interval, Judgment, Prompt, digest
from selfalign.roles import Baseline, judge_model, trained_in
from selfalign.stages import train
from selfalign.stages.judge.budget import dollars
from selfalign.stages.judge.cache import RememberingJudge
from selfalign.stages.judge.sheet import Question, Sheet
from selfalign.steps import Work, Workers
from selfalign.store import Run

Verdict = Literal["first", "second", "tie", "invalid", "not asked"]
SEED = 17
_OVERSAMPLED = 4  # a stratum is cut back to what may be drawn of it whenever it is this many times as large


class PreviewError(RuntimeError):
    """There is nothing to preview, or nobody to ask; what to do instead."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a judge makes of a pair. `lead` of the first: 2p - 1, or the difference of two ratings.

    A lead under `pairs.min_margin` is a tie, for it makes no pair to train on.
    """

    verdict: Verdict
    lead: float | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One pair of answers under one principle that changed. `number` names it in its preview.

    `before` is by the old text; for a principle that was added, by all that judged the pair, and `again` is then None,
    as it is where the principle no longer applies.
    """

    number: int
    prompt: Prompt
    first: Candidate
    second: Candidate
    principle: str
    before: Said
    after: Said
    again: Said | None

    @property
    def flip(self) -> str | None:
        """What the edit changes: "reversed", "to tie", "from tie", "to invalid", "from invalid", "not asked"."""
        return _flip(self.before.verdict, self.after.verdict)

    @property
    def added(self) -> bool:
        """Whether the principle is a new one."""
        return self.again is None and self.after.verdict != "not asked"

    @property
    def noisy(self) -> bool:
        """Whether the old text itself says something else when asked again."""
        return self.again is not None and self.again.verdict != self.before.verdict


@dataclass(frozen=True, slots=True)
class Share:
    """How many of `n`, with the 95% interval of the share (Wilson); None for none."""

    count: int
    n: int
    interval: Interval | None

    @staticmethod
    def of(flags: Iterable[bool]) -> Share:
        flags = list(flags)
        count = sum(flags)
        return Share(count, len(flags), wilson_interval(count, len(flags)) if flags else None)


@dataclass(frozen=True, slots=True)
class Group:
    """The cases of one principle, or with one tag. `kinds` counts the flips; `noise` is of those asked again.

    `beyond_noise`: of the cases where the edit and chance part ways, clearly more than half are the edit's (a sign
    test, by the Wilson interval).
    """

    name: str
    flips: Share
    noise: Share
    kinds: Mapping[str, int]
    beyond_noise: bool

    @staticmethod
    def of(name: str, cases: Sequence[Case]) -> Group:
        flips = Share.of(case.flip is not None for case in cases)
        noise = Share.of(case.noisy for case in cases if case.again is not None)
        edits = sum(case.flip is not None and not case.noisy for case in cases if case.again is not None)
        apart = edits + sum(case.noisy and case.flip is None for case in cases)
        beyond = apart > 0 and wilson_interval(edits, apart).low > 0.5
        kinds = Counter(case.flip for case in cases if case.flip)
        return Group(name, flips, noise, dict(sorted(kinds.items())), beyond)


@dataclass(frozen=True, slots=True)
class Cost:
    """`asked` questions went to the judge; `known` were answered by the run, or at an earlier time."""

    asked: int
    known: int
    tokens: int
    seconds: float
    dollars: float | None = None


@dataclass(frozen=True)
class Preview:
    """`unchanged` counts, by principle, the stored comparisons that the edit does not touch: their verdicts hold."""

    run: str
    round: int
    judge_id: str
    change: Diff
    cases: tuple[Case, ...]
    principles: tuple[Group, ...]
    added: tuple[Group, ...]
    tags: tuple[Group, ...]
    unchanged: Mapping[str, int]
    cost: Cost

    @property
    def flips(self) -> list[Case]:
        return [case for case in self.cases if case.flip is not None]


def preview(
    run: Run,
    settings: Campaign,
    edited: Constitution,
    workers: Workers,
    *,
    round: int | None = None,
    pairs: int = 200,
    seed: int = SEED,
    tell: Callable[[str], None] = lambda message: None,
) -> Preview:
    """Judge up to `pairs` stored pairs of a round (default: the last that was judged) under the old and the new text.

    The sample is drawn by `seed`, as evenly as can be over the changed principles and the tags of their prompts.
    `settings` are those of the run. Raises PreviewError where the round holds no judgments, or its judge is gone.
    """
    number = _judged_round(run, round)
    work = Work(_Reader(run, tell), in_round(settings, number), workers)
    old = constitutions.load(run.path / f"rounds/{number:03d}/constitution.yaml")
    change = diff(old, edited)
    drawn, unchanged = _draw(_Stored(run, number), old, edited, change, pairs, seed)
    judge_id, open_judge = _judge(work, number)
    desk = _Desk(old, edited, work.settings, judge_id, open_judge())
    cases = desk.cases(drawn)
    kept = [case for case in cases if not case.added]
    added = [case for case in cases if case.added]
    return Preview(
        run.path.name, number, judge_id, change, tuple(cases),
        principles=_by(kept, lambda case: [case.principle]), added=_by(added, lambda case: [case.principle]),
        tags=_by(kept, lambda case: case.prompt.tags or ["(none)"]), unchanged=unchanged, cost=desk.cost,
    )  # fmt: skip


def _by(cases: Sequence[Case], names: Callable[[Case], Iterable[str]]) -> tuple[Group, ...]:
    grouped: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        for name in names(case):
            grouped[name].append(case)
    return tuple(Group.of(name, grouped[name]) for name in sorted(grouped))


def _flip(before: Verdict, after: Verdict) -> str | None:
    if before == after:
        return None
    if after == "not asked":
        return after
    for name in ("invalid", "tie"):
        if name in (before, after):
            return f"to {name}" if after == name else f"from {name}"
    return "reversed"


# What is stored.


@dataclass(frozen=True)
class _Reader:
    """A run that is read only: events are told, not written."""

    run: Run
    tell: Callable[[str], None]

    @property
    def path(self) -> Any:
        return self.run.path

    def view(self, name: str) -> Any:
        return self.run.view(name)

    def events(self) -> Any:
        return ()  # a preview has a budget of its own

    def emit(self, event: str, **fields: Any) -> None:
        if event == "warning":
            self.tell(fields["message"])


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two answers that were compared; `said` are the judgments on them."""

    prompt: Prompt
    first: Candidate
    second: Candidate
    said: tuple[Judgment, ...]


@dataclass(frozen=True)
class _Stored:
    """The judged pairs of one round, a shard in memory at a time."""

    run: Run
    round: int

    def pairs(self) -> Iterator[_Pair]:
        steps = {
            name: self.run.view(f"rounds/{self.round:03d}/{name}") for name in ("prompts", "candidates", "judgments")
        }
        for index, judgments in steps["judgments"].shards(Judgment):
            prompts = {prompt.id: prompt for prompt in steps["prompts"].read(Prompt, index)}
            answers = {answer.id: answer for answer in steps["candidates"].read(Candidate, index)}
            said: dict[str, list[Judgment]] = defaultdict(list)
            for judgment in judgments:
                said[judgment.prompt_id].append(judgment)
            for name, of_prompt in said.items():
                for (a, b), about in _about_pairs(of_prompt).items():
                    yield _Pair(prompts[name], answers[a], answers[b], tuple(about))


def _about_pairs(judgments: Sequence[Judgment]) -> dict[tuple[str, str], list[Judgment]]:
    """The judgments on each pair of candidates; ratings of single candidates serve each pair that they are in."""
    if any(judgment.second_id for judgment in judgments):
        compared: dict[tuple[str, str], list[Judgment]] = defaultdict(list)
        for judgment in judgments:
            compared[pair_key(judgment.first_id, judgment.second_id)].append(judgment)
        return compared
    rated = sorted({judgment.first_id for judgment in judgments})
    return {pair: [j for j in judgments if j.first_id in pair] for pair in combinations(rated, 2)}


def _judged_round(run: Run, number: int | None) -> int:
    judged = []
    for known in run.rounds():
        step = run.view(f"rounds/{known:03d}/judgments")
        if step is not None and step.done and step.counts.get("judgments"):
            judged.append(known)
    if number is None and judged:
        return judged[-1]
    if number in judged:
        return number
    has = f"rounds with finished judgments: {', '.join(map(str, judged))}" if judged else "no round has finished them"
    asked = "" if number is None else f"round {number} of "
    raise PreviewError(f"{asked}{run.path} holds no judgments to compare with; {has}")


# What is drawn.


@dataclass
class _Stratum:
    """The `most` pairs that come first by lot, of all that are offered."""

    most: int
    held: list[tuple[str, _Pair]] = field(default_factory=list)

    def offer(self, lot: str, pair: _Pair) -> None:
        self.held.append((lot, pair))
        if len(self.held) >= _OVERSAMPLED * self.most:
            self.cut()

    def cut(self) -> None:
        self.held = sorted(self.held, key=lambda item: item[0])[: self.most]


def _draw(
    stored: _Stored, old: Constitution, new: Constitution, change: Diff, pairs: int, seed: int
) -> tuple[list[tuple[str, _Pair]], dict[str, int]]:
    """Pairs, each with a changed principle that it is to be judged under, and how many pairs each other one has judged.

    Drawn in turn from the strata: the principle, and the tags of the prompt.
    """
    before = {principle.id: principle for principle in old.active}
    after = {principle.id: principle for principle in new.active}
    rescoped = {c.principle for c in change.changes if c.field == "applies_when" and c.principle in after}
    changed = sorted({*change.judged_anew, *rescoped})
    strata: dict[tuple[str, ...], _Stratum] = defaultdict(lambda: _Stratum(pairs))
    unchanged: Counter[str] = Counter()
    for pair in stored.pairs():
        judged = {judgment.principle_id for judgment in pair.said}
        unchanged.update(name for name in judged if name in after and name not in changed)
        for name in changed:
            if name in judged if name in before else after[name].applies_to(pair.prompt):
                lot = digest("preview", seed, name, pair.prompt.id, pair.first.id, pair.second.id)
                strata[name, *sorted(pair.prompt.tags)].offer(lot, pair)
    for stratum in strata.values():
        stratum.cut()
    turns = [(turn, key, pair) for key, s in strata.items() for turn, (_, pair) in enumerate(s.held)]
    chosen = sorted(turns, key=lambda item: (item[0], item[1]))[:pairs]
    drawn = [(key[0], pair) for _, key, pair in chosen]
    return sorted(drawn, key=lambda item: (item[1].prompt.id, item[1].first.id, item[1].second.id)), dict(unchanged)


# What is asked.


def _judge(work: Work, number: int) -> tuple[str, Callable[[], RememberingJudge]]:
    """The judge that the round was labelled by. Raises PreviewError where it is another by now."""
    settings, view = work.settings, work.run.view
    base = train.base_checkpoint(settings.policy.model, settings.policy.revision)
    baseline = Baseline(base, view("baseline/prompts"), view("baseline/candidates"))
    policy = trained_in(work, number - 1, baseline) if number else base
    judge_id, open_judge = judge_model(work, settings.judge, policy, baseline)
    found = next(
        said.judge_id for _, shard in view(f"rounds/{number:03d}/judgments").shards(Judgment) for said in shard
    )
    if found != judge_id:
        raise PreviewError(
            f"round {number} was judged by {found}, and the judge {settings.judge.model} is {judge_id} now: not the "
            "one that it was. Put its folder back, or preview on a round judged since"
        )
    return judge_id, open_judge


class _Desk:
    """Where questions on pairs are put, known answers first."""

    def __init__(
        self, old: Constitution, new: Constitution, settings: Campaign, judge_id: str, engine: RememberingJudge
    ) -> None:
        self._before, self._after = (Sheet(rules, settings.judge, judge_id, SEED) for rules in (old, new))
        self._old, self._new = ({p.id: p for p in rules.active} for rules in (old, new))
        self._settings, self._engine = settings, engine
        self._said: dict[str, Judgment] = {}
        self._from_run = 0
        self._seconds = 0.0

    @property
    def cost(self) -> Cost:
        asked, known = self._engine.asked, self._engine.known + self._from_run
        price, tokens = self._settings.judge.price, self._engine.tokens
        return Cost(asked, known, tokens, self._seconds, dollars(price, tokens, asked) if price else None)

    def cases(self, drawn: Sequence[tuple[str, _Pair]]) -> list[Case]:
        """Ask everything in one stream, then read it pair by pair."""
        stored = {judgment.id: judgment for _, pair in drawn for judgment in pair.said}
        asked = [self._asked(name, pair) for name, pair in drawn]
        self._answer([question for questions in asked for question in questions], stored)
        return [self._case(number, name, pair) for number, (name, pair) in enumerate(drawn)]

    def _asked(self, name: str, pair: _Pair) -> list[tuple[Sheet, Question, bool]]:
        """By the old text, by the new one, and by the old one again; whether it is the last of these."""
        before, after = self._questions(name, pair)
        return [
            *((self._before, question, False) for question in before),
            *((self._after, question, False) for question in after),
            *((self._before, question, True) for question in before if after),
        ]

    def _questions(self, name: str, pair: _Pair) -> tuple[list[Question], list[Question]]:
        old, new = self._old.get(name), self._new[name]
        applies = new.applies_to(pair.prompt)
        return _under(self._before, pair, old), _under(self._after, pair, new if applies else None)

    def _answer(self, asked: Iterable[tuple[Sheet, Question, bool]], stored: Mapping[str, Judgment]) -> None:
        waiting: dict[str, tuple[Sheet, Question, ChoiceRequest]] = {}
        for sheet, question, again in asked:
            if not again and question.id in stored:
                self._from_run += question.id not in self._said
                self._said[question.id] = stored[question.id]
                continue
            request = sheet.again(question) if again else sheet.request(question)
            waiting[request.id] = (sheet, question, request)
        started = time.monotonic()
        self._engine.check_labels(self._before.labels)
        for choice in self._engine.choose(request for _, _, request in waiting.values()):
            sheet, question, _ = waiting[choice.id]
            self._said[choice.id] = sheet.judgment(question, choice)
        self._seconds += time.monotonic() - started

    def _case(self, number: int, name: str, pair: _Pair) -> Case:
        before, after = self._questions(name, pair)
        again = self._read(pair, [f"{question.id} again" for question in before]) if before and after else None
        said = self._read(pair, [question.id for question in before]) if before else self._stored(pair)
        new = self._read(pair, [question.id for question in after]) if after else Said("not asked")
        return Case(number, pair.prompt, pair.first, pair.second, name, said, new, again)

    def _read(self, pair: _Pair, names: Sequence[str]) -> Said:
        return self._reading(pair, [self._said[name] for name in names])

    def _stored(self, pair: _Pair) -> Said:
        """What all principles that judged a pair make of it on average, each counting once."""
        by_principle: dict[str, list[Judgment]] = defaultdict(list)
        for judgment in pair.said:
            by_principle[judgment.principle_id].append(judgment)
        said = [self._reading(pair, judgments) for judgments in by_principle.values()]
        leads = [one.lead for one in said if one.lead is not None]
        return self._by_lead(fmean(leads)) if leads else Said("invalid")

    def _reading(self, pair: _Pair, judgments: Sequence[Judgment]) -> Said:
        if any(judgment.verdict == "invalid" for judgment in judgments):
            return Said("invalid")
        if self._settings.judge.method == "pointwise-logprob":
            ratings = {judgment.first_id: judgment.rating for judgment in judgments}
            return self._by_lead(ratings[pair.first.id] - ratings[pair.second.id])
        return self._by_lead(2.0 * fmean(p_of(judgment, pair.first.id) for judgment in judgments) - 1.0)

    def _by_lead(self, lead: float) -> Said:
        tie = lead == 0 or abs(lead) < self._settings.pairs.min_margin
        return Said("tie" if tie else "first" if lead > 0 else "second", lead)


def _under(sheet: Sheet, pair: _Pair, principle: Principle | None) -> list[Question]:
    return sheet.under(pair.prompt, pair.first, pair.second, principle) if principle else []
