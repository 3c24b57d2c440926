"""No printer of the command line lets a model's text act on the terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, environment

# What rich may send to a terminal: colours, cursor movement, line erasure, the cursor's visibility.
OURS = re.compile(rb"\x1b\[(?:[0-9;]*m|[0-9]*[AG]|2K|\?25[lh]|H)")
READERS = [
    ["runs", "ls"],
    ["runs", "compare", "sample", "other", "mixed"],
    ["status", "sample"],
    ["pairs", "ls", "sample"],
    ["pairs", "show", "sample", "0:0"],
    ["pairs", "ls", "mixed"],
    ["pairs", "show", "mixed", "2:0"],
    ["rankings", "ls", "mixed"],
    ["rankings", "show", "mixed", "1:1"],
    ["demonstrations", "ls", "mixed"],
    ["demonstrations", "show", "mixed", "0:0"],
    ["revisions", "ls", "sample"],
    ["revisions", "show", "sample", "0:0"],
    ["revisions", "ls", "sample", "--json"],
    ["revisions", "show", "sample", "0:0", "--json"],
    ["pairs", "ls", "sample", "--json"],
    ["pairs", "show", "sample", "0:0", "--json"],
    ["status", "sample", "--json"],
    ["constitution", "stats", "sample"],
    ["constitution", "stats", "sample", "--json"],
    ["report", "sample", "--json"],
    ["label", "sample", "--count", "0"],
    ["labels", "ls", "sample"],
]


def on_a_terminal(arguments: list[str], cwd: Path) -> bytes:
    """What a command sends to a terminal of 100 columns, standard output and error together."""
    leader, follower = pty.openpty()
    env = environment(TERM="xterm-256color", COLUMNS="100", LINES="40")
    child = subprocess.Popen(
        [sys.executable, *arguments], cwd=cwd, env=env, stdin=follower, stdout=follower, stderr=follower, close_fds=True
    )
    os.close(follower)
    received = b""
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        received += chunk
    os.close(leader)
    assert child.wait(timeout=60) == 0, received
    return received


def assert_harmless(received: bytes) -> None:
    rest = OURS.sub(b"", received)
    assert b"\x1b" not in rest, rest[:2000]
    text = rest.decode("utf-8")
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)


def test_a_terminal_gets_no_foreign_sequence(sample: Path) -> None:
    """One process calls every reader: starting one for each would take most of the time."""
    code = (
        f"from selfalign.cli import main\nassert [main(arguments) for arguments in {READERS}] == [0] * {len(READERS)}"
    )
    received = on_a_terminal(["-c", code], sample)
    assert_harmless(received)
    assert received.count(b"[/INST]") > 20  # shown literally


def test_the_live_screen_is_harmless(sample: Path) -> None:
    code = (
        "from tests.cli.events import stream\nfrom selfalign.cli.display import open_display\n"
        "display = open_display('rich', 'a [bold]title[/] \\x1b]0;x\\x07')\n"
        "[display.handle(event) for event in stream()]\ndisplay.close()"
    )
    received = on_a_terminal(["-c", code], sample)
    assert_harmless(received)
    assert b"not markup" in received


@pytest.mark.parametrize("arguments", [reader for reader in READERS if reader[-1] != "--json"], ids=" ".join)
def test_a_pipe_gets_no_sequence_at_all(sample: Path, cli: Cli, arguments: list[str]) -> None:
    done = cli(*arguments, cwd=sample)
    assert "\x1b" not in done.stdout + done.stderr
