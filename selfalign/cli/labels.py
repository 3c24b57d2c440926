"""`selfalign labels`: what people said, how far they agree, and the files of other tools."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from selfalign import labels as files
from selfalign import source
from selfalign.agreement import BetweenRaters, Kappa, between_raters, self_consistency
from selfalign.cli.arguments import Json, OutFile, Round, RunName, Runs
from selfalign.cli.errors import USAGE, CommandError
from selfalign.cli.examples import chosen_rounds
from selfalign.cli.export import write_text
from selfalign.cli.output import print_json, print_table, say
from selfalign.cli.targets import RUNS, check_name, find_run
from selfalign.config import Campaign, in_round, load
from selfalign.labels import RANDOM
from selfalign.people import formats
from selfalign.people.compared import ROLES, Comparison, Source, comparisons, human_agreement, labelled
from selfalign.people.formats import Format, Index, Task
from selfalign.people.labelling import pace, queue
from selfalign.records import HumanAgreement, Interval, Label
from selfalign.store import Run
from selfalign.units import duration

MAX_BYTES = 2**28
NONE = "–"

app = App(
    name="labels", help="List, import and export labels by people.", help_format="plaintext",
    result_action="return_value",
)  # fmt: skip


@app.command
def ls(run: RunName, /, *, stratum: Literal["all", "random"] = "all", json: Json = False, runs: Runs = RUNS) -> int:
    """List who labelled how much of a run, how steadily, and how far any two of them agree.

    Parameters
    ----------
    stratum
        random: only the pairs drawn at random, a fair sample; the others were chosen because they are hard.
    """
    opened = find_run(run, runs)
    found = {name: _of(labels, stratum) for name, labels in files.read(opened.path).items()}
    between, judges = among(found), with_judges(opened, found)
    if json:
        print_json(_facts(found, between, judges))
        return 0
    if not found:
        say(f"nobody has labelled anything of {opened.path}.  next:  selfalign label {run}")
        return 0
    columns = ("labeller", "labels", "random", "left", "right", "neither", "skipped", "the same twice", "each")
    print_table(columns, (_line(name, labels) for name, labels in found.items()), right=columns[1:])
    if judges:
        print()
        lines = [(name, role, *_agreement_cells(one)) for name, role, one in judges]
        head = ("labeller", "judge", "pairs", "the same", "kappa", "95% interval")
        print_table(head, lines, right=head[2:])
    if between.kappas:
        print()
        rows = [(one, other, *_kappa_cells(kappa)) for (one, other), kappa in between.kappas.items()]
        head = ("labeller", "and", "pairs", "the same", "kappa", "95% interval")
        print_table(head, rows, right=head[2:])
        alpha = NONE if between.alpha is None else f"{between.alpha:.2f}"
        say(f"Krippendorff's alpha of all: {alpha}, on {between.num_shared:,} pairs that two or more labelled")
    return 0


@app.command
def export(
    run: RunName,
    out: OutFile,
    /,
    *,
    format: Format,
    of: Source = "training",
    round: Round = None,
    count: int = 100,
    judge: Annotated[
        bool, Parameter(help="With the judge's verdicts as suggestions; they sway who sees them.")
    ] = False,
    runs: Runs = RUNS,
) -> int:
    """Write pairs to be labelled in another tool, with the labels that there are.

    Parameters
    ----------
    format
        label-studio: JSON tasks for a Pairwise interface;
        argilla: JSON records with the fields prompt, left and right;
        icai: CSV with text_a, text_b and preferred_text, of labelled pairs with a winner;
        jsonl: one line a label, with ids.
    of
        Which pairs to label: training or heldout.
    count
        How many of them; 0: only those that have labels.
    """
    opened = find_run(run, runs)
    settings = load(opened.path / "campaign.yaml").campaign
    tasks = _tasks(opened, settings, of, chosen_rounds(opened, round), count)
    if format in ("icai", "jsonl"):
        tasks = [task for task in tasks if task.labels]
    if not tasks:
        raise CommandError("there are no such pairs to export", fix=f"selfalign label {run}", code=USAGE)
    write_text(formats.write(tasks, format, judge=judge), out)
    labelled = sum(len(task.labels) for task in tasks)
    say(f"{len(tasks):,} pairs, with {labelled:,} labels")
    if format == "label-studio":
        say(f"the interface to label them by:\n{formats.INTERFACE}")
    say(f"then:  selfalign labels import {run} FILE --format {format}")
    return 0


@app.command(name="import")
def import_(
    run: RunName,
    file: Annotated[Path, Parameter(help="The file to read.")],
    /,
    *,
    format: Format,
    labeller: str = "",
    runs: Runs = RUNS,
) -> int:
    """Read labels of a run's pairs that were made in another tool. Pairs are known by their ids or by their texts.

    Parameters
    ----------
    format
        label-studio, argilla, icai or jsonl, as `labels export` writes them.
    labeller
        Who labelled; stands before the names that the file gives. Default: these names, or the file's.
    """
    opened = find_run(run, runs)
    if labeller:
        check_name(labeller, "labeller")
    text = source.read_text(file, max_bytes=MAX_BYTES)
    settings = load(opened.path / "campaign.yaml").campaign
    index = Index(_compared(opened, settings, opened.rounds()))
    found = formats.read(text, str(file), format, index, labeller)
    named = {name or _default_name(file): labels for name, labels in found.items()}
    if not named:
        raise CommandError(
            f"{file} holds no labels", fix=f"selfalign labels export {run} FILE shows the format", code=USAGE
        )
    for name, labels in named.items():
        path = files.write(opened.path, name, [_named(label, name) for label in labels])
        print(path)
        say(f"{len(labels):,} labels of {name}")
    return 0


def among(found: Mapping[str, list[Label]]) -> BetweenRaters:
    """How far labellers agree with one another."""
    prompts = {label.pair: label.prompt_id for labels in found.values() for label in labels}
    return between_raters({name: files.leads(labels) for name, labels in found.items()}, prompts)


def with_judges(run: Run, found: Mapping[str, list[Label]]) -> list[tuple[str, str, HumanAgreement]]:
    """How far each labeller agrees with each judge, by (labeller, judge); not before they have labelled enough."""
    settings = load(run.path / "campaign.yaml").campaign
    enough = {name: labels for name, labels in found.items() if len(files.scored(labels)) >= files.MIN_LABELS}
    return [
        (name, role, one)
        for name, labels in enough.items()
        for role, one in human_agreement(labelled(run, labels, settings)).items()
    ]


def _of(labels: list[Label], stratum: str) -> list[Label]:
    return [label for label in labels if stratum == "all" or label.stratum == stratum]


def _named(label: Label, name: str) -> Label:
    return label if label.labeller == name else replace(label, labeller=name)


def _default_name(file: Path) -> str:
    return formats.rater("", file.stem) or "imported"


def _compared(run: Run, settings: Campaign, rounds: list[int]) -> Iterator[Comparison]:
    for number in rounds:
        for kind in ROLES:
            yield from comparisons(run, number, kind, in_round(settings, number))


def _tasks(run: Run, settings: Campaign, of: Source, rounds: list[int], count: int) -> list[Task]:
    """The labelled pairs of some rounds, then those that `selfalign label` would show next."""
    labels: dict[tuple[str, str], list[Label]] = {}
    for said in files.read(run.path).values():
        for label in said:
            labels.setdefault(label.pair, []).append(label)
    known = {one.pair: one for one in _compared(run, settings, rounds) if one.pair in labels}
    for number in reversed(rounds):
        pool = list(comparisons(run, number, of, in_round(settings, number)))
        if pool:
            known |= {one.pair: one for one, _ in islice(queue(pool, settings.seed), count)}
            break
    return [Task(one, tuple(labels.get(pair, ()))) for pair, one in known.items()]


def _counts(labels: list[Label]) -> dict[str, Any]:
    said = files.scored(labels)
    sides = Counter("left" if label.preferred_id == label.left_id else "right" for label in said if label.preferred_id)
    steady = self_consistency(*files.repeats(labels))
    return {
        "labels": len(said),
        "random": sum(label.stratum == RANDOM for label in said),
        "left": sides["left"],
        "right": sides["right"],
        "neither": sum(label.preferred_id is None for label in said),
        "skipped": sum(label.lead is None for label in labels),
        "repeated": steady.num_pairs if steady else 0,
        "the_same_twice": steady.raw if steady else None,
        "seconds_each": pace(labels),
    }


def _line(name: str, labels: list[Label]) -> tuple[Any, ...]:
    counts = _counts(labels)
    numbers = [f"{counts[key]:,}" for key in ("labels", "random", "left", "right", "neither", "skipped")]
    same = counts["the_same_twice"]
    steady = NONE if same is None else f"{same:.0%} of {counts['repeated']}"
    return name, *numbers, steady, duration(counts["seconds_each"])


def _kappa_cells(kappa: Kappa) -> tuple[str, ...]:
    value = NONE if kappa.value is None else f"{kappa.value:.2f}"
    interval = NONE if kappa.interval is None else f"{kappa.interval.low:.2f} to {kappa.interval.high:.2f}"
    return f"{kappa.num_pairs:,}", f"{kappa.raw:.0%}", value, interval


def _agreement_cells(one: HumanAgreement) -> tuple[str, ...]:
    interval = None if one.low is None or one.high is None else Interval(one.low, one.high)
    return _kappa_cells(Kappa(one.kappa, interval, one.raw, one.num_pairs, one.num_prompts))


def _facts(
    found: Mapping[str, list[Label]], between: BetweenRaters, judges: list[tuple[str, str, HumanAgreement]]
) -> dict[str, Any]:
    kappas = [{"labellers": pair, **_kappa_facts(kappa)} for pair, kappa in between.kappas.items()]
    return {
        "labellers": [{"labeller": name, **_counts(labels)} for name, labels in found.items()],
        "judges": [{"labeller": name, "judge": role, "agreement": one} for name, role, one in judges],
        "between": kappas,
        "alpha": between.alpha,
        "shared_pairs": between.num_shared,
    }


def _kappa_facts(kappa: Kappa) -> dict[str, Any]:
    low, high = kappa.interval or (None, None)
    return {"pairs": kappa.num_pairs, "the_same": kappa.raw, "kappa": kappa.value, "low": low, "high": high}
