"""A model that a command asks outside of any campaign's stages: found, opened in a worker, and its progress told."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfalign import config
from selfalign.cli.arguments import Backend
from selfalign.cli.errors import USAGE, CommandError
from selfalign.cli.output import is_plain, say
from selfalign.cli.workload import model_folder
from selfalign.engines.base import Engine
from selfalign.mining import Told
from selfalign.preflight import HUB_NAME, model_problems
from selfalign.units import counted

PLAIN_SECONDS = 10.0  # between lines of progress
DOING = {
    "propose": "asking what may explain each pair",
    "vote": "judging the pairs by each rule",
    "examples": "judging the examples",
}


@dataclass(frozen=True)
class Asked:
    """What is asked: `name` as people call it, `path` where it is, and the settings of its engine and its questions."""

    name: str
    path: str
    campaign: config.Campaign


def asked(campaign: config.Campaign, backend: Backend) -> Asked:
    """The judge of some settings, run by `backend` if one is named. Raises CommandError for no such model."""
    judge = campaign.judge
    engine = replace(campaign.engine, backend=backend) if backend else campaign.engine
    path = judge.model if judge.model.startswith("openai:") else _local(judge)
    return Asked(judge.model, path, replace(campaign, engine=engine))


def _local(judge: config.Judge) -> str:
    """The folder of a model, or its name on the Hub. Raises CommandError for what can be neither."""
    folder = model_folder(judge.model)
    problems = list(model_problems(folder, trust_remote_code=judge.trust_remote_code)) if folder else []
    if problems:
        why, fix = problems[0]
        raise CommandError(f'"{judge.model}" cannot be asked', where=str(folder), why=why, fix=fix, code=USAGE)
    if folder is None and not HUB_NAME.fullmatch(judge.model):
        fix = "name a folder that exists, a name on the Hub such as Qwen/Qwen3-8B, or openai:NAME"
        raise CommandError(f'there is no model "{judge.model}"', fix=fix, code=USAGE)
    return str(folder or judge.model)


@contextmanager
def opened(who: Asked) -> Iterator[Engine]:
    """The model, in a worker that ends with us; its log lies in a folder that is removed."""
    from selfalign.launch.local import LocalWorkers

    judge = who.campaign.judge
    with tempfile.TemporaryDirectory() as folder, LocalWorkers(who.campaign, Path(folder)) as workers:
        if who.path.startswith("openai:"):
            yield workers.api(judge)
        else:
            yield workers.engine(who.path, trust_remote_code=judge.trust_remote_code)


@contextmanager
def progress() -> Iterator[Told]:
    """A bar on a terminal, elsewhere a line every ten seconds."""
    if is_plain(sys.stderr):
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(file=sys.stderr)) as bars:
        tasks: dict[str, Any] = {}

        def told(doing: str, done: int, total: int) -> None:
            if doing not in tasks:
                tasks[doing] = bars.add_task(DOING[doing], total=total)
            bars.update(tasks[doing], completed=done, total=total)

        yield told


class _Lines:
    """Progress as lines: at the end of each part, and every ten seconds on the way."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def __call__(self, doing: str, done: int, total: int) -> None:
        if done == total or time.monotonic() - self._said > PLAIN_SECONDS:
            self._said = time.monotonic()
            say(f"{DOING[doing]}: {counted(done, total, '')}")
