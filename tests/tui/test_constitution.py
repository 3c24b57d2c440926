"""The screen of the constitution: what its principles did, typing in its file, and what an edit would change."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from textual.events import Paste
from textual.pilot import Pilot

from selfalign.tui.app import Reader
from selfalign.tui.constitution import bench
from selfalign.tui.constitution.bench import Asked
from selfalign.tui.constitution.editor import Editor
from selfalign.tui.constitution.screen import Constitution
from selfalign.tui.page import Place
from selfalign.tui.pictures import settled
from selfalign.tui.reading import Library
from selfalign.tui.widgets import Grid, Writing
from tests.cli.fabricate import make_judged_run
from tests.test_preview import campaign
from tests.tui.conftest import Look, look, page_of, press, screen_of, until

RULES = """\
# ours
schema: selfalign.constitution/v1
name: judged
version: 1.0.0
preamble: Think of the reader.
principles:
  - {id: kind, text: "The response is kind.", tier: 2, weight: 3, tags: [manners]}   # first
  - {id: twin, text: "The response is friendly.", yields_to: [kind], tier: 2}
  - {id: long, text: "The response is whole."}
  - {id: contrary, text: "The response is blunt."}
  - {id: mute, text: "The response is a response.", status: draft}
  - {id: garbled, text: "The response is what it is."}
  - {id: never, kind: hard_constraint, text: "The response breaks no law."}
"""


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run `judged`, whose campaign names judged.rules.yaml beside the folder of runs."""
    root = tmp_path_factory.mktemp("judged")
    run = make_judged_run(root)
    with run.lock():
        run.write_text("rounds/001/constitution.yaml", RULES)
    (root / "judged.rules.yaml").write_text(RULES)
    return root


@pytest.fixture
def own(judged: Path, tmp_path: Path) -> Path:
    """A copy of one's own, whose campaign names the file in it."""
    shutil.copytree(judged, tmp_path / "own")
    path = tmp_path / "own/runs/judged/campaign.yaml"
    path.write_text(path.read_text().replace(str(judged), str(tmp_path / "own")))
    return tmp_path / "own"


def at_constitution(root: Path, at: Look, *, size: tuple[int, int] = (120, 40), read_only: bool = False) -> None:
    """Look at screen 5 of the run `judged`."""

    async def main() -> None:
        path = root / "runs" / "judged"
        app = Reader(Library(root / "runs", path), Place(path), read_only=read_only)
        async with app.run_test(size=size) as pilot:
            await settled(pilot)
            app.open(Constitution, Place(path))
            await settled(pilot)
            await at(pilot)

    asyncio.run(main())


def notices(pilot: Pilot[None]) -> str:
    return "\n".join(one.message for one in pilot.app._notifications)


def edit_of(pilot: Pilot[None]) -> Editor:
    page = page_of(pilot)
    assert isinstance(page, Editor)
    return page


async def typed(pilot: Pilot[None], old: str, new: str) -> None:
    """Replace words of the text as if they were typed, and wait until it was looked over."""
    writing = edit_of(pilot).writing
    writing.put(writing.text.replace(old, new, 1))
    await until(pilot, lambda: edit_of(pilot)._looked == writing.text and edit_of(pilot).settled)
    await pilot.pause()


# The list


@pytest.mark.parametrize("size", [(80, 24), (160, 50)], ids=str)
def test_the_principles_stand_with_what_they_did(judged: Path, size: tuple[int, int]) -> None:
    async def at(pilot: Pilot[None]) -> None:
        shown = screen_of(pilot)
        assert "round 1" in shown and "judged 1.0.0" in shown and "■ 1 hard" in shown
        for words in ("kind", "never", "■ hard", "draft", "decides", "longer", "! ", "rounds 0 to 1:"):
            assert words in shown, words
        page = page_of(pilot)
        assert isinstance(page, Constitution)
        assert [line.id for line in page.lines][:3] == ["kind", "twin", "long"]
        assert {line.id for line in page.lines if line.principle is None} == {"fickle"}
        await press(pilot, "j", "j", "j")
        assert "The response is blunt." in screen_of(pilot) and "→" in screen_of(pilot)  # what to do about a flag

    at_constitution(judged, at, size=size)


