"""Pairs: turn what the judge said into preferences worth training on, and count why the rest is not."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from selfalign.config import Pairs
from selfalign.constitution import Constitution
from selfalign.contest import DISCARDS, Contest, contests, discards, logit_of_share
from selfalign.records import Candidate, Judgment, Pair, derived_seed
from selfalign.stages import StageError, check_principles


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
    check_principles(judgments, constitution)
    pairs: list[Pair] = []
    discarded: Counter[str] = Counter()
    for prompt_id, contest in contests(candidates, judgments, constitution, settings):
        for outcome in [contest] if isinstance(contest, str) else _consider(contest, prompt_id, settings, seed):
            if isinstance(outcome, Pair):
                pairs.append(outcome)
            else:
                discarded[outcome] += 1
    return pairs, discarded


def check_some(counts: Mapping[str, int], records: str = "pairs") -> None:
    """Raise StageError, with the reasons, if the counts of a step tell of no pair (or other `records`) at all."""
    if counts.get(records):
        return
    reasons = [f"{count} {reason} ({DISCARDS[reason]})" for reason, count in discards(counts).items()]
    what = {"pairs": "preference pair", "rankings": "ranking", "candidates": "candidate"}[records]
    raise StageError(
        f"no {what} is left to train on: {'; '.join(reasons) or 'nothing was judged'}\n"
        "look at the judge's verdicts (selfalign pairs ls RUN), lower pairs.min_margin, or ask for more variety with "
        "generate.samples and generate.temperature"
    )


def _consider(contest: Contest, prompt_id: str, settings: Pairs, seed: int) -> list[Pair | str]:
    """The pairs of one prompt, and the reason for each that was considered and is none."""
    draw = random.Random(derived_seed(seed, "pairs", prompt_id))
    if settings.strategy in ("best-worst", "best-random"):
        return [_best_against(contest, draw if settings.strategy == "best-random" else None)]
    compared = contest.compared
    if settings.strategy == "random":
        compared = draw.sample(compared, min(settings.max_per_prompt or 1, len(compared)))
    return _strongest([_judged(contest, a, b) for a, b in compared], settings.max_per_prompt)


def _strongest(outcomes: Sequence[Pair | str], limit: int | None) -> list[Pair | str]:
    """The pairs, largest margin first, and no more than `limit` of them."""
    pairs = sorted((o for o in outcomes if isinstance(o, Pair)), key=lambda pair: -pair.margin)
    kept = pairs[:limit]
    return [*kept, *(o for o in outcomes if isinstance(o, str)), *["max_per_prompt"] * (len(pairs) - len(kept))]


def _judged(contest: Contest, a: Candidate, b: Candidate) -> Pair | str:
    lead = contest.lead(a, b)
    if lead is None:
        return "invalid"
    return _pair(contest, a, b, lead) if lead >= 0 else _pair(contest, b, a, -lead)


def _best_against(contest: Contest, draw: random.Random | None) -> Pair | str:
    """The best candidate against the worst, or against one that is drawn."""
    scores = contest.shares()
    ranked = sorted((c for c in contest.candidates if c.id in scores), key=lambda c: -scores[c.id])
    if not ranked:
        return "invalid"
    choosable = [candidate for candidate in ranked if contest.barred(candidate) is None]
    if not choosable:
        return contest.barred(ranked[0]) or "invalid"
    reach = contest.settings.length_balance * (scores[ranked[0].id] - scores[ranked[-1].id])
    best = _balanced(choosable, scores, reach, longest=False)
    others = [candidate for candidate in ranked if candidate is not best]
    worst = draw.choice(others) if draw else _balanced(others[::-1], scores, reach, longest=True)
    lead = contest.lead(best, worst)
    if lead is None:
        lead = contest.lead_of(logit_of_share(scores[best.id]) - logit_of_share(scores[worst.id]))
    if lead < 0:
        return contest.barred(ranked[0]) or "intransitive"
    return _pair(contest, best, worst, lead)


def _pair(contest: Contest, chosen: Candidate, rejected: Candidate, lead: float) -> Pair | str:
    if lead == 0:
        return "tie"
    if lead < contest.settings.min_margin:
        return "below_margin"
    if (reason := contest.barred(chosen)) is not None:
        return reason
    return Pair(
        prompt_id=chosen.prompt_id,
        chosen_id=chosen.id,
        rejected_id=rejected.id,
        p_chosen=1.0 if contest.settings.labels == "hard" else contest.readings.probability(lead),
        margin=lead,
        judgment_ids=tuple(_evidence(contest, chosen.id, rejected.id)),
    )


def _evidence(contest: Contest, chosen_id: str, rejected_id: str) -> Iterator[str]:
    """The valid judgments that a pair rests on: those of the two, or, where its lead is estimated, of either."""
    pair = {chosen_id, rejected_id}
    direct = contest.readings.rated or contest.readings.decision(chosen_id, rejected_id, 0.0) is not None
    for judgment in contest.judgments:
        shown = {judgment.first_id, judgment.second_id} - {""}
        if judgment.verdict != "invalid" and (shown <= pair if direct else shown & pair):
            yield judgment.id


def _balanced(ranked: Sequence[Candidate], scores: Mapping[str, float], reach: float, *, longest: bool) -> Candidate:
    """The shortest (or longest) of the candidates whose score is within `reach` of the first's; the first for 0."""
    if not reach:
        return ranked[0]
    near = [candidate for candidate in ranked if abs(scores[candidate.id] - scores[ranked[0].id]) <= reach]
    return (max if longest else min)(near, key=lambda candidate: len(candidate.token_ids))
