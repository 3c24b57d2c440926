"""`selfalign label`: which of two answers is better, by a person who is told nothing of where they come from."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Annotated

from cyclopts import Parameter
from rich.text import Text

from selfalign import labels as files
from selfalign.cli.arguments import RunName, Runs
from selfalign.cli.errors import USAGE, CommandError
from selfalign.cli.examples import answer_text, chosen_rounds, conversation
from selfalign.cli.output import print_parts, say
from selfalign.cli.targets import RUNS, check_name, find_run
from selfalign.config import Campaign, load
from selfalign.constitution import Constitution
from selfalign.people.compared import Comparison, Source, principles_of
from selfalign.people.labelling import KEYS, Session, Shown, queue
from selfalign.people.sitting import account, final_figures, offered, summary
from selfalign.store import Run
from selfalign.text import one_line

HINT = "1 left   2 right   0 tie   9 both bad   s skip   x not applicable   u undo   q quit"
_END = "\x04"  # what Ctrl-D sends

Labeller = Annotated[str | None, Parameter(help="Who labels; their labels are in RUN/labels/NAME.jsonl.")]


def label(
    run: RunName,
    /,
    *,
    of: Source = "training",
    round: int | None = None,
    count: int = 100,
    labeller: Labeller = None,
    runs: Runs = RUNS,
) -> int:
    """Say which of two answers is better, blind: no word on who wrote them or what the judge thinks, sides by lot.

    Keys: 1 left, 2 right, 0 tie, 9 both bad, s skip, x not applicable, u undo (as far back as you like), q quit. Each
    label is saved at once, and the same command goes on where you stopped. Keys are also read from a pipe, one a line.
    Half of the pairs are drawn at random, the others where the judge is least sure or contradicts itself. How far you
    agree with the judge is told at the end, from 30 labels on.

    Parameters
    ----------
    of
        training: answers that the round learned from;
        heldout: answers to held-out prompts, as the evaluation compared them.
    round
        The round whose answers to label, counted from 0; default: the last that was judged.
    count
        How many pairs, those labelled before included.
    labeller
        Default: the name of your account.
    """
    opened = find_run(run, runs)
    who = _name(labeller)
    settings = load(opened.path / "campaign.yaml").campaign
    number, pool = _pool(opened, of, round, settings)
    items = list(islice(queue(pool, settings.seed), count))
    with files.opened(opened.path, who) as file:
        session = Session(file, who, items)
        principles = principles_of(opened, number)
        _introduce(principles, session)
        with _keys() as keys:
            _ask(session, keys, principles)
        standing = list(file.standing)
    print_parts(map(Text, ["", *summary(final_figures(opened, standing, settings))]))
    say(f"next:  selfalign label {run}     selfalign labels ls {run}     selfalign judge calibrate {run}")
    return 0


def _name(labeller: str | None) -> str:
    return check_name(labeller, "labeller") if labeller is not None else account() or "me"


def _pool(run: Run, of: Source, round: int | None, settings: Campaign) -> tuple[int, list[Comparison]]:
    """The comparisons of the round that was asked for, or of the last one that has any."""
    found = offered(run, of, chosen_rounds(run, round), settings)
    if found is not None:
        return found
    which = "its rounds" if round is None else f"round {round}"
    raise CommandError(
        f"there is nothing to label in {which}",
        where=str(run.path),
        why="the judge has compared no two answers yet, or none that differ",
        fix=f"selfalign status {run.path.name} shows where the run stands; --of heldout, --round N label others",
        code=USAGE,
    )


def _introduce(principles: Constitution, session: Session) -> None:
    parts = [Text("Which answer is better, by these principles?", style="bold")]
    parts += [Text(f"  {one_line(one.id):<14} {one_line(one.norm(), 400)}") for one in principles.active]
    print_parts([*parts, Text(f"\n{HINT}", style="dim")])
    if session.done:
        say(f"going on: {session.done} of {session.total} labelled before")


def _ask(session: Session, keys: Iterator[str], principles: Constitution) -> None:
    """Show pair after pair, until the last is labelled or the labeller quits."""
    shown = None
    while session.current is not None:
        if session.current is not shown:
            shown = session.current
            applicable = ", ".join(one_line(one.id) for one in principles.applicable(shown.comparison.prompt))
            print_parts(_sheet(shown, f"{session.number} of about {session.expected}", applicable))
        key = next(keys, "q").lower()
        if key == "q":
            return
        if key == "u":
            if not session.undo():
                say("nothing to undo")
        elif key in KEYS:
            session.press(key)
        elif key.strip():
            say(f"{one_line(key, 20)!r} is no key.  {HINT}")


def _sheet(shown: Shown, place: str, principles: str) -> Iterator[Text]:
    yield Text(f"\n--- {place} " + "-" * 40, style="dim")
    yield from conversation(shown.comparison.prompt)
    for key, side, answer in (("1", "left", shown.left), ("2", "right", shown.right)):
        yield Text(f"\n[{key}] {side}", style="bold cyan")
        yield answer_text(answer)
    yield Text(f"\nby: {principles}\n{HINT}", style="dim")


@contextmanager
def _keys() -> Iterator[Iterator[str]]:
    """Keys as they are pressed on a terminal, which is set back at the end; lines of anything else."""
    if not sys.stdin.isatty():
        yield (line.strip()[:80] for line in sys.stdin if line.strip())
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield _pressed()
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _pressed() -> Iterator[str]:
    while (key := sys.stdin.read(1)) not in ("", _END):
        yield key