def test_rows_are_sorted_filtered_copied_and_counted_by_round(judged: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        page = page_of(pilot)
        await press(pilot, "s")
        flags = [len(line.record.flags) if line.record else 0 for line in page.lines]
        assert flags == sorted(flags, reverse=True) and flags[0] and "most flags first" in screen_of(pilot)
        await press(pilot, "s", "s", "s")
        assert page.lines[0].id == "long"
        await press(pilot, "s", "slash", *"manners", "enter")
        assert [line.id for line in page.lines] == ["kind"] and "1 of 7 principles" in screen_of(pilot)
        await press(pilot, "y")
        assert pilot.app.clipboard == "The response is kind."
        await press(pilot, "c")
        assert pilot.app.clipboard == f"selfalign constitution stats {page.at.path}"
        together = page.figures.num_judgments
        await press(pilot, "a")
        await until(pilot, lambda: page.settled and page.figures.rounds == (1,))
        assert page.figures.num_judgments < together and "round 1: " in screen_of(pilot)
        await press(pilot, "c")
        assert pilot.app.clipboard.endswith(" --round 1")
        await press(pilot, "left_square_bracket")
        await until(pilot, lambda: page.settled and page.figures.rounds == (0,) and "round 0" in screen_of(pilot))
        await press(pilot, "slash", "escape", "G")
        assert page.lines[-1].id == "never" or "in verse" in screen_of(pilot)

    at_constitution(judged, at)


def test_a_principle_is_opened_whole_and_turned_over(judged: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "j", "enter")
        shown = screen_of(pilot)
        for words in ("twin", "tier 2", "The response is friendly.", "derived", "yields to", "what it did", "round 0"):
            assert words in shown, words
        await press(pilot, "y")
        assert pilot.app.clipboard == "The response is friendly."
        await press(pilot, "p")
        assert "weight 3" in screen_of(pilot)
        await press(pilot, "n", "n", "escape")
        assert page_of(pilot).query_one(Grid).cursor == 2
        await press(pilot, "m")
        shown = screen_of(pilot)
        assert "they contradict" in shown and "they say the same" in shown and "A " in shown
        await press(pilot, "escape", "question_mark")
        assert "hard constraint" in screen_of(pilot) and "contradict each other" in screen_of(pilot)

    at_constitution(judged, at, size=(120, 50))


def test_a_run_that_was_not_judged_shows_its_rules_alone(own: Path) -> None:
    shutil.rmtree(own / "runs/judged/rounds")

    async def at(pilot: Pilot[None]) -> None:
        shown = screen_of(pilot)
        assert "no round has begun" in shown and "No verdicts yet" in shown and "The response is blunt." in shown
        await press(pilot, "m")
        assert "no verdicts to compare yet" in notices(pilot)
        await press(pilot, "d")
        assert "nothing to compare with" in screen_of(pilot)
        await press(pilot, "escape", "p")
        await until(pilot, lambda: "No round has a version" in screen_of(pilot))

    at_constitution(own, at, size=(80, 24))


def test_damage_is_said_and_the_screen_stays(own: Path) -> None:
    (own / "runs/judged/rounds/001/constitution.yaml").write_text("principles: [\n")

    async def at(pilot: Pilot[None]) -> None:
        assert "! judged/rounds/001/constitution.yaml:2: is not valid YAML" in screen_of(pilot)
        await press(pilot, "i", "escape", "d", "escape", "p", "enter", "y", "s", "j", "left_square_bracket")
        await until(pilot, lambda: "in verse" in screen_of(pilot) or "round 0" in screen_of(pilot))
        shutil.rmtree(own / "runs")
        await until(pilot, lambda: "this run is gone" in screen_of(pilot))
        assert "round 0" in screen_of(pilot) and "no figures" in screen_of(pilot)  # what was read is still there

    at_constitution(own, at)


# The editor


def test_what_is_typed_is_looked_over_marked_and_mended(own: Path) -> None:
    file = own / "judged.rules.yaml"

    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "j", "j", "i")
        page = edit_of(pilot)
        assert "judged.rules.yaml" in screen_of(pilot) and "✓ as on disk" in screen_of(pilot)
        assert "id: long" in page.writing.text.split("\n")[page.writing.cursor_location[0]]
        assert "counts from the next round" in screen_of(pilot) and page.writing.is_syntax_aware
        assert screen_of(pilot).splitlines()[-1].rstrip().endswith("F1 help  Esc back")  # ? and q are letters here
        await typed(pilot, 'text: "The response is blunt', 'txet: "The response is blunt')
        line = next(i for i, text in enumerate(page.writing.text.split("\n"), 1) if "txet" in text)
        shown = screen_of(pilot)
        assert (
            "✎ unsaved" in shown and f"{line}✗" in shown and "unknown key 'txet'" in shown and "F2 writes it" in shown
        )
        page.writing.move_cursor((0, 0))
        await press(pilot, "f8")
        assert page.writing.cursor_location == (line - 1, 0)
        await press(pilot, "ctrl+s")
        await until(pilot, lambda: "not saved" in screen_of(pilot))
        assert file.read_text() == RULES
        await press(pilot, "f2")
        await until(pilot, lambda: page.settled and not page.findings)
        assert page.writing.text == RULES and "nothing to mend" in screen_of(pilot) and "as on disk" in screen_of(pilot)
        await press(pilot, "ctrl+z")
        assert "txet" in page.writing.text
        await press(pilot, "ctrl+y")
        assert page.writing.text == RULES
        await press(pilot, "f1")
        assert "F8" in screen_of(pilot) and "Ctrl+S" in screen_of(pilot)
        await press(pilot, "escape", "escape")
        assert isinstance(page_of(pilot), Constitution)

    at_constitution(own, at)


