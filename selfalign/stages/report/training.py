"""How a round was trained: on what, with which algorithm, loss and reference, and how its metrics moved."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import chain, groupby
from statistics import fmean
from typing import Any

from selfalign.config import Campaign
from selfalign.objective import judge_rewards, loss_terms, needs_reference
from selfalign.records import Report
from selfalign.stages.report import guard, reward_model, steps
from selfalign.stages.report.document import Block, Figure, Table
from selfalign.stages.report.plots import Point, Series, line_chart
from selfalign.store import Run

METRICS_FILE, DONE_FILE = "metrics.jsonl", "training.json"
POINTS = 24  # of a curve; longer ones show the means of stretches of steps
CURVES: Mapping[str, Mapping[str, str]] = {  # by title the metrics of a chart and what each is called
    "Training loss": {"loss": "loss"},
    "Rewards": {"rewards/chosen": "chosen", "rewards/rejected": "rejected"},
    "Reward accuracy": {"rewards/accuracies": "accuracy"},
    "Log-probability of answers": {"logps/chosen": "chosen", "logps/rejected": "rejected"},
}
SCORES = "Scores of the reward model"
ROLLOUT_CURVES: Mapping[str, Mapping[str, str]] = {  # the same of training on rollouts
    SCORES: {"objective/scores": "score", "objective/rlhf_reward": "with the KL penalty"},
    "KL, nats per answer": {"objective/kl": "KL"},
    "Change of the policy": {"policy/approxkl": "KL, nats per token", "policy/clipfrac": "share clipped"},
    "Entropy, nats per answer": {"objective/entropy": "entropy"},
    "Length of rollouts, tokens": {"rollout/mean_tokens": "tokens"},
    "Repeated word 3-grams in rollouts": {"rollout/repetition": "share"},
    "Engine and trainer, nats per token": {"rollout/sampler_difference": "difference", "rollout/sampler_kl": "KL"},
}


def loss_name(settings: Campaign) -> str:
    """The loss of pairs with the weights of its terms, such as sigmoid + 0.2 nll, or how PPO finds advantages.

    Other algorithms have a loss of their own.
    """
    if settings.train.algorithm == "ppo":
        return settings.ppo.advantage
    if settings.train.algorithm != "dpo":
        return "–"
    terms = loss_terms(settings.train).items()
    return " + ".join(name if weight == 1 else f"{weight:g} {name}" for name, weight in terms)


def method(settings: Campaign) -> str:
    """Algorithm, loss and the figures that matter most, in a line; `settings` are those of the round."""
    train = settings.train
    learned = train.algorithm in ("sft", "raft")
    own = [] if train.algorithm != "dpo" else [f"{loss_name(settings)} loss"]
    shown = ", ".join(own if learned else [*own, f"beta {train.beta:g}"])
    epochs = _counted(train.epochs, "epoch")
    if train.algorithm == "ppo":
        shown, epochs = f"{settings.ppo.advantage}, {_penalty(settings)}", _iterations(settings)
    weights = f"LoRA rank {settings.policy.adapter.rank}" if settings.policy.adapter else "all weights"
    name = f"{train.algorithm.upper()} ({shown})" if shown else train.algorithm.upper()
    return f"{name}, learning rate {train.learning_rate:g}, {epochs}, {weights}"


def _penalty(settings: Campaign) -> str:
    steered = f", steered towards a KL of {settings.ppo.kl_target:g}" if settings.ppo.kl_target is not None else ""
    return f"KL coefficient {settings.ppo.kl_coef:g}{steered}"


def _iterations(settings: Campaign) -> str:
    ppo = settings.ppo
    passes = f"{_counted(ppo.epochs, 'epoch')} in {_counted(ppo.minibatches, 'minibatch', 'es')}"
    return f"{_counted(ppo.iterations, 'iteration')} of {passes}"


def _counted(number: int, noun: str, plural: str = "s") -> str:
    return f"{number:,} {noun}{plural if number != 1 else ''}"


def learned_from(run: Run, report: Report, settings: Campaign) -> list[tuple[str, str]]:
    """What the round learned from, as rows of a table; PPO's examples are those of its reward model."""
    own, again = f"{report.num_examples:,} {report.examples}", replayed(run, report)
    more = [("replayed", f"{again:,} {report.examples} of earlier rounds")] if again else []
    if settings.train.algorithm != "ppo":
        return [("trained on", own), *more]
    learned = [("trained on", f"{rollouts(run, report):,} rollouts")]
    if judge_rewards(settings.train, settings.ppo):
        return [*learned, ("reward", f"judge: {settings.judge.model}, its expected rating from -1 to 1")]
    found, said = reward_model.read(run, report.round), f"from {own}"
    if found is not None:
        said = f"from {found.num_trained:,} pairs, accuracy {found.accuracy:.3f} ({found.interval}) on pairs held out"
    return [*learned, ("reward model", said), *more]


