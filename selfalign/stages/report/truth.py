"""What checkers that know the truth say of a run's policies, where somebody has measured it."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from selfalign.store import Run

_ITERATE = re.compile(r"round (\d+), iteration (\d+)")

Gold = Mapping[str, Mapping[str, float]]


def gold(run: Run) -> dict[str, dict[str, float]]:
    """A run's true behaviours by policy, as `python -m selfalign.pocket.measure RUN --json > RUN/gold.json` writes."""
    if not (run.path / "gold.json").exists():
        return {}
    return msgspec.convert(run.read_json("gold.json"), dict[str, dict[str, float]])


def of_policies(found: Gold) -> dict[str, Mapping[str, float]]:
    """Those of finished policies."""
    return {name: values for name, values in found.items() if not _ITERATE.fullmatch(name)}


def of_iterates(found: Gold, number: int) -> dict[int, Mapping[str, float]]:
    """Those of a round's policy on its way, by iteration."""
    matches = {name: _ITERATE.fullmatch(name) for name in found}
    return {int(at[2]): found[name] for name, at in matches.items() if at is not None and int(at[1]) == number}
