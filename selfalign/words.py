"""Events, progress and faults in words: what every face says about a stage, a gate, a reload."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfalign.progress import StageProgress
from selfalign.text import one_line
from selfalign.units import counted, duration


def progress_text(stage: StageProgress, now: float, campaign_eta: float | None) -> str:
    """How far a stage is, how fast, and how long it and the campaign will take."""
    parts = [f"{stage.done:,}/{stage.total:,} {one_line(stage.unit)}".rstrip(), f"{stage.fraction:.0%}"]
    rate = stage.rate(now)
    if rate is not None:
        parts.append(rate_text(rate))
    if stage.metrics:
        parts.append(metrics_text(stage.metrics))
    if (eta := stage.eta(now)) is not None:
        parts.append(f"{duration(eta)} left")
    if campaign_eta is not None:
        parts.append(f"campaign {duration(campaign_eta)} left")
    return "  ".join(parts)


def done_text(event: Mapping[str, Any], stage: StageProgress) -> str:
    """What a finished step made, and which it is where its stage has several."""
    *folders, name = str(event.get("step", "")).split("/")
    said = counts_text(stage.counts) or metrics_text(stage.metrics) or "done"
    if "replay" in folders:
        name = "replayed"
    elif stage.name == "revise" and folders:
        name = f"step {folders[-1]}"
    elif stage.name not in ("evaluate", "reward"):
        return said
    return f"{one_line(name)}: {said}" if name else said


def rate_text(rate: float) -> str:
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s" if rate >= 0.5 else f"{rate * 60:.1f}/min"


def reused_text(stage: StageProgress) -> str:
    return f"reused {counted(stage.reused, stage.total, stage.unit)}"


def metrics_text(metrics: Mapping[str, Any]) -> str:
    """The figures of a training step that people watch: loss, reward accuracy and margin, or else log-probability.

    Of a step on rollouts its iteration, and what the rollouts scored and how far from the reference they were.
    """
    if isinstance(metrics.get("iteration"), int | float):
        named = {"objective/scores": "score", "objective/kl": "KL"}
        return "  ".join((f"iteration {metrics['iteration']:.0f}", *_figures(metrics, named)))
    names = {"loss": "loss", "rewards/accuracies": "accuracy", "rewards/margins": "margin"}
    if not metrics.keys() & {"rewards/accuracies", "rewards/margins"}:
        names["logps/chosen"] = "log-prob"
    return "  ".join(_figures(metrics, names))


def watched(metrics: Mapping[str, Any]) -> str:
    """The name of the figure whose course tells how training goes."""
    return "objective/scores" if "iteration" in metrics else "loss"


def _figures(metrics: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    return [f"{label} {metrics[key]:.3f}" for key, label in names.items() if isinstance(metrics.get(key), int | float)]


def counts_text(counts: Mapping[str, Any]) -> str:
    """The counts of a finished stage on one line; zeros, texts and the time, which stands beside, are left out."""
    parts = []
    for name, value in counts.items():
        label = one_line(name).replace("_", " ")
        if name == "seconds":
            continue
        if isinstance(value, Mapping):
            inner = counts_text(value)
            parts += [f"{label}: {inner}"] if inner else []
        elif isinstance(value, bool) or not isinstance(value, int | float) or not value:
            continue
        elif isinstance(value, int):
            parts.append(f"{value:,} {label}")
        else:
            parts.append(f"{label} {value:.3g}")
    return ", ".join(parts)


def proof_text(event: Mapping[str, Any]) -> str:
    difference, bound = event.get("mean_abs_difference"), event.get("bound")
    if not isinstance(difference, int | float) or not isinstance(bound, int | float):
        return "the engine holds the new weights"
    verdict = "the engine holds the new weights" if difference <= bound else "the engine does NOT hold the new weights"
    return f"{verdict} (log-prob difference {difference:.2g}, bound {bound:.2g})"


def canaries_text(event: Mapping[str, Any]) -> str:
    rate, low, high, comparisons = (event.get(name) for name in ("rate", "low", "high", "comparisons"))
    if not all(isinstance(value, int | float) for value in (rate, low, high, comparisons)):
        return "canaries were judged"
    said = f"canaries win {rate:.1%} of {comparisons:,} comparisons ({low:.1%} to {high:.1%})"
    return f"{said}: NO-GO" if event.get("go") is False else said


def reward_text(event: Mapping[str, Any]) -> str:
    accuracy, pairs = event.get("accuracy"), event.get("pairs")
    if not isinstance(accuracy, int | float) or not isinstance(pairs, int):
        return "the reward model is trained"
    said = f"the reward model is right on {accuracy:.1%} of {pairs:,} held-out pairs"
    low, high, baseline, ece = (event.get(name) for name in ("low", "high", "baseline", "ece"))
    if all(isinstance(value, int | float) for value in (low, high, baseline, ece)):
        said += f" ({low:.1%} to {high:.1%}), length alone on {baseline:.1%}; calibration error {ece:.3f}"
    gold = [event.get(name) for name in ("gold", "gold_low", "gold_high")]
    if all(isinstance(value, int | float) for value in gold):
        said += "; gold answers above {:.1%} of sampled ones ({:.1%} to {:.1%})".format(*gold)
    return f"{said}: NO-GO" if event.get("go") is False else said


def guard_text(event: Mapping[str, Any]) -> str:
    """What the judge said of a policy on its way, beside the iteration that it likes best."""
    seen, iteration, best = event.get("win_rate"), event.get("iteration"), event.get("best")
    rates = [seen.get(name) for name in ("mean", "low", "high")] if isinstance(seen, Mapping) else []
    if not rates or not all(isinstance(value, int | float) for value in (*rates, iteration, best)):
        return "the held-out judge has looked"
    said = "iteration {:.0f}: held-out win rate {:.3f} ({:.3f} to {:.3f}) against the base".format(iteration, *rates)
    return f"{said}, the best so far" if best == iteration else f"{said}; iteration {best:.0f} is the best so far"


def gate_text(event: Mapping[str, Any]) -> str:
    verdict, reason = "accepted" if event.get("accepted") else "REJECTED", one_line(event.get("reason"))
    return f"{verdict}: {reason.removeprefix('accepted: ').removeprefix('rejected: ')}".rstrip(": ")


def place_of(error: BaseException) -> str:
    """Where an error came up: the last place in our own code, or the last there is."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "selfalign" in Path(frame.filename).parts]
    frame = (ours or frames or [None])[-1]
    return f"{frame.filename}:{frame.lineno} in {frame.name}" if frame else ""