def rollouts(run: Run, report: Report) -> int:
    """How many answers were sampled while the policy of a round was trained."""
    sampled = (step for _, step in steps.finished(run, report.round) if "/rollouts/" in step.name)
    return sum(int(step.counts.get("candidates", 0)) for step in sampled)


def reference(settings: Campaign, number: int) -> str:
    """What a round was regularised toward, in words."""
    named = settings.reference
    if not needs_reference(settings.train) or named == "none":
        return "none"
    if named == "base":
        return "the base policy"
    if named == "ema":
        return f"the average of the base and the policies before this round (decay {settings.reference_decay:g})"
    if named == "previous" or int(named) >= number:
        return "the policy before this round"
    return f"the policy of round {named}"


def replayed(run: Run, report: Report) -> int:
    """How many examples of earlier rounds a round was trained on."""
    step = run.view(f"rounds/{report.round:03d}/replay/{report.examples}")
    return int(step.counts.get("rows", 0)) if step is not None and step.done else 0


def blocks(run: Run, report: Report, settings: Campaign) -> list[Block]:
    """What the page of a round says of its training; `settings` are those of the round."""
    made = metrics(run, report)
    rows = (
        *learned_from(run, report, settings),
        ("method", method(settings)),
        ("reference", reference(settings, report.round)),
        *stopped(run, report),
    )
    return [
        Table(("training", "value"), rows, "How the round was trained", numbers_from=2),
        *guard.blocks(run, report.round, made),
        *curves(made, judged=judge_rewards(settings.train, settings.ppo)),
    ]


def stopped(run: Run, report: Report) -> list[tuple[str, str]]:
    """Why training on rollouts ended before its time and which weights were kept, as a row of a table, if it did."""
    path = run.path / f"rounds/{report.round:03d}/policy/{DONE_FILE}"
    said = json.loads(path.read_bytes()).get("stopped") if path.is_file() else None
    return [("ended early", said)] if said else []


def metrics(run: Run, report: Report) -> list[dict[str, Any]]:
    """The metrics of every training step of a round; none where the trainer left no file."""
    path = run.path / f"rounds/{report.round:03d}/policy/{METRICS_FILE}"
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.is_file() else []


def curves(made: Sequence[Mapping[str, Any]], *, judged: bool = False) -> list[Block]:
    """A chart for each group of metrics that the steps made have, each also in words; of rollouts by iteration."""
    charted, by = (ROLLOUT_CURVES, "iteration") if made and "iteration" in made[0] else (CURVES, "step")
    stretches = _stretches(_iterations_of(made) if by == "iteration" else [[step] for step in made])
    labels = [str(stretch[0].get(by, "")) for stretch in stretches]
    charts = []
    for title, named in charted.items():
        series = [Series(label, _points(stretches, name)) for name, label in named.items()]
        series = [one for one in series if one.points]
        if series:
            heading = f"{'Scores of the judge' if judged and title == SCORES else title}, by {by}"
            charts.append(Figure(line_chart(heading, labels, series), _words(heading, series, labels)))
    return charts


def _iterations_of(made: Sequence[Mapping[str, Any]]) -> list[Sequence[Mapping[str, Any]]]:
    """The steps by iteration. What describes the rollouts is the same in all of them; the rest is their mean."""
    return [list(found) for _, found in groupby(made, key=lambda step: step.get("iteration"))]


def _stretches(parts: Sequence[Sequence[Mapping[str, Any]]]) -> list[Sequence[Mapping[str, Any]]]:
    size = math.ceil(len(parts) / POINTS) or 1
    return [list(chain(*parts[start : start + size])) for start in range(0, len(parts), size)]


def _points(stretches: Sequence[Sequence[Mapping[str, Any]]], name: str) -> tuple[Point, ...]:
    """The mean of a metric over each stretch that has it."""
    found = [[step[name] for step in stretch if isinstance(step.get(name), int | float)] for stretch in stretches]
    return tuple(Point(i, fmean(values)) for i, values in enumerate(found) if values)


def _words(heading: str, series: Sequence[Series], labels: Sequence[str]) -> str:
    """A curve in words: where it began and where it ended."""
    said = [
        f"{one.label} "
        + " to ".join(f"{point.y:.3g} ({labels[point.x]})" for point in one.points[:: len(one.points) - 1 or 1])
        for one in series
    ]
    return f"{heading}: {'; '.join(said)}."
