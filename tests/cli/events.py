"""A recorded stream of events: a base sample, one whole round, and a second one stopped in training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

HOSTILE = "\x1b]52;c;aGk=\x07[/INST] [bold]not markup[/] \x1b[2J\u202etxt"


def stream() -> Iterator[dict[str, Any]]:
    clock = 1_700_000_000.0

    def at(after: float, event: str, **fields: Any) -> dict[str, Any]:
        nonlocal clock
        clock += after
        return {"time": clock, "event": event, **fields}

    def stage(
        round: int | None, name: str, total: int, unit: str, tick: float, counts: dict[str, Any], reused: int = 0
    ) -> Iterator[dict[str, Any]]:
        where = {"round": round, "stage": name, "step": f"{round}/{name}"}
        yield at(0.1, "stage_started", **where, total=total, unit=unit, reused=reused)
        begun, step = clock, (total - reused) / 8
        for index in range(1, 9):
            yield at(tick, "progress", **where, done=reused + int(step * index), total=total, unit=unit)
        yield at(0.1, "stage_done", **where, seconds=clock - begun, counts=counts)

    yield at(0, "campaign_started", rounds=3)
    yield from stage(None, "generate", 128, "prompts", 0.7, {"candidates": 128})
    for number in (0, 1):
        yield at(0.1, "round_started", round=number)
        yield at(0.1, "stage_started", round=number, stage="prompts", total=4, unit="shards")
        yield at(0.2, "stage_done", round=number, stage="prompts", seconds=0.2, counts={"prompts": 256})
        yield from stage(
            number, "generate", 256, "prompts", 4.1, {"candidates": 1024, "duplicates": 31, "truncated": 0}
        )
        yield from stage(
            number, "judge", 6000, "judgments", 6.3, {"judgments": 6000, "invalid": 12}, reused=4120 if number else 0
        )
        yield from stage(
            number, "pairs", 4, "shards", 0.05, {"pairs": 201, "discarded": {"small margin": 41, "tie": 14}}
        )
        yield at(0.1, "stage_started", round=number, stage="train", total=40, unit="steps")
        for step in range(1, 41):
            metrics = {
                "loss": 0.693 - 0.009 * step,
                "rewards/accuracies": 0.5 + 0.01 * step,
                "rewards/margins": 0.02 * step,
            }
            yield at(1.1, "train_step", round=number, step=step, total=40, metrics=metrics)
            if number == 1 and step == 23:
                yield at(0.1, "warning", message=f"chosen rewards fall while the margin rises {HOSTILE}")
                return
        yield at(0.1, "stage_done", round=number, stage="train", seconds=44.1, counts={"steps": 40})
        yield at(2.0, "proof", round=number, mean_abs_difference=0.0004, bound=0.02)
        yield from stage(number, "evaluate", 128, "prompts", 2.2, {"win rate": 0.61})
        yield at(
            0.1, "gate", round=number, accepted=True, reason="win rate 0.61 (0.55 to 0.67) against the previous policy"
        )
        yield at(0.1, "round_done", round=number)
