"""Verdicts with reasons: chains of thought are sampled, and the labels' probabilities read after each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

from selfalign.config import Judge
from selfalign.engines.base import Choice, ChoiceRequest, Engine, GenerateRequest, Generation, Sampling
from selfalign.engines.streaming import HasId, answer_shards
from selfalign.records import Judgment, derived_seed
from selfalign.stages.judge.replies import Reply, answer_schema, read_reply
from selfalign.stages.judge.sheet import Question, Said, Sheet, said_by

_TEMPERATURE = 0.7  # of several chains (self-consistency, Wang et al. 2022); a single one is the likeliest

Request = TypeVar("Request", bound=HasId)
Answer = TypeVar("Answer", bound=HasId)


@dataclass(frozen=True, slots=True)
class _Chain:
    """One chain of reasons about a question: what came back, and what it says."""

    id: str
    question: Question
    generation: Generation
    reply: Reply


def judged_with_reasons(sheet: Sheet, engine: Engine, questions: Sequence[Question]) -> list[Judgment]:
    """The judgments on some questions, in their order, in two calls of the engine.

    `judge.samples` chains are sampled for each question. After each that reads as a verdict, the probabilities of the
    labels in the verdict's place are asked for (Bai et al. 2022; Lee et al. 2023), and their mean over the chains
    counts. A question none of whose chains is valid is invalid, by the kind that most of them are.
    """
    settings = sheet.settings
    asked = {f"{question.id}-{n}": question for question in questions for n in range(settings.samples)}
    requests = (GenerateRequest(name, sheet.messages(q), _seed(sheet, name)) for name, q in asked.items())
    generations = _answers(requests, lambda waiting: engine.generate(waiting, sampling_of(settings)))
    chains = [_chain(name, question, generations[name], sheet) for name, question in asked.items()]
    verdicts = (_verdict_request(chain, sheet) for chain in chains if not chain.reply.invalid)
    choices = _answers(verdicts, engine.choose)
    said: dict[str, list[Said]] = {question.id: [] for question in questions}
    for chain in chains:
        said[chain.question.id].append(_said(chain, choices, len(settings.labels)))
    return [sheet.record(question, _mean(said[question.id])) for question in questions]


def sampling_of(settings: Judge) -> Sampling:
    """How chains are sampled."""
    temperature = 0.0 if settings.samples == 1 else _TEMPERATURE
    schema = answer_schema(settings.labels, settings.cot_tokens)
    return Sampling(temperature, max_tokens=settings.cot_tokens, schema=schema)


def _seed(sheet: Sheet, chain_id: str) -> int:
    return derived_seed(sheet.seed, "chain", chain_id)


def _answers(
    requests: Iterable[Request], call: Callable[[Iterator[Request]], Iterator[Answer]]
) -> Mapping[str, Answer]:
    ((_, _, answers),) = answer_shards([(0, None, requests)], call)
    return answers


def _chain(name: str, question: Question, generation: Generation, sheet: Sheet) -> _Chain:
    reply = read_reply(
        generation.text,
        generation.finish_reason,
        sheet.settings.labels,
        sheet.sign(question),
        refused=generation.refused,
    )
    return _Chain(name, question, generation, reply)


def _verdict_request(chain: _Chain, sheet: Sheet) -> ChoiceRequest:
    return ChoiceRequest(chain.id, sheet.messages(chain.question), sheet.settings.labels, chain.reply.begun)


def _said(chain: _Chain, choices: Mapping[str, Choice], num_labels: int) -> Said:
    """What one chain says. It counts with the probabilities after its reasons, not with the label it came to."""
    generation, reply = chain.generation, chain.reply
    tokens = generation.num_prompt_tokens + len(generation.token_ids)
    if reply.invalid:
        return Said(None, reply.invalid, generation.text, num_tokens=tokens)
    choice = choices[chain.id]
    said = said_by(choice, num_labels)
    raw = generation.text if said.probabilities else choice.raw
    return Said(said.probabilities, said.invalid, raw, reply.reason, tokens + said.num_tokens, said.seconds)


def _mean(said: Sequence[Said]) -> Said:
    """Several chains as one: with the reasons of the one whose probabilities are nearest to the mean."""
    tokens, seconds = sum(one.num_tokens for one in said), sum(one.seconds for one in said)
    valid = [one.probabilities for one in said if one.probabilities is not None]
    if not valid:
        kind = Counter(one.invalid for one in said).most_common(1)[0][0]
        shown = next(one for one in said if one.invalid == kind)
        return Said(None, kind, shown.raw, shown.reason, tokens, seconds)
    mean = tuple(map(fmean, zip(*valid, strict=True)))
    shown = min((one for one in said if one.probabilities is not None), key=lambda one: _distance(one, mean))
    return Said(mean, "", shown.raw, shown.reason, tokens, seconds)


def _distance(said: Said, mean: Sequence[float]) -> float:
    return sum(abs(p - q) for p, q in zip(said.probabilities or (), mean, strict=True))
