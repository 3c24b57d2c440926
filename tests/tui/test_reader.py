"""Going through the screens with keys alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from textual.pilot import Pilot

from selfalign.tui.logs.screen import Logs
from selfalign.tui.pairs.screen import Pairs
from selfalign.tui.widgets import FilterLine, Grid
from tests.tui.conftest import look, page_of, press, screen_of, until

SIZES = [(80, 24), (160, 50)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_all_runs_are_listed_with_their_state_and_win_rate(made: Path, size: tuple[int, int]) -> None:
    async def at(pilot: Pilot[None]) -> None:
        shown = screen_of(pilot)
        assert "4 runs" in shown
        for name in ("sample", "other", "mixed", "midway"):
            assert name in shown
        assert "✗ dead" in shown and "✓ finished" in shown and "0.65 ±0.06" in shown
        assert "train 57%" in shown

    look(made, at, size=size)


def test_the_first_screen_teaches_where_there_is_nothing(tmp_path: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        shown = screen_of(pilot)
        assert "no runs yet" in shown and "selfalign run pocket" in shown
        await press(pilot, "2", "4", "enter", "s", "y", "c", "j")  # nothing to open, and nothing breaks
        assert page_of(pilot).NAME == "Campaigns"

    look(tmp_path / "nothing", at, size=(80, 24))


def test_enter_goes_down_and_escape_comes_back_to_the_same_row(made: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "G", "enter")
        page = page_of(pilot)
        name = page.watched.name
        assert page.NAME == "Campaign" and name in screen_of(pilot)
        await press(pilot, "enter")
        assert page_of(pilot).NAME == "Round" and page_of(pilot).watched.name == name
        await press(pilot, "escape", "escape")
        assert page_of(pilot).NAME == "Campaigns" and page_of(pilot).place().path.name == name
        await press(pilot, "escape")
        assert page_of(pilot).NAME == "Campaigns"

    look(made, at)


NAMES = ("Campaigns", "Campaign", "Round", "Pairs", "Constitution", "Label", "Compare", "Logs")


def test_numbers_lead_everywhere_and_the_stack_does_not_grow(made: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        for _ in range(2):
            for number, name in enumerate(NAMES, 1):
                await press(pilot, str(number))
                assert name == page_of(pilot).NAME
        assert len(pilot.app.screen_stack) <= 9

    look(made, at, run="sample")


def test_a_campaign_says_its_rounds_decisions_and_what_needs_attention(made: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        shown = screen_of(pilot)
        for words in ("sample", "round", "generate", "judge", "✓ accepted", "0.65 ±0.06", "Win rate", "KL to base"):
            assert words in shown, words
        assert "warning: chosen rewards fall while the margin rises" in shown
        await press(pilot, "G")
        assert page_of(pilot).place().round == 2

    look(made, at, run="sample", size=(160, 60))


def test_a_dead_run_says_how_to_go_on(made: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        assert "to go on: selfalign run" in screen_of(pilot)

    look(made, at, run="midway", size=(160, 50))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_round_shows_training_data_judge_samples_and_files(made: Path, size: tuple[int, int]) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "3", "p")
        seen = [screen_of(pilot)]
        for _ in range(12):
            await press(pilot, "space")
            seen.append(screen_of(pilot))
        shown = "\n".join(seen)
        for words in (
            "round 0", "Training loss", "Reward margin", "left out: below margin", "labelling", "91.0%",
            "vs previous", "before", "after", "policy", "SHA-256",
        ):  # fmt: skip
            assert words in shown, words
        await press(pilot, "f", "g", "n")
        assert "round 1" in screen_of(pilot)

    look(made, at, run="sample", size=size)


def test_every_file_of_a_round_has_its_digest(made: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "3", "p", "f")
        await press(pilot, "G")
        assert "metrics.jsonl" in screen_of(pilot) and "part-00000.parquet" in screen_of(pilot)

    look(made, at, run="sample", size=(160, 60))


def test_a_round_not_yet_evaluated_says_so(made: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "G", "3")
        assert "has not been evaluated yet" in screen_of(pilot) and "Not decided yet" in screen_of(pilot)

    look(made, at, run="sample", size=(160, 60))


def test_pairs_are_listed_filtered_sorted_and_opened(made: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "4", "a", "a")
        assert "12 pairs" in screen_of(pilot) or "6 pairs" in screen_of(pilot)
        await press(pilot, "slash", *"margin", "greater_than_sign", *"0.45", "enter")
        assert "of 6 pairs" in screen_of(pilot) or "of 12 pairs" in screen_of(pilot)
        await press(pilot, "s", "enter")
        shown = screen_of(pilot)
        assert "pair 1:5" in shown and "+ chosen" in shown and "− rejected" in shown
        assert "chosen 0.850" in shown and "chosen 0.750" in shown and "✓ 0.800" in shown
        await press(pilot, "n")
        assert "pair 1:4" in screen_of(pilot)
        await press(pilot, "n", "p", "p", "p", "d", "v")
        assert "pair 1:5" in screen_of(pilot) and "What the judge said" in screen_of(pilot)
        await press(pilot, "escape", "slash", "escape")
        assert page_of(pilot).NAME == "Pairs" and " of " not in screen_of(pilot).splitlines()[1]

    look(made, at, run="sample", size=(120, 60))


def test_a_filter_that_is_none_is_explained(made: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "4", "slash", *"margn", "greater_than_sign")
        assert "'margn>' is no filter. Did you mean" in screen_of(pilot)

    look(made, at, run="sample")


def test_logs_show_events_follow_and_filter(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "midway", tmp_path / "runs" / "midway")
    logs = tmp_path / "runs" / "midway" / "logs"
    logs.mkdir()
    (logs / "inference.log").write_text("".join(f"line {i}\n" for i in range(50_000)) + "ERROR: out of luck\n")

    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "8")
        assert "train_step" in screen_of(pilot) and "following" in screen_of(pilot)
        await press(pilot, "tab")
        await press(pilot, "r")
        assert "50,001 lines" in screen_of(pilot) and "ERROR: out of luck" in screen_of(pilot)
        with (logs / "inference.log").open("a") as file:
            file.write("one more\n")
        await press(pilot, "r", "r")
        assert "one more" in screen_of(pilot)
        await press(pilot, "slash", *"out of", "enter", "r")
        shown = screen_of(pilot)
        assert "1 of 50,002 lines" in shown and "out of luck" in shown and "line 49" not in shown
        await press(pilot, "enter")
        assert "out of luck" in screen_of(pilot)

    look(tmp_path / "runs", at, run="midway", size=(100, 30))


def test_help_names_the_keys_of_the_screen(made: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        for key, words in (
            ("1", "sort"),
            ("2", "open round"),
            ("3", "all files"),
            ("4", "left out"),
            ("8", "follow"),
        ):
            await press(pilot, key, "question_mark")
            assert words in screen_of(pilot) and "everywhere" in screen_of(pilot)
            await press(pilot, "escape")

    look(made, at, run="sample", size=(100, 60))


def test_copying_puts_words_on_the_clipboard(made: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "c")
        assert pilot.app.clipboard == f"selfalign status {made / 'sample'}"
        await press(pilot, "4", "c")
        assert pilot.app.clipboard.startswith("selfalign pairs show ")

    look(made, at, run="sample")


def test_the_palette_leads_to_runs_and_screens(made: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "colon")
        await pilot.press(*"open other")
        await pilot.pause(0.5)
        await press(pilot, "enter")
        await pilot.pause(0.3)
        assert page_of(pilot).NAME == "Campaign" and page_of(pilot).watched.name == "other"

    look(made, at)


def test_q_quits(made: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await pilot.press("q")
        await pilot.pause(0.1)
        assert not pilot.app.is_running or pilot.app._exit

    look(made, at)


def test_filter_sort_and_cursor_are_as_they_were_left(made: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "4", "s")
        await press(pilot, "slash", *"margin>0.1", "enter", "j", "j")
        page = page_of(pilot)
        assert isinstance(page, Pairs) and page.words == "margin>0.1" and page.sort == "margin, widest first"
        before = page.copied()
        onto_sample = ("slash", *"sample", "enter")
        for there in (("1", *onto_sample, "4"), ("2", "4"), ("escape", "4"), ("8", "4"), ("3", "2", "4")):
            await press(pilot, *there)
            page = page_of(pilot)
            assert isinstance(page, Pairs) and page.sort == "margin, widest first"
            assert (page.words, page.copied()) == ("margin>0.1", before), there
            assert page.query_one(FilterLine).display and "margin>0.1" in screen_of(pilot)
        await press(pilot, "slash", "escape")
        assert page_of(pilot).words == ""
        await press(pilot, "8", "slash", *"stage", "enter", "g", "j", "2", "8")
        await until(pilot, lambda: page_of(pilot).query_one(Grid).cursor == 1)
        logs = page_of(pilot)
        assert isinstance(logs, Logs) and logs.words == "stage" and not logs.following
        await press(pilot, "1", "slash", "escape", "g", "enter", "4")  # another run's pairs begin anew
        assert page_of(pilot).at.path.name != "sample" and page_of(pilot).words == ""

    look(made, at, run="sample")