def test_a_sound_edit_is_shown_asked_about_and_saved_as_typed(own: Path) -> None:
    file = own / "judged.rules.yaml"
    file.chmod(0o640)

    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "i")
        page = edit_of(pilot)
        await typed(pilot, "is blunt.", "is  frank.")
        assert "same-version" in {one.rule for one in page.findings}
        await press(pilot, "f6")
        shown = screen_of(pilot)
        assert "~ reworded" in shown and "contrary" in shown and "1 to be judged anew" in shown
        assert "the version is still" in shown
        await press(pilot, "escape", "ctrl+s")
        await until(pilot, lambda: "Save judged.rules.yaml?" in screen_of(pilot))
        assert "still version 1.0.0" in screen_of(pilot) and "1 reworded" in screen_of(pilot)
        await press(pilot, "n")
        assert file.read_text() == RULES
        await press(pilot, "f2")
        await until(pilot, lambda: page.settled and "1.0.1" in page.writing.text and not page.findings)
        await press(pilot, "ctrl+s")
        await until(pilot, lambda: "Save judged.rules.yaml?" in screen_of(pilot))
        assert "still version" not in screen_of(pilot) and "1 to be judged anew: contrary" in screen_of(pilot)
        await press(pilot, "y")
        await until(pilot, lambda: file.read_text() != RULES)
        assert file.read_text() == RULES.replace("is blunt.", "is  frank.").replace("1.0.0", "1.0.1")
        assert file.stat().st_mode & 0o777 == 0o640
        await until(pilot, lambda: "as on disk" in screen_of(pilot))
        await press(pilot, "escape")
        await until(pilot, lambda: "the file: 1 reworded" in screen_of(pilot))

    at_constitution(own, at)


