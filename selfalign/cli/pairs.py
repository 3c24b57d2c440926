"""`selfalign pairs`: the preferences of a run, each with the prompt, the texts and every verdict it rests on."""

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
    verdicts,
)
from selfalign.cli.export import write
from selfalign.cli.output import print_json, print_parts
from selfalign.cli.targets import RUNS, find_run
from selfalign.records import GOLD, Candidate, Pair
from selfalign.store import Run

app = App(
    name="pairs", help="List, show and export preference pairs.", help_format="plaintext", result_action="return_value"
)

Format = Literal["trl", "trl-implicit", "jsonl", "parquet"]
COLUMNS = {
    "id": "text", "round": "int", "prompt_id": "text", "chosen_id": "text", "rejected_id": "text", "policy_id": "text",
    "p_chosen": "float", "margin": "float", "weight": "float", "principles": "[text]", "tags": "[text]",
    "messages": "messages", "chosen": "text", "rejected": "text",
}  # fmt: skip


@app.command
def ls(
    run: RunName,
    /,
    *,
    round: Round = None,
    principle: str | None = None,
    min_margin: float = 0.0,
    limit: Limit = 20,
    json: Json = False,
    runs: Runs = RUNS,
) -> int:
    """List the pairs of a run, by round; those that were replayed stand under the round that made them.

    Parameters
    ----------
    principle
        Only pairs judged by this principle (its id).
    min_margin
        Only pairs with at least this margin.
    """
    opened = find_run(run, runs)
    rounds = chosen_rounds(opened, round)
    print_list(
        opened, "pairs", select(opened, rounds, principle, min_margin),
        rounds=rounds, limit=limit, json=json, line=_line, row=as_row,
        columns=("pair", "margin", "p", "principles", "prompt", "chosen", "rejected"), right=("margin", "p"),
    )  # fmt: skip
    return 0


@app.command
def show(run: RunName, pair: str, /, *, json: Json = False, runs: Runs = RUNS) -> int:
    """Show one pair: the prompt, both responses, every verdict in both orders, and where it comes from.

    Parameters
    ----------
    pair
        The pair, as `pairs ls` names it (0:17), or the beginning of its prompt's id.
    """
    opened = find_run(run, runs)
    found = find(opened, "pairs", pair)
    if json:
        print_json({**as_row(found), "judgments": found.judgments, "lineage": origin(opened, found)})
        return 0
    print_parts(_sheet(opened, found))
    return 0


@app.command
def export(
    run: RunName,
    out: OutFile,
    /,
    *,
    format: Format,
    round: Round = None,
    principle: str | None = None,
    min_margin: float = 0.0,
    runs: Runs = RUNS,
) -> int:
    """Write the pairs of a run to a file.

    Parameters
    ----------
    format
        trl: prompt, chosen and rejected, for DPO;
        trl-implicit: chosen and rejected with the prompt in each, for reward models;
        jsonl: one line a pair, with ids, margins and principles;
        parquet: the same, as columns.
    principle
        Only pairs judged by this principle (its id).
    min_margin
        Only pairs with at least this margin.
    """
    opened = find_run(run, runs)
    rounds = chosen_rounds(opened, round)
    rows = map(
        {"trl": as_trl, "trl-implicit": as_trl_implicit}.get(format, as_row),
        select(opened, rounds, principle, min_margin),
    )
    columns = COLUMNS if format == "parquet" else None
    write(rows, out, "pairs", none=elsewhere(opened, "pairs", rounds), columns=columns)
    return 0


def select(run: Run, rounds: list[int], principle: str | None, min_margin: float) -> Iterator[Example[Pair]]:
    """The pairs of some rounds with at least this margin, judged by this principle."""
    for pair in examples(run, "pairs", rounds):
        if pair.record.margin >= min_margin and (principle is None or principle in pair.principles):
            yield pair


def as_trl(pair: Example[Pair]) -> dict[str, Any]:
    """TRL's preference format with an explicit prompt, conversational."""
    chosen, rejected = sides(pair)
    return {
        "prompt": pair.messages,
        "chosen": said_by_assistant(chosen.text),
        "rejected": said_by_assistant(rejected.text),
    }


def as_trl_implicit(pair: Example[Pair]) -> dict[str, Any]:
    """TRL's preference format with the prompt in both conversations."""
    row = as_trl(pair)
    return {"chosen": row["prompt"] + row["chosen"], "rejected": row["prompt"] + row["rejected"]}


def as_row(pair: Example[Pair]) -> dict[str, Any]:
    """Everything about a pair but its single verdicts, flat."""
    chosen, rejected = sides(pair)
    return {
        "id": pair.id,
        "round": pair.round,
        "prompt_id": chosen.prompt_id,
        "chosen_id": chosen.id,
        "rejected_id": rejected.id,
        "policy_id": rejected.policy_id,  # what is chosen may be a gold answer
        "p_chosen": pair.record.p_chosen,
        "margin": pair.record.margin,
        "weight": pair.record.weight,
        "principles": pair.principles,
        "tags": list(pair.prompt.tags),
        "messages": pair.messages,
        "chosen": chosen.text,
        "rejected": rejected.text,
    }


def origin(run: Run, pair: Example[Pair]) -> dict[str, Any]:
    """Where a pair comes from: its policy, judge and samples, and the steps of its round with their digests."""
    named = dict(zip(("chosen", "rejected"), sides(pair), strict=True))
    return {
        **lineage(run, "pairs", pair, named["rejected"].policy_id),
        "samples": {name: "gold answer" if _is_gold(side) else side.sample_index for name, side in named.items()},
        "seeds": {name: None if _is_gold(side) else side.seed for name, side in named.items()},
    }


def sides(pair: Example[Pair]) -> tuple[Candidate, Candidate]:
    """The chosen answer and the rejected one."""
    return pair.answers[pair.record.chosen_id], pair.answers[pair.record.rejected_id]


def _is_gold(answer: Candidate) -> bool:
    return answer.policy_id == GOLD


def _line(pair: Example[Pair]) -> tuple[Any, ...]:
    texts = (pair.prompt.messages[-1].content, *(side.text for side in sides(pair)))
    return (
        pair.id,
        f"{pair.record.margin:.2f}",
        f"{pair.record.p_chosen:.2f}",
        ", ".join(pair.principles),
        *cells(texts),
    )


def _sheet(run: Run, pair: Example[Pair]) -> Iterator[Text]:
    """The parts of `pairs show`, ready to print: foreign text only ever as cleaned rich Text."""
    record, (chosen, rejected) = pair.record, sides(pair)
    yield Text(
        f"pair {pair.id}   margin {record.margin:.3f}   p(chosen) {record.p_chosen:.3f}   weight {record.weight:g}",
        style="bold",
    )
    yield from conversation(pair.prompt)
    for label, side, style in (("chosen", chosen, "green"), ("rejected", rejected, "red")):
        yield Text(f"\n{label}  ({pair.facts(side)})", style=f"bold {style}")
        yield answer_text(side)
    yield Text("\nverdicts", style="bold dim")
    yield from verdicts(pair.judgments, {chosen.id: "chosen", rejected.id: "rejected"})
    if _is_gold(chosen) and not pair.judgments:
        yield Text("  none: the gold answer is chosen whatever a judge would say")
    yield from lineage_lines(origin(run, pair))
