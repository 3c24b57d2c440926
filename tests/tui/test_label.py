"""Labelling with keys alone: what a key means, what is on disk, and what a labeller is not told."""

from __future__ import annotations

import asyncio
import shutil
from errno import ENOSPC
from functools import partialmethod
from pathlib import Path

import pytest
from rich.text import Text
from textual.pilot import Pilot

from selfalign import labels
from selfalign.labels import MIN_LABELS
from selfalign.records import Candidate, Judgment, Label, Message, Prompt
from selfalign.store import Run
from selfalign.tui import shown
from selfalign.tui.app import Reader
from selfalign.tui.label import screen as label
from selfalign.tui.label.desk import Desk, Wish
from selfalign.tui.page import Place
from selfalign.tui.pictures import settled
from selfalign.tui.reading import Library
from tests.cli.fabricate import make_judged_run
from tests.tui.conftest import look, page_of, press, screen_of, until
from tests.tui.test_untrusted import CORPUS, assert_harmless


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two rounds, 90 comparisons each, never written by tests."""
    return make_judged_run(tmp_path_factory.mktemp("judged"), prompts=30).path


@pytest.fixture
def runs(judged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a copy of that run, seen by somebody called ann."""
    monkeypatch.setenv("LOGNAME", "ann")
    shutil.copytree(judged, tmp_path / "judged")
    return tmp_path


def said(runs: Path, labeller: str = "ann") -> list[Label]:
    return labels.said_by(runs / "judged", labeller)


def desk(pilot: Pilot[None]) -> Desk:
    page = page_of(pilot)
    assert isinstance(page, Desk)
    return page


def test_the_first_view_says_who_labels_what_and_each_can_be_changed(runs: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "6")
        seen = screen_of(pilot)
        assert "ann" in seen and "84 of 84 comparisons" in seen and "Enter starts" in seen
        assert "The response is kind." in seen and "round 1, training prompts" in seen
        await press(pilot, "p", "n")
        assert "round 1, training prompts" in screen_of(pilot)
        await press(pilot, "m")
        assert "50 of " in screen_of(pilot)
        await press(pilot, "o")
        assert "Nothing to label" in screen_of(pilot) and "held-out prompts" in screen_of(pilot)
        await press(pilot, "enter")  # there is nothing to start
        assert page_of(pilot).NAME == "Label" and not isinstance(page_of(pilot), Desk)
        await press(pilot, "o", "w", *["backspace"] * 3, *"bob", "enter", "c")
        assert pilot.app.clipboard == f"selfalign label {runs / 'judged'} --round 1 --count 50 --labeller bob"
        await press(pilot, "w", "slash", "enter")
        assert "bob/" not in screen_of(pilot).splitlines()[5]
        await press(pilot, "2")  # no verdict here, but a screen
        assert page_of(pilot).NAME == "Campaign"

    look(runs, at, run="judged", size=(80, 24))


def test_it_opens_where_the_labeller_stopped_unless_a_round_is_chosen(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "6", "p", "enter", "1", "escape")
        assert [one.round for one in said(runs)] == [0] and "round 0" in screen_of(pilot)
        await press(pilot, "2", "6")
        assert "round 0" in screen_of(pilot) and "Enter goes on where you stopped" in screen_of(pilot)
        pilot.app.open(label.Labelling, Place(runs / "judged", 1))
        await settled(pilot)
        assert "round 1" in screen_of(pilot)
        await press(pilot, "w", *["backspace"] * 3, *"bob", "enter")
        assert "bob" in screen_of(pilot) and "round 1" in screen_of(pilot)
        await press(pilot, "2", "6", "enter", "1", "1", "escape")  # the last of this queue
        assert "round 0" in screen_of(pilot) and "all of these are labelled" in screen_of(pilot)
        await press(pilot, "2", "6")
        assert "round 1" in screen_of(pilot) and "Enter starts" in screen_of(pilot)

    monkeypatch.setattr(Wish, "__init__", partialmethod(Wish.__init__, count=3))
    look(runs, at, run="judged", size=(80, 24))


def test_each_key_means_what_it_says_and_is_on_disk_when_the_next_pair_is_shown(runs: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "6", "enter")
        assert "1 of about 92" in screen_of(pilot) and "agreement is shown from 30 labels on" in screen_of(pilot)
        for key, verdict in (("1", "left"), ("2", "right"), ("0", "tie"), ("9", "both_bad"), ("s", "skipped"),
                             ("x", "not_applicable")):  # fmt: skip
            pair = desk(pilot).pair
            await press(pilot, key)
            found, sides = said(runs)[-1], {"left": pair.left.id, "right": pair.right.id}
            assert (found.left_id, found.right_id) == (pair.left.id, pair.right.id)
            assert found.preferred_id == sides.get(verdict)
            assert found.verdict == ("preferred" if verdict in sides else verdict)
            assert f"recorded: {verdict.replace('_', ' ')} · u undoes" in screen_of(pilot)
            assert desk(pilot).pair != pair
        for left in range(5, -1, -1):
            await press(pilot, "u")
            assert len(said(runs)) == left
        assert "taken back: left" in screen_of(pilot)
        await press(pilot, "f", "u")
        assert "nothing to undo" in screen_of(pilot) and "⚑ flagged" in screen_of(pilot)

    look(runs, at, run="judged", size=(80, 24))