def test_what_was_typed_outlives_the_screen_and_is_asked_about_on_leaving(own: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "i")
        await typed(pilot, "is blunt.", "is frank.")
        await press(pilot, "escape")
        assert "Leave with unsaved changes?" in screen_of(pilot)
        await press(pilot, "n", "escape", "y")
        await until(pilot, lambda: "✎ unsaved: 1 reworded" in screen_of(pilot))
        await press(pilot, "escape", "5", "i")
        assert "is frank." in edit_of(pilot).writing.text
        await press(pilot, "escape", "y", "q")
        assert "Quit without saving" in screen_of(pilot) and pilot.app.is_running
        await press(pilot, "n", "i", "ctrl+r")
        assert "Read the file again?" in screen_of(pilot)
        await press(pilot, "y")
        await until(pilot, lambda: edit_of(pilot).writing.text == RULES)
        await press(pilot, "escape", "q")
        await until(pilot, lambda: not pilot.app.is_running)

    at_constitution(own, at)


def test_what_was_typed_outlives_a_killed_reader(own: Path) -> None:
    file, kept = own / "judged.rules.yaml", own / ".judged.rules.yaml.unsaved"

    async def killed(pilot: Pilot[None]) -> None:
        await press(pilot, "i")
        assert not kept.exists()
        await typed(pilot, "is blunt.", "is frank.")
        assert "is frank." in kept.read_text() and kept.stat().st_mode & 0o777 == 0o600

    async def again(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "✎ unsaved: 1 reworded" in screen_of(pilot))
        await press(pilot, "i")
        seen, when = screen_of(pilot), time.strftime("%Y-%m-%d", time.localtime())
        assert f"unsaved text of {when}" in seen and "is back; Ctrl+S saves, Ctrl+R drops it" in seen
        assert "is frank." in edit_of(pilot).writing.text and "✎ unsaved" in screen_of(pilot)
        await typed(pilot, "is frank.", "is blunt.")
        assert not kept.exists() and "as on disk" in screen_of(pilot)
        await typed(pilot, "is blunt.", "is open.")
        assert "is open." in kept.read_text()
        await press(pilot, "ctrl+r", "y")
        assert not kept.exists() and edit_of(pilot).writing.text == RULES
        await typed(pilot, "is blunt.", "is terse.")
        await press(pilot, "ctrl+s")
        await until(pilot, lambda: "Save judged" in screen_of(pilot))
        await press(pilot, "y")
        await until(pilot, lambda: "is terse." in file.read_text() and not kept.exists())
        await typed(pilot, "is terse.", "is mild.")
        assert kept.exists()
        await press(pilot, "escape", "y", "q", "y")
        assert not kept.exists()

    at_constitution(own, killed)
    assert kept.exists() and file.read_text() == RULES
    at_constitution(own, lambda pilot: press(pilot, "i", "escape"), read_only=True)
    at_constitution(own, again)


def test_what_was_typed_before_somebody_else_wrote_is_back_and_not_saved_over(own: Path) -> None:
    file, kept = own / "judged.rules.yaml", own / ".judged.rules.yaml.unsaved"

    async def killed(pilot: Pilot[None]) -> None:
        await press(pilot, "i")
        await typed(pilot, "is blunt.", "is frank.")

    async def again(pilot: Pilot[None]) -> None:
        await press(pilot, "i")
        await until(pilot, lambda: "changed on disk since it was opened" in screen_of(pilot))
        assert "is frank." in edit_of(pilot).writing.text
        await press(pilot, "ctrl+s")
        await until(pilot, lambda: "Save judged" in screen_of(pilot))
        await press(pilot, "y")
        await until(pilot, lambda: "The file is another one by now" in screen_of(pilot))
        await press(pilot, "y")
        await until(pilot, lambda: edit_of(pilot).writing.text == RULES + "# theirs\n")
        assert not kept.exists()

    at_constitution(own, killed)
    file.write_text(RULES + "# theirs\n")
    at_constitution(own, again)


