"""A real campaign of the pocket world, watched while it runs."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections import defaultdict
from itertools import cycle
from pathlib import Path

import pytest
from textual.pilot import Pilot

from selfalign.tui.widgets import Words
from tests.tui.conftest import look, page_of, press, screen_of, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SMALL = [
    "engine.backend=transformers", "rounds=2", "prompts.per_round=16", "generate.shard_prompts=4",
    "generate.max_tokens=16", "train.epochs=1", "evaluate.prompts=6", "accept.win_rate_lower_bound=null",
    "accept.max_length_ratio=null",
]  # fmt: skip
KEYS = ("2", "j", "k", "4", "G", "enter", "n", "escape", "g", "a", "3", "space", "1", "s", "2", "8", "G", "1", "enter")


class Seen:
    """What the screens of a running campaign showed, one after the other."""

    def __init__(self) -> None:
        self.shares: dict[str, set[str]] = defaultdict(set)  # by round: what was under way, and how far it was
        self.pairs: list[int] = []
        self.decided: list[int] = []
        self.troubles: set[str] = set()

    def take(self, pilot: Pilot[None]) -> None:
        page, lines = page_of(pilot), screen_of(pilot).splitlines()
        trouble = page.query_one("#trouble", Words)  # what could not be read; alerts of the campaign stand elsewhere
        self.troubles |= {str(trouble.render())} if trouble.display else set()
        if page.NAME == "Campaign" and page.settled:
            for number, share in re.findall(r"^[▸ ] (\d) .*(▸\d+%)", "\n".join(lines), flags=re.MULTILINE):
                self.shares[number].add(share)
            self.decided.append(sum("✓ accepted" in line for line in lines if line[2:3].isdigit()))
        elif page.NAME == "Pairs" and page.settled and (count := re.search(r"(\d+) pairs", lines[1])):
            self.pairs.append(int(count[1]))


def campaign(folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir()
    flags = [f"--set={setting}" for setting in SMALL]
    command = [sys.executable, "-m", "selfalign", "run", "pocket", "--display", "log", *flags]
    with (folder / "log").open("w") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)


def made_by(folder: Path) -> dict[int, object]:
    """What a campaign comes to: of every round its decision, and the weights that its pairs have made."""
    found = {}
    for number in (0, 1):
        there = folder / "runs" / "pocket" / "rounds" / f"{number:03d}"
        weights = (there / "policy" / "model.safetensors").read_bytes()
        found[number] = json.loads((there / "report.json").read_text())["gate"], hashlib.sha256(weights).hexdigest()
    return found


def test_a_campaign_is_followed_to_its_end_and_not_touched(tmp_path: Path) -> None:
    watched, alone = tmp_path / "watched", tmp_path / "alone"
    process, seen, keys = campaign(watched), Seen(), cycle(KEYS)

    async def press_on(pilot: Pilot[None]) -> None:
        assert process.poll() in (None, 0), (watched / "log").read_text()
        pilot.app.simulate_key(next(keys))
        await pilot.pause(0.05)
        seen.take(pilot)

    async def leave_midway(pilot: Pilot[None]) -> None:
        while not seen.shares["0"]:
            await press_on(pilot)
        await pilot.press("q")

    async def stay(pilot: Pilot[None]) -> None:
        while process.poll() is None:
            await press_on(pilot)
        await press(pilot, "escape", "1", "enter")
        await until(pilot, lambda: "✓ finished" in screen_of(pilot))
        seen.take(pilot)
        await press(pilot, "4")
        await until(pilot, lambda: page_of(pilot).settled)
        seen.take(pilot)

    try:
        look(watched / "runs", leave_midway, size=(160, 50))
        assert process.poll() is None
        look(watched / "runs", stay, size=(160, 50))
        assert process.wait() == 0
    finally:
        process.kill()
    assert len(seen.shares["0"]) > 1 and seen.shares["1"]
    assert seen.decided == sorted(seen.decided) and seen.decided[-1] == 2
    assert len(set(seen.pairs)) > 1
    assert not seen.troubles
    verified = subprocess.run(
        [sys.executable, "-m", "selfalign", "verify", "pocket"], cwd=watched, text=True, capture_output=True
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert campaign(alone).wait() == 0
    assert made_by(watched) == made_by(alone)
