"""What can be done to a run from the reader: it asks first, says the command, and says what came of it."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from textual.containers import Vertical
from textual.pilot import Pilot

from selfalign.store import Run
from selfalign.tui.actions import Told
from selfalign.tui.app import Reader
from selfalign.tui.asking import AskLine, Confirm
from selfalign.tui.campaigns import Campaigns
from selfalign.tui.page import Place
from selfalign.tui.pictures import settled
from selfalign.tui.reading import Library
from tests.cli.test_run import writer
from tests.tui.conftest import look, page_of, press, screen_of, until
from tests.tui.test_untrusted import assert_harmless


def offered(pilot: Pilot[None]) -> list[str]:
    assert isinstance(pilot.app, Reader)
    return [name for name, _ in pilot.app.places()]


async def choose(pilot: Pilot[None], name: str) -> None:
    """What choosing an entry of the palette does."""
    assert isinstance(pilot.app, Reader)
    dict(pilot.app.places())[name]()
    await pilot.pause(0.05)


async def typed(pilot: Pilot[None], *lines: str) -> None:
    """Answer questions, each with a line in place of the one that is proposed."""
    for line in lines:
        await until(pilot, lambda: isinstance(pilot.app.screen, AskLine))
        await pilot.press("ctrl+u", *line, "enter")
        await pilot.pause(0.05)


async def says(pilot: Pilot[None], kind: type, words: str) -> None:
    """Wait until a question, or what came of an action, says these words, wherever its lines break."""
    await until(pilot, lambda: isinstance(pilot.app.screen, kind) and "".join(words.split()) in dialog(pilot))


def dialog(pilot: Pilot[None]) -> str:
    """What stands in the box over a screen, without spaces."""
    box = pilot.app.screen.query_one(Vertical).region
    lines = screen_of(pilot).splitlines()[box.y : box.bottom]
    return "".join("".join(line[box.x : box.right].split()) for line in lines)


def test_a_live_run_is_stopped_after_its_round_or_its_shard(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "midway", tmp_path / "midway")
    run = Run.open(tmp_path / "midway")

    async def at(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: page_of(pilot).watched.alive)
        assert "branch midway from round 1" in offered(pilot)
        await choose(pilot, "stop midway after this round")
        await says(pilot, Confirm, f"selfalign stop {run.path} --after round")
        await pilot.press("n")
        assert run.stop_asked() is None
        await choose(pilot, "stop midway after this round")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press("y")
        await says(pilot, Told, "to stop after round 1")
        assert run.stop_asked().round == 1
        await pilot.press("escape")
        await choose(pilot, "stop midway after this shard")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        assert child.poll() is None
        await pilot.press("y")
        await says(pilot, Told, "it finishes its shard first")
        assert child.wait(timeout=30) == 0
        await pilot.press("escape")
        await until(pilot, lambda: not page_of(pilot).watched.alive)
        assert not [name for name in offered(pilot) if name.startswith("stop")]

    with writer(run.path) as child:
        look(tmp_path, at, run="midway")


def test_a_round_is_done_anew_in_a_new_run_after_questions(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "sample", tmp_path / "sample")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "sample").rglob("*") if path.is_file()}

    async def at(pilot: Pilot[None]) -> None:
        assert {"go to round 0", "branch sample from round 1", "rerun sample from round 0 in a new run"} < set(
            offered(pilot)
        )
        assert not [name for name in offered(pilot) if name.startswith("stop")]
        await choose(pilot, "rerun sample from round 1 in a new run")
        await says(pilot, AskLine, "sample-2")
        await typed(pilot, "../out")
        await says(pilot, AskLine, "cannot be the name of a run")
        await typed(pilot, "anew", "train.beta=0.3 'seed")
        await says(pilot, AskLine, "No closing quotation")
        await typed(pilot, "train.beta=0.3")
        await says(pilot, Confirm, "round 1 is done anew, with train.beta=0.3")
        await says(pilot, Confirm, "anew --rerun 1 --set train.beta=0.3")
        await pilot.press("y")
        await says(pilot, Told, f"selfalign run {tmp_path}/anew")
        await pilot.press("y", "escape")
        assert pilot.app.clipboard == f"selfalign run {tmp_path}/anew"
        await choose(pilot, "go to round 1")
        assert page_of(pilot).NAME == "Round"

    look(tmp_path, at, run="sample", size=(100, 30))
    made_run = Run.open(tmp_path / "anew")
    assert made_run.rounds() == [0] and made_run.verify() == [] and "beta: 0.3" in made_run.read_text("campaign.yaml")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "sample").rglob("*") if path.is_file()} == before


HOSTILE = "bad [bold]name[INST] [@click=app.quit] \u202e"


def test_questions_about_a_hostile_run_show_it_as_it_is(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "sample", tmp_path / HOSTILE)

    async def at(pilot: Pilot[None]) -> None:
        (name,) = [name for name in offered(pilot) if name.startswith("rerun") and "round 1" in name]
        assert "[bold]name[INST]" in name and "\u202e" not in name
        await choose(pilot, name)
        await says(pilot, AskLine, "bad [bold]name[INST]")
        await pilot.press("enter")
        await says(pilot, AskLine, "cannot be the name of a run")
        assert_harmless(pilot)
        await typed(pilot, "tame", "train.beta='\x1b]0;x\x07[bold]'")
        await says(pilot, AskLine, "not a number")
        assert_harmless(pilot)
        await typed(pilot, "")
        await says(pilot, Confirm, "bad [bold]name[INST]")
        assert_harmless(pilot)
        await pilot.press("n")

    look(tmp_path, at, run=HOSTILE)
    assert not (tmp_path / "tame").exists()


def test_a_reader_that_only_reads_offers_nothing_that_writes(made: Path) -> None:
    async def main() -> None:
        app = Reader(Library(made, made / "sample"), Place(made / "sample"), read_only=True)
        async with app.run_test() as pilot:
            await settled(pilot)
            names = offered(pilot)
            assert "go to round 1" in names and not [name for name in names if name.split()[0] in ("branch", "rerun")]
            await pilot.press("ctrl+c")
            assert [one.message for one in app._notifications if "To stop one: selfalign stop RUN" in one.message]

    asyncio.run(main())


def test_the_palette_leads_to_the_question(made: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "1", "slash", *"sample", "enter", "colon")  # the run under the cursor
        await pilot.press(*"rerun sample from round 0")
        await until(pilot, lambda: "rerun sample from round 0 in a new run" in screen_of(pilot))
        await pilot.pause(0.3)
        await pilot.press("enter")
        await says(pilot, AskLine, "The name of the new run?")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, Campaigns))

    look(made, at, run="sample")


def test_what_cannot_be_done_is_said_with_its_reason(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "sample", tmp_path / "sample")

    async def at(pilot: Pilot[None]) -> None:
        shutil.rmtree(tmp_path / "sample" / "rounds" / "000" / "pairs")
        await choose(pilot, "branch sample from round 0")
        await typed(pilot, "new", "train.bta=1")
        await says(pilot, AskLine, 'Did you mean "train.beta"?')
        assert "another version" not in screen_of(pilot)
        await pilot.press("escape")
        await choose(pilot, "branch sample from round 0")
        await typed(pilot, "new", "")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press("y")
        await says(pilot, Told, "is not what was written")
        await pilot.press("escape")
        await choose(pilot, "branch sample from round 0")
        await until(pilot, lambda: isinstance(pilot.app.screen, AskLine))
        await pilot.press("escape")
        await press(pilot, "j")
        assert page_of(pilot).NAME == "Campaign"

    look(tmp_path, at, run="sample")
    assert not (tmp_path / "new").exists()


def test_a_run_that_stopped_as_asked_says_so_and_how_to_go_on(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "midway", tmp_path / "midway")
    run = Run.open(tmp_path / "midway")
    with run.lock():
        run.emit("stopped_after_round", round=1, asked="x")

    async def at(pilot: Pilot[None]) -> None:
        said = " ".join(screen_of(pilot).split())
        assert "‖ stopped" in said and "stopped after round 1, as asked; to go on: selfalign run" in said

    look(tmp_path, at, run="midway", size=(160, 40))
