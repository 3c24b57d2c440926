"""Judge: put candidates before the judge, one principle at a time, and record what it says."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations, zip_longest

from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from selfalign import resources
from selfalign.config import Judge, Pairs
from selfalign.constitution import Constitution, Principle
from selfalign.engines.base import Choice, ChoiceRequest, Engine
from selfalign.engines.streaming import answer_shards
from selfalign.preferences import p_of, read_prompt
from selfalign.records import Candidate, Judgment, Message, Prompt, Verdict, derived_seed, digest
from selfalign.selection import Answer, Asked, Comparison, covering, most_telling
from selfalign.stages import StageError

_WAVES = 4  # after the first; more of them ask a little better, and drain the engine's batch as often


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(autoescape=False, trim_blocks=True, lstrip_blocks=False)


@cache
def _template(name: str) -> Template:
    return _environment().from_string(resources.template(name))


def make_nonce(*texts: str) -> str:
    """A few hexadecimal characters that occur in none of the texts: what a candidate cannot have foreseen."""
    haystack, attempt = "\n".join(texts), 0
    while (nonce := digest("nonce", attempt, *texts, size=2 + attempt // 64)) in haystack:
        attempt += 1
    return nonce


def render_pairwise(
    messages: Sequence[Message],
    first: str,
    second: str,
    principle: str,
    *,
    preamble: str = "",
    labels: Sequence[str] = ("A", "B"),
) -> str:
    """The prompt that asks which of two responses is better by one principle (wording: `Principle.comparison()`)."""
    nonce = make_nonce(*(m.content for m in messages), first, second)
    text = {"messages": messages, "first": first, "second": second, "principle": principle, "preamble": preamble}
    return _template("judge_pairwise").render(text, labels=labels, nonce=nonce).strip()


def render_pointwise(
    messages: Sequence[Message],
    response: str,
    principle: str,
    *,
    preamble: str = "",
    labels: Sequence[str] = ("1", "2", "3", "4", "5"),
) -> str:
    """The prompt that asks for a rating of one response by one principle (wording: `Principle.norm()`)."""
    nonce = make_nonce(*(m.content for m in messages), response)
    text = {"messages": messages, "response": response, "principle": principle, "preamble": preamble}
    return _template("judge_pointwise").render(text, labels=labels, nonce=nonce).strip()


# The stage.


def judge(
    shards: Iterable[tuple[int, list[Prompt], list[Candidate]]],
    engine: Engine,
    constitution: Constitution,
    settings: Judge,
    *,
    judge_id: str,
    seed: int,
) -> Iterator[tuple[int, list[Judgment]]]:
    """Judge the candidates of each prompt and yield each shard once all of its verdicts are in.

    A text that several candidates of a prompt share is judged once, as its first candidate; errors are not judged,
    truncated answers are. Judgments are ordered by prompt, then comparison, order shown and principle; questions that
    differ in their principle alone follow one another, so that an engine computes what they share once. A prompt to
    which no principle applies gets no judgment. With `comparisons: active` a shard is judged in waves, each of which
    asks for what the answers so far make most worth knowing, so that the engine's batch drains between waves; a shard
    judged again gets the same questions if it gets the same answers. Raises EngineError unless each label is a single
    token of the judge.
    """
    sheet = _Sheet(constitution, settings, judge_id, seed)
    engine.check_labels(sheet.labels)
    if settings.comparisons == "active" and settings.method == "pairwise-logprob":
        for index, prompts, candidates in shards:
            yield index, _judged_in_waves(sheet, engine, prompts, candidates)
        return
    asked = (sheet.ask(index, prompts, candidates) for index, prompts, candidates in shards)
    for index, questions, choices in answer_shards(asked, engine.choose):
        yield index, [sheet.judgment(question, choices[question.id]) for question in questions]


def count_verdicts(judgments: Iterable[Judgment]) -> Counter[str]:
    """How many judgments there are, and how many of each verdict; a valid rating counts as "rated"."""
    counts = Counter(judgments=0, invalid=0)
    for judgment in judgments:
        counts["judgments"] += 1
        counts["rated" if judgment.rating is not None else judgment.verdict] += 1
    return counts


def check_invalid_share(verdicts: Mapping[str, int], max_invalid: float) -> None:
    """Raise StageError if more than `max_invalid` of the judgments counted by `count_verdicts` are invalid."""
    invalid, total = verdicts.get("invalid", 0), verdicts.get("judgments", 0)
    if invalid > max_invalid * total:
        raise StageError(
            f"the judge gave no valid verdict on {invalid} of {total} questions ({invalid / total:.1%}), more than "
            f"judge.max_invalid allows ({max_invalid:.1%}): its answers name none of the labels, or never came. "
            "Look at the `raw` column of the judgments; a judge that answers by label is set by judge.model, "
            "another limit by --set judge.max_invalid=SHARE"
        )


def distinct(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The candidates to judge: those that are no error, each text once."""
    by_text: dict[str, Candidate] = {}
    for candidate in candidates:
        if candidate.finish_reason != "error":
            by_text.setdefault(candidate.text, candidate)
    return list(by_text.values())