def test_flags_and_comments_go_with_the_verdict_and_come_back_with_undo(runs: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "6", "enter", "f", "c", *"odd", "enter")
        assert "⚑ flagged  comment: odd" in screen_of(pilot)
        await press(pilot, "1")
        assert "flagged" not in screen_of(pilot)
        assert [(one.flagged, one.comment) for one in said(runs)] == [(True, "odd")]
        await press(pilot, "u")
        assert "⚑ flagged  comment: odd" in screen_of(pilot)
        await press(pilot, "f", "c", "escape", "2")
        assert [(one.flagged, one.comment) for one in said(runs)] == [(False, "odd")]

    look(runs, at, run="judged")


@pytest.mark.parametrize("size", [(60, 24), (160, 50)], ids=str)
def test_a_labeller_reads_both_answers_and_learns_nothing_of_them(runs: Path, size: tuple[int, int]) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "6", "enter")
        page = desk(pilot)
        before = page.focused
        for _ in range(3):
            await press(pilot, "tab")
            assert page.focused is not before
        await press(pilot, "tab", "d", "y")
        assert page.focused is before
        seen = screen_of(pilot) + pilot.app.clipboard
        for text in (page.pair.left.text, page.pair.right.text, page.pair.comparison.prompt.messages[0].content):
            assert text in screen_of(pilot) and text in pilot.app.clipboard
        for word in ("policy", "chosen", "rejected", "random", "swap", "margin", page.pair.left.id[:8]):
            assert word not in seen, word
        await press(pilot, "b")
        assert "The response is friendly." in screen_of(pilot)
        await press(pilot, "b", "question_mark")
        assert "blind" in screen_of(pilot) and "repeat" not in screen_of(pilot)
        await press(pilot, "escape", "3")
        assert page_of(pilot).NAME == "Round"
        await press(pilot, "6")
        assert "Which of two answers is better?" in screen_of(pilot)

    look(runs, at, run="judged", size=size)


def test_an_answer_that_goes_on_below_is_to_be_read_first(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "6", "enter", "2")
        page = desk(pilot)
        page.query_one("#right").put(_lines(40))
        await pilot.pause(0.1)
        await press(pilot, "1")
        assert "the right answer goes on below; press again to record" in screen_of(pilot) and len(said(runs)) == 1
        await press(pilot, "1")
        assert len(said(runs)) == 2
        page.query_one("#left").put(_lines(40))
        page.query_one("#right").put(_lines(40))
        await pilot.pause(0.1)
        await press(pilot, "j", "space", "G", "g")
        await until(pilot, lambda: page.query_one("#left").scroll_y == 0)
        await press(pilot, "0")
        assert len(said(runs)) == 3

    monkeypatch.setenv("TEXTUAL_ANIMATIONS", "none")
    look(runs, at, run="judged", size=(80, 24))


def _lines(count: int) -> Text:
    return shown.block("\n".join(f"line {number}" for number in range(count)))


def test_agreement_and_habits_are_told_from_thirty_labels_on_and_at_the_end(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "6", "m", "enter")
        await press(pilot, *"1" * (MIN_LABELS + 1))  # two of them were shown twice
        assert "agreement is shown from 30" in screen_of(pilot)
        await press(pilot, "1", "1")
        assert "same as judge" in screen_of(pilot) and "left 100%" in screen_of(pilot)
        await press(pilot, "u", "u")
        assert "same as judge" not in screen_of(pilot)
        await press(pilot, *"1" * 4, "1")  # one too many
        seen = screen_of(pilot)
        assert "All that was to be labelled is labelled." in seen and "the labelling judge says the same of" in seen
        assert "kappa" in seen and "100% are for the left answer" in seen and "shown twice you said" in seen
        assert f"selfalign labels ls {runs / 'judged'}" in seen and "judge calibrate" in seen
        done = len(said(runs))
        assert done == 35 and sum(one.repeat for one in said(runs)) == 3
        await press(pilot, "u")
        assert f"{done} of about {done}" in screen_of(pilot)
        await press(pilot, "escape")
        assert "goes on where you stopped" in screen_of(pilot)

    monkeypatch.setattr(label, "COUNTS", (32,))
    look(runs, at, run="judged", size=(120, 40))