def test_a_broken_copy_of_what_was_typed_is_ignored_and_said(own: Path) -> None:
    kept = own / ".judged.rules.yaml.unsaved"
    kept.write_text('{"base": "", "text": 1}')
    kept.chmod(0o600)

    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "i")
        assert "unsaved is ignored, as it is no text that" in screen_of(pilot) and edit_of(pilot).writing.text == RULES
        await press(pilot, "escape")
        assert isinstance(page_of(pilot), Constitution) and kept.exists()

    at_constitution(own, at)


def test_it_is_said_once_that_a_text_is_not_kept(own: Path) -> None:
    (own / ".judged.rules.yaml.unsaved").mkdir()  # where the copy should be

    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "i")
        await typed(pilot, "is blunt.", "is frank.")
        await until(pilot, lambda: "in memory alone, save it soon" in screen_of(pilot))

    at_constitution(own, at)


def test_what_somebody_else_wrote_is_not_saved_over(own: Path) -> None:
    file = own / "judged.rules.yaml"

    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "i")
        page = edit_of(pilot)
        file.write_text(RULES + "# theirs\n")
        await until(pilot, lambda: page.writing.text.endswith("# theirs\n"))  # nothing was typed: it is shown
        await typed(pilot, "is blunt.", "is frank.")
        file.write_text(RULES + "# theirs again\n")
        await until(pilot, lambda: "changed on disk since it was opened" in screen_of(pilot))
        await press(pilot, "ctrl+s")
        await until(pilot, lambda: "Save judged" in screen_of(pilot))
        await press(pilot, "y")
        await until(pilot, lambda: "The file is another one by now" in screen_of(pilot))
        assert file.read_text() == RULES + "# theirs again\n"
        await press(pilot, "y")
        await until(pilot, lambda: page.writing.text == RULES + "# theirs again\n")

    at_constitution(own, at)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (RULES.replace("ours", "o\u200burs\u202e"), "hidden character U+202E"),
        (RULES.replace("\n", "\r\n", 3), "lines end in different ways"),
        (RULES + "# " + "x" * 5000, "a line of more than 4,000"),
    ],
)
def test_a_file_that_typing_would_alter_unseen_is_shown_alone(own: Path, text: str, reason: str) -> None:
    file = own / "judged.rules.yaml"
    file.write_bytes(text.encode())

    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "i")
        assert reason in screen_of(pilot) and "F4 opens your own editor" in screen_of(pilot)
        await press(pilot, *"xyz", "enter", "ctrl+s")
        assert edit_of(pilot).writing.read_only and file.read_bytes() == text.encode()

    at_constitution(own, at)


def test_byte_order_mark_and_line_ends_are_kept(own: Path) -> None:
    file = own / "judged.rules.yaml"
    before = ("\ufeff" + RULES.replace("\n", "\r\n")).encode()
    file.write_bytes(before)

    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "i")
        edit_of(pilot).writing.move_cursor((0, 6))
        await press(pilot, *"?q5 ", "enter")
        await page_of(pilot).query_one(Writing)._on_paste(Paste("# \x1b[2Jpasted\u202e"))
        await until(pilot, lambda: edit_of(pilot).settled)
        await press(pilot, "ctrl+s")
        await until(pilot, lambda: "Save judged" in screen_of(pilot))
        await press(pilot, "y")
        await until(pilot, lambda: file.read_bytes() != before)
        assert file.read_bytes() == before.replace(b"# ours\r\n", b"# ours?q5 \r\n# pasted\r\n")

    at_constitution(own, at)


