"""`selfalign constitution`: look principles over, tell what an edit means, and take principles over from others."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter
from rich.text import Text

from selfalign import resources, source
from selfalign.cli.arguments import Backend, Json, RunName, Runs
from selfalign.cli.errors import FAILED, USAGE, CommandError
from selfalign.cli.output import is_plain, print_json, print_table, say
from selfalign.cli.principles import stats
from selfalign.cli.targets import RUNS, check_name, find_run
from selfalign.constitution import (
    Constitution,
    check_document,
    importing,
    load,
    to_text,
)
from selfalign.constitution.diff import Change, Diff, in_words
from selfalign.constitution.diff import diff as compared
from selfalign.constitution.lint import Finding, committed
from selfalign.constitution.lint import lint as looked_over
from selfalign.rewording import diff as coloured
from selfalign.rewording import marked
from selfalign.store import atomic_write
from selfalign.text import clean, one_line

app = App(
    name="constitution",
    help="Lint, edit, compare, preview, measure, mine, import and export constitutions.",
    help_format="plaintext",
    result_action="return_value",
)

app.command(stats)
app.command("selfalign.cli.mine:mine", name="mine")
app.command("selfalign.cli.edit:edit", name="edit")

_EXIT = {"error": USAGE, "warning": FAILED, "note": 0}


@app.command
def lint(
    *files: str,
    against: str | None = None,
    judge: str | None = None,
    base_url: str | None = None,
    backend: Backend = None,
    json: bool = False,
    runs: Path = RUNS,
) -> int:
    """Look for what would mislead a judge. Exit code: 2 for errors, 1 for warnings, 0 for notes alone.

    Wordings that changed without a new version are found by comparing each file with git's HEAD.

    Parameters
    ----------
    files
        Constitutions: files, names of shipped ones, or rounds of runs (RUN@3).
    against
        An earlier version of the file, in place of git's HEAD.
    judge
        Ask this model whether it prefers the better answer of every example: a folder, a name on the Hub, pocket:judge
        or openai:NAME.
    base_url
        The address of an OpenAI-compatible server.
    backend
        What runs a local model. Default: vLLM where it is installed.
    json
        Print JSON.
    runs
        The folder of runs.
    """
    if not files or (against and len(files) > 1):
        what = "--against goes with one file" if files else "which constitution?"
        raise CommandError(what, fix="selfalign constitution lint FILE", code=USAGE)
    paths = [find_constitution(name, runs) for name in files]
    earlier = find_constitution(against, runs) if against else None
    findings = {path: _look_over(path, earlier) for path in paths}
    if judge:
        from selfalign.cli.examples_judged import judged

        for path, more in judged(findings, judge, base_url, backend).items():
            findings[path] = sorted((*findings[path], *more), key=lambda finding: finding.line or 0)
    elif base_url or backend:
        raise CommandError("--base-url and --backend go with --judge", fix="add --judge MODEL", code=USAGE)
    found = [finding for each in findings.values() for finding in each]
    if json:
        print_json(found)
    else:
        for path, each in findings.items():
            print_findings(path, each)
    return max((_EXIT[finding.severity] for finding in found), default=0)


def print_findings(path: Path, found: Sequence[Finding]) -> None:
    """Print a line for each finding of a file, and how many there are of each kind."""
    for finding in found:
        print(one_line(finding))
    print(one_line(f"{path}: {_count(found)}"))


def _look_over(path: Path, earlier: Path | None) -> list[Finding]:
    before = source.read_yaml(source.read_text(earlier), str(earlier)) if earlier else committed(path)
    return looked_over(path, before)


def _count(findings: Sequence[Finding]) -> str:
    counts = {kind: sum(finding.severity == kind for finding in findings) for kind in _EXIT}
    said = [f"{count} {kind}{'s' * (count > 1)}" for kind, count in counts.items() if count]
    return ", ".join(said) or "nothing to mend"


@app.command
def diff(old: str, new: str, /, *, json: bool = False, runs: Path = RUNS) -> int:
    """Show what an edit means, principle by principle: reworded, reweighted, rescoped, moved, added, retired.

    Principles are matched by their ids, wherever they stand; what is extended counts as if it were written out.

    Parameters
    ----------
    old
        A constitution: a file, the name of a shipped one, or a round of a run (RUN@3).
    new
        The constitution to compare it with.
    json
        Print JSON.
    runs
        The folder of runs.
    """
    found = compared(*(load(find_constitution(name, runs)) for name in (old, new)))
    if json:
        print_json(found)
    else:
        print_diff(found)
    return 0


def print_diff(found: Diff) -> None:
    """Print what an edit means: a row for each change, and what is to be judged anew."""
    rows = [(change.kind, change.principle or "(all)", _said(change)) for change in found.changes]
    if rows:
        print_table(("change", "principle", "what"), rows)
    else:
        print("no principle differs")
    say(f"{one_line(found.before)} → {one_line(found.after)}")
    say(f"{len(found.judged_anew)} to be judged anew: {', '.join(found.judged_anew) or 'stored verdicts hold for all'}")


def _said(change: Change) -> Text | str:
    if change.field == "status":
        return change.state()
    before, after = (in_words(value) for value in (change.before, change.after))
    if is_plain(sys.stdout):
        return f"{change.field}: {one_line(marked(before, after))}"
    words = coloured(*(one_line(value) for value in (before, after)))
    return Text(f"{change.field}: ").append_text(words)


@app.command
def preview(
    run: RunName,
    /,
    *,
    constitution: str,
    pairs: int = 200,
    round: int | None = None,
    flips: bool = False,
    show: int | None = None,
    json: Json = False,
    runs: Runs = RUNS,
) -> int:
    """Show what an edit would change: stored pairs judged by the old and the new text, beside what chance changes.

    The run's own judge reads the pairs, which loads its model as `selfalign run` does. Only principles whose words
    changed are asked, and nothing twice: the same command again, or one with --flips or --show, asks nothing. Nothing
    is written into the run.

    Parameters
    ----------
    constitution
        The edited constitution: a file, the name of a shipped one, or a round of a run (RUN@3).
    pairs
        How many pairs to judge, drawn evenly over the changed principles and the tags of prompts.
    round
        The round whose pairs and judge are taken. Default: the last that was judged.
    flips
        List the pairs whose verdict changes.
    show
        Show one pair side by side, by its number in --flips.
    """
    from selfalign.cli.preview import preview as previewed

    rules = load(find_constitution(constitution, runs))
    return previewed(find_run(run, runs), rules, round=round, pairs=pairs, flips=flips, show=show, json=json)


@app.command(name="import")
def import_(
    file: Path,
    /,
    *,
    format: str = "",
    name: str | None = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
) -> int:
    """Turn principles in another format into a constitution: on stdout, or in a new file.

    Formats: anthropic-critiques, anthropic-comparisons (ConstitutionalHarmlessnessPaper), llm-swarm, langchain, icai
    (also any list of sentences), prometheus, promptfoo, g-eval, model-spec.

    Parameters
    ----------
    file
        JSON, YAML, plain text, Markdown or Python; Python is parsed and never run.
    format
        One of the formats above. Default: recognised by the file's shape.
    name
        The name of the constitution. Default: made of the file's.
    output
        The file to write. Default: stdout.
    """
    if output and output.exists():
        raise CommandError(f"{output} exists", fix="name another file, or remove it first", code=USAGE)
    found = importing.read(file, format)
    name = check_name(name, "constitution") if name else importing.slug(file.stem) or "imported"
    text = Constitution(name=name, version="1.0.0", principles=found.principles).to_yaml()
    check_document(source.read_yaml(text, str(output or "the constitution made of it")))
    if output:
        atomic_write(output, text.encode("utf-8"))
    print(clean(str(output)) if output else clean(text).rstrip("\n"))
    say(f"{len(found.principles)} principles, read as {found.format}")
    for note in found.notes:
        say(f"note: {note}")
    if output:
        say(f"next:  selfalign constitution lint {output}")
    return 0


@app.command
def export(constitution: str, /, *, format: Literal["text", "json", "yaml"] = "text", runs: Path = RUNS) -> int:
    """Print a constitution with what it extends merged in.

    Parameters
    ----------
    constitution
        A file, the name of a shipped constitution, or a round of a run (RUN@3).
    format
        text: the active principles as a numbered list; json and yaml: everything, readable as a constitution again.
    runs
        The folder of runs.
    """
    rules = load(find_constitution(constitution, runs))
    if format == "json":
        print_json(rules.values())
    else:
        print(clean(to_text(rules) if format == "text" else rules.to_yaml()), end="")
    return 0


@app.command
def schema() -> int:
    """Print the JSON Schema of constitutions, for editors."""
    print(resources.schema("constitution"), end="")
    return 0


def find_constitution(name: str, runs: Path = RUNS) -> Path:
    """The file that a path, the name of a shipped constitution, or a round of a run (RUN@3) leads to."""
    if Path(name).is_file():
        return Path(name)
    if found := re.fullmatch(r"(.+)@(\d{1,4})", name):
        return _of_round(found[1], int(found[2]), runs)
    if (path := resources.find_constitution(name)) is not None:
        return path
    known = [*resources.constitutions(), *(str(path) for path in _beside(Path(name)))]
    raise CommandError(
        f'there is no constitution "{name}"',
        why=f"the shipped ones are {', '.join(resources.constitutions())}",
        fix=source.did_you_mean(name, known) or "name a file, a shipped constitution, or a round of a run: RUN@3",
        code=USAGE,
    )


def _of_round(run: str, number: int, runs: Path) -> Path:
    opened = find_run(run, runs)
    rounds = {round: opened.path / f"rounds/{round:03d}/constitution.yaml" for round in opened.rounds()}
    if number not in rounds or not rounds[number].is_file():
        has = [str(round) for round, path in rounds.items() if path.is_file()]
        raise CommandError(
            f'the run "{opened.path.name}" has no constitution of round {number}',
            where=str(opened.path),
            why=f"its rounds are {', '.join(has) or 'none'}",
            fix=f"selfalign status {run}",
            code=USAGE,
        )
    return rounds[number]


def _beside(path: Path) -> Iterator[Path]:
    return path.parent.glob("*.yaml") if path.parent.is_dir() else iter(())
