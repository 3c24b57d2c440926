"""`selfalign tui` without a terminal: pictures of its screens, and what it says where it cannot run."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.cli.conftest import Cli

SCREENS = "the screens are campaigns, campaign, round, pairs, constitution, label, compare, logs"


@pytest.mark.parametrize("screen", ["campaigns", "campaign", "round", "pairs", "logs"])
def test_every_screen_can_be_had_as_a_picture(sample: Path, cli: Cli, screen: str) -> None:
    done = cli("tui", "sample", "--screenshot", screen, "--size", "80x24", cwd=sample)
    assert done.returncode == 0
    words = "".join(ElementTree.fromstring(done.stdout).itertext()).replace("\xa0", " ")
    assert "sample" in words and screen.capitalize() in words
    assert "url(http" not in done.stdout and "DejaVu Sans Mono" in done.stdout  # nothing is fetched to show it


def test_keys_can_be_pressed_before_the_picture(sample: Path, cli: Cli) -> None:
    done = cli("tui", "sample", "--screenshot", "pairs", "--press", "enter v", cwd=sample)
    assert "What" in done.stdout and "judge" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sample"], "needs a terminal"),
        (
            ["sample", "--screenshot", "cinema"],
            SCREENS,
        ),
        (["sample", "--screenshot", "campaign", "--size", "big"], "a size is like 80x24"),
        (["--screenshot", "round"], "this screen is of one run"),
        (["nowhere"], 'there is no run "nowhere"'),
    ],
    ids=str,
)
def test_what_cannot_be_shown_is_explained(sample: Path, cli: Cli, arguments: list[str], said: str) -> None:
    done = cli("tui", *arguments, cwd=sample)
    assert done.returncode == 2
    assert said in done.stderr and "fix:" in done.stderr