def template_hash(settings: Judge, preamble: str = "") -> str:
    """The hash of all that surrounds conversation, candidates and principle in the words that a judge sees."""
    name = "judge_pointwise" if settings.method == "pointwise-logprob" else "judge_pairwise"
    return digest("template", name, resources.template(name), _labels(settings), preamble)


@dataclass(frozen=True, slots=True)
class _Question:
    """One request to the judge; `second` is None where a single candidate is rated."""

    id: str
    prompt: Prompt
    first: Candidate
    second: Candidate | None
    principle: Principle


class _Sheet:
    """Which questions are asked, in which words, and what an answer means."""

    def __init__(self, constitution: Constitution, settings: Judge, judge_id: str, seed: int) -> None:
        self.constitution, self.settings, self.judge_id, self.seed = constitution, settings, judge_id, seed
        ordinary = tuple(p for p in constitution.principles if p.kind != "hard_constraint")
        self._drawable = replace(constitution, principles=ordinary)
        self.labels = _labels(settings)
        self.template_hash = template_hash(settings, constitution.preamble)
        self._hashes = _wording_hashes(constitution)

    def ask(
        self, index: int, prompts: Sequence[Prompt], candidates: Sequence[Candidate]
    ) -> tuple[int, list[_Question], Iterator[ChoiceRequest]]:
        """A shard's questions, and their requests, each written out when the engine comes for it."""
        questions = self.questions(prompts, candidates)
        return index, questions, map(self.request, questions)

    def questions(self, prompts: Sequence[Prompt], candidates: Sequence[Candidate]) -> list[_Question]:
        grouped = self.grouped(prompts, candidates)
        ask = self._rate if self.settings.method == "pointwise-logprob" else self._compare
        return [question for prompt in prompts for question in ask(prompt, grouped[prompt.id])]

    def grouped(self, prompts: Sequence[Prompt], candidates: Sequence[Candidate]) -> dict[str, list[Candidate]]:
        """The candidates to judge, by prompt."""
        by_prompt: dict[str, list[Candidate]] = {prompt.id: [] for prompt in prompts}
        for candidate in candidates:
            by_prompt[candidate.prompt_id].append(candidate)
        return {prompt_id: distinct(sampled) for prompt_id, sampled in by_prompt.items()}

    def _rate(self, prompt: Prompt, candidates: Sequence[Candidate]) -> Iterator[_Question]:
        # Ratings under different principles cannot be compared: one draw holds for all candidates of the prompt.
        panel = self.panel(prompt)
        for candidate in candidates if len(candidates) > 1 else ():
            for principle in panel:
                yield self._question(prompt, candidate, None, principle)

    def _compare(self, prompt: Prompt, candidates: Sequence[Candidate]) -> Iterator[_Question]:
        for a, b in self._comparisons(prompt, candidates):
            yield from self.compare(prompt, a, b)

    def compare(self, prompt: Prompt, a: Candidate, b: Candidate) -> Iterator[_Question]:
        panel = self.panel(prompt, a.id, b.id)
        for first, second in self._orders(a, b):
            for principle in panel:
                yield self._question(prompt, first, second, principle)

    def _comparisons(self, prompt: Prompt, candidates: Sequence[Candidate]) -> list[tuple[Candidate, Candidate]]:
        k, every = len(candidates), list(combinations(candidates, 2))
        if self.settings.comparisons == "random":
            draw = random.Random(derived_seed(self.seed, "comparisons", prompt.id))
            return draw.sample(every, min(self.settings.budget or k, len(every)))
        if self.settings.comparisons == "all" or k <= 3:  # a cycle of three is all three comparisons
            return every
        cycle = list(candidates)
        random.Random(derived_seed(self.seed, "cycle", prompt.id)).shuffle(cycle)
        return [(cycle[i], cycle[(i + 1) % k]) for i in range(k)]

    def _orders(self, a: Candidate, b: Candidate) -> list[tuple[Candidate, Candidate]]:
        if self.settings.both_orders:
            return [(a, b), (b, a)]
        return [(b, a) if derived_seed(self.seed, "order", a.id, b.id) % 2 else (a, b)]

    def panel(self, prompt: Prompt, *compared: str) -> list[Principle]:
        """The principles that judge a comparison: all that apply, or one of them, drawn by weight (Bai et al. 2022).

        Hard constraints are never left to the draw: a veto that is rarely asked for is none.
        """
        principles = self.constitution.applicable(prompt)
        if self.settings.principles == "all":
            return list(principles)
        drawn = self._drawable.sample(prompt, derived_seed(self.seed, "principle", *compared))
        constraints = [p for p in principles if p.kind == "hard_constraint"]
        return [drawn, *constraints] if drawn else constraints

    def _question(self, prompt: Prompt, first: Candidate, second: Candidate | None, principle: Principle) -> _Question:
        second_id = second.id if second else ""
        principle_hash = self._hashes[principle.id]
        judgment_id = Judgment.make_id(
            prompt.id, first.id, second_id, principle_hash, self.judge_id, self.template_hash
        )
        return _Question(judgment_id, prompt, first, second, principle)

    def request(self, question: _Question) -> ChoiceRequest:
        messages, first, second = question.prompt.messages, question.first.text, question.second
        options = {"preamble": self.constitution.preamble, "labels": self.labels}
        if second is None:
            text = render_pointwise(messages, first, question.principle.norm(), **options)
        else:
            text = render_pairwise(messages, first, second.text, question.principle.comparison(), **options)
        return ChoiceRequest(question.id, (Message("user", text),), self.labels)

    def judgment(self, question: _Question, choice: Choice) -> Judgment:
        probabilities = _normalised(choice.probabilities, len(self.labels))
        verdict, p_first, rating = self._read(probabilities, pointwise=question.second is None)
        return Judgment(
            id=question.id,
            prompt_id=question.prompt.id,
            first_id=question.first.id,
            second_id=question.second.id if question.second else "",
            principle_id=question.principle.id,
            principle_hash=self._hashes[question.principle.id],
            judge_id=self.judge_id,
            template_hash=self.template_hash,
            verdict=verdict,
            p_first=p_first,
            rating=rating,
            raw=choice.raw,
            num_tokens=choice.num_prompt_tokens,
            seconds=choice.seconds,
        )

    def _read(
        self, probabilities: tuple[float, ...] | None, *, pointwise: bool
    ) -> tuple[Verdict, float | None, float | None]:
        """Verdict, p_first and rating. The rating is the expectation sum_i i P(i) (Lee et al. 2023)."""
        if probabilities is None:
            return "invalid", None, None
        if pointwise:
            return "not_applicable", None, sum(i * p for i, p in enumerate(probabilities, start=1))
        p_first = probabilities[0]
        if abs(p_first - 0.5) <= self.settings.tie_margin:
            return "tie", p_first, None
        return "first" if p_first > 0.5 else "second", p_first, None


