"""What becomes of a prompt's answers: the examples made from them, or why there are none.

A run keeps counts of what it leaves out, and no list. As everything that decides is on disk, and nothing is drawn but
by the prompt's id, the reason for one prompt can be found out again at any time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfalign import constitution as constitutions
from selfalign import judge_calibration
from selfalign.config import Campaign, in_round
from selfalign.constitution import Constitution
from selfalign.contest import DISCARDS, Contest, contests
from selfalign.judge_calibration import JudgeCalibration
from selfalign.preferences import calibrated
from selfalign.records import Candidate, Judgment, Prompt, Revision, derived_seed
from selfalign.stages import examples, pairs, rankings
from selfalign.store import Run

OTHER_SETTINGS = "other_settings"  # stands for a reason that the settings of today do not give
WHY_OTHER = "by the settings of today there would be one: they were others when the round was made"


def examples_of(
    asked: Sequence[Prompt],
    sampled: Sequence[Candidate],
    said: Sequence[Judgment],
    constitution: Constitution,
    settings: Campaign,
    seed: int,
) -> tuple[list[Any], Mapping[str, int]]:
    """The examples of one shard, and why the rest is none. `settings` are the round's, `said` is calibrated."""
    algorithm, clamp, made = settings.train.algorithm, settings.judge.label_clamp, list(sampled)
    if algorithm == "sft":
        return examples.gold_answers(asked)
    if algorithm == "raft":
        return rankings.best_of(made, said, constitution, settings.pairs)
    if algorithm in ("dpo", "ppo"):
        return pairs.build_pairs(made, list(said), constitution, settings.pairs, seed=seed, prompts=asked, clamp=clamp)
    return rankings.build_rankings(made, said, constitution, settings.pairs, algorithm, clamp=clamp)


@dataclass(frozen=True)
class Rules:
    """What decided in a round."""

    constitution: Constitution
    settings: Campaign  # the round's
    seed: int
    calibration: JudgeCalibration | None
    revised: bool  # the round learns revisions

    @staticmethod
    def of(run: Run, campaign: Campaign, number: int) -> Rules:
        """Those of a round of a run. Raises ConstitutionError or StoreError where its files are not there."""
        folder, frozen = f"rounds/{number:03d}", f"rounds/{number:03d}/calibration.json"
        read = (run.path / frozen).is_file()
        return Rules(
            constitutions.load(run.path / folder / "constitution.yaml"),
            in_round(campaign, number),
            derived_seed(campaign.seed, "pairs", number),
            judge_calibration.parse(run.read_text(frozen), frozen) if read else None,
            number < campaign.first_round,
        )

    def left_out(
        self, prompt: Prompt, sampled: Sequence[Candidate], said: Sequence[Judgment], revisions: Sequence[Revision] = ()
    ) -> Counter[str]:
        """What was considered of one prompt's answers and is no example, by reason; `words` says each."""
        if self.revised:
            return _unrevised(sampled, revisions)
        heard = self._heard(said)
        return Counter(examples_of([prompt], sampled, heard, self.constitution, self.settings, self.seed)[1])

    def why_none(
        self, prompt: Prompt, sampled: Sequence[Candidate], said: Sequence[Judgment], revisions: Sequence[Revision] = ()
    ) -> str:
        """Why a prompt has no example, as `words` takes it."""
        found = self.left_out(prompt, sampled, said, revisions)
        return found.most_common(1)[0][0] if found else OTHER_SETTINGS if sampled else "too_few_candidates"

    def words(self, reason: str) -> str:
        """A reason in words."""
        known = DISCARDS
        if self.revised:
            from selfalign.stages import revise  # it asks engines, which those who only look need not load

            known = revise.DISCARDS
        return {OTHER_SETTINGS: WHY_OTHER, **known}.get(reason, reason)

    def scores(self, sampled: Sequence[Candidate], said: Sequence[Judgment]) -> tuple[str, dict[str, float]]:
        """What the judge makes of one prompt's answers, by id, and what the numbers are: ratings or chances to win."""
        clamp = self.settings.judge.label_clamp
        for _, found in contests(sampled, self._heard(said), self.constitution, self.settings.pairs, clamp):
            if isinstance(found, Contest):
                return ("rating", found.ratings()) if found.readings.rated else ("win rate", found.shares())
        return "", {}

    def _heard(self, said: Sequence[Judgment]) -> list[Judgment]:
        return calibrated(said, self.calibration, self.settings.judge.tie_margin)


def _unrevised(sampled: Sequence[Candidate], revisions: Sequence[Revision]) -> Counter[str]:
    from selfalign.stages import revise  # see Rules.words

    before, chains = revise.texts_by_id(sampled, revisions), revise.by_answer(revisions)
    found = Counter[str]()
    for answer in sampled:
        chain = chains.get(answer.id, ())
        for revision in chain:
            unchanged = "unchanged" if revise.is_unchanged(revision, before) else None
            found[revise.failure(revision) or unchanged or ""] += 1
        found[revise.why_skipped(answer)] += not chain
    del found[""]
    return +found
