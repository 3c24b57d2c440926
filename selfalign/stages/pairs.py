"""Pairs: turn what the judge said into preferences worth training on, and count why the rest is not."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from statistics import fmean

from selfalign.config import Pairs
from selfalign.constitution import Constitution
from selfalign.preferences import Readings, by_prompt, pair_key, read_prompt, sigmoid
from selfalign.records import Candidate, Judgment, Pair, derived_seed
from selfalign.stages import StageError

DISCARDS = {
    "too_few_candidates": "fewer than two candidates without an error",
    "identical_text": "all candidates have the same text",
    "no_judgments": "no principle applied, or nothing was judged",
    "invalid": "the judge gave no valid verdict",
    "tie": "the judge sees no difference",
    "below_margin": "the difference is smaller than pairs.min_margin",
    "intransitive": "the best candidate by its mean lost the direct comparison with the worst",
    "vetoed": "the preferred candidate breaks a hard constraint",
    "truncated": "the preferred candidate is cut off at generate.max_tokens",
    "empty": "the preferred candidate is empty",
    "max_per_prompt": "the prompt had pairs with larger margins, up to pairs.max_per_prompt",
}

_MIN_SCORE = 1e-3  # keeps the logit of a candidate that won or lost every comparison finite


def build_pairs(
    candidates: list[Candidate], judgments: list[Judgment], constitution: Constitution, settings: Pairs, *, seed: int
) -> tuple[list[Pair], Counter[str]]:
    """Build the preference pairs of one shard; count, by reason, those that were considered and discarded.

    A comparison's probability is the mean over both orders shown (Lee et al. 2023); principles are weighed within their
    tier, and a tier is consulted only where those above it leave less than `min_margin` between the candidates. The
    margin is |2p - 1| for comparisons and the difference of the expected ratings for ratings.

    - "best-worst" considers one pair a prompt: the highest and the lowest mean win probability against the others.
      Where the judge did not compare these two directly (`judge.comparisons: ring`), their probability is estimated
      as sigmoid(logit s_best - logit s_worst), which is exact if the others were one Bradley-Terry opponent.
    - "best-random" considers the best against another one drawn with `seed`, as RLHFlow's "max_random" does.
    - "all" considers every compared pair, "random" `max_per_prompt` (default 1) of them, drawn with `seed`.

    With `length_balance` rho, of the candidates within rho of the range of scores from the best the shortest is chosen,
    and of those as near to the worst the longest is rejected (Meta-Rewarding, Wu et al. 2024, arXiv:2407.19594).

    A truncated or empty candidate, or one that clearly loses under a hard constraint, can be rejected and never chosen.
    `p_chosen` is the judge's probability (ratings: sigmoid(rating_scale * difference)), or 1 with hard labels. Prompts
    that yield nothing to consider count once, so that pairs and discards add up to what was considered.
    """
    _check_principles(judgments, constitution)
    grouped = by_prompt(judgments)
    pairs: list[Pair] = []
    discards: Counter[str] = Counter()
    by_prompt_id: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_prompt_id.setdefault(candidate.prompt_id, []).append(candidate)
    for prompt_id, sampled in by_prompt_id.items():
        said = grouped.get(prompt_id, [])
        for outcome in _consider(sampled, said, constitution, settings, seed):
            if isinstance(outcome, Pair):
                pairs.append(outcome)
            else:
                discards[outcome] += 1
    return pairs, discards


def discards(counts: Mapping[str, int]) -> dict[str, int]:
    """The discards among a step's counts, by reason, most frequent first."""
    found = {reason: counts[reason] for reason in DISCARDS if counts.get(reason)}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def check_some(counts: Mapping[str, int]) -> None:
    """Raise StageError, with the reasons, if the counts of a step tell of no pair at all."""
    if counts.get("pairs"):
        return
    reasons = [f"{count} {reason} ({DISCARDS[reason]})" for reason, count in discards(counts).items()]
    raise StageError(
        f"no preference pair is left to train on: {'; '.join(reasons) or 'nothing was judged'}\n"
        "look at the judge's verdicts (selfalign pairs ls RUN), lower pairs.min_margin, or ask for more variety with "
        "generate.samples and generate.temperature"
    )


def _check_principles(judgments: Sequence[Judgment], constitution: Constitution) -> None:
    known = {principle.id for principle in constitution.principles}
    for judgment in judgments:
        if judgment.principle_id not in known:
            raise StageError(
                f"judgment {judgment.id} is by principle {judgment.principle_id!r}, which the constitution "
                f"{constitution.name} does not have; the judgments belong to another constitution"
            )


def _consider(
    candidates: Sequence[Candidate],
    judgments: Sequence[Judgment],
    constitution: Constitution,
    settings: Pairs,
    seed: int,
) -> list[Pair | str]:
    """The pairs of one prompt, and the reason for each that was considered and is none."""
    usable = [candidate for candidate in candidates if candidate.finish_reason != "error"]
    distinct = list({candidate.text: candidate for candidate in reversed(usable)}.values())
    if len(usable) < 2:
        return ["too_few_candidates"]
    if len(distinct) < 2:
        return ["identical_text"]
    table = _Table(distinct, judgments, read_prompt(judgments, constitution, settings.rating_scale), settings)
    if not table.compared:
        return ["no_judgments"]
    draw = random.Random(derived_seed(seed, "pairs", candidates[0].prompt_id))
    if settings.strategy in ("best-worst", "best-random"):
        return [table.best_against(draw if settings.strategy == "best-random" else None)]
    compared = table.compared
    if settings.strategy == "random":
        compared = draw.sample(compared, min(settings.max_per_prompt or 1, len(compared)))
    return _strongest([table.judged(a, b) for a, b in compared], settings.max_per_prompt)