def test_what_cannot_be_saved_keeps_the_pair_and_says_why(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, line: bytes) -> None:
        raise OSError(ENOSPC, "No space left on device")

    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "6", "enter", "f")
        pair, write = desk(pilot).pair, labels.append_line
        monkeypatch.setattr(labels, "append_line", full)
        await press(pilot, "1")
        assert "No space left on device" in screen_of(pilot) and desk(pilot).pair == pair and not said(runs)
        monkeypatch.setattr(labels, "append_line", write)
        await press(pilot, "1")
        assert "No space" not in screen_of(pilot) and [one.flagged for one in said(runs)] == [True]
        shutil.rmtree(runs / "judged")
        await press(pilot, "1")
        seen = screen_of(pilot)  # that the run is gone stands before all else, once it was noticed
        assert "was deleted while it was open" in seen or "this run is gone" in seen

    look(runs, at, run="judged")


def test_a_labeller_who_is_at_it_elsewhere_is_waited_for_and_a_run_that_goes_on_is_not(runs: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        with Run.open(runs / "judged").lock(), labels.opened(runs / "judged", "ann"):
            await press(pilot, "6", "enter")
            assert "ann is labelling elsewhere" in screen_of(pilot)
            await press(pilot, "escape", "w", *"2", "enter", "enter", "1")
            assert len(said(runs, "ann2")) == 1
            await press(pilot, "escape")
            await press(pilot, "w", "backspace", "enter", "enter")
            assert "ann is labelling elsewhere" in screen_of(pilot)
        await until(pilot, lambda: desk(pilot).pair is not None)
        await press(pilot, "1")
        assert len(said(runs)) == 1

    look(runs, at, run="judged")


def test_a_reader_that_writes_nothing_offers_no_labelling(runs: Path) -> None:
    async def main() -> None:
        app = Reader(Library(runs, runs / "judged"), Place(runs / "judged"), read_only=True)
        async with app.run_test(size=(80, 24)) as pilot:
            await settled(pilot)
            await press(pilot, "6", "enter", "w", "m")
            assert "Labelling is off" in screen_of(pilot) and page_of(pilot).NAME == "Label"
            await press(pilot, "2")
            assert page_of(pilot).NAME == "Campaign" and not (runs / "judged" / "labels").exists()

    asyncio.run(main())


def test_a_round_that_cannot_be_read_leaves_the_others(runs: Path) -> None:
    (runs / "judged" / "rounds" / "001" / "constitution.yaml").unlink()

    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "6")
        await press(pilot, "n")
        assert "This cannot be read" in screen_of(pilot)
        await press(pilot, "p")
        assert "Enter starts" in screen_of(pilot) and "round 0" in screen_of(pilot)
        (runs / "judged" / "labels").mkdir()
        (runs / "judged" / "labels" / "ann.jsonl").write_text('{"no": "label"}\n')
        await press(pilot, "r")
        assert "is no label" in screen_of(pilot)

    look(runs, at, run="judged")


def test_hostile_texts_are_labelled_as_they_are(runs: Path) -> None:
    run = Run.open(runs / "judged")
    with run.lock():
        _hostile_round(run)

    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "6", "enter", "d", "G", "y")
        for text in CORPUS:
            assert_harmless(pilot)
            desk(pilot)._commented(text[:2000])
            await press(pilot, "0", "0")
        assert pilot.app.is_running

    look(runs, at, run="judged", size=(100, 40))
    assert len(said(runs)) >= len(CORPUS) - 1


def _hostile_round(run: Run) -> None:
    """A round whose prompts and answers are of the corpus."""
    run.write_text("rounds/002/constitution.yaml", run.read_text("rounds/001/constitution.yaml"))
    prompts = [Prompt.make((Message("user", text), Message("assistant", text)), tags=("poem",)) for text in CORPUS]
    answers = [
        Candidate(f"{prompt.id}{side}", prompt.id, "policy", side, 0, f"{text}{'.' * side}", (1,), "stop")
        for prompt, text in zip(prompts, CORPUS, strict=True)
        for side in (0, 1)
    ]
    judgments = [
        Judgment(f"{a.id}{i}", a.prompt_id, x.id, y.id, "kind", "hash", "judge", "template", "first", 0.9)
        for a, b in zip(answers[::2], answers[1::2], strict=True)
        for i, (x, y) in enumerate(((a, b), (b, a)))
    ]
    digests: dict[str, str] = {}
    for name, rows in (("prompts", prompts), ("candidates", answers), ("judgments", judgments)):
        step = run.step(f"rounds/002/{name}", inputs=digests, config={})
        step.write(0, rows)
        step.finish({})
        digests = {**digests, step.name: step.digest}
