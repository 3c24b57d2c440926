"""Reward: what a trained reward model, or the judge itself, makes of candidates, and what a reward model is worth."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from selfalign import calibration
from selfalign.constitution import Constitution
from selfalign.engines.base import Engine, EngineError
from selfalign.engines.streaming import answer_shards, score_requests
from selfalign.preferences import ratings
from selfalign.records import (
    BucketAccuracy,
    Candidate,
    Checkpoint,
    GoldAgreement,
    Judgment,
    Prompt,
    Reward,
    RewardReport,
)
from selfalign.stages import check_principles
from selfalign.training.job import HELDOUT_FILE, REWARDS_FILE, SPREADS_FILE, HeldOut

NUM_PROBES = 8


def rewards_of(candidates: Sequence[Candidate], folder: Path, model_id: str) -> list[Reward]:
    """The rewards of some candidates; those that the trainer left out, being empty or too long, have none."""
    rewards = json.loads((folder / REWARDS_FILE).read_bytes())
    spreads = json.loads((folder / SPREADS_FILE).read_bytes()) if (folder / SPREADS_FILE).exists() else {}
    return [Reward(c.id, model_id, rewards[c.id], spreads.get(c.id, 0.0)) for c in candidates if c.id in rewards]


def prove_loaded(engine: Engine, model: Checkpoint, prompts: Sequence[Prompt], candidates: Sequence[Candidate]) -> None:
    """Compare the engine's rewards of some candidates with those that the trainer wrote beside its reward model.

    Raises EngineError where they differ by more than a tenth of what rewards differ by among themselves: then it is
    another model, or reads the answers as other tokens.
    """
    recorded = json.loads((Path(model.path) / REWARDS_FILE).read_bytes())
    probed = [c for c in candidates if c.token_ids and c.id in recorded][:NUM_PROBES]
    found = {rewarded.id: rewarded.reward for rewarded in engine.reward(score_requests(prompts, probed))}
    difference = statistics.fmean(abs(found[c.id] - recorded[c.id]) for c in probed) if probed else 0.0
    bound = 1e-3 + 0.1 * statistics.pstdev(recorded.values()) if probed else 0.0
    if not difference <= bound:
        raise EngineError(
            f"the engine does not reward as {model.path} did in training: {difference:.3g} apart on average, more than "
            f"{bound:.3g}\nrun the same command again for a fresh engine; if it stays, compare engine.dtype with "
            "reward_model.train.dtype, or set `reward_model: {scorer: trainer}`"
        )


def score(
    shards: Iterable[tuple[int, list[Prompt], list[Candidate]]], engine: Engine, *, model_id: str
) -> Iterator[tuple[int, list[Reward]]]:
    """What the engine's model, a reward model, makes of each candidate; empty ones are left out.

    Raises EngineError for a reward that is not finite.
    """
    asked = ((index, candidates, score_requests(prompts, candidates)) for index, prompts, candidates in shards)
    for index, candidates, found in answer_shards(asked, engine.reward):
        if wrong := [name for name, rewarded in found.items() if not math.isfinite(rewarded.reward)]:
            raise EngineError(f"the reward of {wrong[0]} is not finite; set engine.dtype to float32")
        yield index, [Reward(c.id, model_id, found[c.id].reward) for c in candidates if c.id in found]


def judged_rewards(
    candidates: Sequence[Candidate],
    judgments: Sequence[Judgment],
    constitution: Constitution,
    highest: int,
    judge_id: str,
) -> list[Reward]:
    """The judge's expected ratings, from 1 to `highest`, as rewards in [-1, 1] (Lee et al. 2023, arXiv:2309.00267).

    Candidates of a prompt with the same text share their judgments; without a valid rating (`preferences.ratings`) a
    candidate has no reward. Raises StageError for judgments by another constitution.
    """
    check_principles(judgments, constitution)
    rated = ratings(judgments, constitution)
    by_text = {(c.prompt_id, c.text): rated[c.id] for c in candidates if c.id in rated}
    answers = [c for c in candidates if c.finish_reason != "error" and (c.prompt_id, c.text) in by_text]
    return [Reward(c.id, judge_id, scaled(by_text[c.prompt_id, c.text], highest)) for c in answers]


def scaled(rating: float, highest: int) -> float:
    """A rating from 1 to `highest`, linearly, as a number from -1 to 1."""
    return 2.0 * (rating - 1.0) / (highest - 1.0) - 1.0


def measure(
    folder: Path, min_accuracy: float, *, round: int, model_id: str, seed: int, gold: GoldAgreement | None = None
) -> RewardReport:
    """What a reward model is worth, by the record that its trainer left in `folder`, and whether to go on with it."""
    found = msgspec.json.decode((folder / HELDOUT_FILE).read_bytes(), type=HeldOut)
    gaps, labels, prompts = found.gaps, found.p_chosen, found.prompt_ids
    by_length = calibration.fit_length_baseline(found.trained_lengths, found.trained_p_chosen).gaps(found.lengths)
    accuracy = calibration.accuracy(gaps, prompts, seed=seed)
    against_length = calibration.explains_as_well(gaps, by_length, prompts, seed=seed)
    verdict = calibration.decide(accuracy, min_accuracy, against_length)
    forecasts, fit = calibration.folded(gaps, labels), calibration.measure_calibration(gaps, labels, seed=seed)
    return RewardReport(
        round=round,
        model_id=model_id,
        go=verdict.go,
        reason=verdict.reason,
        num_trained=len(found.trained_lengths),
        num_pairs=accuracy.num_pairs,
        num_prompts=accuracy.num_prompts,
        accuracy=accuracy.value,
        interval=accuracy.cautious,
        by_label=tuple(_by_label(found, seed)),
        baseline=accuracy.value - against_length.difference,
        agreement=float(forecasts.outcomes.mean()),
        agreement_most=math.fsum(max(p, 1 - p) for p in labels) / len(labels),
        ece=fit.ece,
        ece_by_chance=fit.ece_by_chance,
        ece_scaled=fit.ece_scaled,
        brier=fit.brier,
        temperature=fit.temperature,
        bins=calibration.reliability(forecasts),
        gold=gold,
    )


def agreement_with_gold(
    folder: Path, prompts: Iterable[Prompt], candidates: Iterable[Candidate], seed: int
) -> GoldAgreement | None:
    """How often gold answers are rewarded above what was sampled to their prompts; None where there is none of both."""
    rewards = json.loads((folder / REWARDS_FILE).read_bytes())
    golds = {p.id: rewards[gold.id] for p in prompts if (gold := p.gold()) is not None and gold.id in rewards}
    sampled = [c for c in candidates if c.prompt_id in golds and c.id in rewards]
    if not sampled:
        return None
    gaps = [golds[c.prompt_id] - rewards[c.id] for c in sampled]
    found = calibration.accuracy(gaps, [c.prompt_id for c in sampled], seed=seed)
    return GoldAgreement(found.value, found.cautious, found.num_pairs, found.num_prompts)


def _by_label(found: HeldOut, seed: int) -> Iterator[BucketAccuracy]:
    for bucket in calibration.accuracy_by_bucket(found.gaps, found.p_chosen, groups=found.prompt_ids, seed=seed):
        low, high = (end if math.isfinite(end) else None for end in (bucket.low, bucket.high))
        inside = bucket.accuracy
        yield BucketAccuracy(low, high, inside.value, inside.cautious, inside.num_pairs)
