"""What the tests of the stages share: small prompts, candidates, judgments, an engine that answers by a function."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from selfalign.constitution import Principle
from selfalign.engines.base import Choice, ChoiceRequest, GenerateRequest, Generation, Sampling, Score, ScoreRequest
from selfalign.records import Candidate, Judgment, Message, Prompt


def prompt(text: str, *, tags: tuple[str, ...] = ()) -> Prompt:
    return Prompt.make((Message("user", text),), tags=tags)


def candidate(prompt: Prompt, text: str, index: int = 0, **fields: object) -> Candidate:
    policy = str(fields.pop("policy_id", "policy"))
    values = {
        "id": f"{prompt.id[:4]}-{policy}-{index}",
        "prompt_id": prompt.id,
        "policy_id": policy,
        "sample_index": index,
        "seed": index,
        "text": text,
        "token_ids": tuple(range(len(text.split()))),
        "finish_reason": "stop",
    }
    return Candidate(**{**values, **fields})


def compared(first: Candidate, second: Candidate, p_first: float | None, principle: Principle) -> Judgment:
    verdict = "invalid" if p_first is None else "tie" if p_first == 0.5 else "first" if p_first > 0.5 else "second"
    invalid = "malformed" if p_first is None else ""
    return _judgment(
        first.prompt_id, first.id, second.id, principle, verdict=verdict, p_first=p_first, invalid_reason=invalid
    )


def both_orders(a: Candidate, b: Candidate, p: float, principle: Principle) -> list[Judgment]:
    """A judge without a liking for a position, to whom `a` is better with probability p."""
    return [compared(a, b, p, principle), compared(b, a, 1 - p, principle)]


def rated(candidate: Candidate, rating: float | None, principle: Principle) -> Judgment:
    verdict = "invalid" if rating is None else "not_applicable"
    return _judgment(candidate.prompt_id, candidate.id, "", principle, verdict=verdict, p_first=None, rating=rating)


def _judgment(prompt_id: str, first_id: str, second_id: str, principle: Principle, **fields: object) -> Judgment:
    asked = (prompt_id, first_id, second_id)
    identity = Judgment.make_id(*asked, principle.hash, "judge", "template")
    return Judgment(identity, *asked, principle.id, principle.hash, "judge", "template", **fields)


class FakeEngine:
    """Answers `window` requests at a time, in shuffled order, by functions of the request."""

    def __init__(
        self,
        generate: Callable[[GenerateRequest], Generation] | None = None,
        choose: Callable[[ChoiceRequest], tuple[float, ...] | None] | None = None,
        score: Callable[[ScoreRequest], tuple[float, ...]] | None = None,
        *,
        window: int = 1,
    ) -> None:
        self._generate, self._choose, self._score, self.window = generate, choose, score, window
        self.asked: list = []
        self.closed = False

    def generate(self, requests: Iterable[GenerateRequest], sampling: Sampling) -> Iterator[Generation]:
        yield from self._serve(requests, self._generate)

    def choose(self, requests: Iterable[ChoiceRequest]) -> Iterator[Choice]:
        def answer(request: ChoiceRequest) -> Choice:
            probabilities = self._choose(request)
            return Choice(request.id, probabilities, "" if probabilities else "?", 7, 0.25)

        yield from self._serve(requests, answer)

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[Score]:
        yield from self._serve(requests, lambda request: Score(request.id, self._score(request)))

    def check_labels(self, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)

    def _serve(self, requests: Iterable, answer: Callable) -> Iterator:
        source = iter(requests)
        try:
            while batch := list(islice(source, self.window)):
                self.asked += batch
                random.Random(len(self.asked)).shuffle(batch)
                yield from map(answer, batch)
        finally:
            self.closed = True
