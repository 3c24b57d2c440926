"""From what a user types to a run folder or to a campaign's settings."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfalign import config, resources
from selfalign.cli.errors import USAGE, CommandError
from selfalign.control import check_name
from selfalign.objective import needs_rewards
from selfalign.records import Prompt
from selfalign.source import did_you_mean
from selfalign.store import Run, run_folders

RUNS = Path("runs")
CAMPAIGN_FILE = "campaign.yaml"


@dataclass(frozen=True)
class Target:
    """A campaign's settings and the folder of its run, which may not exist yet."""

    loaded: config.Loaded
    folder: Path

    @property
    def exists(self) -> bool:
        return is_run(self.folder)


def is_run(folder: Path) -> bool:
    return (folder / CAMPAIGN_FILE).is_file()


def find_run(name: str, runs: Path = RUNS) -> Run:
    """Open the run that a name under `runs` or a path leads to."""
    for folder in (runs / name, Path(name)):
        if is_run(folder):
            return Run.open(folder)
    known = run_names(runs)
    raise CommandError(
        f'there is no run "{name}"',
        where=str(runs / name),
        why=f"the runs there are: {', '.join(known[:20])}" if known else f"{runs} holds no runs yet",
        fix=did_you_mean(name, known) or "selfalign runs ls",
        code=USAGE,
    )


def run_names(runs: Path = RUNS) -> list[str]:
    """The names of the run folders under `runs`, sorted."""
    return [folder.name for folder in run_folders(runs)]


def find_campaign(name: str, overrides: Sequence[str] = (), runs: Path = RUNS) -> Target:
    """The settings that a campaign file, a run or a shipped recipe gives, and where its run is or will be.

    With `name=NEW` among the overrides a campaign of that name is meant, which begins with these settings.
    """
    run_file = next((f / CAMPAIGN_FILE for f in (runs / name, Path(name)) if is_run(f)), None)
    renamed = any(override.partition("=")[0].strip() == "name" for override in overrides)
    if run_file is not None and not renamed:
        return Target(_load(run_file, overrides), run_file.parent)
    if Path(name).is_file():
        loaded = _load(Path(name), overrides)
    elif name in resources.recipes():
        loaded = config.load(recipe=name, overrides=overrides, environ=os.environ)
    elif run_file is not None:
        loaded = _load(run_file, overrides)
    else:
        raise _nothing_there(name, runs)
    return Target(loaded, runs / check_name(loaded.campaign.name, "campaign"))


def _load(file: Path, overrides: Sequence[str]) -> config.Loaded:
    return config.load(file, overrides=overrides, environ=os.environ)


def check_inputs(loaded: config.Loaded, *, offline: bool = False) -> dict[str, list[Prompt]]:
    """Look at everything that the settings name, before a run is made or a model loaded; return the prompts by use:
    "train", "heldout", and of the bootstrap "revise" and "helpful".

    Offline, sets on the Hub are left out. Raises ConfigError or PromptError: a file missing, a constitution refused, a
    folder that is no model, prompts that cannot be read or are too few for a reward model, or held-out prompts that are
    training prompts too.
    """
    from selfalign.calibration import MIN_PROMPTS
    from selfalign.preflight import check_files
    from selfalign.stages import prompts

    check_files(loaded)
    folder = loaded.file.parent if loaded.file else None
    found = {}
    for name, patterns in _prompt_sets(loaded.campaign).items():
        local = [pattern for pattern in patterns if not (offline and pattern.startswith("datasets:"))]
        if local:
            found[name] = prompts.load(local, "heldout" if name == "heldout" else "train", folder)
    for name in found.keys() - {"heldout"}:
        prompts.check_disjoint(found[name], found.get("heldout", []))
    if "train" in found and "heldout" in found:
        prompts.draw(found["train"], loaded.campaign.prompts.per_round, loaded.campaign.seed, 0)
    if "train" in found and any(needs_rewards(train, loaded.campaign.ppo) for train in _trainings(loaded.campaign)):
        count = loaded.campaign.prompts.per_round or len(found["train"])
        prompts.check_held_out(count, loaded.campaign.reward_model.holdout, MIN_PROMPTS)
    if "train" in found and (reader := _reader_of_gold(loaded.campaign)) is not None:
        prompts.check_gold(found["train"], "prompts.train", reader)
    return found


def _prompt_sets(campaign: config.Campaign) -> dict[str, list[str]]:
    """The patterns of every set of prompts that a campaign reads, those that are named."""
    named = {"train": campaign.prompts.train, "heldout": campaign.prompts.heldout}
    if campaign.first_round:
        named |= {"revise": campaign.revise.prompts, "helpful": campaign.revise.helpful}
    lists = {name: [patterns] if isinstance(patterns, str) else patterns for name, patterns in named.items()}
    return {name: patterns for name, patterns in lists.items() if patterns != [""]}


def _trainings(campaign: config.Campaign) -> Iterator[config.Train]:
    """How each round of preferences trains."""
    return (config.in_round(campaign, number).train for number in range(campaign.first_round, campaign.num_rounds))


def _reader_of_gold(campaign: config.Campaign) -> str | None:
    """The setting by which some round learns from gold answers."""
    for number in range(campaign.first_round, campaign.num_rounds):
        settings = config.in_round(campaign, number)
        if settings.train.algorithm == "sft":
            return "train.algorithm sft"
        if settings.train.algorithm == "dpo" and settings.pairs.strategy == "spin":
            return "pairs.strategy spin"
    return None


def _nothing_there(name: str, runs: Path) -> CommandError:
    recipes, known = resources.recipes(), run_names(runs)
    return CommandError(
        f'"{name}" is neither a campaign file nor a run nor a recipe',
        why=f"recipes: {', '.join(recipes) or 'none'}; runs in {runs}: {', '.join(known[:20]) or 'none'}",
        fix=did_you_mean(name, [*recipes, *known])
        or f"selfalign init {Path(name).stem or 'my-campaign'} writes a file to start from",
        code=USAGE,
    )


def hold_to_frozen(target: Target) -> None:
    """Refuse a campaign whose run began with other settings, naming each that would change."""
    if not target.exists:
        return
    changes = differences(config.load(target.folder / CAMPAIGN_FILE), target.loaded)
    if not changes:
        return
    lines = "\n".join(
        f"{name}: {before!r} in the run, {after!r} asked ({origin})" for name, before, after, origin in changes
    )
    raise CommandError(
        f'the run "{target.folder.name}" began with other settings',
        where=str(target.folder / CAMPAIGN_FILE),
        why=lines,
        fix="leave the settings as they are to resume it, or give the changed campaign its own name: --set name=NEW",
        code=USAGE,
    )


def differences(before: config.Loaded, after: config.Loaded) -> list[tuple[str, Any, Any, str]]:
    """The settings in which two campaigns differ: name, value before, value after, origin of the latter."""
    old = {name: value for name, value, _ in before.settings()}
    new = {name: (value, origin) for name, value, origin in after.settings()}
    names = [*old, *(name for name in new if name not in old)]
    rows = [(name, old.get(name), *new.get(name, (None, "left out"))) for name in names]
    return [row for row in rows if row[1] != row[2]]