def test_the_file_goes_to_the_users_editor_and_comes_back(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = own / "judged.rules.yaml"
    script = own / "editor.py"
    script.write_text(
        "import pathlib, sys\np = pathlib.Path(sys.argv[1])\np.write_text(p.read_text().replace('blunt', 'frank'))\n"
    )

    @contextmanager
    def suspended(self: Reader) -> Iterator[None]:
        yield

    async def at(pilot: Pilot[None]) -> None:
        monkeypatch.delenv("VISUAL", raising=False)
        monkeypatch.delenv("EDITOR", raising=False)
        await press(pilot, "e")
        assert "neither $VISUAL nor $EDITOR is set" in notices(pilot)
        monkeypatch.setenv("VISUAL", f"{sys.executable} {script}")
        await press(pilot, "e")
        assert "cannot be handed over" in notices(pilot)  # a terminal of tests
        monkeypatch.setattr(Reader, "suspend", suspended)
        await press(pilot, "e")
        await until(pilot, lambda: isinstance(page_of(pilot), Editor) and bool(edit_of(pilot).findings))
        assert "is frank." in edit_of(pilot).writing.text and "✎ unsaved" in screen_of(pilot)
        assert file.read_text() == RULES and list(own.glob(".judged*.yaml")) == []
        monkeypatch.setenv("VISUAL", "false")
        await press(pilot, "f4")
        assert "ended with exit code 1" in notices(pilot) and list(own.glob(".judged*.yaml")) == []

    at_constitution(own, at)


def test_a_file_that_is_not_there_or_not_ours_is_shown_as_the_round_has_it(own: Path) -> None:
    (own / "judged.rules.yaml").unlink()

    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "i")
        assert "round 1's own copy" in screen_of(pilot) and "is not there; a file to begin with" in screen_of(pilot)
        await press(pilot, "x", "ctrl+s", "f4")
        assert edit_of(pilot).writing.text == RULES
        await press(pilot, "escape", "d")
        assert "export" in screen_of(pilot) and "yaml > FILE" in screen_of(pilot)

    at_constitution(own, at)


def test_a_read_only_reader_offers_nothing_that_writes(own: Path) -> None:
    before = {path: path.read_bytes() for path in own.rglob("*") if path.is_file()}

    async def at(pilot: Pilot[None]) -> None:
        keys = screen_of(pilot).splitlines()[-1]
        assert "preview" not in keys and "diff" in keys
        await press(pilot, "p", "e")
        assert "a preview asks the judge" in notices(pilot) and "writes nothing (--read-only)" in notices(pilot)
        await press(pilot, "i")
        assert "writes nothing" in screen_of(pilot) and "save" not in screen_of(pilot).splitlines()[-1]
        await press(pilot, *"xyz", "f2", "f4", "f5", "ctrl+s")
        assert edit_of(pilot).writing.text == RULES

    at_constitution(own, at, read_only=True)
    assert {path: path.read_bytes() for path in own.rglob("*") if path.is_file()} == before


# The impact preview

SCRIPTED = """
import sys
from selfalign.launch import local
from tests.cli.test_preview import LocalScripted
local.LocalWorkers = LocalScripted
from selfalign.cli import main
sys.exit(main(sys.argv[1:]))
"""
SLOW = """
import os, pathlib, sys, time
print("asking slowly", file=sys.stderr, flush=True)
pathlib.Path({pid!r}).write_text(str(os.getpid()))
time.sleep(60)
"""


@pytest.fixture(scope="module")
def previewed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("previewed")
    return campaign(folder)[0].path


def at_preview(run: Path, at: Look, size: tuple[int, int] = (120, 40)) -> None:
    async def here(pilot: Pilot[None]) -> None:
        await press(pilot, "5")
        await at(pilot)

    look(run.parent, here, run=run.name, size=size)


async def turned(pilot: Pilot[None]) -> None:
    """Turn a principle round without saving, and go back to the list."""
    await press(pilot, "i")
    await typed(pilot, "Choose the kinder response.", "Choose the ruder response.")
    await press(pilot, "escape", "y")


