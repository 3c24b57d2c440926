"""`selfalign config`: every setting, its value, and where the value came from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from selfalign.cli.errors import USAGE, CommandError
from selfalign.cli.output import print_json, print_table
from selfalign.cli.targets import RUNS, find_campaign
from selfalign.settings import in_yaml


def config(
    target: str | None = None,
    /,
    *,
    set: Annotated[list[str], Parameter(name="--set", negative=())] = [],  # noqa: B006 (cyclopts reads the default)
    origin: bool = False,
    json: bool = False,
    schema: bool = False,
    runs: Path = RUNS,
) -> int:
    """Show every setting of a campaign, defaults included.

    Parameters
    ----------
    target
        A campaign file, a run, or a recipe.
    set
        Override a setting, as `run` would: --set train.beta=0.2
    origin
        Show where each value came from: a flag, a variable, file:line, a recipe, or the default.
    json
        Print JSON.
    schema
        Print the JSON Schema of campaign files, for editors, and nothing else.
    runs
        The folder of runs.
    """
    from selfalign.config import schema_text

    if schema:
        print(schema_text(), end="")
        return 0
    if target is None:
        raise CommandError(
            "which campaign?", fix="selfalign config FILE, or a run, or a recipe: selfalign config pocket", code=USAGE
        )
    loaded = find_campaign(target, set, runs).loaded
    settings = list(loaded.settings())
    if json:
        value = [{"name": name, "value": value, "origin": place} for name, value, place in settings]
        print_json(value if origin else {name: value for name, value, _ in settings})
    elif origin:
        print_table(("setting", "value", "origin"), [(name, in_yaml(value), place) for name, value, place in settings])
    else:
        print(loaded.to_yaml(), end="")
    return 0
