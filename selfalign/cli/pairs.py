"""`selfalign pairs`: the preferences of a run, each with the prompt, the texts and every verdict it rests on."""

from __future__ import annotations

import json as jsonlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from cyclopts import App, Parameter
from rich.text import Text

from selfalign.cli.errors import USAGE, CommandError
from selfalign.cli.output import console, print_json, print_table, say
from selfalign.cli.targets import RUNS, find_run
from selfalign.records import Candidate, Judgment, Pair, Prompt
from selfalign.store import Run
from selfalign.text import clean, one_line

app = App(
    name="pairs", help="List, show and export preference pairs.", help_format="plaintext", result_action="return_value"
)

Format = Literal["trl", "trl-implicit", "jsonl", "parquet"]
EXPORT_ROWS = 4096  # held in memory at a time


@dataclass(frozen=True, slots=True)
class Preference:
    """A pair with all that belongs to it. `id` is round:position, short enough to type."""

    id: str
    round: int
    pair: Pair
    prompt: Prompt
    chosen: Candidate
    rejected: Candidate
    judgments: tuple[Judgment, ...]


def preferences(run: Run, rounds: Iterable[int]) -> Iterator[Preference]:
    """The pairs of some rounds, one shard of records in memory at a time."""
    for number in rounds:
        steps = {
            name: run.view(f"rounds/{number:03d}/{name}") for name in ("prompts", "candidates", "judgments", "pairs")
        }
        if any(step is None for step in steps.values()):
            continue
        position = 0
        for index, pairs in steps["pairs"].shards(Pair):
            prompts = {prompt.id: prompt for prompt in steps["prompts"].read(Prompt, index)}
            candidates = {candidate.id: candidate for candidate in steps["candidates"].read(Candidate, index)}
            judgments = {judgment.id: judgment for judgment in steps["judgments"].read(Judgment, index)}
            for pair in pairs:
                yield Preference(
                    id=f"{number}:{position}",
                    round=number,
                    pair=pair,
                    prompt=prompts[pair.prompt_id],
                    chosen=candidates[pair.chosen_id],
                    rejected=candidates[pair.rejected_id],
                    judgments=tuple(judgments[name] for name in pair.judgment_ids if name in judgments),
                )
                position += 1


@app.command
def ls(
    run: str,
    /,
    *,
    round: int | None = None,
    principle: str | None = None,
    min_margin: float = 0.0,
    limit: Annotated[int, Parameter(name=["--limit", "-n"])] = 20,
    json: bool = False,
    runs: Path = RUNS,
) -> int:
    """List the pairs of a run, by round.

    Parameters
    ----------
    run
        A run: a name or a path.
    round
        Only this round, counted from 0.
    principle
        Only pairs judged by this principle (its id).
    min_margin
        Only pairs with at least this margin.
    limit
        At most so many pairs; 0 means all.
    json
        Print JSON, with the whole texts.
    runs
        The folder of runs.
    """
    opened = find_run(run, runs)
    found = _select(opened, round, principle, min_margin)
    shown = [preference for _, preference in zip(range(limit), found, strict=False)] if limit else list(found)
    if json:
        print_json([as_row(preference) for preference in shown])
        return 0
    columns = ("pair", "margin", "p", "principles", "prompt", "chosen", "rejected")
    print_table(columns, map(_line, shown), right=("margin", "p"))
    if limit and next(found, None) is not None:
        say(f"the first {limit}; -n 0 lists all")
    if shown:
        say(f"next:  selfalign pairs show {run} {shown[0].id}")
    else:
        say(f"no pair like that in {opened.path}")
    return 0


@app.command
def show(run: str, pair: str, /, *, json: bool = False, runs: Path = RUNS) -> int:
    """Show one pair: the prompt, both responses, every verdict in both orders, and where it comes from.

    Parameters
    ----------
    run
        A run: a name or a path.
    pair
        The pair, as `pairs ls` names it (0:17), or the beginning of its prompt's id.
    json
        Print JSON.
    runs
        The folder of runs.
    """
    opened = find_run(run, runs)
    preference = _find(opened, pair)
    if json:
        print_json({**as_row(preference), "judgments": preference.judgments, "lineage": lineage(opened, preference)})
        return 0
    to = console()
    for part in _sheet(opened, preference):
        to.print(part)
    return 0