def test_an_edit_is_put_before_the_judge_in_another_process(previewed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "PROGRAM", (sys.executable, "-c", SCRIPTED))

    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "p")
        assert "no words changed" in notices(pilot)
        await turned(pilot)
        await press(pilot, "p")
        assert "1 to be judged anew: kind" in screen_of(pilot)
        await press(pilot, "n", "p", "y")
        assert "asking the judge" in screen_of(pilot) or "beyond noise" in screen_of(pilot)
        await press(pilot, "escape", "4", "5")  # it goes on
        assert isinstance(page_of(pilot), Constitution)
        asked = pilot.app.bench.asked[previewed]
        await until(pilot, lambda: asked.state != "asking")
        assert asked.state == "done", asked.said
        await press(pilot, "p")
        shown = screen_of(pilot)
        assert "beyond noise: kind" in shown and "reversed" in shown and "questions asked" in shown
        assert "end it" not in shown
        await press(pilot, "c")
        assert pilot.app.clipboard.startswith("selfalign constitution preview") and "--flips" in pilot.app.clipboard
        await press(pilot, "tab")
        assert pilot.app.focused is not page_of(pilot).query_one(Grid)
        await press(pilot, "tab", "enter")
        shown = screen_of(pilot)
        assert page_of(pilot).NAME == "Flip" and "by the new text" in shown and "first" in shown
        first = page_of(pilot).query_one("#verdicts").parent
        assert first is not None and "ruder" in shown
        await press(pilot, "n", "y")
        assert "→" in pilot.app.clipboard
        await press(pilot, "escape")
        assert page_of(pilot).query_one(Grid).cursor == 1
        await press(pilot, "x")
        assert "nothing is being asked" in notices(pilot)

    at_preview(previewed, at)


def test_a_preview_ends_when_it_is_told_to_and_with_the_reader(
    previewed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    monkeypatch.setattr(bench, "PROGRAM", (sys.executable, "-c", SLOW.format(pid=str(pid))))
    pids: list[int] = []

    async def at(pilot: Pilot[None]) -> None:
        await turned(pilot)
        for key in ("x", "escape"):
            await press(pilot, "p")
            pilot.app.simulate_key("y")
            await until(pilot, lambda: pid.exists() and bool(pid.read_text()) and "asking slowly" in screen_of(pilot))
            pids.append(int(pid.read_text()))
            pid.unlink()
            pilot.app.simulate_key(key)
            if key == "x":
                await until(pilot, lambda: "‖ ended after" in screen_of(pilot) and not alive(pids[0]))
                await press(pilot, "escape")

    at_preview(previewed, at)
    assert not any(map(alive, pids)) and len(set(pids)) == 2


def test_a_judge_that_fails_is_quoted(previewed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = "import sys; sys.exit('error: the judge is gone \\x1b[2J[bold]')"
    monkeypatch.setattr(bench, "PROGRAM", (sys.executable, "-c", failing))

    async def at(pilot: Pilot[None]) -> None:
        await turned(pilot)
        await press(pilot, "p", "y")
        await until(pilot, lambda: "the judge gave no answer" in screen_of(pilot))
        assert "error: the judge is gone [bold]" in screen_of(pilot)

    at_preview(previewed, at)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_process_that_does_not_listen_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = f"import signal; signal.signal({int(signal.SIGINT)}, signal.SIG_IGN)\n" + SLOW.format(
        pid=str(tmp_path / "pid")
    )
    monkeypatch.setattr(bench, "PROGRAM", (sys.executable, "-c", deaf))
    monkeypatch.setattr(bench, "GRACE", 0.3)
    asked = Asked(tmp_path, "rules", None)
    asked.start()
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.02)
    asked.kill()
    asked._process.wait(5)
    assert asked.state == "cancelled" and not alive(int((tmp_path / "pid").read_text()))
