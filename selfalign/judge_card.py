"""The judge card: what the records of a round tell of its judge, with labels from elsewhere and without."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

import numpy as np

from selfalign import calibration, config
from selfalign import constitution as constitutions
from selfalign.agreement import krippendorff_alpha, preference_kappa
from selfalign.constitution import Constitution
from selfalign.labels import read, together
from selfalign.preferences import PairKey, by_prompt, p_of, pair_key, read_prompt, sigmoid
from selfalign.records import Candidate, JudgeCard, Judgment, LabelAgreement, derived_seed
from selfalign.stages import evaluate
from selfalign.stages.report.judge import read_canaries
from selfalign.statistics import fit_logistic
from selfalign.store import Run, Step

Labels = Mapping[PairKey, float]  # of two candidates' ids: above 0 where the first is better, 0 where they are alike
Shards = Iterable[tuple[Sequence[Candidate], Sequence[Judgment]]]

_RESAMPLES = 1000
_SUREST = 1e-9  # a probability of 0 or 1 has no log-odds


def measure(run: Run, number: int, labels: Labels | None = None, price: float | None = None) -> list[JudgeCard]:
    """The cards of the judges that labelled a round's answers, by judge id; none where nothing was judged yet.

    `labels` are by default all that the run's folder holds, of people or imported. `price` is what a million tokens
    read cost. Raises StoreError where the records are damaged.
    """
    steps = list(_labelled(run, number))
    counts = Counter(judgment.judge_id for _, said in steps for _, shard in said.shards(Judgment) for judgment in shard)
    if not counts:
        return []
    settings = config.in_round(config.load(run.path / "campaign.yaml").campaign, number)
    constitution = constitutions.load(run.path / f"rounds/{number:03d}/constitution.yaml")
    seconds = sum(_seconds(run, said) for _, said in steps)
    labels = together(read(run.path).values()) if labels is None else labels
    canaries, seed = read_canaries(run, number), derived_seed(settings.seed, "judge card", number)
    decided = {name: decisions(_said_by(name, steps), constitution, settings.pairs) for name in sorted(counts)}
    panel_alpha = alpha(list(decided.values())) if len(decided) > 1 else None
    cards = []
    for judge_id, count in sorted(counts.items()):
        card = make_card(
            _said_by(judge_id, steps), constitution, settings.pairs, labels,
            round=number, judge_id=judge_id, seconds=seconds * count / counts.total(), price=price, seed=seed,
        )  # fmt: skip
        others = {name: kappa(decided[judge_id], said) for name, said in decided.items() if name != judge_id}
        cards.append(replace(card, canaries=canaries, kappa_with=others, panel_alpha=panel_alpha))
    return cards


def make_card(
    shards: Shards,
    constitution: Constitution,
    pairs: config.Pairs,
    labels: Labels,
    *,
    round: int,
    judge_id: str,
    seconds: float | None = None,
    price: float | None = None,
    seed: int = 0,
) -> JudgeCard:
    """The card of one judge from what it said of some candidates, read shard by shard; `seconds` is what that took."""
    seen = _Evidence(constitution, pairs, {pair_key(a, b): lead if a < b else -lead for (a, b), lead in labels.items()})
    health = evaluate.judge_health(seen.watch(shards), constitution)
    pairs_seen = max(seen.num_pairs, 1)
    tokens = seen.tokens / pairs_seen if seen.num_pairs else None
    difference, noise = _retest(seen.retests)
    return JudgeCard(
        round=round,
        judge_id=judge_id,
        health=health,
        num_pairs=seen.num_pairs,
        num_retested=len(seen.retests),
        retest_difference=difference,
        retest_noise=noise,
        invalid_kinds=dict(seen.invalid.most_common()),
        tokens_per_pair=tokens,
        seconds_per_pair=seconds / pairs_seen if seconds and seen.num_pairs else None,
        cost_per_pair=tokens * price / 1e6 if tokens is not None and price is not None else None,
        agreement=agreement(seen.labelled, seed=seed) if seen.labelled else None,
    )


# With labels ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Labelled:
    """A pair of answers that judge and labels speak of. Leads and difference in length are of the same answer."""

    prompt_id: str
    p: float  # the judge's probability that this answer is better
    label: float  # above 0 where it is
    longer_by: int  # tokens
    alike: bool = False  # to the judge: its lead is below pairs.min_margin


def agreement(found: Sequence[Labelled], *, resamples: int = _RESAMPLES, seed: int = 0) -> LabelAgreement | None:
    """How far a judge agrees with labels; None where they prefer nothing."""
    decided = [one for one in found if one.label != 0]
    if not decided:
        return None
    gaps = [math.copysign(1.0, one.label) * _log_odds(one.p) for one in decided]
    right = calibration.accuracy(gaps, [one.prompt_id for one in decided], resamples=resamples, seed=seed)
    ours = [0.0 if one.alike else one.p - 0.5 for one in found]
    kappa = preference_kappa(
        ours, [one.label for one in found], [one.prompt_id for one in found], resamples=resamples, seed=seed
    )
    forecasts = calibration.folded(gaps)
    bins = calibration.reliability(forecasts)
    return LabelAgreement(
        num_pairs=len(found),
        num_prompts=len({one.prompt_id for one in found}),
        accuracy=right.value,
        interval=right.cautious,
        kappa=kappa.value,
        kappa_interval=kappa.interval,
        ece=calibration.expected_calibration_error(bins),
        ece_by_chance=calibration.chance_calibration_error(forecasts, seed=seed),
        bins=bins,
        longer_preferred=longer_preferred(found),
    )


def longer_preferred(found: Sequence[Labelled]) -> float | None:
    """The chance that the longer of two answers is preferred which the labels find alike.

    Fits logit p = w sign(label) + phi tanh(d / s), d the difference in tokens and s the root of its mean square, as
    length-controlled win rates do (Dubois et al. 2024) with labels in place of models, and returns sigmoid(phi tanh 1).
    """
    differences = np.array([one.longer_by for one in found], dtype=np.float64)
    if not differences.any():
        return None
    scaled = np.tanh(differences / math.sqrt(np.mean(differences**2)))
    features = np.stack([np.sign([one.label for one in found]), scaled], axis=1)
    _, phi = fit_logistic(features, np.array([one.p for one in found]))
    return sigmoid(float(phi) * math.tanh(1.0))


# Beside other judges -------------------------------------------------------------------------------------------------

Decisions = Mapping[PairKey, int]  # 1 where the first is better, -1 where the second is, 0 where they are alike


def decisions(shards: Shards, constitution: Constitution, settings: config.Pairs) -> Decisions:
    """What a judge's labels would be by itself; a pair of which it says nothing valid is left out."""
    found: dict[PairKey, int] = {}
    for _, judgments in shards:
        for said in by_prompt(judgments).values():
            readings = read_prompt(said, constitution, settings.rating_scale)
            for a, b in readings.pairs:
                lead = readings.decision(a, b, settings.min_margin)
                if lead is not None:
                    found[a, b] = 0 if abs(lead) < settings.min_margin else int(np.sign(lead))
    return found


