"""Worked examples: questions about a principle's own examples, answered, to come before the question that is asked."""

from __future__ import annotations

import random
from collections.abc import Iterator

from selfalign.config import Judge
from selfalign.constitution import Example, Principle
from selfalign.records import Message, derived_seed
from selfalign.stages.judge.replies import full_reply
from selfalign.stages.judge.scales import Scale
from selfalign.stages.judge.wording import render_pairwise, render_pointwise, sign


def worked_examples(principle: Principle, settings: Judge, scale: Scale) -> tuple[Message, ...]:
    """Up to `settings.examples` of a principle's examples as turns of a conversation: question and right answer.

    Order and sides hang on the principle's words alone, so that its questions all begin alike. The sides alternate:
    the better response is as often first as second, or as often the one that is rated, but for one at odd numbers.
    """
    draw = random.Random(derived_seed("examples", principle.hash, [e.prompt for e in principle.examples]))
    chosen = draw.sample(principle.examples, min(settings.examples, len(principle.examples)))
    better_first = draw.random() < 0.5
    turns: list[Message] = []
    for example in chosen:
        ask = _rating if settings.pointwise else _comparison
        turns += ask(example, principle, settings, scale, better_first)
        better_first = not better_first
    return tuple(turns)


def _comparison(
    example: Example, principle: Principle, settings: Judge, scale: Scale, better_first: bool
) -> Iterator[Message]:
    asked = (Message("user", example.prompt),)
    texts = (example.better, example.worse) if better_first else (example.worse, example.better)
    better, worse = scale.labels if better_first else reversed(scale.labels)
    options = {"labels": scale.labels, "reasons": settings.reasons}
    yield Message("user", render_pairwise(asked, *texts, principle.comparison(), **options))
    fault = example.critique or "it breaks the principle."
    reason = f"Response {worse}: {fault} Response {better} keeps the principle."
    yield _answer(better, reason, sign(asked, *texts), settings)


def _rating(example: Example, principle: Principle, settings: Judge, scale: Scale, better: bool) -> Iterator[Message]:
    asked = (Message("user", example.prompt),)
    text, label = (example.better, scale.labels[-1]) if better else (example.worse, scale.labels[0])
    options = {"labels": scale.labels, "levels": scale.levels, "reasons": settings.reasons}
    yield Message("user", render_pointwise(asked, text, scale.norm(principle), **options))
    reason = "The response keeps the principle." if better else example.critique or "The response breaks the principle."
    yield _answer(label, reason, sign(asked, text), settings)


def _answer(label: str, reason: str, nonce: str, settings: Judge) -> Message:
    return Message("assistant", full_reply(nonce, reason, label) if settings.reasons else label)
