"""The candidates of one prompt: who beats whom by the judge's word, and who must never be held up as good."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from statistics import fmean

import numpy as np

from selfalign.config import Pairs
from selfalign.constitution import Constitution
from selfalign.preferences import Readings, by_prompt, pair_key, read_prompt, sigmoid
from selfalign.records import Candidate, Judgment
from selfalign.statistics import bradley_terry

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
    "same_margin": "another pair of the prompt with about this margin was drawn (pairs.buckets)",
    "no_gold": "the prompt has no gold answer",
    "neutral": "the candidate is too near to the middle to be called good or bad (pairs.min_margin)",
}


class Contest:
    """The distinct candidates of one prompt and what the judge said of them.

    `compared` are the pairs that were put before the judge, valid verdict or not.
    """

    def __init__(
        self, candidates: Sequence[Candidate], judgments: Sequence[Judgment], readings: Readings, settings: Pairs
    ) -> None:
        self.candidates = sorted(candidates, key=lambda candidate: candidate.sample_index)
        self.judgments, self.readings, self.settings = judgments, readings, settings
        self.vetoed = readings.vetoed()
        self.compared = [(a, b) for a, b in combinations(self.candidates, 2) if pair_key(a.id, b.id) in readings.pairs]

    def lead(self, a: Candidate, b: Candidate) -> float | None:
        """The judge's lead of a over b, tiers respected; None where it gave no valid verdict on the two."""
        return self.readings.decision(a.id, b.id, self.settings.min_margin)

    def barred(self, candidate: Candidate) -> str | None:
        """Why a candidate cannot be preferred, if it cannot."""
        if candidate.id in self.vetoed:
            return "vetoed"
        if candidate.finish_reason == "length":
            return "truncated"
        return None if candidate.text.strip() else "empty"

    def shares(self) -> dict[str, float]:
        """The mean probability of each candidate to beat another of those with a valid comparison, by id.

        Where not all of them have been compared, a mean over those that have would praise whoever met weak ones; the
        probabilities are then those of the strengths. These put complete comparisons into the same order.
        """
        decided = list(self._decided())
        wins: dict[str, list[float]] = {candidate.id: [] for a, b, _ in decided for candidate in (a, b)}
        outcomes = ((a.id, b.id, p) for a, b, p in decided)
        if len(decided) < math.comb(len(wins), 2):
            strengths = self.strengths()
            outcomes = ((a, b, sigmoid(strengths[a] - strengths[b])) for a, b in combinations(wins, 2))
        for a, b, p in outcomes:
            wins[a].append(p)
            wins[b].append(1.0 - p)
        return {candidate_id: fmean(probabilities) for candidate_id, probabilities in wins.items()}

    def ratings(self) -> dict[str, float]:
        """The expected rating of each candidate of which there are valid ratings, by id.

        It is the mean, over the others, of its rating by the tier that decides between the two; so with one tier it is
        the candidate's rating, whoever the others are.
        """
        found: dict[str, list[float]] = {}
        for a, b in self.compared:
            ratings = self.readings.ratings(a.id, b.id, self.settings.min_margin)
            for candidate, rating in zip((a, b), ratings or (), strict=False):
                found.setdefault(candidate.id, []).append(rating)
        return {candidate_id: fmean(ratings) for candidate_id, ratings in found.items()}

    def strengths(self) -> dict[str, float]:
        """Scores whose differences are log-odds, by id: Bradley-Terry strengths, or ratings times `rating_scale`.

        The probabilities of the judge count as fractional wins.
        """
        if self.readings.rated:
            return {name: self.settings.rating_scale * rating for name, rating in self.ratings().items()}
        decided = list(self._decided())
        met = {candidate.id for a, b, _ in decided for candidate in (a, b)}
        names = [candidate.id for candidate in self.candidates if candidate.id in met]
        place = {name: number for number, name in enumerate(names)}
        wins = np.zeros((len(names), len(names)))
        for a, b, p in decided:
            wins[place[a.id], place[b.id]], wins[place[b.id], place[a.id]] = p, 1.0 - p
        return dict(zip(names, bradley_terry(wins).tolist(), strict=True)) if names else {}

    def lead_of(self, log_odds: float) -> float:
        """The lead that stands for these log-odds: what `lead` would be if the judge had said as much."""
        return log_odds / self.settings.rating_scale if self.readings.rated else 2.0 * sigmoid(log_odds) - 1.0

    def _decided(self) -> Iterator[tuple[Candidate, Candidate, float]]:
        """The compared pairs with a valid verdict, and the probability that the first is better."""
        for a, b in self.compared:
            if (lead := self.lead(a, b)) is not None:
                yield a, b, self.readings.probability(lead)


def contests(
    candidates: Sequence[Candidate],
    judgments: Sequence[Judgment],
    constitution: Constitution,
    settings: Pairs,
    clamp: tuple[float, float] | None = None,
) -> Iterator[tuple[str, Contest | str]]:
    """Each prompt's id with its contest, or with the reason (of DISCARDS) why it has none.

    Candidates that are errors are left out, and of those with the same text all but the first.
    """
    said = by_prompt(judgments)
    for prompt_id, sampled in sampled_by_prompt(candidates).items():
        yield prompt_id, _contest(sampled, said.get(prompt_id, []), constitution, settings, clamp)


def sampled_by_prompt(candidates: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    grouped: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        grouped.setdefault(candidate.prompt_id, []).append(candidate)
    return grouped


def discards(counts: Mapping[str, int]) -> dict[str, int]:
    """The discards among a step's counts, by reason, most frequent first."""
    found = {reason: counts[reason] for reason in DISCARDS if counts.get(reason)}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _contest(
    candidates: Sequence[Candidate],
    judgments: Sequence[Judgment],
    constitution: Constitution,
    settings: Pairs,
    clamp: tuple[float, float] | None,
) -> Contest | str:
    usable = [candidate for candidate in candidates if candidate.finish_reason != "error"]
    distinct = list({candidate.text: candidate for candidate in reversed(usable)}.values())
    if len(usable) < 2:
        return "too_few_candidates"
    if len(distinct) < 2:
        return "identical_text"
    readings = read_prompt(judgments, constitution, settings.rating_scale, clamp)
    contest = Contest(distinct, judgments, readings, settings)
    return contest if contest.compared else "no_judgments"
