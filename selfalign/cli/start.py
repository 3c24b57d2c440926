"""`selfalign init`, `branch` and `verify`: where campaigns begin, and whether they are still whole."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from selfalign import config, control, resources, store
from selfalign.cli.errors import FAILED, USAGE, CommandError
from selfalign.cli.output import print_json, print_table, say
from selfalign.cli.targets import RUNS, check_name, find_run
from selfalign.source import did_you_mean
from selfalign.text import clean


def init(name: str = "my-campaign", /, *, recipe: str = "pocket", folder: Path = Path()) -> int:
    """Write NAME.yaml, a campaign to edit, and NAME.constitution.yaml, its principles.

    Parameters
    ----------
    name
        The name of the new campaign.
    recipe
        The shipped recipe to start from.
    folder
        Where to write.
    """
    check_name(name, "campaign")
    source = resources.recipe(recipe)
    if source is None:
        known = resources.recipes()
        fix = did_you_mean(recipe, known) or f"one of: {', '.join(known)}"
        raise CommandError(f'there is no recipe "{recipe}"', fix=fix, code=USAGE)
    text = source.read_text(encoding="utf-8")
    files = {folder / f"{name}.yaml": text}
    shipped = _constitution_of(text)
    if shipped is not None:
        own = f"{name}.constitution.yaml"
        files[folder / own] = shipped.read_text(encoding="utf-8")
        text = _set_line(text, "constitution", own)
    for section, *_ in config.unread(config.load(recipe=recipe).campaign):
        text = _comment_out(text, section)
    files[folder / f"{name}.yaml"] = _set_line(text, "name", name)
    for path in files:
        if path.exists():
            raise CommandError(f"{path} exists", fix="choose another name; nothing was written", code=USAGE)
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        print(clean(str(path)))
    say(f"next:  selfalign plan {folder / name}.yaml     then     selfalign run {folder / name}.yaml")
    return 0


def _constitution_of(recipe: str) -> Path | None:
    match = re.search(r"^constitution:\s*(\S+)", recipe, re.MULTILINE)
    return resources.find_constitution(match[1]) if match else None


def _set_line(text: str, key: str, value: str) -> str:
    """Set a top-level `key: value` line of a YAML text, keeping every other line and comment."""
    line = f"{key}: {value}"
    changed, found = re.subn(rf"^{key}:[^\n#]*?(?=\s*(#|$))", line, text, count=1, flags=re.MULTILINE)
    return changed if found else f"{line}\n{text}"


def _comment_out(text: str, section: str) -> str:
    """Turn a top-level section of a YAML text, where it has it, into comments."""
    block = re.compile(rf"^{section}:.*\n(?:[ ].*\n)*", re.MULTILINE)
    return block.sub(lambda found: re.sub("^", "# ", found[0].rstrip("\n"), flags=re.MULTILINE) + "\n", text)


def branch(
    run: str,
    new: str,
    /,
    *,
    round: int | None = None,
    rerun: int | None = None,
    set: Annotated[list[str], Parameter(name="--set", negative=())] = [],  # noqa: B006 (cyclopts reads the default)
    runs: Path = RUNS,
) -> int:
    """Start the campaign NEW from finished rounds of RUN, which stays as it is. The weights take no further room.

    Parameters
    ----------
    run
        The run to branch from: a name or a path.
    new
        The name of the new run.
    round
        The last round to take over, counted from 0.
    rerun
        Instead of --round: the first round to do anew. Those before it are taken over; for round 0 the baseline alone.
    set
        Change a setting for the rounds to come: --set train.beta=0.2
    runs
        The folder of runs.
    """
    source = find_run(run, runs)
    branched = control.branch(source, runs, new, _last(source, round, rerun), set)
    print(clean(str(branched.path)))
    say(f"next:  selfalign run {new if runs == RUNS else branched.path}")
    return 0


def _last(source: store.Run, round: int | None, rerun: int | None) -> int:
    """The last round to take over."""
    if (round is None) == (rerun is None):
        raise CommandError(
            "say where the new run begins: with --round or with --rerun",
            why="--round N takes over the rounds up to and with N; --rerun N those before N, to do N anew",
            fix="selfalign branch RUN NEW --round 0",
            code=USAGE,
        )
    return control.check_round(source, round) if round is not None else control.check_round(source, rerun) - 1


def verify(run: str, /, *, json: bool = False, runs: Path = RUNS) -> int:
    """Check every file of a run against its digest, and every step against the steps it was made from.

    Parameters
    ----------
    run
        A run: a name or a path.
    json
        Print JSON.
    runs
        The folder of runs.
    """
    opened = find_run(run, runs)
    problems = opened.verify()
    if json:
        print_json({"run": str(opened.path), "problems": [{"path": p.path, "what": p.what} for p in problems]})
    elif problems:
        print_table(("file", "problem"), [(p.path, p.what) for p in problems])
        say(f"{len(problems)} problems; `selfalign run {run}` sets damaged steps aside and makes them again")
    else:
        say(f"{opened.path}: every file is what was written")
    return FAILED if problems else 0
