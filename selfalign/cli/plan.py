"""`selfalign plan`: what a campaign would do and take, before it does."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from selfalign import constitution as constitutions
from selfalign import resources
from selfalign.cli.estimate import Needs, Speed, count_needs, probe
from selfalign.cli.output import print_json, print_table, say
from selfalign.cli.targets import RUNS, check_inputs, find_campaign
from selfalign.cli.workload import Phase, RoundWork, Workload, count_work, phases, render_example
from selfalign.config import Campaign, Loaded
from selfalign.constitution import Constitution
from selfalign.objective import judge_rewards
from selfalign.progress import STAGES
from selfalign.records import Message, Prompt
from selfalign.settings import in_yaml
from selfalign.stages.examples import RECORDS, kind_of
from selfalign.stages.judge.budget import dollars
from selfalign.stages.report.training import loss_name
from selfalign.stages.train import evaluating_judge
from selfalign.text import clean
from selfalign.units import duration, size

EXAMPLE = Prompt.make((Message("user", "(a prompt stands here)"),))
SHOWN = ("train.algorithm", "train.loss")  # in columns of their own
COUNTS = [field.name for field in fields(RoundWork) if not field.name.endswith(("round", "kind", "passes"))]

Row = tuple[str, ...]
Count = Callable[[RoundWork], float]


def plan(
    target: str,
    /,
    *,
    set: Annotated[list[str], Parameter(name="--set", negative=())] = [],  # noqa: B006 (cyclopts reads the default)
    offline: bool = False,
    json: bool = False,
    runs: Path = RUNS,
) -> int:
    """Check a campaign and show what it would do: its settings, one judge prompt, and what it takes.

    Parameters
    ----------
    target
        A campaign file, a recipe, or a run.
    set
        Override a setting, as `run` would: --set train.beta=0.2
    offline
        Load no model and open no connection; then there is no time estimate.
    json
        Print JSON.
    runs
        The folder of runs.
    """
    campaign = find_campaign(target, set, runs)
    loaded, settings = campaign.loaded, campaign.loaded.campaign
    prompts = check_inputs(loaded, offline=offline)
    rules = constitutions.load(resources.find_constitution(settings.constitution, loaded.file and loaded.file.parent))
    train = prompts.get("train", [])
    work = count_work(settings, prompts, rules, _standard(loaded))
    needs = count_needs(settings, work)
    example = render_example(settings, rules, train[0] if train else EXAMPLE)
    speed = None
    if not offline and train:
        say("probing: loading the models and timing a few requests (--offline leaves this out)")
        with tempfile.TemporaryDirectory(prefix="selfalign-plan-") as folder:
            speed = probe(settings, rules, train, Path(folder))
    if json:
        print_json(_facts(loaded, work, needs, speed, example))
        return 0
    origins = [(name, in_yaml(value), place) for name, value, place in loaded.settings()]
    print_table(("setting", "value", "origin"), origins)
    print(f"\na judge prompt, as it will be sent:\n{_indent(clean(example))}\n")
    stretches = phases(settings)
    print_table(("phase", "trains on", "algorithm", "loss", "what it changes"), map(_phase, stretches))
    print()
    each = [phase.name + (", each" if len(phase.rounds) > 1 else "") for phase in stretches]
    columns = ("estimate, at most", *(each if len(each) > 1 else ["a round"]), "the campaign")
    print_table(columns, estimates(settings, stretches, work, needs, speed), right=columns[1:])
    _remarks(settings, needs, speed, work)
    say(f"next:  selfalign run {target}")
    return 0


def _standard(loaded: Loaded) -> Constitution | None:
    """What the evaluation judges by, where that is another constitution."""
    name = loaded.campaign.evaluate.constitution
    folder = loaded.file.parent if loaded.file else None
    return None if name is None else constitutions.load(resources.find_constitution(name, folder))


def _phase(phase: Phase) -> tuple[str, ...]:
    """A line on a phase: which rounds, what they train on and how, and the settings that are its own."""
    train, revise = phase.settings.train, phase.settings.revise
    changes = [f"{name} {in_yaml(value)}" for name, value in phase.changes.items() if name not in SHOWN]
    if phase.bootstraps:
        steps = f"{revise.steps} step" + "s" * (revise.steps > 1)
        changes = [f"critique and revision in {steps}, with {revise.helpful_ratio:g} helpful answers for each"]
    return phase.name, _learned(phase), train.algorithm, loss_name(phase.settings), ", ".join(changes) or "–"


def _learned(phase: Phase) -> str:
    """What a phase learns from."""
    judged = judge_rewards(phase.settings.train, phase.settings.ppo)
    return "rollouts" if judged else kind_of(phase.settings.train.algorithm)


def estimates(
    settings: Campaign, stretches: Sequence[Phase], work: Workload, needs: Needs, speed: Speed | None
) -> list[Row]:
    """The estimates: of each phase its largest round, then the sum over all rounds."""

    def row(name: str, count: Count, said: Callable[[float], str], extra: float = 0) -> Row:
        most = (max(count(work.rounds[number]) for number in phase.rounds) for phase in stretches)
        return (name, *map(said, most), said(sum(map(count, work.rounds)) + extra))

    counts = [(name, count) for name, count in _counts(settings, work) if any(map(count, work.rounds))]
    rows = [row(name, count, lambda value: f"{value:,.0f}") for name, count in counts]
    if settings.judge.price is not None:
        rows.append(
            row("dollars for the judge", lambda one: _dollars(settings, work, one), lambda value: f"{value:,.2f}")
        )
    if needs.disk is not None:
        rows.append(("disk, about", *[size(needs.disk / len(work.rounds))] * len(stretches), size(needs.disk)))
    if speed is not None:
        taken = {one.round: speed.seconds(one, work) for one in work.rounds}
        stages = [stage for stage in STAGES if any(seconds.get(stage) for seconds in taken.values())]
        rows += [row(f"{stage}, about", lambda one, of=stage: taken[one.round][of], duration) for stage in stages]
        rows.append(row("time, about", lambda one: sum(taken[one.round].values()), duration, speed.start_seconds))
    return rows


def _dollars(settings: Campaign, work: Workload, one: RoundWork) -> float:
    """What those judgments of a round cost that are asked over an API."""
    labelled = (settings.judge.model, one.judgments + one.rollout_judgments)
    held_out = (evaluating_judge(settings).model, one.heldout_judgments)
    asked = sum(count for model, count in (labelled, held_out) if model.startswith("openai:"))
    return dollars(settings.judge.price, asked * work.judge_tokens, asked)


def _counts(settings: Campaign, work: Workload) -> list[tuple[str, Count]]:
    return [
        ("prompts", lambda one: one.prompts),
        ("candidates", lambda one: one.candidates),
        ("critiques and revisions", lambda one: one.revisions),
        ("judgments", lambda one: one.judgments),
        ("judgments on canaries", lambda one: one.canary_judgments),
        *((kind, lambda one, kind=kind: one.examples * (one.kind == kind)) for kind in RECORDS),
        ("replayed", lambda one: one.replayed),
        ("rollouts", lambda one: one.rollouts),
        ("judgments on rollouts", lambda one: one.rollout_judgments),
        ("held-out answers", lambda one: one.heldout),
        ("held-out judgments", lambda one: one.heldout_judgments),
        ("tokens sampled", lambda one: one.generations * settings.generate.max_tokens),
        ("tokens of the judge's reasons", lambda one: one.chains * settings.judge.cot_tokens),
        ("tokens read by the judge", lambda one: one.verdicts * work.judge_tokens),
    ]


def _remarks(settings: Any, needs: Needs, speed: Speed | None, work: Workload) -> None:
    if needs.model is None:
        say(f"memory and disk: unknown, as {settings.policy.model} is not on this machine")
    else:
        verdict = "fits" if needs.fits else "does NOT fit: train an adapter, use a smaller model, or shard it over GPUs"
        model = f"{needs.model.num_parameters / 1e6:,.1f} M parameters"
        say(
            f"memory: {model}; engine {size(needs.engine)} of weights, trainer {size(needs.trainer)} and activations, "
            f"of {size(needs.available)} on this {needs.device}: {verdict}"
        )
    if not work.exact_tokens:
        say("tokens: by length alone (4 characters a token), as the tokenizer is not on this machine")
    if _reasons_freely(settings):
        say(
            "judge: the transformers engine cannot hold a model to JSON: its reasons come as free text, and those that "
            "are not the JSON asked for are invalid verdicts; vLLM holds them to it by a grammar"
        )
    if speed is not None:
        rate = f"{speed.sampled_tokens_per_second:,.0f} tokens/s sampled, {speed.judgments_per_second:,.1f} judgments/s"
        say(f"probe: {rate}, {duration(speed.start_seconds)} to start; training is a guess from the judge's speed")


def _reasons_freely(settings: Campaign) -> bool:
    """Whether a judge is to give reasons on an engine that has no grammars."""
    judges = (settings.judge, evaluating_judge(settings))
    here = any(judge.reasons and not judge.model.startswith("openai:") for judge in judges)
    return here and (settings.engine.backend == "transformers" or find_spec("vllm") is None)


def _facts(loaded: Any, work: Workload, needs: Needs, speed: Speed | None, example: str) -> dict[str, Any]:
    return {
        "settings": [{"name": name, "value": value, "origin": origin} for name, value, origin in loaded.settings()],
        "judge_prompt": example,
        "phases": [
            {
                "rounds": list(phase.rounds),
                "examples": _learned(phase),
                "algorithm": phase.settings.train.algorithm,
                "loss": phase.settings.train.loss if phase.settings.train.algorithm == "dpo" else None,
                "advantage": phase.settings.ppo.advantage if phase.settings.train.algorithm == "ppo" else None,
                "reward": phase.settings.ppo.reward if phase.settings.train.algorithm == "ppo" else None,
                "changes": phase.changes,
            }
            for phase in phases(loaded.campaign)
        ],
        "work": {
            **asdict(work),
            "total": {name: work.total(lambda one, name=name: vars(one)[name]) for name in COUNTS},
        },
        "dollars": [_dollars(loaded.campaign, work, one) for one in work.rounds]
        if loaded.campaign.judge.price
        else None,
        "needs": {**asdict(needs), "fits": needs.fits},
        "probe": asdict(speed) if speed else None,
        "seconds": [speed.seconds(one, work) for one in work.rounds] if speed else None,
    }


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
