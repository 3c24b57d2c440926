"""Examples that teach and test a judge: responses to a question, principles in many wordings, and what gold says."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selfalign.pocket import world
from selfalign.pocket.checkers import AXES, KIND_AXES, Axis, gold_all
from selfalign.pocket.wordings import DERIVED, Diet, Wording, draw
from selfalign.pocket.world import Question, Split
from selfalign.records import Message
from selfalign.stages.judge import render_pairwise, render_pointwise

_HOLE = "\x00"
_KIND_WEIGHTS = {"fact": 0.42, "claim": 0.14, "harm": 0.11, "private": 0.11, "feelings": 0.11, "open": 0.11}
Samples = Mapping[str, Sequence[str]]  # prompt text -> what a policy answered


@dataclass(frozen=True, slots=True)
class Ask:
    """One principle put to the judge after a shared text, and its gold answer as shares of the labels."""

    principle: str
    wording: Wording
    target: tuple[float, ...]  # of (A, B), or of (1, 2, 3, 4, 5)


@dataclass(frozen=True, slots=True)
class Case:
    """A rendered judge prompt up to the principle, what follows it, and several principles to ask."""

    question: Question
    responses: tuple[str, ...]
    before: str
    after: str
    asks: tuple[Ask, ...]
    gold: tuple[dict[Axis, float | None], ...]  # of each response


def draw_question(rng: random.Random, split: Split) -> Question:
    kind = rng.choices(list(_KIND_WEIGHTS), list(_KIND_WEIGHTS.values()))[0]
    return rng.choice(world.questions(kind, split))  # type: ignore[arg-type]


def _flip_one(behaviour: world.Behaviour, kind: str, rng: random.Random) -> world.Behaviour:
    """The same behaviour but for one: what makes a judge look at that one alone."""
    which = rng.choice(["good", "good", "manner", "padded", "pirate"] if KIND_AXES.get(kind) else
                       ["manner", "padded", "pirate"])  # fmt: skip
    manners = [m for m in ("warm", "neutral", "rude") if m != behaviour.manner]
    return world.Behaviour(
        behaviour.good != (which == "good"),
        rng.choice(manners) if which == "manner" else behaviour.manner,  # type: ignore[arg-type]
        behaviour.padded != (which == "padded"),
        behaviour.pirate != (which == "pirate"),
    )


def _damage(text: str, rng: random.Random) -> str:
    """A response gone wrong: a sentence lost, said twice or out of order, or cut off."""
    sentences = text.replace("! ", "!\n").replace(". ", ".\n").split("\n")
    how = rng.randrange(4)
    if how == 0 and len(sentences) > 1:
        sentences.pop(rng.randrange(len(sentences)))
    elif how == 1:
        sentences.append(rng.choice(sentences))
    elif how == 2:
        rng.shuffle(sentences)
    else:
        words = text.split()
        return " ".join(words[: rng.randint(1, len(words))])
    return " ".join(sentences)


def _respond(question: Question, behaviour: world.Behaviour, rng: random.Random) -> str:
    text = world.compose(question, behaviour, rng)
    return _damage(text, rng) if rng.random() < 0.06 else text


def draw_responses(question: Question, samples: Samples, rng: random.Random) -> tuple[str, str]:
    """Two different responses: sampled from a policy where there are samples, independent, or a minimal pair."""
    if len(set(sampled := samples.get(question.text, ()))) > 1:
        return tuple(rng.sample(sorted(set(sampled)), 2))  # type: ignore[return-value]
    while True:
        first = world.even_behaviour(rng)
        second = _flip_one(first, question.kind, rng) if rng.random() < 0.5 else world.even_behaviour(rng)
        one, two = _respond(question, first, rng), _respond(question, second, rng)
        if one != two:
            return (one, two) if rng.random() < 0.5 else (two, one)


def draw_axes(kind: str, rng: random.Random, count: int) -> list[Axis]:
    """Axes to ask about, the prompt's own ones most often, and now and then one that does not apply."""
    own, every = KIND_AXES[kind], ("polite", "warm", "concise", "pirate")
    axes: list[Axis] = []
    while len(axes) < count:
        chance = rng.random()
        pool = own if chance < 0.5 and own else AXES if chance < 0.56 else every
        axes.append(rng.choice(pool))  # type: ignore[arg-type]
    return axes


def _value(gold: float | None, wants: bool) -> float:
    return 0.5 if gold is None else gold if wants else 1.0 - gold


def _rating_target(value: float) -> tuple[float, ...]:
    return tuple(float(level == round(4 * value)) for level in range(5))


def pointwise_case(question: Question, response: str, axes: Sequence[Axis], rng: random.Random, diet: Diet) -> Case:
    """Ask for ratings of one response: 5 for the end that the wording wants, 3 where its axis does not apply."""
    gold = gold_all(question.text, question.kind, response)
    drawn = [draw(axis, rng, diet) for axis in axes]
    asks = tuple(Ask(_loosen(w.text, rng), w, _rating_target(_value(gold[w.axis], w.wants))) for w in drawn)
    before, after = render_pointwise([Message("user", question.text)], response, _HOLE).split(_HOLE)
    return Case(question, (response,), before, after, asks, (gold,))


def pairwise_case(
    question: Question, responses: tuple[str, str], axes: Sequence[Axis], rng: random.Random, diet: Diet, *, ties: float
) -> Case:
    """Ask which of two responses is better; where gold sees no difference, an ask survives with probability `ties`."""
    gold = [gold_all(question.text, question.kind, r) for r in responses]
    asks = []
    for axis in axes:
        wording = draw(axis, rng, diet)
        first, second = (_value(g[axis], wording.wants) for g in gold)
        if first != second or rng.random() < ties:
            share = 0.5 if first == second else float(first > second)
            text = wording.text if rng.random() < 0.85 else DERIVED + wording.text
            asks.append(Ask(_loosen(text, rng), wording, (share, 1.0 - share)))
    before, after = render_pairwise([Message("user", question.text)], *responses, _HOLE).split(_HOLE)
    return Case(question, responses, before, after, tuple(asks), tuple(gold))


def _loosen(text: str, rng: random.Random) -> str:
    """People leave out the full stop."""
    return text.rstrip(".") if rng.random() < 0.2 else text