# Judging in waves.


@dataclass(frozen=True, slots=True)
class _Field:
    """The candidates of one prompt, and what was said of each comparison that was asked for."""

    prompt: Prompt
    candidates: Sequence[Candidate]
    judgments: dict[Comparison, list[Judgment]] = field(default_factory=dict)

    def asked(self, constitution: Constitution) -> Asked:
        said = [judgment for judgments in self.judgments.values() for judgment in judgments]
        readings = read_prompt(said, constitution)
        answers: dict[Comparison, Answer | None] = {}
        for (i, j), judgments in self.judgments.items():
            a, b = self.candidates[i].id, self.candidates[j].id
            # Which tier decides hangs on pairs.min_margin, which the judge does not know: its default is near enough.
            lead = readings.decision(a, b, Pairs.min_margin)
            p = [p_of(judgment, a) for judgment in judgments if judgment.verdict != "invalid"]
            answers[i, j] = None if lead is None else Answer(readings.probability(lead), max(p) - min(p))
        return Asked(len(self.candidates), answers)


def _judged_in_waves(
    sheet: _Sheet, engine: Engine, prompts: Sequence[Prompt], candidates: Sequence[Candidate]
) -> list[Judgment]:
    """The judgments of one shard, by prompt and then in the order asked, `budget` comparisons a prompt on average.

    First every candidate takes part in one comparison; what is left of the budget goes, in `_WAVES` parts, to the
    prompts and pairs where it tells most.
    """
    fields = _fields(sheet, prompts, candidates)
    most = sum(math.comb(len(entry.candidates), 2) for entry in fields)
    left = min((sheet.settings.budget or 1) * len(prompts), most)
    chosen = _covering(fields, sheet.seed)[:left]
    for waves in range(_WAVES, -1, -1):
        _ask(sheet, engine, [(fields[place], comparison) for place, comparison in chosen])
        left -= len(chosen)
        if waves == 0 or left == 0:
            break
        asked = [entry.asked(sheet.constitution) for entry in fields]
        chosen = most_telling(asked, math.ceil(left / waves))
    return [judgment for entry in fields for judgments in entry.judgments.values() for judgment in judgments]


