"""Which questions are put to the judge, and what its answers mean."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from selfalign import resources
from selfalign.config import Judge
from selfalign.constitution import Constitution, Principle
from selfalign.engines.base import Choice, ChoiceRequest
from selfalign.preferences import verdict_of
from selfalign.records import Candidate, Judgment, Message, Prompt, Verdict, derived_seed, digest
from selfalign.stages import StageError
from selfalign.stages.judge.wording import render_pairwise, render_pointwise


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
class Question:
    """One request to the judge; `second` is None where a single candidate is rated."""

    id: str
    prompt: Prompt
    first: Candidate
    second: Candidate | None
    principle: Principle


class Sheet:
    """Which questions are asked, in which words, and what an answer means."""

    def __init__(
        self, constitution: Constitution, settings: Judge, judge_id: str, seed: int, *, alone: bool = False
    ) -> None:
        self.constitution, self.settings, self.judge_id, self.seed = constitution, settings, judge_id, seed
        self._fewest = 1 if alone else 2  # candidates of a prompt worth a rating
        ordinary = tuple(p for p in constitution.principles if p.kind != "hard_constraint")
        self._drawable = replace(constitution, principles=ordinary)
        self.labels = _labels(settings)
        self.template_hash = template_hash(settings, constitution.preamble)
        self._hashes = _wording_hashes(constitution)

    def ask(
        self, index: int, prompts: Sequence[Prompt], candidates: Sequence[Candidate]
    ) -> tuple[int, list[Question], Iterator[ChoiceRequest]]:
        """A shard's questions, and their requests, each written out when the engine comes for it."""
        questions = self.questions(prompts, candidates)
        return index, questions, map(self.request, questions)

    def questions(self, prompts: Sequence[Prompt], candidates: Sequence[Candidate]) -> list[Question]:
        grouped = self.grouped(prompts, candidates)
        ask = self._rate if self.settings.method == "pointwise-logprob" else self._compare
        return [question for prompt in prompts for question in ask(prompt, grouped[prompt.id])]

    def grouped(self, prompts: Sequence[Prompt], candidates: Sequence[Candidate]) -> dict[str, list[Candidate]]:
        """The candidates to judge, by prompt."""
        by_prompt: dict[str, list[Candidate]] = {prompt.id: [] for prompt in prompts}
        for candidate in candidates:
            by_prompt[candidate.prompt_id].append(candidate)
        return {prompt_id: distinct(sampled) for prompt_id, sampled in by_prompt.items()}

    def _rate(self, prompt: Prompt, candidates: Sequence[Candidate]) -> Iterator[Question]:
        # Ratings under different principles cannot be compared: one draw holds for all candidates of the prompt.
        panel = self.panel(prompt)
        for candidate in candidates if len(candidates) >= self._fewest else ():
            for principle in panel:
                yield self._question(prompt, candidate, None, principle)

    def _compare(self, prompt: Prompt, candidates: Sequence[Candidate]) -> Iterator[Question]:
        for a, b in self._comparisons(prompt, candidates):
            yield from self.compare(prompt, a, b)

    def compare(self, prompt: Prompt, a: Candidate, b: Candidate) -> Iterator[Question]:
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

    def _question(self, prompt: Prompt, first: Candidate, second: Candidate | None, principle: Principle) -> Question:
        second_id = second.id if second else ""
        principle_hash = self._hashes[principle.id]
        judgment_id = Judgment.make_id(
            prompt.id, first.id, second_id, principle_hash, self.judge_id, self.template_hash
        )
        return Question(judgment_id, prompt, first, second, principle)

    def request(self, question: Question) -> ChoiceRequest:
        messages, first, second = question.prompt.messages, question.first.text, question.second
        options = {"preamble": self.constitution.preamble, "labels": self.labels}
        if second is None:
            text = render_pointwise(messages, first, question.principle.norm(), **options)
        else:
            text = render_pairwise(messages, first, second.text, question.principle.comparison(), **options)
        return ChoiceRequest(question.id, (Message("user", text),), self.labels)

    def judgment(self, question: Question, choice: Choice) -> Judgment:
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
        return verdict_of(p_first, self.settings.tie_margin), p_first, None


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
