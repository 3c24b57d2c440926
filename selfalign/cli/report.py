"""`selfalign report`: the pages of a run."""

from __future__ import annotations

from pathlib import Path

from selfalign.cli.errors import USAGE, CommandError
from selfalign.cli.output import print_json, say
from selfalign.cli.targets import RUNS, find_run
from selfalign.stages import report as pages
from selfalign.store import RunLocked
from selfalign.text import clean


def report(run: str, /, *, round: int | None = None, open: bool = False, json: bool = False, runs: Path = RUNS) -> int:
    """Write the pages of a run anew, and print where they are: report.md and report.html.

    Parameters
    ----------
    run
        A run: a name or a path.
    round
        The pages of this round alone, counted from 0.
    open
        Print only the path of the HTML page, to hand to a browser: xdg-open "$(selfalign report RUN --open)"
    json
        Print the reports themselves as JSON, and write nothing.
    runs
        The folder of runs.
    """
    opened = find_run(run, runs)
    reports = [found for found in pages.read(opened) if round is None or found.round == round]
    stopped = [found for found in pages.not_to_follow(opened) if round is None or found.round == round]
    if not reports and not stopped:
        what = (
            f"{opened.path} has no report of round {round}" if round is not None else f"{opened.path} has no report yet"
        )
        fix = "a report is written when a round has been evaluated: selfalign status " + str(opened.path)
        raise CommandError(what, fix=fix, code=USAGE)
    if json:
        print_json(reports)
        return 0
    try:
        with opened.lock():
            names = pages.render(opened, None if round is None else [round])
    except RunLocked:
        names = _present(opened.path, round)
        say("the run is going on; these pages are of its last finished round")
    wanted = [name for name in names if name.startswith("rounds/") == (round is not None)]
    for name in wanted:
        if not open or name.endswith(".html"):
            print(clean(str(opened.path / name)))
    return 0


def _present(folder: Path, round: int | None) -> list[str]:
    """The pages that a running campaign has already written."""
    prefix = "" if round is None else f"{pages.folder(round)}/"
    return [f"{prefix}{name}" for name in ("report.md", "report.html") if (folder / f"{prefix}{name}").exists()]
