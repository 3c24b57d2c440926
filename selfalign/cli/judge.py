"""`selfalign judge`: how far the judge of a run can be trusted, and how it takes replies without content."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from typing import Annotated, TypeVar

from cyclopts import App, Parameter

from selfalign.cli.arguments import Json, Round, RunName, Runs
from selfalign.cli.calibrate import calibrate
from selfalign.cli.errors import USAGE, CommandError
from selfalign.cli.examples import chosen_rounds
from selfalign.cli.output import is_unicode, print_json, print_table, say
from selfalign.cli.reliability import reliability_lines
from selfalign.cli.targets import RUNS, find_run
from selfalign.records import CanaryReport, JudgeCard
from selfalign.stages.report import judge as pages
from selfalign.stages.report.document import Table
from selfalign.store import Run
from selfalign.text import one_line

app = App(
    name="judge",
    help="Show how far a run's judge can be trusted; calibrate it by what people said.",
    help_format="plaintext",
    result_action="return_value",
)

app.command(calibrate)

Found = TypeVar("Found")
_CHART_WIDTH = 100  # columns, where nobody looks


@app.command
def card(
    run: RunName,
    /,
    *,
    round: Round = None,
    price: Annotated[float | None, Parameter(help="What a million tokens read by the judge cost.")] = None,
    json: Json = False,
    runs: Runs = RUNS,
) -> int:
    """Show what the records tell of the judge of a round, by default of the last that was judged.

    How right it is can be told where there are labels: selfalign label, or selfalign labels import.
    """
    from selfalign import judge_card

    opened = find_run(run, runs)
    number, cards = _last(opened, round, lambda at: judge_card.measure(opened, at, price=price))
    if not cards:
        raise _nothing(opened, round, "judgments")
    if json:
        print_json(cards)
        return 0
    _print(pages.card_table(cards), f"{opened.path}, round {number}")
    for one in cards:
        _print_chart(one)
    return 0


@app.command
def canaries(
    run: RunName,
    /,
    *,
    round: Round = None,
    again: Annotated[int, Parameter(help="Put canaries on so many prompts before the judge now; keep nothing.")] = 0,
    json: Json = False,
    runs: Runs = RUNS,
) -> int:
    """Show how often the judge of a round preferred replies without content to the policy's own answers.

    A round that is left out is the last with canaries, or with --again the last that was finished.
    """
    opened = find_run(run, runs)
    number, found = _again(opened, round, again) if again else _last(opened, round, _reader(opened))
    if found is None:
        raise _nothing(opened, round, "canaries")
    if json:
        print_json(found)
        return 0
    _print(pages.canary_table(found), f"{opened.path}, round {number}")
    if found.stopped:
        say(f"the round was stopped: {found.stopped}")
    return 0


def _reader(run: Run) -> Callable[[int], CanaryReport | None]:
    return lambda number: pages.read_canaries(run, number)


def _last(run: Run, round: int | None, read: Callable[[int], Found]) -> tuple[int, Found | None]:
    """What is found of the round, or of the last round of which anything is."""
    for number in reversed(chosen_rounds(run, round)):
        if found := read(number):
            return number, found
    return 0, None


def _nothing(run: Run, round: int | None, what: str) -> CommandError:
    of = "" if round is None else f" of round {round}"
    name = one_line(run.path)
    fix = f"selfalign status {name}" if what == "judgments" else f"selfalign judge canaries {name} --again 8"
    return CommandError(f"{run.path} has no {what}{of}", fix=fix, code=USAGE)


def _again(run: Run, round: int | None, prompts: int) -> tuple[int, CanaryReport | None]:
    """Canaries before the judge of a round, in an engine that is opened for them."""
    from selfalign import canaries, config
    from selfalign.launch.local import LocalWorkers
    from selfalign.steps import Work

    rounds = [at for at in chosen_rounds(run, round) if run.view(f"rounds/{at:03d}/heldout/candidates") is not None]
    if not rounds:
        raise _nothing(run, round, "held-out answers")
    settings = config.load(run.path / "campaign.yaml").campaign
    with run.lock(), LocalWorkers(settings, run.path) as workers:
        work = Work(run, settings, workers).in_round(rounds[-1])
        return rounds[-1], canaries.judge_again(work, rounds[-1], prompts)


def _print(table: Table, title: str) -> None:
    print_table(table.columns, table.rows, right=table.columns[1:], title=title)


def _print_chart(found: JudgeCard) -> None:
    if found.agreement is None:
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _CHART_WIDTH
    print(f"\n{one_line(found.judge_id)}: how sure, and how often right by the labels")
    for line in reliability_lines(found.agreement.bins, width, unicode=is_unicode(sys.stdout)):
        print(line)
