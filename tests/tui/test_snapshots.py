"""A few screens, letter by letter, as they are kept in `snapshots/`.

A screen was changed on purpose? Draw all of them anew, and look at the difference before it is committed:

    SELFALIGN_SNAPSHOTS=renew python -m pytest tests/tui/test_snapshots.py && git diff tests/tui/snapshots

Textual and rich may draw the same screen otherwise in another version: with others than made the snapshots
(`snapshots/made_with.txt`), these tests are skipped.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from textual.pilot import Pilot

from selfalign.store.run import EVENTS
from selfalign.tui.reading import Watched
from tests.cli.events import stream
from tests.cli.fabricate import make_run
from tests.tui.conftest import look, press, screen_of

FOLDER = Path(__file__).parent / "snapshots"
MADE_WITH = FOLDER / "made_with.txt"
RENEW = os.environ.get("SELFALIGN_SNAPSHOTS") == "renew"
NOW = 1_700_003_600.0
# the keys that lead to each from the one before
SCREENS: dict[str, tuple[str, ...]] = {"campaigns": (), "campaign": ("2",), "pairs": ("4", "g"), "pair": ("enter",)}


def versions() -> str:
    return "".join(f"{name} {version(name)}\n" for name in ("textual", "rich"))


def skip_if_drawn_otherwise() -> None:
    known = MADE_WITH.read_text() if MADE_WITH.exists() else ""
    if versions() != known and not RENEW:
        pytest.skip(f"snapshots are of {known.split()}, here is {versions().split()}; see {Path(__file__).name}")


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs `sample`, finished, and `midway`, dead, whose events are of a time long ago."""
    root = tmp_path_factory.mktemp("still")
    for name, finished in (("sample", True), ("midway", False)):
        path = make_run(root, name, finished=finished).path / EVENTS
        times = [event["time"] for event in stream()]
        events = [json.loads(line) for line in path.read_text().splitlines()]
        for index, event in enumerate(events):
            event["time"] = times[min(index, len(times) - 1)]
        path.write_text("".join(f"{json.dumps(event)}\n" for event in events))
    return root


@pytest.fixture
def frozen(still: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock, its zone, sizes on disk and where the runs are: what differs between machines and moments."""
    monkeypatch.chdir(still)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.setattr(time, "time", lambda: NOW)
    monkeypatch.setattr(Watched, "disk", property(lambda run: 12_300_000, lambda run, measured: None), raising=False)


@pytest.mark.usefixtures("frozen")
@pytest.mark.parametrize("size", [(80, 24), (160, 50)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_screens_look_as_they_did(size: tuple[int, int]) -> None:
    skip_if_drawn_otherwise()
    differences = []

    async def at(pilot: Pilot[None]) -> None:
        for name, keys in SCREENS.items():
            await press(pilot, *keys)
            path = FOLDER / f"{name}-{size[0]}x{size[1]}.txt"
            known = "" if RENEW or not path.exists() else path.read_text(encoding="utf-8")
            found = await drawn(pilot, known)
            if RENEW:
                path.write_text(found, encoding="utf-8")
            elif found != known:
                lines = difflib.unified_diff(known.splitlines(), found.splitlines(), path.name, "now", lineterm="", n=1)
                differences.append("\n".join(lines))

    look(Path("runs"), at, run=None, size=size)
    if RENEW:
        MADE_WITH.write_text(versions())
    assert not differences, "\n\n".join([*differences, (__doc__ or "").partition("\n\n")[2]])


async def drawn(pilot: Pilot[None], known: str) -> str:
    """What the screen shows, as soon as it is what is known, else once it rests."""
    before = ""
    for _ in range(20):
        found = text_of(pilot)
        if found in (known, before):
            return found
        before = found
        await pilot.pause(0.3)
    return found


def text_of(pilot: Pilot[None]) -> str:
    """The screen without digests, which name the versions of what made the run."""
    lines = (line.rstrip() for line in screen_of(pilot).splitlines())
    return "\n".join(re.sub(r"[0-9a-f]{16,}", lambda found: "#" * len(found[0]), line) for line in lines) + "\n"
