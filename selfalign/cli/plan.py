"""`selfalign plan`: what a campaign would do and take, before it does."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from selfalign import constitution as constitutions
from selfalign import resources
from selfalign.cli.config import shown
from selfalign.cli.estimate import Needs, Speed, Workload, count_needs, count_work, probe, render_example
from selfalign.cli.output import duration, print_json, print_table, say, size
from selfalign.cli.targets import RUNS, check_inputs, find_campaign
from selfalign.records import Message, Prompt
from selfalign.text import clean

EXAMPLE = Prompt.make((Message("user", "(a prompt stands here)"),))


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
    train, heldout = prompts.get("train", []), prompts.get("heldout", [])
    work = count_work(settings, train, heldout, rules)
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
    origins = [(name, shown(value), place) for name, value, place in loaded.settings()]
    print_table(("setting", "value", "origin"), origins)
    print(f"\na judge prompt, as it will be sent:\n{_indent(clean(example))}\n")
    print_table(
        ("estimate", "a round", "the campaign"), _rows(settings, work, needs, speed), right=("a round", "the campaign")
    )
    _remarks(settings, needs, speed, work)
    say(f"next:  selfalign run {target}")
    return 0


def _rows(settings: Any, work: Workload, needs: Needs, speed: Speed | None) -> list[tuple[str, str, str]]:
    """The estimates, for a round and for all of them."""
    rounds = work.rounds
    counts = {
        "prompts": work.prompts,
        "candidates": work.candidates,
        "judgments": work.judgments,
        "pairs, at most": work.pairs,
        "held-out answers": work.heldout,
        "held-out judgments, at most": work.heldout_judgments,
        "tokens sampled, at most": (work.candidates + work.heldout) * settings.generate.max_tokens,
        "tokens read by the judge, at most": int((work.judgments + work.heldout_judgments) * work.judge_tokens),
    }
    rows = [(name, f"{count:,}", f"{count * rounds:,}") for name, count in counts.items()]
    if needs.disk is not None:
        rows.append(("disk, about", size(needs.disk / rounds), size(needs.disk)))
    if speed is not None:
        seconds = speed.seconds(work)
        rows += [(f"{stage}, about", duration(value), duration(value * rounds)) for stage, value in seconds.items()]
        total = sum(seconds.values())
        rows.append(("time, about", duration(total), duration(total * rounds + speed.start_seconds)))
    return rows


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
    if speed is not None:
        rate = f"{speed.sampled_tokens_per_second:,.0f} tokens/s sampled, {speed.judgments_per_second:,.1f} judgments/s"
        say(f"probe: {rate}, {duration(speed.start_seconds)} to start; training is a guess from the judge's speed")


def _facts(loaded: Any, work: Workload, needs: Needs, speed: Speed | None, example: str) -> dict[str, Any]:
    return {
        "settings": [{"name": name, "value": value, "origin": origin} for name, value, origin in loaded.settings()],
        "judge_prompt": example,
        "work": asdict(work),
        "needs": {**asdict(needs), "fits": needs.fits},
        "probe": asdict(speed) if speed else None,
        "seconds_per_round": speed.seconds(work) if speed else None,
    }


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
