"""`selfalign rankings`: the answers of each prompt in the judge's order, for all that trains on more than pairs."""

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
from selfalign.records import Candidate, Ranking
from selfalign.store import Run

app = App(
    name="rankings", help="List, show and export rankings.", help_format="plaintext", result_action="return_value"
)

Format = Literal["trl-kto", "jsonl", "parquet"]
COLUMNS = {
    "id": "text", "round": "int", "prompt_id": "text", "policy_id": "text", "answer_ids": "[text]", "answers": "[text]",
    "scores": "[float]", "win_rates": "[float]", "desirable": "[flag]", "weight": "float", "principles": "[text]",
    "tags": "[text]", "messages": "messages",
}  # fmt: skip


@app.command
def ls(
    run: RunName,
    /,
    *,
    round: Round = None,
    principle: str | None = None,
    limit: Limit = 20,
    json: Json = False,
    runs: Runs = RUNS,
) -> int:
    """List the rankings of a run, by round: the best and the worst answer of each, and the scores from best to worst.

    Parameters
    ----------
    principle
        Only rankings judged by this principle (its id).
    """
    opened = find_run(run, runs)
    rounds = chosen_rounds(opened, round)
    print_list(
        opened, "rankings", select(opened, rounds, principle),
        rounds=rounds, limit=limit, json=json, line=_line, row=as_row,
        columns=("ranking", "answers", "scores", "good/bad", "prompt", "best", "worst"),
        right=("answers", "scores", "good/bad"),
    )  # fmt: skip
    return 0


@app.command
def show(run: RunName, ranking: str, /, *, json: Json = False, runs: Runs = RUNS) -> int:
    """Show one ranking: the prompt, every answer from best to worst, every verdict, and where it comes from.

    Parameters
    ----------
    ranking
        The ranking, as `rankings ls` names it (0:17), or the beginning of its prompt's id.
    """
    opened = find_run(run, runs)
    found = find(opened, "rankings", ranking)
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
    runs: Runs = RUNS,
) -> int:
    """Write the rankings of a run to a file.

    Parameters
    ----------
    format
        trl-kto: prompt, completion and label, one line an answer, for KTO; only of rounds that label their answers;
        jsonl: one line a ranking, with ids, scores, win rates and labels;
        parquet: the same, as columns.
    principle
        Only rankings judged by this principle (its id).
    """
    opened = find_run(run, runs)
    rounds = chosen_rounds(opened, round)
    found, none = select(opened, rounds, principle), elsewhere(opened, "rankings", rounds)
    if format == "trl-kto":
        rows = (row for ranking in found for row in as_trl_kto(ranking))
        write(rows, out, "labelled answers", none=["only kto and bco label answers; others go to jsonl", *none])
    else:
        columns = COLUMNS if format == "parquet" else None
        write(map(as_row, found), out, "rankings", none=none, columns=columns)
    return 0


def select(run: Run, rounds: list[int], principle: str | None) -> Iterator[Example[Ranking]]:
    """The rankings of some rounds that were judged by this principle."""
    for ranking in examples(run, "rankings", rounds):
        if principle is None or principle in ranking.principles:
            yield ranking


def as_trl_kto(ranking: Example[Ranking]) -> Iterator[dict[str, Any]]:
    """TRL's unpaired preference format, conversational: a row for each answer that has a label."""
    answers = ranked(ranking)[: len(ranking.record.desirable)]
    for answer, label in zip(answers, ranking.record.desirable, strict=True):
        yield {"prompt": ranking.messages, "completion": said_by_assistant(answer.text), "label": label}


def as_row(ranking: Example[Ranking]) -> dict[str, Any]:
    """Everything about a ranking but its single verdicts; lists of answers go from best to worst."""
    record, answers = ranking.record, ranked(ranking)
    return {
        "id": ranking.id,
        "round": ranking.round,
        "prompt_id": record.prompt_id,
        "policy_id": answers[0].policy_id,
        "answer_ids": list(record.candidate_ids),
        "answers": [answer.text for answer in answers],
        "scores": list(record.scores),
        "win_rates": list(record.win_rates),
        "desirable": list(record.desirable) or None,
        "weight": record.weight,
        "principles": ranking.principles,
        "tags": list(ranking.prompt.tags),
        "messages": ranking.messages,
    }


def origin(run: Run, ranking: Example[Ranking]) -> dict[str, Any]:
    """Where a ranking comes from: its policy, judges and source, and the steps of its round with their digests."""
    return lineage(run, "rankings", ranking, ranked(ranking)[0].policy_id)


def ranked(ranking: Example[Ranking]) -> list[Candidate]:
    """The answers from best to worst."""
    return [ranking.answers[name] for name in ranking.record.candidate_ids]


def _labels(ranking: Ranking) -> list[str]:
    return ["good" if good else "bad" for good in ranking.desirable]


def _line(ranking: Example[Ranking]) -> tuple[Any, ...]:
    answers, record = ranked(ranking), ranking.record
    good = sum(record.desirable)
    texts = [ranking.prompt.messages[-1].content, answers[0].text, *(answer.text for answer in answers[1:][-1:])]
    return (
        ranking.id,
        len(answers),
        _span(record.scores),
        f"{good}/{len(record.desirable) - good}" if record.desirable else "–",
        *cells(texts),
    )


def _span(scores: tuple[float, ...]) -> str:
    return f"{scores[0]:.2f} to {scores[-1]:.2f}" if len(scores) > 1 else f"{scores[0]:.2f}"


def _sheet(run: Run, ranking: Example[Ranking]) -> Iterator[Text]:
    """The parts of `rankings show`, ready to print: foreign text only ever as cleaned rich Text."""
    record, answers = ranking.record, ranked(ranking)
    count = "1 answer" if len(answers) == 1 else f"{len(answers)} answers"
    yield Text(f"ranking {ranking.id}   {count}   weight {record.weight:g}", style="bold")
    yield from conversation(ranking.prompt)
    labels = _labels(record) or [""] * len(answers)
    for i, (answer, label) in enumerate(zip(answers, labels, strict=True)):
        figures = f"score {record.scores[i]:.3f}, win rate {record.win_rates[i]:.3f}"
        style = {"good": "bold green", "bad": "bold red"}.get(label, "bold")
        yield Text("\n" + "   ".join(filter(None, (f"{i + 1}", label, f"{figures}  ({ranking.facts(answer)})"))), style)
        yield answer_text(answer)
    yield Text("\nverdicts", style="bold dim")
    yield from verdicts(ranking.judgments, {answer.id: f"answer {i}" for i, answer in enumerate(answers, start=1)})
    yield from lineage_lines(origin(run, ranking))
