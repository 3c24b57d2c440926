"""Runs that are written, damaged, deleted or foreign while they are read; and runs that are large."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from textual.pilot import Pilot

import selfalign.tui
from selfalign.store import Run
from selfalign.tui.logs.lineindex import LineIndex
from selfalign.tui.pairs.filter import ordered
from selfalign.tui.pairs.index import PairIndex
from selfalign.tui.reading import Library, Watched
from selfalign.tui.trainlog import MOST, TrainLog
from selfalign.tui.widgets import Column, Grid, layout
from tests.cli.fabricate import make_large_run
from tests.tui.conftest import look, page_of, press, screen_of, until
from tests.tui.test_pairs import selected


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    """Runs of one's own."""
    shutil.copytree(made, tmp_path / "runs")
    return tmp_path / "runs"


def test_a_live_run_is_followed(runs: Path) -> None:
    run = Run.open(runs / "midway")

    async def at(pilot: Pilot[None]) -> None:
        with run.lock():
            run.emit("campaign_started", rounds=3)
            run.emit("round_started", round=2)
            run.emit("stage_started", round=2, stage="generate", total=10, done=0, unit="shards")
            await until(pilot, lambda: "● running" in screen_of(pilot))
            for done in range(1, 6):
                run.emit("progress", round=2, stage="generate", done=done, total=10, unit="shards")
            await until(pilot, lambda: "5/10 shards" in screen_of(pilot) and "▸50%" in screen_of(pilot))
        await until(pilot, lambda: "✗ dead" in screen_of(pilot))

    look(runs, at, run="midway")


def test_a_run_that_is_deleted_meanwhile_is_said_to_be_gone(runs: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        shutil.rmtree(runs / "sample")
        await until(pilot, lambda: "this run is gone" in screen_of(pilot))
        assert "0.65" in screen_of(pilot)  # what was read before is still there
        for key in ("3", "4", "8", "2"):
            await press(pilot, key)
            await until(pilot, lambda: "this run is gone" in screen_of(pilot))
            page_of(pilot).reader.library.all()  # as a list of the runs is read meanwhile
        assert "0.65" in screen_of(pilot)
        await press(pilot, "1")
        await until(pilot, lambda: "✗ deleted" in screen_of(pilot))

    look(runs, at, run="sample")


def test_half_a_shard_is_named_and_the_rest_shown(runs: Path) -> None:
    shard = runs / "sample" / "rounds" / "001" / "pairs" / "part-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:500])
    index = PairIndex(Run.open(runs / "sample"), [0, 1])
    list(index.grow())
    assert len(index) == 6
    assert "part-00000.parquet" in index.problems[1, 0]

    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "4")
        await until(pilot, lambda: "SHA-256 does not match" in screen_of(pilot))

    look(runs, at, run="sample")


def test_shards_that_come_later_are_taken_in(runs: Path) -> None:
    run = Run.open(runs / "sample")
    index = PairIndex(run, [0, 1])
    assert [part.round for part in index.grow()] == [0, 1]
    assert list(index.grow()) == []
    assert index.spot(7).name == "1:1" and len(selected(index, "round=1")) == 6


def test_a_newer_report_is_said_to_be_one(runs: Path) -> None:
    path = runs / "sample" / "rounds" / "001" / "report.json"
    newer = json.loads(path.read_text())
    del newer["gate"]
    run = Run.open(runs / "sample")
    with run.lock():
        run.write_json("rounds/001/report.json", {**newer, "verdict": {"new": True}})
    watched = Watched(runs / "sample")
    with watched.reading():
        assert list(watched.reports) == [0]
        assert "written by another version of selfalign" in watched.problems["rounds/001/report.json"]


