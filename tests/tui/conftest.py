"""Runs to look at, and a reader that looks at them without a terminal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from textual.pilot import Pilot

from selfalign.tui.app import Reader
from selfalign.tui.page import Page, Place
from selfalign.tui.pictures import settled
from selfalign.tui.reading import Library
from tests.cli.fabricate import make_mixed_run, make_run

Look = Callable[[Pilot[None]], Awaitable[None]]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs `sample`, `other`, `mixed` and `midway`, never written by tests."""
    root = tmp_path_factory.mktemp("made")
    make_run(root)
    make_run(root, "other", seed=3, rejected=True)
    make_mixed_run(root)
    make_run(root, "midway", finished=False)
    return root / "runs"


def look(runs: Path, at: Look, *, run: str | None = None, size: tuple[int, int] = (120, 40)) -> None:
    """Start a reader of a folder of runs, at one of them if it is named, and do what `at` does with it."""

    async def main() -> None:
        path = runs / run if run is not None else None
        app = Reader(Library(runs, path), Place(path))
        async with app.run_test(size=size) as pilot:
            await settled(pilot)
            await at(pilot)

    asyncio.run(main())


async def press(pilot: Pilot[None], *keys: str) -> None:
    """Press keys, and wait after each until what it led to was read."""
    for key in keys:
        await pilot.press(key)
        await settled(pilot)


async def until(pilot: Pilot[None], true: Callable[[], bool]) -> None:
    """Wait until something is so, for at most twenty seconds."""
    for _ in range(2000):
        if true():
            return
        await pilot.pause(0.01)
    raise AssertionError(f"this did not come about:\n{screen_of(pilot)}")


def screen_of(pilot: Pilot[None]) -> str:
    """What stands on the screen, line by line."""
    strips = pilot.app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip) for strip in strips)


def page_of(pilot: Pilot[None]) -> Page:
    assert isinstance(pilot.app.screen, Page)
    return pilot.app.screen
