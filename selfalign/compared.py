"""What a run holds that people can label: comparisons that the judge has made, and what it said of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from selfalign import constitution as constitutions
from selfalign.agreement import preference_kappa
from selfalign.config import Campaign, in_round
from selfalign.constitution import Constitution
from selfalign.labels import scored
from selfalign.preferences import Readings, by_prompt, p_of, pair_key, read_prompt
from selfalign.records import Candidate, HumanAgreement, Judgment, Label, Prompt
from selfalign.store import Run, Step

Source = Literal["training", "heldout"]
ROLES: Mapping[Source, str] = {"training": "labelling", "heldout": "evaluating"}  # the judge of each
PairKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two answers to one prompt that the judge compared; `a` has the smaller id.

    `lead` is the judge's decision as in `preferences`, positive where `a` is better, None where it gave no valid
    verdict; `p_a` the probability that it stands for, `says` what a campaign makes of it: 1 for `a`, -1 for `b`, 0 for
    neither, where the lead is smaller than `pairs.min_margin`. `by_principle` are its leads under each principle by
    itself.
    """

    round: int
    source: Source
    prompt: Prompt
    a: Candidate
    b: Candidate
    lead: float | None
    p_a: float | None
    says: float | None
    by_principle: tuple[float, ...]
    judgments: tuple[Judgment, ...]

    @property
    def pair(self) -> PairKey:
        return self.a.id, self.b.id

    @property
    def swap_gap(self) -> float:
        """How far the two orders shown contradict each other: the largest difference of p(a) under any principle.

        0 where both orders prefer the same answer.
        """
        return max((_contradiction(said, self.a.id) for said in _same_principle(self.judgments)), default=0.0)

    @property
    def conflict(self) -> float:
        """How far principles pull apart: the smaller of the largest leads for either side; 0 where they agree."""
        return max(0.0, min(max(self.by_principle, default=0.0), max((-x for x in self.by_principle), default=0.0)))


def comparisons(run: Run, number: int, source: Source, settings: Campaign) -> Iterator[Comparison]:
    """The comparisons of a round that its judge has made so far, of answers that differ; none where it made none."""
    folder = f"rounds/{number:03d}"
    judged = run.view(f"{folder}/judgments" if source == "training" else f"{folder}/heldout/judgments")
    if judged is None:
        return
    constitution = principles_of(run, number)
    prompts, answers = _texts(run, number, source)
    for _, judgments in judged.shards(Judgment):
        for prompt_id, said in by_prompt(judgments).items():
            readings = read_prompt(said, constitution, settings.pairs.rating_scale)
            yield from _of_prompt(readings, said, prompts[prompt_id], answers, number, source, settings)


def _texts(run: Run, number: int, source: Source) -> tuple[dict[str, Prompt], dict[str, Candidate]]:
    folder = f"rounds/{number:03d}"
    if source == "training":
        prompts, answers = f"{folder}/prompts", [f"{folder}/candidates"]
    else:
        rounds = [f"rounds/{n:03d}/heldout/candidates" for n in (number - 1, number) if n >= 0]
        prompts, answers = "baseline/prompts", ["baseline/candidates", *rounds]
    steps = [step for name in answers if (step := run.view(name)) is not None]
    asked = run.view(prompts)
    return (
        {row.id: row for row in _rows([asked] if asked else [], Prompt)},
        {row.id: row for row in _rows(steps, Candidate)},
    )


def _rows(steps: Iterable[Step], record_type: type) -> Iterator:
    return (row for step in steps for _, rows in step.shards(record_type) for row in rows)


def _of_prompt(
    readings: Readings,
    said: Sequence[Judgment],
    prompt: Prompt,
    answers: Mapping[str, Candidate],
    number: int,
    source: Source,
    settings: Campaign,
) -> Iterator[Comparison]:
    between: dict[PairKey, list[Judgment]] = {}
    for judgment in said:
        if judgment.second_id:
            between.setdefault(pair_key(judgment.first_id, judgment.second_id), []).append(judgment)
    for (a, b), found in readings.pairs.items():
        if a not in answers or b not in answers or answers[a].text == answers[b].text:
            continue
        lead = readings.decision(a, b, settings.pairs.min_margin)
        p_a = None if lead is None else readings.probability(lead)
        leads = tuple(reading.lead for reading in found)
        verdicts = tuple(between.get((a, b), ()))
        says = None if lead is None else decided(lead, settings.pairs.min_margin)
        yield Comparison(number, source, prompt, answers[a], answers[b], lead, p_a, says, leads, verdicts)


def decided(lead: float, min_margin: float) -> float:
    """What a lead says of two answers: 1 or -1, or 0 where it is too small to make a pair of."""
    return 0.0 if lead == 0 or abs(lead) < min_margin else math.copysign(1.0, lead)


def _same_principle(judgments: Sequence[Judgment]) -> Iterator[list[Judgment]]:
    valid = (j for j in judgments if j.verdict in ("first", "second", "tie"))
    for _, said in groupby(sorted(valid, key=lambda j: j.principle_id), key=lambda j: j.principle_id):
        yield list(said)


def _contradiction(judgments: Sequence[Judgment], a: str) -> float:
    p = [p_of(judgment, a) for judgment in judgments]
    return max(p) - min(p) if min(p) < 0.5 < max(p) else 0.0


# Judge and people ----------------------------------------------------------------------------------------------------


def labelled(
    run: Run, labels: Iterable[Label], settings: Campaign, *, up_to: int | None = None
) -> list[tuple[Label, Comparison]]:
    """Each label that says something, with the comparison that it is about.

    A pair that several rounds compared, as held-out answers can be, counts in the first of them. Only rounds that
    labels name are read, or all where a label names none; with `up_to` none after it. Labels on other pairs are left
    out.
    """
    said = scored(labels)
    named = {label.round for label in said}
    rounds = [n for n in run.rounds() if (up_to is None or n <= up_to) and (None in named or n in named)]
    wanted, found = {label.pair for label in said}, dict[PairKey, Comparison]()
    for number in rounds if said else ():
        for source in ROLES:
            for one in comparisons(run, number, source, in_round(settings, number)):
                if one.pair in wanted:
                    found.setdefault(one.pair, one)
    return [(label, found[label.pair]) for label in said if label.pair in found]


def human_agreement(
    about: Sequence[tuple[Label, Comparison]], *, resamples: int = 1000, seed: int = 0
) -> dict[str, HumanAgreement]:
    """How far each judge, "labelling" and "evaluating", agrees with people; only of judges that labels are about.

    A lead too small to make a pair of counts as a tie. Where several people labelled a pair, each counts.
    """
    found = {}
    for source, role in ROLES.items():
        mine = [(label, one) for label, one in about if one.source == source]
        people, judge = [label.lead for label, _ in mine], [_known(one.says) for _, one in mine]
        prompts = [label.prompt_id for label, _ in mine]
        kappa = preference_kappa(judge, people, prompts, resamples=resamples, seed=seed)
        if kappa is not None:
            low, high = kappa.interval or (None, None)
            names = tuple(sorted({label.labeller for label, _ in mine}))
            found[role] = HumanAgreement(kappa.num_pairs, kappa.num_prompts, names, kappa.raw, kappa.value, low, high)
    return found


def _known(says: float | None) -> float:
    return math.nan if says is None else says


def principles_of(run: Run, number: int) -> Constitution:
    """The constitution that a round's judge went by."""
    return constitutions.load(run.path / f"rounds/{number:03d}/constitution.yaml")
