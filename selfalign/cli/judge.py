"""`selfalign judge`: is the judge to be believed, and what has to be put right before its word is trained on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.text import Text

from selfalign import labels as files
from selfalign.cli.arguments import Json, Round, RunName, Runs
from selfalign.cli.errors import FAILED, USAGE, CommandError
from selfalign.cli.export import write_text
from selfalign.cli.output import console, is_unicode, print_json, print_parts, print_table, say
from selfalign.cli.reliability import reliability_lines
from selfalign.cli.targets import RUNS, find_run
from selfalign.compared import ROLES, Comparison, Source, labelled, principles_of
from selfalign.config import load
from selfalign.labels import MIN_LABELS, RANDOM
from selfalign.recalibrate import Figures, Recalibration, recalibrate
from selfalign.records import Label
from selfalign.store import Run

NONE = "–"
ROWS = ("accuracy", "kappa", "clear enough for a pair", "ECE", "ECE by chance", "log-loss", "Brier score")
WIDEST = 100  # columns of a diagram in a pipe

app = App(
    name="judge", help="Calibrate a judge by what people said.", help_format="plaintext", result_action="return_value"
)


@app.command
def calibrate(
    run: RunName,
    /,
    *,
    of: Source = "training",
    round: Round = None,
    labeller: Annotated[list[str], Parameter(negative=())] = [],  # noqa: B006 (cyclopts reads the default)
    random: bool = False,
    out: Annotated[Path | None, Parameter(help="Write the calibration to this new file.")] = None,
    json: Json = False,
    runs: Runs = RUNS,
) -> int:
    """Fit the judge's temperature and its liking for the answer shown first to labels, and show what that changes.

    p' = sigmoid((logit p - bias) / T). The figures before and after are of labels that the fit has not seen: five folds
    by prompt. A campaign with `judge: {calibration: FILE}` reads its verdicts so when it makes pairs of them.

    Parameters
    ----------
    of
        training: the labelling judge; heldout: the judge of the evaluation.
    labeller
        Only labels of this person, or of an imported file; may be given more than once.
    random
        Only labels of pairs drawn at random, a fair sample of what the judge compares.
    """
    opened = find_run(run, runs)
    about = _about(opened, of, round, labeller, random)
    settings = load(opened.path / "campaign.yaml").campaign
    if not any(one.judgments for _, one in about):
        why = "ratings know no first answer to like; how far they agree with people, `selfalign labels ls` tells"
        fix = "judge: {method: pairwise-logprob} makes a judge that compares"
        raise CommandError("this judge rates answers one by one", why=why, fix=fix, code=USAGE)
    constitutions = {number: principles_of(opened, number) for number in {one.round for _, one in about}}
    try:
        found = recalibrate(about, constitutions, settings.judge.tie_margin, settings.pairs.min_margin)
    except ValueError as error:
        fix = f"read some of its verdicts: selfalign pairs ls {run}; or collect more labels: selfalign label {run}"
        raise CommandError(str(error), where=str(opened.path), fix=fix, code=FAILED) from error
    if out is not None:
        write_text(_file(found, opened, about), out)
    if json:
        print_json(facts(found))
    else:
        _print(found)
    if out is not None:
        say(f"next:  set `judge: {{calibration: {out}}}` in the campaign's file, or --set judge.calibration={out}")
    else:
        say(f"next:  selfalign judge calibrate {run} --out calibration.json")
    return 0


def _about(
    run: Run, of: Source, round: int | None, labellers: list[str], random: bool
) -> list[tuple[Label, Comparison]]:
    """The labels that were asked for, with what they are about. Raises CommandError where there are too few."""
    everyone = files.read(run.path)
    unknown = [name for name in labellers if name not in everyone]
    if unknown:
        raise CommandError(
            f"nobody called {unknown[0]!r} has labelled anything",
            where=str(run.path / files.FOLDER),
            why=f"there are labels of {', '.join(everyone) or 'nobody'}",
            fix=f"selfalign labels ls {run.path}",
            code=USAGE,
        )
    said = [label for name in labellers or everyone for label in everyone[name]]
    said = [label for label in said if label.stratum == RANDOM or not random]
    settings = load(run.path / "campaign.yaml").campaign
    about = labelled(run, said, settings)
    about = [(label, one) for label, one in about if one.source == of and round in (None, one.round)]
    if len(about) < MIN_LABELS:
        raise CommandError(
            f"{len(about)} labels are too few to calibrate the {ROLES[of]} judge: {MIN_LABELS} are needed",
            where=str(run.path / files.FOLDER),
            fix=f"selfalign label {run.path} --of {of}; or selfalign labels import {run.path} FILE --format jsonl",
            code=USAGE,
        )
    return about


def _file(found: Recalibration, run: Run, about: list[tuple[Label, Comparison]]) -> str:
    return found.calibration.to_json(
        run=run.path.name,
        labellers=sorted({label.labeller for label, _ in about}),
        **{name: value for name, value in facts(found).items() if name not in ("temperature", "bias")},
    )


def facts(found: Recalibration) -> dict[str, Any]:
    """Everything about a calibration, for JSON."""
    return {
        "temperature": found.calibration.temperature,
        "bias": found.calibration.bias,
        "judge_ids": found.judge_ids,
        "labels": found.num_labels,
        "verdicts": found.num_verdicts,
        "before": _figures(found.before),
        "after": _figures(found.after),
    }


def _figures(figures: Figures) -> dict[str, Any]:
    accuracy, kappa = figures.accuracy, figures.kappa
    return {
        "accuracy": None if accuracy is None else accuracy.value,
        "accuracy_interval": None if accuracy is None else accuracy.cautious,
        "kappa": kappa.value,
        "kappa_interval": kappa.interval,
        "pairs": kappa.num_pairs,
        "prompts": kappa.num_prompts,
        "clear": figures.clear,
        "ece": figures.ece,
        "ece_by_chance": figures.ece_by_chance,
        "nll": figures.nll,
        "brier": figures.brier,
        "bins": figures.bins,
    }


def _print(found: Recalibration) -> None:
    columns = ("", "before", "after")
    print_table(columns, zip(ROWS, _cells(found.before), _cells(found.after), strict=True), right=columns[1:])
    print_parts(_diagrams(found))
    calibration = found.calibration
    sure = "too sure" if calibration.temperature > 1 else "not sure enough"
    side = "first" if calibration.bias > 0 else "second"
    say(
        f"\ntemperature {calibration.temperature:.3f} (the judge is {sure}), bias {calibration.bias:+.3f} in log-odds "
        f"for the answer shown {side}; by {found.num_labels:,} labels, {found.num_verdicts:,} verdicts"
    )
    if found.after.clear < 0.9 * found.before.clear:
        say("calibrated leads are smaller, and fewer reach pairs.min_margin: lower it with the calibration")
    if len(found.judge_ids) > 1:
        say(f"these are verdicts of {len(found.judge_ids)} judges: --round N calibrates the judge of one round")


def _cells(figures: Figures) -> tuple[str, ...]:
    accuracy, kappa = figures.accuracy, figures.kappa
    return (
        NONE if accuracy is None else f"{accuracy.value:.3f} ({accuracy.cautious})",
        NONE if kappa.value is None else f"{kappa.value:.3f} ({kappa.interval})",
        f"{figures.clear:.1%}",
        f"{figures.ece:.3f}",
        f"{figures.ece_by_chance:.3f}",
        f"{figures.nll:.3f}",
        f"{figures.brier:.3f}",
    )


def _diagrams(found: Recalibration) -> Iterator[Text]:
    width = min(console().width, WIDEST)
    for title, figures in (("before", found.before), ("after", found.after)):
        yield Text(f"\nthe answer shown first, {title}: how probable it was called, how often people preferred it")
        for line in reliability_lines(figures.bins, width, floor=0.0, unicode=is_unicode(sys.stdout)):
            yield Text(line)
