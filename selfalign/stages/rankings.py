"""Rankings: all candidates of a prompt in one order, for what is trained on more than pairs, and the best of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from statistics import fmean

from selfalign.config import Pairs
from selfalign.constitution import Constitution
from selfalign.contest import Contest, contests
from selfalign.records import Candidate, Judgment, Ranking
from selfalign.stages import check_principles

LABELLED = ("kto", "bco")  # algorithms that are told of each answer whether it is desirable
_TIE = 1e-9  # scores this near to one another are the same, whatever the rounding


def build_rankings(
    candidates: Sequence[Candidate],
    judgments: Sequence[Judgment],
    constitution: Constitution,
    settings: Pairs,
    algorithm: str,
    *,
    clamp: tuple[float, float] | None = None,
) -> tuple[list[Ranking], Counter[str]]:
    """Rank the candidates of each prompt of one shard; count, by reason, what is left out.

    A score is the expected rating (see `Contest.ratings`), or the log-strength of a Bradley-Terry model in which the
    judge's probability for each compared pair counts as a fractional win; both follow the tiers of the constitution.
    A win rate is the mean probability to beat a ranked candidate, oneself included as 1/2 (SPPO, Wu et al. 2024,
    arXiv:2405.00675); what was not compared is estimated from the scores. Its probabilities are kept within `clamp`.

    Truncated and empty candidates, and those that clearly lose under a hard constraint, stand behind all others, with
    scores and win rates no better than the worst of those. A prompt without any other candidate has no ranking, nor,
    for the algorithm "ranking", has one whose best and worst are less than `min_margin` apart.

    For "kto" and "bco" a candidate is desirable whose score is so far above the prompt's mean score (or above the
    rating `desirable_above`) that one as far below would lose to it by `min_margin`, undesirable as far below. The
    others are left out of the ranking, after all have counted in its means, as "neutral"; so is a candidate that would
    be desirable but is truncated, empty or vetoed, by that reason.

    Everything left out counts once: a prompt that has no ranking, or a candidate that is left out of one, with the
    reason "invalid" where the judge gave no valid verdict on it.
    """
    check_principles(judgments, constitution)
    rankings: list[Ranking] = []
    left_out: Counter[str] = Counter()
    for _, contest in contests(candidates, judgments, constitution, settings, clamp):
        ranking = _rank(contest)
        if isinstance(ranking, Ranking) and isinstance(contest, Contest):
            left_out["invalid"] += len(contest.candidates) - len(ranking.candidate_ids)
            if algorithm == "ranking":
                ranking = _told_apart(ranking, contest)
            elif algorithm in LABELLED:
                ranking, unlabelled = _labelled(ranking, contest)
                left_out.update(unlabelled)
        if isinstance(ranking, Ranking):
            rankings.append(ranking)
        elif ranking is not None:
            left_out[ranking] += 1
    return rankings, +left_out


def best_of(
    candidates: Sequence[Candidate], judgments: Sequence[Judgment], constitution: Constitution, settings: Pairs
) -> tuple[list[Candidate], Counter[str]]:
    """The best candidate of each prompt, which is what RAFT trains on (Dong et al. 2023, arXiv:2304.06767).

    Of equal scores the first sampled wins. A candidate that is truncated, empty or vetoed is never the best. Counts the
    prompts without a best one, by reason.
    """
    check_principles(judgments, constitution)
    best: list[Candidate] = []
    left_out: Counter[str] = Counter()
    by_id = {candidate.id: candidate for candidate in candidates}
    for _, contest in contests(candidates, judgments, constitution, settings):
        ranking = _rank(contest)
        if isinstance(ranking, Ranking):
            best.append(by_id[ranking.candidate_ids[0]])
        else:
            left_out[ranking] += 1
    return best, left_out


def _rank(contest: Contest | str) -> Ranking | str:
    """All candidates with a valid verdict, best first; or the reason why nothing can be ranked."""
    if isinstance(contest, str):
        return contest
    scores = contest.ratings() if contest.readings.rated else contest.strengths()
    if not scores:
        return "invalid"
    ranked = sorted(
        (candidate for candidate in contest.candidates if candidate.id in scores),
        key=lambda candidate: (contest.barred(candidate) is not None, -round(scores[candidate.id] / _TIE)),
    )
    if (reason := contest.barred(ranked[0])) is not None:
        return reason
    free = [candidate.id for candidate in ranked if contest.barred(candidate) is None]
    scores, win_rates = _lowered(scores, free), _lowered(_win_rates(contest, ranked), free)
    middle = 0.0 if contest.readings.rated else fmean(scores.values())
    return Ranking(
        prompt_id=ranked[0].prompt_id,
        candidate_ids=tuple(candidate.id for candidate in ranked),
        scores=tuple(scores[candidate.id] - middle for candidate in ranked),
        win_rates=tuple(win_rates[candidate.id] for candidate in ranked),
        judgment_ids=tuple(_evidence(contest, set(scores))),
    )


def _lowered(values: dict[str, float], free: Sequence[str]) -> dict[str, float]:
    """The values, those of barred candidates being no higher than the lowest of the `free` ones."""
    floor = min(values[name] for name in free)
    return {name: value if name in free else min(value, floor) for name, value in values.items()}


def _win_rates(contest: Contest, ranked: Sequence[Candidate]) -> dict[str, float]:
    strengths = contest.strengths()
    beaten = {candidate.id: 0.5 for candidate in ranked}  # against oneself
    for a, b in combinations(ranked, 2):
        lead = contest.lead(a, b)
        if lead is None:
            lead = contest.lead_of(strengths[a.id] - strengths[b.id])
        p = contest.readings.soft_label(lead)
        beaten[a.id] += p
        beaten[b.id] += 1.0 - p
    return {name: total / len(ranked) for name, total in beaten.items()}


def _evidence(contest: Contest, ranked: set[str]) -> list[str]:
    return [
        judgment.id
        for judgment in contest.judgments
        if judgment.verdict != "invalid" and {judgment.first_id, judgment.second_id} - {""} <= ranked
    ]


def _told_apart(ranking: Ranking, contest: Contest) -> Ranking | str:
    lead = _lead(contest, ranking.scores[0] - ranking.scores[-1])
    if lead <= _TIE:
        return "tie"
    return "below_margin" if lead < contest.settings.min_margin else ranking


def _lead(contest: Contest, difference: float) -> float:
    """The lead that stands for a difference of two scores."""
    return difference if contest.readings.rated else contest.lead_of(difference)


def _labelled(ranking: Ranking, contest: Contest) -> tuple[Ranking | None, Counter[str]]:
    """The ranking of the candidates that are good or bad enough to be called so, and the others, counted by reason."""
    threshold, margin = contest.settings.desirable_above, contest.settings.min_margin
    middle = fmean(ranking.scores) if threshold is None else threshold
    barred = {candidate.id: contest.barred(candidate) for candidate in contest.candidates}
    kept: list[int] = []
    labels: list[bool] = []
    left_out: Counter[str] = Counter()
    for i, (name, score) in enumerate(zip(ranking.candidate_ids, ranking.scores, strict=True)):
        apart = _lead(contest, 2.0 * abs(score - middle))
        if apart <= _TIE or apart < margin - _TIE:
            left_out["neutral"] += 1
        elif score > middle and (reason := barred[name]) is not None:
            left_out[reason] += 1
        else:
            kept.append(i)
            labels.append(score > middle)
    return (_only(ranking, kept, labels) if kept else None), left_out


def _only(ranking: Ranking, kept: Sequence[int], labels: Sequence[bool]) -> Ranking:
    return Ranking(
        prompt_id=ranking.prompt_id,
        candidate_ids=tuple(ranking.candidate_ids[i] for i in kept),
        scores=tuple(ranking.scores[i] for i in kept),
        win_rates=tuple(ranking.win_rates[i] for i in kept),
        desirable=tuple(labels),
        judgment_ids=ranking.judgment_ids,
    )
