"""Reward: what a trained reward model makes of the candidates, and what it is worth on pairs held out from it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from selfalign import calibration
from selfalign.records import BucketAccuracy, Candidate, GoldAgreement, Prompt, Reward, RewardReport
from selfalign.training.job import HELDOUT_FILE, REWARDS_FILE, SPREADS_FILE, HeldOut


def rewards_of(candidates: Sequence[Candidate], folder: Path, model_id: str) -> list[Reward]:
    """The rewards of some candidates; those that the trainer left out, being empty or too long, have none."""
    rewards = json.loads((folder / REWARDS_FILE).read_bytes())
    spreads = json.loads((folder / SPREADS_FILE).read_bytes()) if (folder / SPREADS_FILE).exists() else {}
    return [Reward(c.id, model_id, rewards[c.id], spreads.get(c.id, 0.0)) for c in candidates if c.id in rewards]


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
