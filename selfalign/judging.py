"""The steps of judging: one for a judge alone; for a panel one for each judge, and one that puts them together.

Every judge of a panel answers all questions before the next is asked, so that a model is loaded once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from selfalign import config
from selfalign.engines.base import Engine
from selfalign.records import Checkpoint, Judgment
from selfalign.roles import Baseline, judge_models
from selfalign.stages import judge
from selfalign.steps import Shards, Work, perform
from selfalign.store import Step

# The indexes of shards, how to open the judge's engine, its settings and its identity -> what it says, shard by shard.
Ask = Callable[[list[int], Callable[[], Engine], config.Judge, str], Shards]


def perform_judging(
    work: Work,
    stage: str,
    name: str,
    ask: Ask,
    settings: config.Judge,
    policy: Checkpoint,
    baseline: Baseline,
    *,
    after: Sequence[Step],
    inputs: Mapping[str, str],
    config: Sequence[Any],
    num_shards: int | None = None,
    round: int | None = None,
    told: bool = True,
    check: bool = True,
) -> Step:
    """Make sure that all judges have answered, and return the step `name` with what they said, judge after judge.

    `config` is what else the answers hang on. Raises StageError where too many of one judge's verdicts are invalid,
    unless that is not to be checked.
    """
    members = judge_models(work, settings, policy, baseline)
    common = {"round": round, "told": told, "count": lambda _, rows: judge.count_verdicts(rows)}
    said = []
    for place, (member, (judge_id, open_engine)) in enumerate(members):
        own = name if len(members) == 1 else _of_member(name, place)
        step = perform(
            work, stage, own, lambda missing, one=(open_engine, member, judge_id): ask(missing, *one),
            num_shards=num_shards, after=after, inputs={**inputs, "judge": judge_id}, config=[member, *config],
            **common,
        )  # fmt: skip
        if check:
            judge.check_invalid_share(step.counts, member.max_invalid)
        said.append(step)
    if len(said) == 1:
        return said[0]
    return perform(
        work, stage, name, lambda missing: _together(missing, said), num_shards=said[0].num_shards,
        after=[*said, *after], inputs=inputs, **common,
    )  # fmt: skip


def _of_member(name: str, place: int) -> str:
    """rounds/000/panel/1/judgments beside rounds/000/judgments."""
    folder, _, last = name.rpartition("/")
    return f"{folder}/panel/{place}/{last}"


def _together(missing: list[int], said: Sequence[Step]) -> Generator[tuple[int, list[Judgment]], None, None]:
    for index in missing:
        yield index, [judgment for step in said for judgment in step.read(Judgment, index)]
