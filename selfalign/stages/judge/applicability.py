"""Whether a principle applies to a prompt by the judge's own word, for scopes that no tag of a prompt can tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from selfalign.constitution import Principle
from selfalign.engines.base import ChoiceRequest, Engine
from selfalign.engines.streaming import answer_shards
from selfalign.records import Candidate, Judgment, Message, Prompt
from selfalign.stages.judge.sheet import Sheet
from selfalign.stages.judge.wording import render_applies


@dataclass(frozen=True, slots=True)
class _Asked:
    prompt: Prompt
    principle: Principle
    requests: tuple[ChoiceRequest, ChoiceRequest]  # yes is the first label, then the second


def learn_scopes(sheet: Sheet, engine: Engine, prompts: Sequence[Prompt]) -> None:
    """Ask the judge which principles with a question as their scope apply to the prompts, and note it on the sheet.

    Yes and no change places in a second question, and the mean probability of a yes decides; where the judge is of two
    minds, or says nothing valid, the principle applies. A prompt that the sheet knows is not asked about again.
    """
    asked = [one for prompt in prompts for one in _questions(sheet, prompt)]
    requests = (request for one in asked for request in one.requests)
    for _, _, choices in answer_shards([(0, None, requests)], engine.choose):
        for one in asked:
            yes_first, yes_second = (choices[request.id].probabilities for request in one.requests)
            p_yes = fmean((yes_first[0], yes_second[1])) if yes_first and yes_second else None
            sheet.scopes[one.prompt.id, one.principle.id] = p_yes


def _questions(sheet: Sheet, prompt: Prompt) -> Iterator[_Asked]:
    labels = sheet.settings.labels_pairwise
    for principle in sheet.constitution.applicable(prompt):
        question = principle.applies_when.ask
        if question and (prompt.id, principle.id) not in sheet.scopes:
            texts = (
                render_applies(prompt.messages, question, meanings, preamble=sheet.constitution.preamble, labels=labels)
                for meanings in (("yes", "no"), ("no", "yes"))
            )
            names = (f"{prompt.id} {principle.id} {order}" for order in ("yes", "no"))
            first, second = (
                ChoiceRequest(name, (Message("user", text),), labels) for name, text in zip(names, texts, strict=True)
            )
            yield _Asked(prompt, principle, (first, second))


def left_out(sheet: Sheet, prompts: Sequence[Prompt], candidates: Sequence[Candidate]) -> Iterator[Judgment]:
    """One record for each principle that does not apply to a prompt, in the name of its first answers."""
    grouped = sheet.grouped(prompts, candidates)
    shown = 1 if sheet.settings.pointwise else 2
    for prompt in prompts:
        answers = grouped[prompt.id][:shown]
        for principle in sheet.constitution.applicable(prompt) if len(answers) == shown else ():
            if not sheet.applies(prompt, principle):
                yield sheet.not_applicable(prompt, answers, principle)