def kappa(ours: Decisions, theirs: Decisions) -> float | None:
    """Cohen's kappa (1960) of two judges on the pairs that both decided; None without any, or by chance alone."""
    both = [(ours[pair], theirs[pair]) for pair in ours.keys() & theirs.keys()]
    found = calibration.agreement(*zip(*both, strict=True)) if both else None
    return found.kappa if found is not None else None


def alpha(judges: Sequence[Decisions]) -> float | None:
    """Krippendorff's alpha of any number of judges, each of which may miss pairs."""
    return krippendorff_alpha([[judge.get(pair) for judge in judges] for pair in sorted(set().union(*judges))])


# What was said -------------------------------------------------------------------------------------------------------


@dataclass
class _Evidence:
    """What a card is made from, gathered while others read the shards too."""

    constitution: Constitution
    settings: config.Pairs
    labels: Labels
    num_pairs: int = 0
    tokens: int = 0
    invalid: Counter[str] = field(default_factory=Counter)
    retests: list[float] = field(default_factory=list)  # p of an answer shown first minus its p shown second
    labelled: list[Labelled] = field(default_factory=list)

    def watch(self, shards: Shards) -> Iterator[tuple[Sequence[Candidate], Sequence[Judgment]]]:
        for candidates, judgments in shards:
            lengths = {candidate.id: len(candidate.token_ids) for candidate in candidates}
            for prompt_id, said in by_prompt(judgments).items():
                self.add(prompt_id, said, lengths)
            yield candidates, judgments

    def add(self, prompt_id: str, said: Sequence[Judgment], lengths: Mapping[str, int]) -> None:
        self.tokens += sum(judgment.num_tokens for judgment in said)
        self.invalid.update(judgment.invalid_reason for judgment in said if judgment.verdict == "invalid")
        self.retests += retests(said)
        readings = read_prompt(said, self.constitution, self.settings.rating_scale)
        self.num_pairs += len(readings.pairs)
        for a, b in readings.pairs.keys() & self.labels.keys():
            lead = readings.decision(a, b, self.settings.min_margin)
            if lead is not None:
                p, alike = readings.probability(lead), abs(lead) < self.settings.min_margin
                self.labelled.append(Labelled(prompt_id, p, self.labels[a, b], lengths[a] - lengths[b], alike))


