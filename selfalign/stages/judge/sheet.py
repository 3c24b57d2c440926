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
from selfalign.records import Candidate, InvalidReason, Judgment, Message, Prompt, Verdict, derived_seed, digest
from selfalign.stages import StageError
from selfalign.stages.judge.scales import scale_of
from selfalign.stages.judge.wording import make_nonce, render_pairwise, render_pointwise, sign
from selfalign.stages.judge.worked import worked_examples


def distinct(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The candidates to judge: those that are no error, each text once."""
    by_text: dict[str, Candidate] = {}
    for candidate in candidates:
        if candidate.finish_reason != "error":
            by_text.setdefault(candidate.text, candidate)
    return list(by_text.values())


def template_hash(settings: Judge, preamble: str = "") -> str:
    """The hash of all that surrounds conversation, candidates and principle in the words that a judge sees.

    Where reasons are asked for, it covers how they are sampled too, as they are words that the verdict follows.
    """
    name = "judge_pointwise" if settings.pointwise else "judge_pairwise"
    chains = (settings.samples, settings.cot_tokens) if settings.reasons else ()
    return digest("template", settings.method, resources.template(name), settings.labels, preamble, chains)


def words_hash(constitution: Constitution, settings: Judge) -> str:
    """The hash of all in a constitution that can change a label: with it the examples and rubrics that are shown."""
    hashes = _wording_hashes(constitution, settings)
    plain = all(hashes[principle.id] == principle.hash for principle in constitution.active)
    return constitution.hash if plain else digest("judged", constitution.hash, hashes)


@dataclass(frozen=True, slots=True)
class Question:
    """One request to the judge; `second` is None where a single candidate is rated."""

    id: str
    prompt: Prompt
    first: Candidate
    second: Candidate | None
    principle: Principle


@dataclass(frozen=True, slots=True)
class Said:
    """What a judge said to a question: probabilities over its labels that sum to 1, or None and the kind of nothing."""

    probabilities: tuple[float, ...] | None
    invalid: InvalidReason
    raw: str
    reason: str = ""
    num_tokens: int = 0
    seconds: float = 0.0


def said_by(choice: Choice, num_labels: int) -> Said:
    """An engine's choice, believed only where it is a distribution over the labels."""
    probabilities = _normalised(choice.probabilities, num_labels)
    invalid: InvalidReason = "" if probabilities else choice.invalid or "malformed"
    return Said(probabilities, invalid, choice.raw, num_tokens=choice.num_prompt_tokens, seconds=choice.seconds)


def example_request(
    constitution: Constitution, settings: Judge, prompt: Prompt, responses: Sequence[str]
) -> ChoiceRequest:
    """A question as it is sent, by the first principle and about responses that stand for sampled ones."""
    first, second = (Candidate(text, prompt.id, "", 0, 0, text, (), "stop") for text in responses)
    shown = None if settings.pointwise else second
    return Sheet(constitution, settings, "", 0).request(Question("", prompt, first, shown, constitution.active[0]))


class Sheet:
    """Which questions are asked, in which words, and what an answer means."""

    def __init__(
        self, constitution: Constitution, settings: Judge, judge_id: str, seed: int, *, alone: bool = False
    ) -> None:
        self.constitution, self.settings, self.judge_id, self.seed = constitution, settings, judge_id, seed
        self._fewest = 1 if alone else 2  # candidates of a prompt worth a rating
        ordinary = tuple(p for p in constitution.principles if p.kind != "hard_constraint")
        self._drawable = replace(constitution, principles=ordinary)
        self.labels = settings.labels
        self.template_hash = template_hash(settings, constitution.preamble)
        self._hashes = _wording_hashes(constitution, settings)
        self._scales = {principle.id: scale_of(principle, settings) for principle in constitution.active}
        self._examples = {p.id: worked_examples(p, settings, self._scales[p.id]) for p in constitution.active}

    def ask(
        self, index: int, prompts: Sequence[Prompt], candidates: Sequence[Candidate]
    ) -> tuple[int, list[Question], Iterator[ChoiceRequest]]:
        """A shard's questions, and their requests, each written out when the engine comes for it."""
        questions = self.questions(prompts, candidates)
        return index, questions, map(self.request, questions)

    def questions(self, prompts: Sequence[Prompt], candidates: Sequence[Candidate]) -> list[Question]:
        grouped = self.grouped(prompts, candidates)
        ask = self._rate if self.settings.pointwise else self._compare
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

    def under(self, prompt: Prompt, a: Candidate, b: Candidate, principle: Principle) -> list[Question]:
        """What tells two candidates apart under one principle: both orders, or a rating of each."""
        if self.settings.method == "pointwise-logprob":
            return [self._question(prompt, candidate, None, principle) for candidate in (a, b)]
        return [self._question(prompt, first, second, principle) for first, second in ((a, b), (b, a))]

    def _question(self, prompt: Prompt, first: Candidate, second: Candidate | None, principle: Principle) -> Question:
        second_id = second.id if second else ""
        principle_hash = self._hashes[principle.id]
        judgment_id = Judgment.make_id(
            prompt.id, first.id, second_id, principle_hash, self.judge_id, self.template_hash
        )
        return Question(judgment_id, prompt, first, second, principle)

    def request(self, question: Question) -> ChoiceRequest:
        """Ask for the probabilities of the labels, with no reasons before them."""
        return ChoiceRequest(question.id, self.messages(question), self._scales[question.principle.id].labels)

    def messages(self, question: Question) -> tuple[Message, ...]:
        """A question in words, after the principle's worked examples."""
        return (*self._examples[question.principle.id], Message("user", self._words(question)))

    def sign(self, question: Question) -> str:
        """What a reply in JSON to this question must bear."""
        responses = (question.first.text, *([question.second.text] if question.second else []))
        return sign(question.prompt.messages, *responses)

    def _words(self, question: Question) -> str:
        messages, first, second = question.prompt.messages, question.first.text, question.second
        scale, principle = self._scales[question.principle.id], question.principle
        options = {
            "preamble": self.constitution.preamble,
            "labels": scale.labels,
            "reasons": self.settings.reasons,
        }
        if second is None:
            return render_pointwise(messages, first, scale.norm(principle), levels=scale.levels, **options)
        return render_pairwise(messages, first, second.text, principle.comparison(), **options)

    def again(self, question: Question) -> ChoiceRequest:
        """The same question with other marks around the texts, which mean nothing: what changes then is noise."""
        request, texts = self.request(question), [message.content for message in question.prompt.messages]
        shown = [candidate.text for candidate in (question.first, question.second) if candidate]
        nonce = make_nonce(*texts, beside=shown)
        *worked, question_in_words = request.messages
        asked = question_in_words.content.replace(nonce, make_nonce(nonce, *texts, beside=shown))
        return replace(request, id=f"{request.id} again", messages=(*worked, Message("user", asked)))

    def judgment(self, question: Question, choice: Choice) -> Judgment:
        """What the answer to `request` means."""
        return self.record(question, said_by(choice, len(self._scales[question.principle.id].labels)))

    def record(self, question: Question, said: Said) -> Judgment:
        verdict, p_first, rating = self._read(question, said.probabilities)
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
            reason=said.reason,
            raw=said.raw,
            num_tokens=said.num_tokens,
            seconds=said.seconds,
            invalid_reason=said.invalid,
        )

    def _read(
        self, question: Question, probabilities: tuple[float, ...] | None
    ) -> tuple[Verdict, float | None, float | None]:
        """Verdict, p_first and rating. The last two are expectations over the labels."""
        if probabilities is None:
            return "invalid", None, None
        expected = self._scales[question.principle.id].expected(probabilities)
        if question.second is None:
            return "not_applicable", None, expected
        return verdict_of(expected, self.settings.tie_margin), expected, None


