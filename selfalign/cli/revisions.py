"""`selfalign revisions`: what became of the answers that the policy criticised and rewrote before the first round."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Any

from cyclopts import App
from rich.text import Text

from selfalign.cli.arguments import Json, Limit, RunName, Runs
from selfalign.cli.errors import USAGE, CommandError
from selfalign.cli.examples import answer_text, cells, conversation, is_named, print_list
from selfalign.cli.output import is_plain, print_json, print_parts
from selfalign.cli.targets import RUNS, find_run
from selfalign.records import Candidate, Prompt, Revision
from selfalign.rewording import diff
from selfalign.stages import revise
from selfalign.store import Run, Step
from selfalign.text import clean, one_line

app = App(
    name="revisions",
    help="List and show critiques and revisions.",
    help_format="plaintext",
    result_action="return_value",
)


@dataclass(frozen=True, slots=True)
class Chain:
    """A first answer with its revisions so far, by step. `id` is round:position, short enough to type."""

    id: str
    prompt: Prompt
    answer: Candidate
    revisions: tuple[Revision, ...]

    @property
    def texts(self) -> dict[str, str]:
        return revise.texts_by_id([self.answer], self.revisions)

    def outcome(self, revision: Revision) -> str:
        """ "revised", or why the revision is not trained on, as a key of `revise.DISCARDS`."""
        unchanged = "unchanged" if revise.is_unchanged(revision, self.texts) else None
        return revise.failure(revision) or unchanged or "revised"

    def last(self) -> Candidate:
        return revise.last_good(self.answer, self.revisions)


def revision_steps(run: Run) -> list[Step]:
    """The steps of critique and revision that were begun, in order."""
    steps = (run.view(f"rounds/000/steps/{number}/revisions") for number in count(1))
    return list(takewhile(lambda step: step is not None, steps))


def chains(run: Run) -> Iterator[Chain]:
    """The chains of a run, one shard of records in memory at a time."""
    steps = revision_steps(run)
    prompts, answers = (_input(run, steps, kind) for kind in ("prompts", "candidates"))
    if prompts is None or answers is None:
        return
    position = 0
    for index, candidates in answers.shards(Candidate):
        asked = {prompt.id: prompt for prompt in prompts.read(Prompt, index)}
        begun = list(takewhile(lambda step, index=index: index not in step.pending(index + 1), steps))
        made = revise.by_answer(revision for step in begun for revision in step.read(Revision, index))
        for answer in candidates if begun else ():
            revisions = tuple(made.get(answer.id, ()))
            yield Chain(f"0:{position}", asked[answer.prompt_id], answer, revisions)
            position += 1


def _input(run: Run, steps: list[Step], kind: str) -> Step | None:
    """The step of prompts or candidates that the first revisions were made from: its name stands in their lineage."""
    names = [name for step in steps[:1] for name in step.inputs if name.split("/")[-1] == kind]
    return run.view(names[0]) if names else None


@app.command
def ls(
    run: RunName,
    /,
    *,
    principle: str | None = None,
    limit: Limit = 20,
    json: Json = False,
    runs: Runs = RUNS,
) -> int:
    """List the answers that were criticised and rewritten, with what became of them.

    Parameters
    ----------
    principle
        Only answers criticised under this principle (its id).
    """
    opened = find_run(run, runs)
    found = (chain for chain in chains(opened) if principle is None or principle in _principles(chain))
    columns = ("answer", "revised", "principles", "prompt", "first answer", "last answer")
    print_list(
        opened, "revisions", found, limit=limit, json=json, line=_line, row=as_row, columns=columns, right=("revised",)
    )
    return 0


@app.command
def show(run: RunName, answer: str, /, *, json: Json = False, runs: Runs = RUNS) -> int:
    """Show how one answer was rewritten: the prompt, the answer, then each principle, critique and revision.

    On a terminal, what a revision took away is struck out, and what it added is green.

    Parameters
    ----------
    answer
        The answer, as `revisions ls` names it (0:17), or the beginning of its prompt's id.
    """
    opened = find_run(run, runs)
    chain = _find(opened, answer)
    if json:
        print_json({**as_row(chain), "lineage": lineage(opened)})
        return 0
    print_parts(_sheet(opened, chain, coloured=not is_plain(sys.stdout)))
    return 0


def as_row(chain: Chain) -> dict[str, Any]:
    """Everything about a chain, its steps as a list."""
    return {
        "id": chain.id,
        "prompt_id": chain.prompt.id,
        "candidate_id": chain.answer.id,
        "policy_id": chain.answer.policy_id,
        "tags": list(chain.prompt.tags),
        "messages": chain.prompt.messages,
        "answer": chain.answer.text,
        "last": chain.last().text,
        "skipped": None if chain.revisions else revise.why_skipped(chain.answer),
        "steps": [
            {
                "step": revision.step,
                "id": revision.id,
                "before_id": revision.before_id,
                "principle_id": revision.principle_id,
                "critique": revision.critique,
                "critique_finish": revision.critique_finish,
                "revision": revision.text,
                "finish_reason": revision.finish_reason,
                "num_tokens": len(revision.token_ids),
                "outcome": chain.outcome(revision),
            }
            for revision in chain.revisions
        ],
    }


def lineage(run: Run) -> dict[str, str]:
    """The digests of the finished steps that the revisions of a run come from."""
    steps = revision_steps(run)
    earlier = [_input(run, steps, kind) for kind in ("prompts", "candidates")]
    return {step.name: step.digest for step in (*earlier, *steps) if step is not None and step.done}


def _find(run: Run, name: str) -> Chain:
    for chain in chains(run):
        if is_named(name, chain):
            return chain
    raise CommandError(
        f'there is no revised answer "{name}"',
        where=str(run.path),
        fix=f"selfalign revisions ls {run.path}",
        code=USAGE,
    )


def _principles(chain: Chain) -> list[str]:
    return [revision.principle_id for revision in chain.revisions]


def _line(chain: Chain) -> tuple[Any, ...]:
    revised = sum(chain.outcome(revision) == "revised" for revision in chain.revisions)
    texts = (chain.prompt.messages[-1].content, chain.answer.text, chain.last().text)
    return (
        chain.id,
        f"{revised}/{len(chain.revisions)}",
        ", ".join(_principles(chain)) or f"({revise.why_skipped(chain.answer)})",
        *cells(texts),
    )


def _sheet(run: Run, chain: Chain, *, coloured: bool) -> Iterator[Text]:
    """The parts of `revisions show`, ready to print: foreign text only ever as cleaned rich Text."""
    yield Text(f"answer {chain.id}", style="bold")
    yield from conversation(chain.prompt)
    yield Text(f"\nfirst answer  ({_facts(chain.answer)})", style="bold")
    yield answer_text(chain.answer)
    if not chain.revisions:
        yield Text(_said(revise.why_skipped(chain.answer)), style="yellow")
    for revision in chain.revisions:
        yield from _step(chain, revision, coloured=coloured)
    yield Text("\nlineage", style="bold dim")
    for name, digest in lineage(run).items():
        yield Text(f"  {name:<28} {digest}")


def _step(chain: Chain, revision: Revision, *, coloured: bool) -> Iterator[Text]:
    principle, outcome = one_line(revision.principle_id), chain.outcome(revision)
    yield Text(
        f"\nstep {revision.step}  critique under {principle}  ({one_line(revision.critique_finish)})", style="bold"
    )
    yield Text(clean(revision.critique) or "(empty)")
    yield Text(f"\nstep {revision.step}  revision  ({_facts(revision.candidate())})", style="bold")
    before = chain.texts[revision.before_id]
    yield (diff(before, revision.text) if coloured and revision.text else Text(clean(revision.text) or "(empty)"))
    if outcome != "revised":
        yield Text(_said(outcome), style="yellow")


def _facts(candidate: Candidate) -> str:
    return f"{len(candidate.token_ids)} tokens, {one_line(candidate.finish_reason)}"


def _said(reason: str) -> str:
    return f"not trained on: {revise.DISCARDS[reason]}"