def retests(said: Iterable[Judgment]) -> list[float]:
    """Where one comparison was asked for in both orders: p of an answer shown first minus its p shown second.

    The order is another, and so are the fences round what is shown; the question is the same.
    """
    asked: dict[tuple[str, PairKey], list[Judgment]] = defaultdict(list)
    for judgment in said:
        if judgment.second_id and judgment.p_first is not None:
            asked[judgment.principle_id, pair_key(judgment.first_id, judgment.second_id)].append(judgment)
    found = []
    for (_, (a, _)), judgments in asked.items():
        shown = {judgment.first_id == a: judgment for judgment in judgments}
        if len(shown) == 2:
            found.append(p_of(shown[True], a) - p_of(shown[False], a))
    return found


def _retest(differences: Sequence[float]) -> tuple[float | None, float | None]:
    """The mean absolute difference, and the noise of one answer: a constant difference is a liking for a position."""
    if not differences:
        return None, None
    noise = float(np.std(differences, ddof=1)) / math.sqrt(2) if len(differences) > 1 else None
    return fmean(map(abs, differences)), noise


def _said_by(judge_id: str, steps: Sequence[tuple[Step, Step]]) -> Iterator[tuple[list[Candidate], list[Judgment]]]:
    for answers, said in steps:
        for index, judgments in said.shards(Judgment):
            own = [judgment for judgment in judgments if judgment.judge_id == judge_id]
            yield answers.read(Candidate, index), own


def _labelled(run: Run, number: int) -> Iterator[tuple[Step, Step]]:
    """The answers and judgments of a round that it learns from: its candidates', and its rollouts' in order."""
    folder = f"rounds/{number:03d}"
    rollouts = sorted(path.name for path in (run.path / folder).glob("rollouts/[0-9]*"))
    for name in (folder, *(f"{folder}/rollouts/{iteration}" for iteration in rollouts)):
        answers, said = run.view(f"{name}/candidates"), run.view(f"{name}/judgments")
        if answers is not None and said is not None:
            yield answers, said


def _seconds(run: Run, said: Step) -> float:
    """The time that a step of judgments took, and on a panel the steps of the judges that it was put together from."""
    members = [step for name in said.inputs if "/panel/" in name and (step := run.view(name)) is not None]
    return sum(float(step.counts.get("seconds", 0.0)) for step in (said, *members) if step.done)


def _log_odds(p: float) -> float:
    p = min(max(p, _SUREST), 1 - _SUREST)
    return math.log(p / (1 - p))