@app.command
def export(
    run: str,
    out: Path,
    /,
    *,
    format: Format,
    round: int | None = None,
    principle: str | None = None,
    min_margin: float = 0.0,
    runs: Path = RUNS,
) -> int:
    """Write the pairs of a run to a file.

    Parameters
    ----------
    run
        A run: a name or a path.
    out
        The file to write. It must not exist.
    format
        trl (prompt, chosen, rejected, as messages: for DPO), trl-implicit (chosen and rejected with the prompt in each:
        for reward models), jsonl (one line a pair, with ids, margins and verdicts), or parquet (the same, as columns).
    round
        Only this round, counted from 0.
    principle
        Only pairs judged by this principle (its id).
    min_margin
        Only pairs with at least this margin.
    runs
        The folder of runs.
    """
    if out.exists():
        raise CommandError(f"{out} exists", fix="name another file, or remove it first", code=USAGE)
    rows = map(
        {"trl": as_trl, "trl-implicit": as_trl_implicit}.get(format, as_row),
        _select(find_run(run, runs), round, principle, min_margin),
    )
    building = out.with_name(f".{out.name}.tmp")
    try:
        count = _write_parquet(rows, building) if format == "parquet" else _write_lines(rows, building)
        os.replace(building, out)
    finally:
        building.unlink(missing_ok=True)
    say(f"{count:,} pairs")
    print(clean(str(out)))
    return 0


def as_trl(preference: Preference) -> dict[str, Any]:
    """TRL's preference format with an explicit prompt, conversational."""
    return {
        "prompt": _messages(preference.prompt),
        "chosen": [{"role": "assistant", "content": preference.chosen.text}],
        "rejected": [{"role": "assistant", "content": preference.rejected.text}],
    }


def as_trl_implicit(preference: Preference) -> dict[str, Any]:
    """TRL's preference format with the prompt in both conversations."""
    row = as_trl(preference)
    return {"chosen": row["prompt"] + row["chosen"], "rejected": row["prompt"] + row["rejected"]}


def as_row(preference: Preference) -> dict[str, Any]:
    """Everything about a pair but its single verdicts, flat."""
    pair = preference.pair
    return {
        "id": preference.id,
        "round": preference.round,
        "prompt_id": pair.prompt_id,
        "chosen_id": pair.chosen_id,
        "rejected_id": pair.rejected_id,
        "policy_id": preference.chosen.policy_id,
        "p_chosen": pair.p_chosen,
        "margin": pair.margin,
        "weight": pair.weight,
        "principles": sorted({judgment.principle_id for judgment in preference.judgments}),
        "tags": list(preference.prompt.tags),
        "messages": _messages(preference.prompt),
        "chosen": preference.chosen.text,
        "rejected": preference.rejected.text,
    }


def lineage(run: Run, preference: Preference) -> dict[str, Any]:
    """Where a pair comes from: the steps of its round with their digests, its policy, judge and samples."""
    names = ("prompts", "candidates", "judgments", "pairs", "policy")
    steps = {name: run.view(f"rounds/{preference.round:03d}/{name}") for name in names}
    return {
        "policy_id": preference.chosen.policy_id,
        "judge_ids": sorted({judgment.judge_id for judgment in preference.judgments}),
        "samples": {"chosen": preference.chosen.sample_index, "rejected": preference.rejected.sample_index},
        "seeds": {"chosen": preference.chosen.seed, "rejected": preference.rejected.seed},
        "source": preference.prompt.source,
        "trained": steps["policy"] is not None and steps["policy"].done,
        "steps": {name: step.digest for name, step in steps.items() if step is not None and step.done},
    }


def _select(run: Run, round: int | None, principle: str | None, min_margin: float) -> Iterator[Preference]:
    rounds = run.rounds()
    if round is not None and round not in rounds:
        have = ", ".join(map(str, rounds)) or "none"
        raise CommandError(f"{run.path} has no round {round}", why=f"its rounds are {have}", code=USAGE)
    for preference in preferences(run, rounds if round is None else [round]):
        judged_by = {judgment.principle_id for judgment in preference.judgments}
        if preference.pair.margin >= min_margin and (principle is None or principle in judged_by):
            yield preference