def _strongest(outcomes: Sequence[Pair | str], limit: int | None) -> list[Pair | str]:
    """The pairs, largest margin first, and no more than `limit` of them."""
    pairs = sorted((o for o in outcomes if isinstance(o, Pair)), key=lambda pair: -pair.margin)
    kept = pairs[:limit]
    return [*kept, *(o for o in outcomes if isinstance(o, str)), *["max_per_prompt"] * (len(pairs) - len(kept))]


class _Table:
    """The candidates of one prompt and who beats whom."""

    def __init__(
        self, candidates: Sequence[Candidate], judgments: Sequence[Judgment], readings: Readings, settings: Pairs
    ) -> None:
        self.candidates = sorted(candidates, key=lambda candidate: candidate.sample_index)
        self.judgments, self.readings, self.settings = judgments, readings, settings
        self.vetoed = readings.vetoed()
        self.compared = [(a, b) for a, b in combinations(self.candidates, 2) if pair_key(a.id, b.id) in readings.pairs]

    def judged(self, a: Candidate, b: Candidate) -> Pair | str:
        lead = self._lead(a, b)
        if lead is None:
            return "invalid"
        return self._pair(a, b, lead) if lead >= 0 else self._pair(b, a, -lead)

    def best_against(self, draw: random.Random | None) -> Pair | str:
        """The best candidate against the worst, or against one that is drawn."""
        scores = self._scores()
        ranked = sorted((c for c in self.candidates if c.id in scores), key=lambda c: -scores[c.id])
        if not ranked:
            return "invalid"
        choosable = [candidate for candidate in ranked if self._barred(candidate) is None]
        if not choosable:
            return self._barred(ranked[0]) or "invalid"
        reach = self.settings.length_balance * (scores[ranked[0].id] - scores[ranked[-1].id])
        best = _balanced(choosable, scores, reach, longest=False)
        others = [candidate for candidate in ranked if candidate is not best]
        worst = draw.choice(others) if draw else _balanced(others[::-1], scores, reach, longest=True)
        lead = self._lead(best, worst)
        if lead is None:
            lead = self._estimated_lead(scores[best.id], scores[worst.id])
        if lead < 0:
            return self._barred(ranked[0]) or "intransitive"
        return self._pair(best, worst, lead)

    def _lead(self, a: Candidate, b: Candidate) -> float | None:
        return self.readings.decision(a.id, b.id, self.settings.min_margin)

    def _scores(self) -> dict[str, float]:
        """The mean probability of each candidate to beat another, over its valid comparisons."""
        wins: dict[str, list[float]] = {}
        for a, b in self.compared:
            lead = self._lead(a, b)
            if lead is not None:
                p = self.readings.probability(lead)
                wins.setdefault(a.id, []).append(p)
                wins.setdefault(b.id, []).append(1.0 - p)
        return {candidate_id: fmean(probabilities) for candidate_id, probabilities in wins.items()}

    def _estimated_lead(self, best: float, worst: float) -> float:
        difference = _logit(best) - _logit(worst)
        if self.readings.rated:
            return difference / self.settings.rating_scale
        return 2.0 * sigmoid(difference) - 1.0

    def _barred(self, candidate: Candidate) -> str | None:
        """Why a candidate cannot be chosen."""
        if candidate.id in self.vetoed:
            return "vetoed"
        if candidate.finish_reason == "length":
            return "truncated"
        return None if candidate.text.strip() else "empty"

    def _pair(self, chosen: Candidate, rejected: Candidate, lead: float) -> Pair | str:
        if lead == 0:
            return "tie"
        if lead < self.settings.min_margin:
            return "below_margin"
        if (reason := self._barred(chosen)) is not None:
            return reason
        return Pair(
            prompt_id=chosen.prompt_id,
            chosen_id=chosen.id,
            rejected_id=rejected.id,
            p_chosen=1.0 if self.settings.labels == "hard" else self.readings.probability(lead),
            margin=lead,
            judgment_ids=tuple(self._evidence(chosen.id, rejected.id)),
        )

    def _evidence(self, chosen_id: str, rejected_id: str) -> Iterator[str]:
        """The valid judgments that a pair rests on: those of the two, or, where its lead is estimated, of either."""
        pair = {chosen_id, rejected_id}
        direct = self.readings.rated or self.readings.decision(chosen_id, rejected_id, 0.0) is not None
        for judgment in self.judgments:
            shown = {judgment.first_id, judgment.second_id} - {""}
            if judgment.verdict != "invalid" and (shown <= pair if direct else shown & pair):
                yield judgment.id


def _balanced(ranked: Sequence[Candidate], scores: Mapping[str, float], reach: float, *, longest: bool) -> Candidate:
    """The shortest (or longest) of the candidates whose score is within `reach` of the first's; the first for 0."""
    if not reach:
        return ranked[0]
    near = [candidate for candidate in ranked if abs(scores[candidate.id] - scores[ranked[0].id]) <= reach]
    return (max if longest else min)(near, key=lambda candidate: len(candidate.token_ids))


def _logit(p: float) -> float:
    p = min(max(p, _MIN_SCORE), 1.0 - _MIN_SCORE)
    return math.log(p / (1.0 - p))
