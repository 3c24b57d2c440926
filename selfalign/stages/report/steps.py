"""The steps of a round as the report tells of them: which stage each belongs to, and how long the stages took."""

from __future__ import annotations

from selfalign.store import Run, Step
from selfalign.store.audit import step_names

STAGE_OF = {
    "prompts": "prompts",
    "candidates": "generate",
    "revisions": "revise",
    "judgments": "judge",
    "pairs": "pairs",
    "rankings": "pairs",
    "demonstrations": "pairs",
    "reward_model": "reward",
    "rewards": "reward",
    "policy": "train",
    "heldout": "evaluate",
}
_STAGES = list(dict.fromkeys(STAGE_OF.values()))


def finished(run: Run, number: int) -> list[tuple[str, Step]]:
    """The finished steps of a round with their stages, in the order of the stages."""
    folder = f"rounds/{number:03d}/"
    names = [name.removeprefix(folder) for name in step_names(run.path) if name.startswith(folder)]
    found = [(stage, run.view(folder + name)) for name in names if (stage := _stage(name)) is not None]
    done = [(stage, step) for stage, step in found if step is not None and step.done]
    return sorted(done, key=lambda item: (_STAGES.index(item[0]), item[1].name))


def seconds(run: Run, number: int) -> dict[str, float]:
    """How long each finished stage of a round took, in seconds, by its steps' own account."""
    total: dict[str, float] = {}
    for stage, step in finished(run, number):
        if "/rollouts/" in step.name:  # the seconds of the training that asked for them hold theirs
            continue
        total[stage] = total.get(stage, 0.0) + float(step.counts.get("seconds", 0.0))
    return total


def _stage(name: str) -> str | None:
    """The stage of a step by its name within its round; steps/2/revisions belongs to that of all revisions.

    The answers of rollouts, whose digests are made from their prompts', belong to the training, and so do the rewards
    that a judge gave them; what its guard looked at is left out.
    """
    if name.startswith("canaries/"):
        return "judge"
    if name.startswith("rollouts/"):
        return "train" if name.endswith(("/candidates", "/rewards")) and "/heldout/" not in name else None
    return STAGE_OF.get("heldout" if name.startswith("heldout/") else name.rpartition("/")[2])
