"""`selfalign tui`: the runs of a folder in a terminal, live or finished."""

from __future__ import annotations

import sys
from pathlib import Path

from selfalign.cli.errors import USAGE, CommandError
from selfalign.cli.output import say
from selfalign.cli.targets import RUNS, find_run


def tui(
    run: str | None = None,
    /,
    *,
    screenshot: str | None = None,
    press: str = "",
    size: str = "120x40",
    round: int | None = None,
    read_only: bool = False,
    no_mouse: bool = False,
    runs: Path = RUNS,
) -> int:
    """Watch, read and compare runs, edit their constitution, and label. It hosts no work: no run stops with it.

    Parameters
    ----------
    run
        A run to open at once: a name or a path. Default: the list of all runs.
    screenshot
        Print this screen as an SVG picture instead: campaigns, campaign, round, pairs, constitution, label, compare
        or logs.
    press
        Keys to press before the picture is taken, separated by spaces.
    size
        Columns and lines of the picture.
    round
        The round that the picture is of. Default: the last one.
    read_only
        Offer nothing that writes: no actions on runs, no editing, no labelling.
    no_mouse
        Leave the mouse to the terminal, so that it selects text as it does everywhere.
    runs
        The folder of runs.
    """
    from selfalign.tui.app import Reader
    from selfalign.tui.page import Place
    from selfalign.tui.reading import Library

    path = find_run(run, runs).path if run is not None else None
    library, place = Library(runs, path), Place(path, round)
    if screenshot is not None:
        print(_picture(library, place, screenshot, size, press))
        return 0
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise CommandError(
            "selfalign tui needs a terminal", fix=f"selfalign status {run or 'RUN'} prints the same once", code=USAGE
        )
    reader = Reader(library, place, read_only=read_only)
    reader.run(mouse=not no_mouse)
    if reader.return_code:
        say("the reader failed; why stands above. No run was touched, and none stops with it.")
    return reader.return_code or 0


def _picture(library: object, place: object, screen: str, size: str, press: str) -> str:
    from selfalign.tui.app import PAGES
    from selfalign.tui.pictures import picture

    names = [page.NAME.lower() for page in PAGES]
    columns, cross, rows = size.partition("x")
    if screen not in names or not (cross and columns.isdecimal() and rows.isdecimal()):
        raise CommandError(
            f"there is no picture of {screen!r} at {size!r}",
            why=f"the screens are {', '.join(names)}; a size is like 80x24",
            fix="selfalign tui RUN --screenshot campaign --size 120x40 > campaign.svg",
            code=USAGE,
        )
    if screen != "campaigns" and place.path is None:
        raise CommandError("this screen is of one run", fix=f"selfalign tui RUN --screenshot {screen}", code=USAGE)
    return picture(library, place, screen, (int(columns), int(rows)), tuple(press.split()))
