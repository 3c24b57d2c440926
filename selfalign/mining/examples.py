"""Whether a judge agrees with the examples that a constitution gives: each is a preference that its author stated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from selfalign import source
from selfalign.config import Judge
from selfalign.constitution import Constitution, load
from selfalign.constitution.lint import Finding, Severity
from selfalign.constitution.model import AppliesWhen
from selfalign.engines.base import Engine
from selfalign.mining.evidence import Preference
from selfalign.mining.proposals import Told
from selfalign.mining.votes import ask
from selfalign.records import Message, Prompt, digest


@dataclass(frozen=True)
class Stated:
    """An example of an active principle: where it stands (line from 1), and what it prefers.

    The prompt's only tag is the id of the principle.
    """

    file: str
    line: int | None
    principle: str
    number: int
    preference: Preference


def stated(path: Path) -> list[Stated]:
    """The examples in one file, in its order; not those of what it extends. Raises InputError for a refused file."""
    active = {principle.id for principle in load(path).active}
    document = source.read_yaml(source.read_text(path), str(path))
    return [
        Stated(str(path), document.line(("principles", index, "examples", n)), said["id"], n + 1, _preference(said, n))
        for index, said in enumerate(document.value.get("principles", ()))
        if said["id"] in active
        for n in range(len(said.get("examples", ())))
    ]


def _preference(said: dict[str, Any], number: int) -> Preference:
    """One example under an id of its own: two principles may share one, and each is asked about it apart."""
    example = said["examples"][number]
    prompt = Prompt.make((Message("user", example["prompt"]),))
    own = replace(prompt, id=digest("example", said["id"], number), tags=(said["id"],))
    return Preference(own, example["better"], example["worse"])


def disagreements(path: Path, engine: Engine, settings: Judge, *, seed: int, told: Told) -> list[Finding]:
    """Where a judge differs from the examples of a file, each shown in both orders under its own principle alone.

    A warning where the judge prefers the worse answer; a note where it contradicts itself over the orders, sees no
    difference, or gives no valid verdict. Scopes are left aside: an example is within its principle's by being there.
    """
    found = stated(path)
    if not found:
        return []
    constitution = _by_their_own(load(path), {example.principle for example in found})
    rows = {principle.id: k for k, principle in enumerate(constitution.principles)}
    pairs = [example.preference for example in found]
    told("examples", 0, len(pairs))
    votes = ask(constitution, pairs, engine, settings, seed=seed, told=lambda n: told("examples", n, len(pairs)))
    p = votes.p[[rows[example.principle] for example in found], range(len(found))]
    return list(_findings(found, p))


def _by_their_own(constitution: Constitution, wanted: set[str]) -> Constitution:
    """The principles that have examples, each applying to the prompts of its own ones."""
    kept = (principle for principle in constitution.active if principle.id in wanted)
    scoped = tuple(replace(p, applies_when=AppliesWhen(prompt_tags=(p.id,)), yields_to=()) for p in kept)
    return replace(constitution, principles=scoped)


def _findings(found: Sequence[Stated], p: np.ndarray) -> Iterator[Finding]:
    """`p` [N, 2]: the probability of the better answer, shown first and shown second."""
    for example, both in zip(found, p, strict=True):
        if said := _said(example.preference, both):
            rule, severity, message, fix = said
            yield Finding(
                file=example.file, line=example.line, severity=severity, rule=rule, principle=example.principle,
                message=f"{example.principle}.examples {example.number}: {message}", fix=fix,
            )  # fmt: skip


def _said(stated: Preference, p: np.ndarray) -> tuple[str, Severity, str, str] | None:
    """The rule, how bad it is, what the judge does and what to do; None where it agrees with the example."""
    if stated.chosen == stated.rejected:
        return "judge-invalid", "note", "the better and the worse answer are the same text", "Let them differ."
    if np.isnan(p).any():
        fix = "Shorten the example, or ask a judge that answers by the labels of the template."
        return "judge-invalid", "note", "the judge gives no valid verdict", fix
    shown = f"{p[0]:.2f} with the better one shown first, {p[1]:.2f} with it second"
    if p.min() < 0.5 < p.max():
        message = f"the judge contradicts itself over the orders (probability of the better answer: {shown})"
        return "judge-contradicts", "note", message, "Make the words of the principle or the example plainer."
    if p.max() <= 0.5 and p.min() < 0.5:
        message = f"the judge prefers the worse answer with probability {1 - p.mean():.2f}"
        return "judge-prefers-worse", "warning", message, "Say in the principle what decides it, or ask another judge."
    if p.max() == 0.5:
        return "judge-undecided", "note", "the judge sees no difference", "Say in the principle what decides it."
    return None
