"""`selfalign constitution stats`: what each principle did in a run, as a table, a matrix of conflicts, and words."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from string import ascii_uppercase
from typing import Any

from rich.text import Text

from selfalign import principles
from selfalign.cli.arguments import Round, RunName, Runs
from selfalign.cli.examples import chosen_rounds, held
from selfalign.cli.output import console, is_unicode, make_table, print_json, say, sparkline
from selfalign.cli.targets import RUNS, find_run
from selfalign.principles import FEWEST, Conflict, Estimate, Flag, Record, Stats
from selfalign.store import Run
from selfalign.text import one_line

WIDE = 120  # columns from which figures are shown with their intervals
_NAME = 24  # characters of a principle's id in the table; the words below have it whole
_LEAST_COURSE = 0.2  # that a sparkline spans
_CLEAR = 0.2  # kappa beyond which a cell of the matrix is coloured


def stats(run: RunName, /, *, round: Round = None, json: bool = False, runs: Runs = RUNS) -> int:
    """Show what each principle did in a run: asked, decided, followed by the labels, fooled by order or length.

    Parameters
    ----------
    json
        Print JSON: every figure with its interval, by round and over all, the conflicts and the flags.
    """
    opened = find_run(run, runs)
    rounds = chosen_rounds(opened, round)
    found = principles.stats(opened, rounds)
    if json:
        print_json(facts(found))
    elif found.rounds:
        _print(opened, found)
    else:
        _say_why(opened, rounds)
    return 0


def facts(found: Stats) -> dict[str, Any]:
    """Everything that was measured, for programs."""
    return {
        "rounds": found.rounds,
        "judgments": found.num_judgments,
        "prompts": found.num_prompts,
        "pairs": found.num_pairs,
        "principles": [_record_facts(record) for record in found.principles],
        "conflicts": found.conflicts,
    }


def _record_facts(record: Record) -> dict[str, Any]:
    stated = record.stated
    return {
        "id": record.id,
        "title": stated.title if stated else "",
        "status": stated.status if stated else None,
        "over_all": record.over_all,
        "by_round": record.by_round,
        "reworded": record.reworded,
        "flags": record.flags,
    }


def _say_why(run: Run, rounds: Sequence[int]) -> None:
    """Say why there is nothing to show, and what to do."""
    if not rounds:
        say(f"no round of {run.path} was begun: nothing was judged yet\nnext:  selfalign run {run.path}")
        return
    which = f"round {rounds[0]}" if len(rounds) == 1 else f"rounds {rounds[0]} to {rounds[-1]}"
    say(f"no principle was put before a judge in {which} of {run.path}")
    answers = [number for number in held(run).get("demonstrations", []) if number in rounds]
    if answers:
        say(f"round {answers[0]} learns from answers as they are, without a judge of their own")
        say(f"next:  selfalign revisions ls {run.path}")
    else:
        say(f"next:  selfalign status {run.path}")


# The screen ----------------------------------------------------------------------------------------------------------


def _print(run: Run, found: Stats) -> None:
    print_to, keys = console(), dict(zip((record.id for record in found.principles), _keys(), strict=False))
    width = print_to.width if sys.stdout.isatty() else WIDE
    screen = _Screen(found, keys, min(width, 200), is_unicode(sys.stdout))
    for part in (screen.heading(), screen.table(), screen.legend(), *screen.conflicts(), *screen.flags()):
        print_to.print(part, soft_wrap=False)
    name = one_line(run.path)
    flagged = next((record.id for record in found.principles if record.flags and record.over_all.judgments), None)
    if flagged:
        say(f"next:  selfalign pairs ls {name} --principle {one_line(flagged)}")


def _keys() -> Iterator[str]:
    """A, B, ... Z, AA, AB, ..."""
    yield from ascii_uppercase
    yield from map("".join, product(ascii_uppercase, repeat=2))