def test_unknown_settings_and_events_do_not_hide_the_rest(runs: Path) -> None:
    with (runs / "sample" / "campaign.yaml").open("a") as file:
        file.write("quantum: {entangled: true}\n")
    with (runs / "sample" / "events.jsonl").open("a") as file:
        file.write(
            '{"event":"teleported","time":1}\n{"event":"progress","done":"many","round":1,"stage":"train"}\nnot json'
        )
    watched = Watched(runs / "sample")
    with watched.reading():
        assert watched.state == "done" and len(watched.evaluated()) == 2
        assert "quantum" in watched.problems["campaign.yaml"]
        assert "not of the form" in watched.problems["events.jsonl"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_read_only_mount_is_readable(runs: Path) -> None:
    if subprocess.run(["mount", "--bind", runs, runs], capture_output=True).returncode:
        pytest.skip("this machine does not mount")
    try:
        if subprocess.run(["mount", "-o", "remount,ro,bind", runs], capture_output=True).returncode:
            pytest.skip("this machine does not mount read-only")

        async def at(pilot: Pilot[None]) -> None:
            for key in ("3", "4", "8", "1"):
                await press(pilot, key)
            assert "sample" in screen_of(pilot)

        look(runs, at, run="sample")
    finally:
        subprocess.run(["umount", runs], check=False)


def test_reading_writes_nothing(runs: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*")}

    async def at(pilot: Pilot[None]) -> None:
        for key in ("3", "4", "enter", "8", "1"):
            await press(pilot, key)

    look(runs, at, run="sample")
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*")} == before


def test_a_writer_is_never_held_up_and_no_half_state_is_seen(tmp_path: Path, made: Path) -> None:
    shutil.copytree(made / "midway", tmp_path / "runs" / "busy")
    run, library = Run.open(tmp_path / "runs" / "busy"), Library(tmp_path / "runs")
    stop, wrong = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            with library.all()[0].reading() as watched:
                if watched.problems:
                    wrong.append(dict(watched.problems))

    reader = threading.Thread(target=read)
    with run.lock():
        reader.start()
        took = []
        for number in range(1000):
            begun = time.monotonic()
            run.emit("progress", round=1, stage="train", done=number, total=1000, unit="steps")
            took.append(time.monotonic() - begun)
    stop.set()
    reader.join()
    assert not wrong
    assert sorted(took)[990] < 0.5
    with library.all()[0].reading() as watched:
        assert watched.progress.stages[1, "train"].done == 999


# Many ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of 100,000 pairs."""
    root = tmp_path_factory.mktemp("many")
    make_large_run(root)
    return root / "runs"


@pytest.mark.slow
def test_a_hundred_thousand_pairs_are_opened_and_walked(many: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "G")
        pilot.app.simulate_key("4")  # `press` would wait until all is read
        await until(pilot, lambda: "question 10" in screen_of(pilot))
        page = page_of(pilot)
        await until(pilot, lambda: page.settled and "100,000 pairs" in screen_of(pilot))
        for key, shown in (
            ("G", "question 99999"),
            ("g", "question 0"),
            ("end", "question 99999"),
            ("home", "question 0"),
        ):
            await pilot.press(key)
            await until(pilot, lambda shown=f" {shown} ": shown in screen_of(pilot))

    look(many, at, run="many")


def test_no_worker_is_described_by_its_arguments() -> None:
    """Textual would spell out all of them, each time: of an index of 100,000 pairs that takes seconds."""
    sources = Path(selfalign.tui.__file__).parent.rglob("*.py")
    begun = [call for source in sources for call in re.findall(r"@work\b.*", source.read_text())]
    assert begun and all(re.search(r"description=\"\w", call) for call in begun)


@pytest.mark.slow
def test_filters_agree_with_a_naive_loop(many: Path) -> None:
    index = PairIndex(Run.open(many / "many"), [2])
    list(index.grow())
    assert len(index) == 100_000
    rows = range(len(index))
    assert selected(index, "").tolist() == list(rows)
    assert selected(index, "margin>0.99995").tolist() == [i for i in rows if i / 100_000 > 0.99995]
    assert selected(index, "disagree").tolist() == [i for i in rows if i % 10 == 0]
    assert len(selected(index, "split")) == 0
    assert selected(index, "tag:even tokens=2").tolist() == [i for i in rows if i % 2 == 0 and i % 50 == 2]
    assert len(selected(index, "principle:kin")) == 100_000
    widest = ordered(index, selected(index, "disagree"), "margin, widest first")
    assert widest[:3].tolist() == [99_990, 99_980, 99_970]
    assert index.spot(99_999) == (2, 99, 999, 99_999)
    held = sum(getattr(part, name).nbytes for part in index.parts for name in ("p", "margin", "chosen", "rejected"))
    assert held <= 16 * len(index)


def test_a_grid_makes_only_the_rows_in_sight_and_each_once() -> None:
    import asyncio

    from textual.app import App, ComposeResult

    from selfalign.tui import shown

    asked: list[int] = []
    words = {0: "…"}

    class Shelf(App[None]):
        def compose(self) -> ComposeResult:
            yield Grid([Column("row")])

    async def main() -> None:
        async with Shelf().run_test(size=(40, 20)) as pilot:
            grid = pilot.app.query_one(Grid)
            grid.focus()

            def row(index: int) -> list[object]:
                asked.append(index)
                grid.incomplete = words.get(index) == "…"
                return [shown.cell(words.get(index, f"row {index}"))]

            grid.fill(10_000_000, row)
            await pilot.press("G")
            await pilot.pause()
            assert "row 9999999" in screen_of(pilot)
            assert len(set(asked)) < 100
            await pilot.press("g", "j")
            asked.clear()
            await pilot.press("j", "j")
            assert set(asked) <= {1, 2, 3}  # the lines between which the cursor goes
            words[0], words[5] = "come", "another"
            grid.complete()
            await pilot.pause()
            assert "come" in screen_of(pilot) and "another" not in screen_of(pilot)
            grid.refresh()
            await pilot.pause()
            assert "another" in screen_of(pilot)

    asyncio.run(main())


def test_a_log_of_a_million_lines_is_indexed_and_searched(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"".join(b"line %d\n" % i for i in range(1_000_000)) + b"no end")
    index = LineIndex(path, "LINE 77777")
    index.grow()
    assert index.total == 1_000_000
    expected = [i for i in range(1_000_000) if f"line {i}".startswith("line 77777")]
    assert [index.number(at) for at in range(len(index))] == expected
    assert index.lines([0]) == [b"line 77777"]
    with path.open("ab") as file:
        file.write(b"\nand line 777771\n")
    index.grow()
    assert index.lines([len(index) - 1]) == [b"and line 777771"] and index.total == 1_000_002
    path.write_bytes(b"another\n")
    index.grow()
    assert (index.total, len(index), index.restarts) == (1, 0, 1)


def test_the_metrics_of_a_long_training_are_thinned(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(f'{{"step":{i},"loss":{i / 10}}}\n' for i in range(1, 3 * MOST)))
    log = TrainLog(tmp_path)
    log.grow()
    ((curve,),) = [chart.curves for chart in log.charts() if chart.title == "Training loss"]
    assert MOST / 3 < len(curve.x) <= MOST and log.steps == 3 * MOST - 1
    assert all(y == pytest.approx(x / 10) for x, y in zip(curve.x, curve.y, strict=True))


# Layout ---------------------------------------------------------------------------------------------------------------


def test_columns_share_the_room_and_the_least_needed_go_first() -> None:
    columns = [Column("a"), Column("b", 10), Column("c", 10, drop=1), Column("d")]
    assert layout(columns, 60, 2) == [(0, 17), (1, 10), (2, 10), (3, 17)]
    assert layout(columns, 36, 2) == [(0, 11), (1, 10), (3, 11)]


def test_the_reader_loads_neither_torch_nor_what_hosts_work() -> None:
    code = (
        "import sys, selfalign.tui.app, selfalign.tui.pictures\n"
        "heavy = {'torch', 'vllm', 'transformers', 'selfalign.campaign', 'selfalign.engines', 'selfalign.cli'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
