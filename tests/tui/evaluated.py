"""Runs with what an evaluation leaves behind: held-out prompts, each policy's answers, and the judge's verdicts."""

from __future__ import annotations

from selfalign.records import Candidate, Judgment, Message, Prompt
from selfalign.store import Run


def evaluate(run: Run, prompts: list[str], rounds: int, *, shard: int = 2, tail: str = "") -> list[Prompt]:
    """Let the base policy and every round answer some prompts; each round's answer is better than those before it."""
    asked = [Prompt.make((Message("user", words),), split="heldout") for words in prompts]
    with run.lock():
        _write(run, "baseline/prompts", _cut(asked, shard))
        answers = {None: _answered(run, None, asked, shard, tail)}
        for number in range(rounds):
            answers[number] = _answered(run, number, asked, shard, tail)
            said = []
            for old in dict.fromkeys((number - 1 if number else None, None)):
                pairs = zip(answers[number], answers[old], strict=True)
                said += _cut([[_verdict(a, b, 0.8), _verdict(b, a, 0.4)] for a, b in pairs], shard)
            _write(run, f"rounds/{number:03d}/heldout/judgments", [[j for two in part for j in two] for part in said])
    return asked


def _answered(run: Run, number: int | None, asked: list[Prompt], shard: int, tail: str) -> list[Candidate]:
    name = "base" if number is None else f"round {number}"
    step = "baseline/candidates" if number is None else f"rounds/{number:03d}/heldout/candidates"
    rows = [
        Candidate(f"{p.id} {name}", p.id, name, 0, 0, f"To {p.messages[0].content} says {name}.{tail}", (1, 2), "stop")
        for p in asked
    ]
    _write(run, step, _cut(rows, shard))
    return rows


def _cut(rows: list, size: int) -> list[list]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _write(run: Run, name: str, shards: list[list]) -> None:
    step = run.step(name, inputs={}, config={})
    for index, rows in enumerate(shards):
        step.write(index, rows)
    step.finish({})


def _verdict(first: Candidate, second: Candidate, p: float) -> Judgment:
    identity = f"{first.id} {second.id}"
    asked = (first.prompt_id, first.id, second.id, "kind", "hash", "judge", "template")
    return Judgment(identity, *asked, "first" if p > 0.5 else "second", p)
