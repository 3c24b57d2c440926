"""What the pages say of PPO's guard: the reward that was optimised beside a judge that the policy was not to please."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from selfalign.records import Guarded, Look
from selfalign.stages.report import truth
from selfalign.stages.report.document import Block, Figure, Heading, Paragraph
from selfalign.stages.report.plots import Mark, Panel, Point, Series, panels
from selfalign.store import Run

FILE = "guard.json"
_CHART = "Reward against the judge, by iteration"


def read(run: Run, number: int) -> Guarded | None:
    """What the guard of a round has seen; None where there was none."""
    name = f"rounds/{number:03d}/{FILE}"
    return msgspec.convert(run.read_json(name), Guarded) if (run.path / name).exists() else None


def blocks(run: Run, number: int, made: Sequence[Mapping[str, Any]]) -> list[Block]:
    """The section on the guard of a round; nothing where there was none. `made` are the metrics of its steps."""
    found = read(run, number)
    return section(found, _by_iteration(made), truth.of_iterates(truth.gold(run), number)) if found is not None else []


def section(
    found: Guarded, made: Mapping[int, Mapping[str, Any]], gold: Mapping[int, Mapping[str, float]]
) -> list[Block]:
    said = Paragraph(outcome(found), "bad" if found.stopped is not None else "good")
    return [Heading("The guard", 3), said, Figure(chart(found, made, gold), words(found, made, gold))]


def outcome(found: Guarded) -> str:
    """How it ended, in words."""
    if found.stopped is None:
        best = next(look for look in found.looks if look.iteration == found.best)
        return (
            f"The judge did not turn against the reward. It looked {len(found.looks)} times, and liked iteration "
            f"{found.best} best: a win rate against the base of {_shown(best)}."
        )
    kept = f"the weights of iteration {found.best}" if found.best else "the weights that the round began with"
    return f"Training was stopped in iteration {found.ended}, and {kept} are kept: {found.stopped}."


def chart(found: Guarded, made: Mapping[int, Mapping[str, Any]], gold: Mapping[int, Mapping[str, float]]) -> str:
    """The reward above, what the judge and, where it is known, the truth say below; the KL under the iterations."""
    last = max([*made, *(look.iteration for look in found.looks), found.ended or 0])
    scores = tuple(Point(at, float(step["objective/scores"])) for at, step in made.items())
    judged = tuple(Point(look.iteration, look.rate, look.low, look.high) for look in found.looks)
    truths = tuple(Point(at, values["gold"]) for at, values in sorted(gold.items()) if "gold" in values)
    below = [Series("win rate", judged), *([Series("gold", truths)] if truths else [])]
    kls = [f"{round(made[at]['objective/kl'], 1) + 0.0:.1f}" if at in made else "" for at in range(last + 1)]
    return panels(
        _CHART,
        [list(map(str, range(last + 1))), kls],
        "iteration, and under it the KL, nats per answer",
        [
            Panel("Mean reward of the rollouts", [Series("score", scores)]),
            Panel("Held-out judge: win rate against the base", below, 0.5, 0.1),
        ],
        _marks(found),
    )


def words(found: Guarded, made: Mapping[int, Mapping[str, Any]], gold: Mapping[int, Mapping[str, float]]) -> str:
    """The same in words."""
    said = []
    for look in found.looks:
        parts = [f"win rate {_shown(look)}"]
        if look.iteration in made:
            parts.append(f"score {made[look.iteration]['objective/scores']:.3g}")
        if "gold" in gold.get(look.iteration, {}):
            parts.append(f"gold {gold[look.iteration]['gold']:.3f}")
        said.append(f"iteration {look.iteration}: {', '.join(parts)}")
    return f"{_CHART}: {'; '.join(said)}."


def _marks(found: Guarded) -> list[Mark]:
    if found.stopped is None or found.ended is None:
        return []
    return [Mark(found.best, f"kept: {found.best}", "kept"), Mark(found.ended, "stopped", "stopped")]


def _by_iteration(made: Sequence[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    """The first step of each iteration: what it says of the rollouts is true of all."""
    found: dict[int, Mapping[str, Any]] = {}
    for step in made:
        if isinstance(step.get("iteration"), int | float):
            found.setdefault(int(step["iteration"]), step)
    return found


def _shown(look: Look) -> str:
    return f"{look.rate:.3f} ({look.low:.3f} to {look.high:.3f})"
