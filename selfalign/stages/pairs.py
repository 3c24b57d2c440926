"""Pairs: turn what the judge said into preferences worth training on, and count why the rest is not."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set

from selfalign.config import Pairs
from selfalign.constitution import Constitution
from selfalign.contest import DISCARDS, Contest, contests, discards, sampled_by_prompt
from selfalign.records import Candidate, Judgment, Pair, Prompt, derived_seed
from selfalign.stages import StageError, check_principles


def build_pairs(
    candidates: list[Candidate],
    judgments: list[Judgment],
    constitution: Constitution,
    settings: Pairs,
    *,
    seed: int,
    prompts: Sequence[Prompt] = (),
    clamp: tuple[float, float] | None = None,
) -> tuple[list[Pair], Counter[str]]:
    """Build the preference pairs of one shard; count, by reason, those that were considered and discarded.

    A comparison's probability is the mean over both orders shown (Lee et al. 2023); principles are weighed within their
    tier, and a tier is consulted only where those above it leave less than `min_margin` between the candidates. The
    margin is |2p - 1| for comparisons and the difference of the expected ratings for ratings.

    - "best-worst" considers one pair a prompt: the highest and the lowest mean win probability against the others.
      Where the judge has not compared all of them (`judge.comparisons`), both are those of a Bradley-Terry model with
      the judge's probabilities as fractional wins; so is the probability of a best and a worst it has not compared.
    - "best-random" considers the best against another one drawn with `seed`, as RLHFlow's "max_random" does.
    - "all" considers every compared pair, "random" `max_per_prompt` (default 1) of them, drawn with `seed`.

    - "rso" draws candidates as if from the optimal policy pi* ~ pi exp(r / rso_beta) by `rejection_sample`, r being
      their log-odds, and considers the best and the worst of these. What may not be chosen is not drawn.
    - "margin-buckets" sorts all pairs into `buckets` ranges of margin, from `min_margin` to the largest there can be
      and equally wide in |2p - 1|, and draws one from each with `seed`: hard pairs and easy ones.
    - "spin" prefers the gold answers of `prompts` to an answer drawn with `seed` (Chen et al. 2024, arXiv:2401.01335),
      with certainty and whatever the judge says.

    With `length_balance` rho, of the candidates within rho of the range of scores from the best the shortest is chosen,
    and of those as near to the worst the longest is rejected (Meta-Rewarding, Wu et al. 2024, arXiv:2407.19594).

    A truncated or empty candidate, or one that clearly loses under a hard constraint, can be rejected and never chosen.
    `p_chosen` is the judge's probability (ratings: sigmoid(rating_scale * difference)), kept within `clamp`, or 1 with
    hard labels. Prompts
    that yield nothing to consider count once, so that pairs and discards add up to what was considered.
    """
    check_principles(judgments, constitution)
    if settings.strategy == "spin":
        considered = _against_gold(candidates, prompts, seed)
    else:
        considered = _by_judgment(candidates, judgments, constitution, settings, seed, clamp)
    outcomes = list(considered)
    return [o for o in outcomes if isinstance(o, Pair)], Counter(o for o in outcomes if isinstance(o, str))


def rejection_sample(rewards: Sequence[float], beta: float, draw: random.Random, *, at_least: int = 1) -> list[int]:
    """Accept samples with probability exp((r - r_max) / beta): what is accepted follows pi exp(r / beta) / Z.

    Statistical rejection sampling (Liu et al. 2023, arXiv:2309.06657, Algorithm 1): r_max is the largest reward among
    those not accepted yet, and passes over these go on until `at_least` are accepted, or all. Returns their indexes.
    """
    waiting, accepted = dict(enumerate(rewards)), list[int]()
    while waiting and len(accepted) < at_least:
        largest = max(waiting.values())
        taken = [i for i, reward in waiting.items() if draw.random() < math.exp((reward - largest) / beta)]
        accepted += taken
        for i in taken:
            del waiting[i]
    return accepted


def check_some(counts: Mapping[str, int], records: str = "pairs") -> None:
    """Raise StageError, with the reasons, if the counts of a step tell of no pair (or other `records`) at all."""
    if counts.get(records):
        return
    reasons = [f"{count} {reason} ({DISCARDS[reason]})" for reason, count in discards(counts).items()]
    what = {"pairs": "preference pair", "rankings": "ranking", "demonstrations": "demonstration"}[records]
    raise StageError(
        f"no {what} is left to train on: {'; '.join(reasons) or 'nothing was judged'}\n"
        "look at the judge's verdicts (selfalign pairs ls RUN), lower pairs.min_margin, or ask for more variety with "
        "generate.samples and generate.temperature"
    )


def _by_judgment(
    candidates: Sequence[Candidate],
    judgments: Sequence[Judgment],
    constitution: Constitution,
    settings: Pairs,
    seed: int,
    clamp: tuple[float, float] | None,
) -> Iterator[Pair | str]:
    for prompt_id, contest in contests(candidates, judgments, constitution, settings, clamp):
        if isinstance(contest, str):
            yield contest
        else:
            yield from _consider(contest, prompt_id, settings, seed)


def _against_gold(candidates: Sequence[Candidate], prompts: Sequence[Prompt], seed: int) -> Iterator[Pair | str]:
    golds = {prompt.id: prompt.gold() for prompt in prompts}
    for prompt_id, sampled in sampled_by_prompt(candidates).items():
        usable = [candidate for candidate in sampled if candidate.finish_reason != "error"]
        gold = golds.get(prompt_id)
        if gold is None or not usable:
            yield "too_few_candidates" if gold else "no_gold"
            continue
        rejected = random.Random(derived_seed(seed, "pairs", prompt_id)).choice(usable)
        if not gold.text.strip() or rejected.text == gold.text:
            yield "identical_text" if gold.text.strip() else "empty"
        else:
            yield Pair(prompt_id, gold.id, rejected.id, p_chosen=1.0, margin=1.0)


def _consider(contest: Contest, prompt_id: str, settings: Pairs, seed: int) -> list[Pair | str]:
    """The pairs of one prompt, and the reason for each that was considered and is none."""
    draw = random.Random(derived_seed(seed, "pairs", prompt_id))
    if settings.strategy in ("best-worst", "best-random"):
        return [_best_against(contest, draw if settings.strategy == "best-random" else None)]
    if settings.strategy == "rso":
        return [_best_of_accepted(contest, draw)]
    compared = contest.compared
    if settings.strategy == "random":
        compared = draw.sample(compared, min(settings.max_per_prompt or 1, len(compared)))
    outcomes = [_judged(contest, a, b) for a, b in compared]
    if settings.strategy == "margin-buckets":
        outcomes = _one_a_bucket(contest, outcomes, draw)
    return _strongest(outcomes, settings.max_per_prompt)


def _strongest(outcomes: Sequence[Pair | str], limit: int | None) -> list[Pair | str]:
    """The pairs, largest margin first, and no more than `limit` of them."""
    pairs = sorted((o for o in outcomes if isinstance(o, Pair)), key=lambda pair: -pair.margin)
    kept = pairs[:limit]
    return [*kept, *(o for o in outcomes if isinstance(o, str)), *["max_per_prompt"] * (len(pairs) - len(kept))]


def _one_a_bucket(contest: Contest, outcomes: Sequence[Pair | str], draw: random.Random) -> list[Pair | str]:
    """One pair of each range of margins, drawn; the others of the range are discarded."""

    def certainty(margin: float) -> float:
        return 2.0 * contest.readings.probability(margin) - 1.0

    least, buckets = certainty(contest.settings.min_margin), contest.settings.buckets
    sorted_in: dict[int, list[Pair]] = defaultdict(list)
    for outcome in outcomes:
        if isinstance(outcome, Pair):
            height = (certainty(outcome.margin) - least) / (1.0 - least) if least < 1.0 else 0.0
            sorted_in[min(int(height * buckets), buckets - 1)].append(outcome)
    drawn = [draw.choice(sorted_in[bucket]) for bucket in sorted(sorted_in)]
    others = sum(map(len, sorted_in.values())) - len(drawn)
    return [*drawn, *(o for o in outcomes if isinstance(o, str)), *["same_margin"] * others]


def _best_of_accepted(contest: Contest, draw: random.Random) -> Pair | str:
    strengths = contest.strengths()
    judged = [candidate for candidate in contest.candidates if candidate.id in strengths]
    free = [candidate for candidate in judged if contest.barred(candidate) is None]
    if len(free) < 2:
        return next(filter(None, map(contest.barred, judged)), "invalid")
    rewards = [strengths[candidate.id] for candidate in free]
    accepted = rejection_sample(rewards, contest.settings.rso_beta, draw, at_least=2)
    return _best_against(contest, None, among={free[i].id for i in accepted})


def _judged(contest: Contest, a: Candidate, b: Candidate) -> Pair | str:
    lead = contest.lead(a, b)
    if lead is None:
        return "invalid"
    return _pair(contest, a, b, lead) if lead >= 0 else _pair(contest, b, a, -lead)


def _best_against(contest: Contest, draw: random.Random | None, among: Set[str] | None = None) -> Pair | str:
    """The best candidate (of those `among`) against the worst, or against one that is drawn."""
    scores = contest.shares()
    entered = scores.keys() if among is None else among
    ranked = sorted((c for c in contest.candidates if c.id in entered), key=lambda c: -scores[c.id])
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
        strengths = contest.strengths()
        lead = contest.lead_of(strengths[best.id] - strengths[worst.id])
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
        p_chosen=1.0 if contest.settings.labels == "hard" else contest.readings.soft_label(lead),
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
