"""Judging in waves: each asks for the comparisons that the answers so far make most worth knowing."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from selfalign.config import Pairs
from selfalign.constitution import Constitution
from selfalign.engines.base import Engine
from selfalign.preferences import p_of, read_prompt
from selfalign.records import Candidate, Judgment, Prompt, derived_seed
from selfalign.selection import Answer, Asked, Comparison, covering, most_telling
from selfalign.stages.judge.asking import judged
from selfalign.stages.judge.sheet import Question, Sheet

_WAVES = 4  # after the first; more of them ask a little better, and drain the engine's batch as often


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


def judged_in_waves(
    sheet: Sheet, engine: Engine, prompts: Sequence[Prompt], candidates: Sequence[Candidate]
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


def _fields(sheet: Sheet, prompts: Sequence[Prompt], candidates: Sequence[Candidate]) -> list[_Field]:
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


def _ask(sheet: Sheet, engine: Engine, chosen: Sequence[tuple[_Field, Comparison]]) -> None:
    """Put comparisons before the judge, all in one call, and note its verdicts in their fields."""
    asked: list[tuple[list[Judgment], Question]] = []
    for entry, (i, j) in chosen:
        said = entry.judgments.setdefault((i, j), [])
        for question in sheet.compare(entry.prompt, entry.candidates[i], entry.candidates[j]):
            asked.append((said, question))
    judgments = judged(sheet, engine, [question for _, question in asked])
    for (said, _), judgment in zip(asked, judgments, strict=True):
        said.append(judgment)
