"""`selfalign demonstrations`: answers that a policy learns as they are: its own best ones, revised or gold ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter
from rich.text import Text

from selfalign.cli.examples import (
    Example,
    answer_text,
    cells,
    chosen_rounds,
    conversation,
    elsewhere,
    examples,
    find,
    lineage,
    lineage_lines,
    print_list,
    said_by_assistant,
)
from selfalign.cli.export import write
from selfalign.cli.output import console, print_json
from selfalign.cli.targets import RUNS, find_run
from selfalign.records import Candidate

app = App(
    name="demonstrations",
    help="List, show and export demonstrations.",
    help_format="plaintext",
    result_action="return_value",
)

Format = Literal["trl", "jsonl", "parquet"]
COLUMNS = {
    "id": "text", "round": "int", "prompt_id": "text", "answer_id": "text", "policy_id": "text", "origin": "text",
    "num_tokens": "int", "tags": "[text]", "messages": "messages", "answer": "text",
}  # fmt: skip


@app.command
def ls(
    run: str,
    /,
    *,
    round: int | None = None,
    limit: Annotated[int, Parameter(name=["--limit", "-n"])] = 20,
    json: bool = False,
    runs: Path = RUNS,
) -> int:
    """List the demonstrations of a run, by round, and where each answer comes from.

    Parameters
    ----------
    run
        A run: a name or a path.
    round
        Only this round, counted from 0.
    limit
        At most so many demonstrations; 0 means all.
    json
        Print JSON, with the whole texts.
    runs
        The folder of runs.
    """
    opened = find_run(run, runs)
    rounds = chosen_rounds(opened, round)
    print_list(
        opened, "demonstrations", examples(opened, "demonstrations", rounds),
        rounds=rounds, limit=limit, json=json, line=_line, row=as_row,
        columns=("demonstration", "tokens", "from", "prompt", "answer"), right=("tokens",),
    )  # fmt: skip
    return 0


@app.command
def show(run: str, demonstration: str, /, *, json: bool = False, runs: Path = RUNS) -> int:
    """Show one demonstration: the prompt, the answer to learn, and where it comes from.

    Parameters
    ----------
    run
        A run: a name or a path.
    demonstration
        The demonstration, as `demonstrations ls` names it (0:17), or the beginning of its prompt's id.
    json
        Print JSON.
    runs
        The folder of runs.
    """
    opened = find_run(run, runs)
    found = find(opened, "demonstrations", demonstration)
    come_from = lineage(opened, "demonstrations", found, found.record.policy_id)
    if json:
        print_json({**as_row(found), "lineage": come_from})
        return 0
    to = console()
    to.print(Text(f"demonstration {found.id}", style="bold"))
    for part in (*conversation(found.prompt), Text(f"\nassistant  ({found.facts(found.record)})", style="bold green")):
        to.print(part)
    to.print(answer_text(found.record))
    for part in lineage_lines(come_from):
        to.print(part)
    return 0


@app.command
def export(run: str, out: Path, /, *, format: Format, round: int | None = None, runs: Path = RUNS) -> int:
    """Write the demonstrations of a run to a file.

    Parameters
    ----------
    run
        A run: a name or a path.
    out
        The file to write. It must not exist.
    format
        trl (prompt, completion, as messages: TRL's format for supervised fine-tuning), jsonl (one line a demonstration,
        with ids and origin), or parquet (the same, as columns).
    round
        Only this round, counted from 0.
    runs
        The folder of runs.
    """
    opened = find_run(run, runs)
    rounds = chosen_rounds(opened, round)
    rows = map(as_trl if format == "trl" else as_row, examples(opened, "demonstrations", rounds))
    columns = COLUMNS if format == "parquet" else None
    write(rows, out, "demonstrations", none=elsewhere(opened, "demonstrations", rounds), columns=columns)
    return 0


def as_trl(demonstration: Example[Candidate]) -> dict[str, Any]:
    """TRL's prompt-completion format, conversational."""
    return {"prompt": demonstration.messages, "completion": said_by_assistant(demonstration.record.text)}


def as_row(demonstration: Example[Candidate]) -> dict[str, Any]:
    """Everything about a demonstration, flat."""
    answer = demonstration.record
    return {
        "id": demonstration.id,
        "round": demonstration.round,
        "prompt_id": answer.prompt_id,
        "answer_id": answer.id,
        "policy_id": answer.policy_id,
        "origin": demonstration.origin(answer),
        "num_tokens": len(answer.token_ids) or None,
        "tags": list(demonstration.prompt.tags),
        "messages": demonstration.messages,
        "answer": answer.text,
    }


def _line(demonstration: Example[Candidate]) -> tuple[Any, ...]:
    answer = demonstration.record
    texts = (demonstration.prompt.messages[-1].content, answer.text)
    return (
        demonstration.id,
        len(answer.token_ids) or "–",
        demonstration.origin(answer),
        *cells(texts),
    )
