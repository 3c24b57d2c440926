"""The examples that rounds were trained on: what `pairs`, `rankings` and `demonstrations` have in common.

`revisions` shows its lists and texts in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

from rich.text import Text

from selfalign.cli.errors import USAGE, CommandError
from selfalign.cli.output import print_json, print_table, say
from selfalign.records import GOLD, Candidate, Judgment, Pair, Prompt, Ranking
from selfalign.stages.examples import RECORDS, Kind, Sources, held
from selfalign.store import Run
from selfalign.text import clean, one_line

CELL = 60  # characters of a text in a list
REASON = 400  # characters of a judge's reasons

Record = TypeVar("Record", Pair, Ranking, Candidate)


class Named(Protocol):
    """What a list shows: `id` is round:position, short enough to type."""

    @property
    def id(self) -> str: ...

    @property
    def prompt(self) -> Prompt: ...


Listed = TypeVar("Listed", bound=Named)


@dataclass(frozen=True, slots=True)
class Example(Generic[Record]):
    """An example with all that belongs to it. `id` is round:position, short enough to type.

    By id: `answers` are the candidates and gold answers that it may name, `revised` the steps of the revisions.
    """

    id: str
    round: int
    record: Record
    prompt: Prompt
    answers: Mapping[str, Candidate]
    judgments: tuple[Judgment, ...]
    revised: Mapping[str, int]

    @property
    def principles(self) -> list[str]:
        """The ids of the principles it was judged by, sorted."""
        return sorted({judgment.principle_id for judgment in self.judgments})

    @property
    def messages(self) -> list[dict[str, str]]:
        """The prompt as TRL's conversational formats have it."""
        return [{"role": message.role, "content": message.content} for message in self.prompt.messages]

    def origin(self, answer: Candidate) -> str:
        """Where an answer comes from, in words."""
        if answer.policy_id == GOLD:
            return "gold answer"
        return f"revision {self.revised[answer.id]}" if answer.id in self.revised else f"sample {answer.sample_index}"

    def facts(self, answer: Candidate) -> str:
        """Where an answer comes from, how long it is and how it ended."""
        origin, tokens = self.origin(answer), len(answer.token_ids)
        return origin if answer.policy_id == GOLD else f"{origin}, {tokens} tokens, {one_line(answer.finish_reason)}"


def said_by_assistant(text: str) -> list[dict[str, str]]:
    """An answer as TRL's conversational formats have it."""
    return [{"role": "assistant", "content": text}]


# Reading.


def examples(run: Run, kind: Kind, rounds: Iterable[int]) -> Iterator[Example[Any]]:
    """A kind of example of some rounds, those that were replayed left out; one shard of records in memory at a time."""
    for number in rounds:
        step = run.view(f"rounds/{number:03d}/{kind}")
        if step is None:
            continue
        sources, position = Sources(run, step), 0
        revised = sources.revisions()
        for index, records in step.shards(RECORDS[kind]):
            prompts, answers = sources.prompts(index, records), sources.answers(index)
            judgments = {judgment.id: judgment for judgment in sources.read(Judgment, index)}
            for record in records:
                evidence = [judgments[name] for name in getattr(record, "judgment_ids", ()) if name in judgments]
                prompt = prompts[record.prompt_id]
                yield Example(f"{number}:{position}", number, record, prompt, answers, tuple(evidence), revised)
                position += 1


def chosen_rounds(run: Run, round: int | None) -> list[int]:
    """All rounds, or the one that was asked for. Raises CommandError where there is no such round."""
    rounds = run.rounds()
    if round is not None and round not in rounds:
        have = ", ".join(map(str, rounds)) or "none"
        raise CommandError(f"{run.path} has no round {round}", why=f"its rounds are {have}", code=USAGE)
    return rounds if round is None else [round]


def find(run: Run, kind: Kind, name: str) -> Example[Any]:
    """The example that round:position or the beginning of its prompt's id names. Raises CommandError without one."""
    number, colon, _ = name.partition(":")
    rounds = [int(number)] if colon and number.isdecimal() else run.rounds()
    for example in examples(run, kind, [r for r in rounds if r in run.rounds()]):
        if is_named(name, example):
            return example
    raise CommandError(
        f'there is no {kind.removesuffix("s")} "{name}"',
        where=str(run.path),
        why="\n".join(elsewhere(run, kind, run.rounds())),
        fix=f"selfalign {kind} ls {run.path}",
        code=USAGE,
    )


def is_named(name: str, item: Named) -> bool:
    """Whether a name is round:position of an item of a list, or the beginning of its prompt's id."""
    return item.id == name or (len(name) >= 4 and ":" not in name and item.prompt.id.startswith(name))


