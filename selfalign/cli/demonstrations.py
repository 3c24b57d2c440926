"""`selfalign demonstrations`: answers that a policy learns as they are: its own best ones, revised or gold ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from cyclopts import App
from rich.text import Text

from selfalign.cli.arguments import Json, Limit, OutFile, Round, RunName, Runs
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
from selfalign.cli.output import print_json, print_parts
from selfalign.cli.targets import RUNS, find_run
from selfalign.records import Candidate
from selfalign.store import Run

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
    run: RunName,
    /,
    *,
    round: Round = None,
    limit: Limit = 20,
    json: Json = False,
    runs: Runs = RUNS,
) -> int:
    """List the demonstrations of a run, by round, and where each answer comes from."""
    opened = find_run(run, runs)
    rounds = chosen_rounds(opened, round)
    print_list(
        opened, "demonstrations", examples(opened, "demonstrations", rounds),
        rounds=rounds, limit=limit, json=json, line=_line, row=as_row,
        columns=("demonstration", "tokens", "from", "prompt", "answer"), right=("tokens",),
    )  # fmt: skip
    return 0


@app.command
def show(run: RunName, demonstration: str, /, *, json: Json = False, runs: Runs = RUNS) -> int:
    """Show one demonstration: the prompt, the answer to learn, and where it comes from.

    Parameters
    ----------
    demonstration
        The demonstration, as `demonstrations ls` names it (0:17), or the beginning of its prompt's id.
    """
    opened = find_run(run, runs)
    found = find(opened, "demonstrations", demonstration)
    if json:
        print_json({**as_row(found), "lineage": origin(opened, found)})
        return 0
    print_parts(_sheet(opened, found))
    return 0


@app.command
def export(run: RunName, out: OutFile, /, *, format: Format, round: Round = None, runs: Runs = RUNS) -> int:
    """Write the demonstrations of a run to a file.

    Parameters
    ----------
    format
        trl: prompt and completion, for supervised fine-tuning;
        jsonl: one line a demonstration, with ids and origin;
        parquet: the same, as columns.
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


def origin(run: Run, demonstration: Example[Candidate]) -> dict[str, Any]:
    """Where a demonstration comes from: its policy and source, and the steps of its round with their digests."""
    return lineage(run, "demonstrations", demonstration, demonstration.record.policy_id)


def _line(demonstration: Example[Candidate]) -> tuple[Any, ...]:
    answer = demonstration.record
    texts = (demonstration.prompt.messages[-1].content, answer.text)
    return (
        demonstration.id,
        len(answer.token_ids) or "–",
        demonstration.origin(answer),
        *cells(texts),
    )


def _sheet(run: Run, demonstration: Example[Candidate]) -> Iterator[Text]:
    """The parts of `demonstrations show`, ready to print: foreign text only ever as cleaned rich Text."""
    answer = demonstration.record
    yield Text(f"demonstration {demonstration.id}", style="bold")
    yield from conversation(demonstration.prompt)
    yield Text(f"\nassistant  ({demonstration.facts(answer)})", style="bold green")
    yield answer_text(answer)
    yield from lineage_lines(origin(run, demonstration))