def _find(run: Run, name: str) -> Preference:
    number, colon, _ = name.partition(":")
    rounds = [int(number)] if colon and number.isdecimal() else run.rounds()
    for preference in preferences(run, [r for r in rounds if r in run.rounds()]):
        if preference.id == name or (len(name) >= 4 and not colon and preference.pair.prompt_id.startswith(name)):
            return preference
    raise CommandError(
        f'there is no pair "{name}"', where=str(run.path), fix=f"selfalign pairs ls {run.path}", code=USAGE
    )


def _messages(prompt: Prompt) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in prompt.messages]


def _line(preference: Preference) -> tuple[Any, ...]:
    principles = ", ".join(sorted({judgment.principle_id for judgment in preference.judgments}))
    texts = (preference.prompt.messages[-1].content, preference.chosen.text, preference.rejected.text)
    pair = preference.pair
    return (
        preference.id,
        f"{pair.margin:.2f}",
        f"{pair.p_chosen:.2f}",
        principles,
        *(one_line(text, 60) for text in texts),
    )


def _sheet(run: Run, preference: Preference) -> Iterator[Any]:
    """The parts of `pairs show`, ready to print: foreign text only ever as cleaned rich Text."""
    pair = preference.pair
    yield Text(
        f"pair {preference.id}   margin {pair.margin:.3f}   p(chosen) {pair.p_chosen:.3f}   weight {pair.weight:g}",
        style="bold",
    )
    for message in preference.prompt.messages:
        yield Text(f"\n{message.role}", style="bold dim")
        yield Text(clean(message.content))
    for label, candidate, style in (("chosen", preference.chosen, "green"), ("rejected", preference.rejected, "red")):
        facts = (
            f"sample {candidate.sample_index}, {len(candidate.token_ids)} tokens, {one_line(candidate.finish_reason)}"
        )
        yield Text(f"\n{label}  ({facts})", style=f"bold {style}")
        yield Text(clean(candidate.text) or "(empty)")
    yield Text("\nverdicts", style="bold dim")
    yield from (Text(line) for line in _verdicts(preference))
    yield Text("\nlineage", style="bold dim")
    for name, value in lineage(run, preference).items():
        if name == "steps":
            yield from (Text(f"  {step:<11} {digest}") for step, digest in value.items())
        else:
            yield Text(f"  {name:<11} {one_line(_said(value))}")


def _verdicts(preference: Preference) -> Iterator[str]:
    """One line a verdict, by principle: which response was shown first, which one won, how surely."""
    names = {preference.pair.chosen_id: "chosen", preference.pair.rejected_id: "rejected"}
    for judgment in sorted(preference.judgments, key=lambda judgment: judgment.principle_id):
        first, second = names.get(judgment.first_id, "another"), names.get(judgment.second_id, "another")
        principle = f"  {one_line(judgment.principle_id):<18}"
        if not judgment.second_id:
            rating = f"rated {judgment.rating:.2f}" if judgment.rating is not None else judgment.verdict
            yield f"{principle} {first}: {rating}"
            continue
        winner = {"first": first, "second": second}.get(judgment.verdict, judgment.verdict)
        surely = f", p(first) {judgment.p_first:.3f}" if judgment.p_first is not None else ""
        yield f"{principle} shown {first} then {second}: {winner}{surely}"


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _write_lines(rows: Iterable[Mapping[str, Any]], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
        for row in rows:
            count += 1
            file.write(jsonlib.dumps(msgspec.to_builtins(row), ensure_ascii=False).translate(_LINE_ENDS) + "\n")
    return count


_LINE_ENDS = {0x2028: "\\u2028", 0x2029: "\\u2029", 0x85: "\\u0085"}  # some readers take them for the end of a line


def _write_parquet(rows: Iterator[Mapping[str, Any]], path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    texts = dict.fromkeys(
        ("id", "prompt_id", "chosen_id", "rejected_id", "policy_id", "chosen", "rejected"), pa.string()
    )
    types = {
        **texts, "round": pa.int64(), "p_chosen": pa.float64(), "margin": pa.float64(), "weight": pa.float64(),
        "principles": pa.list_(pa.string()), "tags": pa.list_(pa.string()), "messages": pa.list_(message),
    }  # fmt: skip
    count, schema = 0, pa.schema(list(types.items()))
    with pq.ParquetWriter(path, schema) as writer:
        while chunk := [row for _, row in zip(range(EXPORT_ROWS), rows, strict=False)]:
            writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
            count += len(chunk)
    return count
