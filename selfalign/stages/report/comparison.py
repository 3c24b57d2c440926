"""Runs and rounds beside one another: the figures of their reports, and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from selfalign.config import Campaign, Loaded, in_round, load
from selfalign.records import Kl, Report, WinRate
from selfalign.settings import leaves
from selfalign.stages import report as reports
from selfalign.store import Run
from selfalign.store.run import CAMPAIGN


@dataclass(frozen=True, slots=True)
class RoundFigures:
    """One round of one run. `gold` is the gold score of its gold.json, where it has one."""

    round: int
    accepted: bool
    algorithm: str
    examples: str
    num_examples: int
    win_rate_vs_base: WinRate | None
    win_rate_vs_previous: WinRate | None
    kl: Kl | None
    length_ratio: float | None
    swap_consistency: float | None
    seconds: float
    gold: float | None


@dataclass(frozen=True, slots=True)
class RunFigures:
    """One run with its settings."""

    run: str
    path: str
    loaded: Loaded
    base_gold: float | None
    rounds: tuple[RoundFigures, ...]

    def facts(self) -> dict[str, Any]:
        return {"run": self.run, "path": self.path, "base_gold": self.base_gold, "rounds": self.rounds}


def figures(run: Run) -> RunFigures:
    """Everything that is compared of a run. Raises StoreError and ConfigError where it cannot be read."""
    loaded, gold = load(run.path / CAMPAIGN), reports.gold(run)
    rounds = tuple(_of_round(report, loaded, gold) for report in reports.read(run))
    return RunFigures(run.path.name, str(run.path), loaded, gold.get("base", {}).get("gold"), rounds)


def _of_round(report: Report, loaded: Loaded, gold: Mapping[str, Mapping[str, float]]) -> RoundFigures:
    labelling = report.judges.get("labelling")
    return RoundFigures(
        round=report.round,
        accepted=report.gate.accepted,
        algorithm=in_round(loaded.campaign, report.round).train.algorithm,
        examples=report.examples,
        num_examples=report.num_examples,
        win_rate_vs_base=report.win_rates.get("base"),
        win_rate_vs_previous=report.win_rates.get("previous"),
        kl=report.kl,
        length_ratio=report.length_ratio,
        swap_consistency=labelling.swap_consistency if labelling else None,
        seconds=sum(report.seconds.values()),
        gold=gold.get(f"round {report.round}", {}).get("gold"),
    )


def settings_that_differ(compared: Sequence[Campaign]) -> list[tuple[str, list[Any]]]:
    """The settings in which campaigns differ, each with its value in every one."""
    known = [{".".join(path): value for path, value in leaves(msgspec.to_builtins(one))} for one in compared]
    names = dict.fromkeys(name for settings in known for name in settings)
    rows = [(name, [settings.get(name) for settings in known]) for name in names]
    return [(name, values) for name, values in rows if any(value != values[0] for value in values)]


def settings_of(run: Run, number: int | None) -> Campaign:
    """What held in a round of a run, or for its base policy where `number` is None.

    A round that came along from the run that this one branched from was made by that run's settings; where that run is
    gone, by this one's, for all that is known. Raises StoreError and ConfigError where they cannot be read.
    """
    parent = run.parent()
    if parent is not None and (number is None or number <= parent["round"]):
        before = Run(Path(parent["parent"]))
        if (before.path / CAMPAIGN).is_file():
            return settings_of(before, number)
    campaign = load(run.path / CAMPAIGN).campaign
    return campaign if number is None else in_round(campaign, number)