def _fields(sheet: _Sheet, prompts: Sequence[Prompt], candidates: Sequence[Candidate]) -> list[_Field]:
    """The prompts with something to compare and a principle that applies."""
    grouped = sheet.grouped(prompts, candidates)
    return [_Field(p, grouped[p.id]) for p in prompts if len(grouped[p.id]) > 1 and sheet.panel(p)]


def _covering(fields: Sequence[_Field], seed: int) -> list[tuple[int, Comparison]]:
    """Each candidate once, by (place of its prompt, comparison); the first of every prompt come first."""
    covers = []
    for place, entry in enumerate(fields):
        draw = random.Random(derived_seed(seed, "cover", entry.prompt.id))
        covers.append([(place, comparison) for comparison in covering(len(entry.candidates), draw)])
    return [chosen for turn in zip_longest(*covers) for chosen in turn if chosen]


def _ask(sheet: _Sheet, engine: Engine, chosen: Sequence[tuple[_Field, Comparison]]) -> None:
    """Put comparisons before the judge, all in one call, and note its verdicts in their fields."""
    asked: list[tuple[list[Judgment], _Question]] = []
    for entry, (i, j) in chosen:
        said = entry.judgments.setdefault((i, j), [])
        for question in sheet.compare(entry.prompt, entry.candidates[i], entry.candidates[j]):
            asked.append((said, question))
    requests = (sheet.request(question) for _, question in asked)
    for _, _, choices in answer_shards([(0, None, requests)], engine.choose):
        for said, question in asked:
            said.append(sheet.judgment(question, choices[question.id]))


def _labels(settings: Judge) -> tuple[str, ...]:
    return tuple(settings.labels_pointwise if settings.method == "pointwise-logprob" else settings.labels_pairwise)


def _normalised(probabilities: Sequence[float] | None, num_labels: int) -> tuple[float, ...] | None:
    """The probabilities, summing to 1; None where they are no distribution over the labels."""
    if probabilities is None or len(probabilities) != num_labels:
        return None
    total = sum(probabilities)
    if not (math.isfinite(total) and total > 0 and min(probabilities) >= 0):
        return None
    return tuple(p / total for p in probabilities)


def _wording_hashes(constitution: Constitution) -> dict[str, str]:
    """The hash of each active principle, by id. Raises StageError where two principles have the same words.

    They would be one question to the judge, and their votes could not be told apart.
    """
    hashes = {principle.id: principle.hash for principle in constitution.active}
    seen: dict[str, str] = {}
    for principle in constitution.active:
        if (other := seen.setdefault(hashes[principle.id], principle.id)) != principle.id:
            raise StageError(
                f"constitution {constitution.name}: principles {other} and {principle.id} have the same words; "
                "set one of them to `status: deprecated`, or give it its own wording"
            )
    return hashes
