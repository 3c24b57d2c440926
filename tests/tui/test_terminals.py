"""Poor terminals, small ones, and what is left of the terminal when the reader fails."""

from __future__ import annotations

import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from fcntl import ioctl
from pathlib import Path

import pytest
from textual.pilot import Pilot

from selfalign.store import Run
from selfalign.tui.campaign import Campaign
from selfalign.tui.page import LEAST
from selfalign.tui.pairs.screen import Pairs
from tests.cli.conftest import REPOSITORY, environment
from tests.cli.test_run import writer
from tests.tui.conftest import look, page_of, press, screen_of, until
from tests.tui.test_untrusted import _typed as typed

COLOURS = re.compile(rb"\x1b\[([0-9;]*)m")
SCREEN_BACK, MOUSE = b"\x1b[?1049l", (b"?1000h", b"?1002h", b"?1003h")
READER = ("-m", "selfalign", "tui", "sample", "--runs")


def in_terminal(words: Sequence[object], keys: bytes, size: tuple[int, int] = (80, 24), **variables: str) -> tuple:
    """Run Python in a terminal of its own and press keys; its exit code, all it wrote, and whether the terminal is
    in the mode it was in."""
    leader, follower = pty.openpty()
    ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    before, command = termios.tcgetattr(follower), [sys.executable, *map(str, words)]
    known = environment(COLUMNS=str(size[0]), LINES=str(size[1]), **variables)
    settings = {
        name: value for name, value in known.items() if name in variables or name not in ("COLORTERM", "NO_COLOR")
    }
    child = subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, start_new_session=True, env=settings, cwd=REPOSITORY
    )
    try:
        os.close(follower)
        written = b"".join(typed(leader, keys))
        return child.wait(timeout=30), written, termios.tcgetattr(leader) == before
    finally:
        child.kill()
        child.wait()
        os.close(leader)


def used(written: bytes) -> set[str]:
    """The numbers of all colours and styles that a terminal was asked for."""
    return {number for found in COLOURS.findall(written) for number in found.decode().split(";") if number}


@pytest.mark.parametrize("term", ["xterm", "screen"])
def test_a_terminal_of_16_colours_is_asked_for_no_others(made: Path, term: str) -> None:
    code, written, as_before = in_terminal([*READER, made, "--no-mouse"], b"4aj?\x1b:\x1bq", TERM=term)
    assert (code, as_before) == (0, True) and SCREEN_BACK in written
    assert not used(written) & {"38", "48"}, "a colour of 256, or of 24 bits"
    assert used(written) & {str(number) for number in (*range(30, 38), *range(90, 98))}
    assert "▸".encode() in written and "7" in used(written)  # where the cursor is, and which screen this is
    assert not any(mode in written for mode in MOUSE)


def test_no_color_means_none(made: Path) -> None:
    code, written, _ = in_terminal([*READER, made], b"4aj?\x1b:\x1bq", TERM="xterm-256color", NO_COLOR="1")
    assert code == 0 and used(written) <= {"0", "1", "2", "3", "4", "7", "39", "49"}
    assert "▸".encode() in written and any(mode in written for mode in MOUSE)


def test_in_tmux(made: Path, tmp_path: Path) -> None:
    if shutil.which("tmux") is None:
        pytest.skip("there is no tmux here")

    known = environment(TERM="xterm")
    for name in ("COLUMNS", "LINES"):  # a program believes these before it asks the terminal
        known.pop(name, None)

    def tmux(*words: str) -> str:
        command = ["tmux", "-S", str(tmp_path / "socket"), "-f", "/dev/null", *words]
        return subprocess.run(command, capture_output=True, text=True, env=known).stdout

    def shows(*words: str) -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if all(word in (seen := tmux("capture-pane", "-p")) for word in words):
                return
            time.sleep(0.1)
        raise AssertionError(seen)

    tmux("new-session", "-d", "-x", "80", "-y", "24", "-c", str(REPOSITORY), sys.executable, *READER, str(made))
    try:
        shows("1 Campaigns", "sample", "Win rate")
        tmux("send-keys", "4")
        shows("▸ 1:0")
        tmux("send-keys", "j")
        shows("▸ 1:1")
        tmux("resize-window", "-x", "50", "-y", "10")
        shows("Too small: 50x10.")
        tmux("resize-window", "-x", "70", "-y", "20")
        shows("▸ 1:1", "? help")
    finally:
        tmux("kill-server")


