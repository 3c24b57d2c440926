"""Putting questions before the judge by the method of the settings, and noting what it says."""

from __future__ import annotations

from collections.abc import Sequence

from selfalign.engines.base import Engine
from selfalign.engines.streaming import answer_shards
from selfalign.records import Judgment
from selfalign.stages.judge.chains import judged_with_reasons
from selfalign.stages.judge.sheet import Question, Sheet


def judged(sheet: Sheet, engine: Engine, questions: Sequence[Question]) -> list[Judgment]:
    """The judgments on some questions, in their order, once all of them are in."""
    if sheet.settings.reasons:
        return judged_with_reasons(sheet, engine, questions)
    ((_, _, choices),) = answer_shards([(0, None, map(sheet.request, questions))], engine.choose)
    return [sheet.judgment(question, choices[question.id]) for question in questions]