def elsewhere(run: Run, kind: str, rounds: Sequence[int]) -> list[str]:
    """What those of the rounds hold that hold another kind, each with the command that lists it."""
    lines = []
    for other, numbers in held(run).items():
        there = [number for number in numbers if number in rounds]
        if other != kind and there:
            which = f"round {there[0]} holds" if len(there) == 1 else f"rounds {', '.join(map(str, there))} hold"
            lines.append(f"{which} {other}:  selfalign {other} ls {run.path}")
    return lines


# Showing.


def print_list(
    run: Run,
    kind: str,
    found: Iterator[Listed],
    *,
    rounds: Sequence[int] = (),
    limit: int,
    json: bool,
    columns: Sequence[str],
    right: Sequence[str],
    line: Callable[[Listed], Sequence[Any]],
    row: Callable[[Listed], Mapping[str, Any]],
) -> None:
    """Print the first `limit` of what was found, as a table or as JSON, and say what to type next.

    With `rounds`, say too what other kinds of example they hold.
    """
    shown = list(islice(found, limit or None))
    if json:
        print_json([row(example) for example in shown])
    elif shown:
        print_table(columns, map(line, shown), right=right)
    if not json and limit and next(found, None) is not None:
        say(f"the first {limit}; -n 0 lists all")
    if not shown:
        say(f"no {kind.removesuffix('s')} like that in {run.path}")
    for other in elsewhere(run, kind, rounds):
        say(other)
    if shown and not json:
        say(f"next:  selfalign {kind} show {run.path} {shown[0].id}")


def conversation(prompt: Prompt) -> Iterator[Text]:
    """A prompt, ready to print."""
    for message in prompt.messages:
        yield Text(f"\n{message.role}", style="bold dim")
        yield Text(clean(message.content))


def answer_text(answer: Candidate) -> Text:
    return Text(clean(answer.text) or "(empty)")


def cells(texts: Iterable[str]) -> tuple[str, ...]:
    """Texts as cells of a list."""
    return tuple(one_line(text, CELL) or "(empty)" for text in texts)


def verdicts(judgments: Iterable[Judgment], names: Mapping[str, str]) -> Iterator[Text]:
    """One line a verdict, by principle: which answer (by `names`) was shown first, which one won, how surely."""
    order = {name: place for place, name in enumerate(names)}

    def place(judgment: Judgment) -> tuple[str, int]:
        return judgment.principle_id, order.get(judgment.first_id, len(order))

    for judgment in sorted(judgments, key=place):
        first, second = names.get(judgment.first_id, "another"), names.get(judgment.second_id, "another")
        principle = f"  {one_line(judgment.principle_id):<18}"
        if not judgment.second_id:
            rating = f"rated {judgment.rating:.2f}" if judgment.rating is not None else _unrated(judgment)
            yield Text(f"{principle} {first}: {rating}")
        else:
            winner = {"first": first, "second": second}.get(judgment.verdict, _unrated(judgment))
            surely = f", p(first) {judgment.p_first:.3f}" if judgment.p_first is not None else ""
            yield Text(f"{principle} shown {first} then {second}: {winner}{surely}")
        if judgment.reason:
            yield Text(f"{'':<20} {one_line(judgment.reason, REASON)}", style="dim")


def _unrated(judgment: Judgment) -> str:
    """A verdict that prefers no answer, and where it is invalid, why."""
    return f"{judgment.verdict} ({judgment.invalid_reason})" if judgment.invalid_reason else judgment.verdict


def lineage(run: Run, kind: Kind, example: Example[Any], sampled_by: str) -> dict[str, Any]:
    """Where an example comes from: its policy, judges and source, and the steps of its round with their digests."""
    names = ("prompts", "candidates", "judgments", kind, "policy")
    steps = {name: run.view(f"rounds/{example.round:03d}/{name}") for name in names}
    return {
        "policy_id": sampled_by,
        "judge_ids": sorted({judgment.judge_id for judgment in example.judgments}),
        "source": example.prompt.source,
        "trained": steps["policy"] is not None and steps["policy"].done,
        "steps": {name: step.digest for name, step in steps.items() if step is not None and step.done},
    }


def lineage_lines(facts: Mapping[str, Any]) -> Iterator[Text]:
    """A lineage, ready to print; a digest keeps to one line of 80 columns."""
    yield Text("\nlineage", style="bold dim")
    said = {name: one_line(_said(value)) for name, value in facts.items() if name != "steps"}
    steps = {name: digest.removeprefix("step:") for name, digest in facts["steps"].items()}
    yield from (Text(f" {name:<14} {value}") for name, value in (said | steps).items() if value)


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {item}" for name, item in value.items() if item is not None)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