FAILING = """
import sys
from selfalign.cli import main
from selfalign.tui.campaign import Campaign
def fail(self, view):
    raise RuntimeError("cannot be drawn")
Campaign.show = fail
sys.exit(main(["tui", "sample", "--runs", sys.argv[1]]))
"""


def test_a_failure_to_draw_gives_the_terminal_back_and_says_why(made: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (made / "sample").rglob("*")}
    code, written, as_before = in_terminal(["-c", FAILING, made], b"", TERM="xterm")
    assert (code, as_before) == (1, True)
    said = written[written.index(SCREEN_BACK) :]
    assert b"cannot be drawn" in said and b"No run was touched" in said
    assert said.index(b"cannot be drawn") < said.index(b"No run was touched")
    assert {path: path.stat().st_mtime_ns for path in (made / "sample").rglob("*")} == before


def test_a_fault_in_a_thread_is_said_and_the_screen_goes_on(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, load = Campaign.read, Pairs.load

    class Fault(Exception):
        pass

    def fail(*_: object) -> None:
        raise Fault("[/] nobody thought of this")

    async def at(pilot: Pilot[None]) -> None:
        monkeypatch.setattr(Campaign, "read", fail)
        await until(pilot, lambda: "could not be read: Fault: [/] nobody thought of this" in screen_of(pilot))
        assert "please report it" in screen_of(pilot)
        monkeypatch.setattr(Campaign, "read", read)
        await until(pilot, lambda: "nobody thought" not in screen_of(pilot))
        monkeypatch.setattr(Pairs, "load", fail)
        await pilot.press("4")
        await until(pilot, lambda: "could not be read: Fault" in screen_of(pilot))
        monkeypatch.setattr(Pairs, "load", load)
        await press(pilot, "j")
        await until(pilot, lambda: "▸ 1:1" in screen_of(pilot) and "prompt 1.1" in screen_of(pilot))
        assert page_of(pilot).NAME == "Pairs"

    look(made, at, run="sample", size=(160, 30))


def test_small_screens_show_what_fits_and_say_when_nothing_does(made: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        for key in "23481":
            await press(pilot, key)
            here = page_of(pilot)
            seen = screen_of(pilot)
            assert f"{here.NUMBER} {here.NAME}" in seen and "? help" in seen and "q quit" in seen
            await press(pilot, "question_mark")
            await press(pilot, "escape")
        for size in ((59, 20), (60, 14), (20, 5), (3, 2), (1, 1)):
            await pilot.resize_terminal(*size)
            await pilot.pause()
            await press(pilot, "2", "4", "question_mark", "escape")
            if size > (10, 3):
                assert f"Too small: {size[0]}x{size[1]}." in screen_of(pilot)
        await pilot.resize_terminal(*LEAST)
        await press(pilot, "1")
        await until(pilot, lambda: "4 runs" in screen_of(pilot) and "Too small" not in screen_of(pilot))

    look(made, at, run="sample", size=(60, 20))


def test_a_run_that_is_written_goes_on_when_its_reader_quits(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "midway", tmp_path / "midway")
    run = Run.open(tmp_path / "midway")
    with writer(run.path) as child:
        code, _, as_before = in_terminal(
            ["-m", "selfalign", "tui", "midway", "--runs", tmp_path], b"\x03\x03q", TERM="xterm"
        )
        assert (code, as_before) == (0, True) and child.poll() is None and run.holder().pid == child.pid