def _normalised(probabilities: Sequence[float] | None, num_labels: int) -> tuple[float, ...] | None:
    """The probabilities, summing to 1; None where they are no distribution over the labels."""
    if probabilities is None or len(probabilities) != num_labels:
        return None
    total = sum(probabilities)
    if not (math.isfinite(total) and total > 0 and min(probabilities) >= 0):
        return None
    return tuple(p / total for p in probabilities)


def _wording_hashes(constitution: Constitution, settings: Judge) -> dict[str, str]:
    """The hash of each active principle, by id. Raises StageError where two principles have the same words.

    They would be one question to the judge, and their votes could not be told apart.
    """
    hashes = {principle.id: _wording_hash(principle, settings) for principle in constitution.active}
    seen: dict[str, str] = {}
    for principle in constitution.active:
        if (other := seen.setdefault(hashes[principle.id], principle.id)) != principle.id:
            raise StageError(
                f"constitution {constitution.name}: principles {other} and {principle.id} have the same words; "
                "set one of them to `status: deprecated`, or give it its own wording"
            )
    return hashes


def _wording_hash(principle: Principle, settings: Judge) -> str:
    """The principle's hash, and where its rubric or its examples are shown, theirs with it."""
    scale = scale_of(principle, settings)
    examples = [(turn.role, turn.content) for turn in worked_examples(principle, settings, scale)]
    shown = [scale.worth, scale.levels, examples]
    return digest("wording", principle.hash, *shown) if scale.levels or examples else principle.hash
