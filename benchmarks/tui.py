"""The terminal reader on a run of many pairs, beside Textual's own table with as many rows.

    python benchmarks/tui.py [--pairs 100000] [--repeats 3] [--runs FOLDER]

The runs are made first, or found where an earlier call with --runs left them. Every turn is a process of its own, and
figures are medians over turns. Times end when a picture's bytes are made for a terminal of 120 x 40, which is not
there: what a real one takes to show them is not counted. "first rows" goes from the key 4 to rows with their texts; a
filter is counted from its last letter.

"keys at rest" are 100 keys, each once the one before has its texts. "while written": 300, while a
second process writes to the same run as fast as the disk takes it: 20 events, a shard of 100 rows of a new round, 20
events, and so on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the runs are made by what makes those of the tests

from textual.app import App, ComposeResult  # noqa: E402
from textual.pilot import Pilot  # noqa: E402
from textual.strip import Strip  # noqa: E402
from textual.widgets import DataTable  # noqa: E402

from selfalign.store import Run  # noqa: E402
from selfalign.tui.app import PAGES, Reader  # noqa: E402
from selfalign.tui.page import Page, Place  # noqa: E402
from selfalign.tui.pairs.screen import Pairs  # noqa: E402
from selfalign.tui.pictures import settled  # noqa: E402
from selfalign.tui.reading import Library  # noqa: E402
from selfalign.tui.widgets import FilterLine, Grid  # noqa: E402
from tests.cli.fabricate import large_round, make_large_run  # noqa: E402

SIZE = (120, 40)
FEW, LARGE_ROUND = 1000, 2
KEYS = ("j", "j", "k", "pagedown", "j", "G", "k", "pageup", "k", "g") * 30
AT_REST = 100  # keys
TABLE_KEYS = {"j": "down", "k": "up", "g": "ctrl+home", "G": "ctrl+end"}
PATIENCE = 120.0  # seconds after which something that should have come did not
OPEN_GOAL, KEY_GOAL = 1.0, 0.1  # seconds
GOALS = {"open pairs: first rows": OPEN_GOAL, "keys while written: p95": KEY_GOAL, "keys while written: max": KEY_GOAL}
TABLE_HEADS = ("pair", "margin", "p", "votes", "tokens", "principles", "tags", "prompt", "chosen", "rejected")
Figures = dict[str, float]


class Timed(App[None]):
    """Can say when a picture of something was made for the terminal."""

    _wanted: Callable[[], bool] | None = None
    _came: asyncio.Future[float]

    def _display(self, screen: Any, renderable: Any) -> None:
        if hasattr(renderable, "render_segments"):  # left out where there is no terminal
            renderable.render_segments(self.console)
        if self._wanted is not None and self._wanted():
            self._wanted = None
            self._came.set_result(time.perf_counter())
        super()._display(screen, renderable)

    async def picture_of(self, true: Callable[[], bool]) -> float:
        """When the first picture was made after something had become so."""
        self._came, self._wanted = asyncio.get_running_loop().create_future(), true
        return await asyncio.wait_for(self._came, PATIENCE)


class TimedReader(Timed, Reader):
    """The reader."""


class Shelf(Timed):
    """The peer."""

    def compose(self) -> ComposeResult:
        yield DataTable(cursor_type="row")


class Drawn:
    """What of a grid was drawn last: the place of its cursor, and which of its lines lack their texts."""

    def __init__(self) -> None:
        self.cursor = -1
        self.lacking: set[int] = set()

    def noting(self) -> Any:
        """Patches `Grid.render_line` to keep this up."""
        draw = Grid.render_line

        def render_line(grid: Grid, y: int) -> Strip:
            strip = draw(grid, y)
            if y and grid.count and y + grid.scroll_offset.y - 1 == grid.cursor:
                self.cursor = grid.cursor
            (self.lacking.add if " … " in f"{strip.text} " else self.lacking.discard)(y)
            return strip

        return mock.patch.object(Grid, "render_line", render_line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--runs", type=Path, help="where the runs are, or are to be made; default: for this call alone")
    parser.add_argument("--child", nargs=2, metavar=("TURN", "RUN"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(TURNS[args.child[0]](Path(args.child[1]), args.pairs)))
        return
    with tempfile.TemporaryDirectory() as folder:
        _compare(args.runs or Path(folder), args.pairs, args.repeats)


def _compare(folder: Path, pairs: int, repeats: int) -> None:
    runs = {count: folder / "runs" / f"pairs{count}" for count in (FEW, pairs)}
    for count, path in runs.items():
        if not path.exists():
            make_large_run(folder, path.name, pairs=count)
    few, many, peer = [], [], []
    for repeat in range(repeats):
        for found, count in ((few, FEW), (many, pairs)):
            turns = ("look", "written", "screens", *(("walk",) if not repeat else ()))
            found.append({key: value for turn in turns for key, value in _turn(turn, runs[count], count).items()})
        peer.append(_turn("table", runs[pairs], pairs))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}, medians of {repeats} turns")
    _report([(f"{FEW:,} pairs", few), (f"{pairs:,} pairs", many), ("DataTable", peer)])
    _start(folder / "runs", repeats)


def _turn(name: str, run: Path, pairs: int) -> Figures:
    command = [sys.executable, __file__, "--pairs", str(pairs), "--child", name, str(run)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


# Turns --------------------------------------------------------------------------------------------------------------


def _with_pairs(run: Path, at: Callable[[Pilot[None], TimedReader, Drawn, Figures], Awaitable[None]]) -> Figures:
    """Open the pairs of a run, and do what `at` does with them."""
    figures: Figures = {}

    async def go() -> None:
        app, drawn = TimedReader(Library(run.parent, run), Place(run, LARGE_ROUND)), Drawn()
        with drawn.noting():
            async with app.run_test(size=SIZE) as pilot:
                await settled(pilot)
                figures["memory, MiB: before"] = _resident()
                await _open_pairs(pilot, app, drawn, figures)
                await at(pilot, app, drawn, figures)

    asyncio.run(go())
    return figures


async def _open_pairs(pilot: Pilot[None], app: TimedReader, drawn: Drawn, figures: Figures) -> None:
    begun = time.perf_counter()
    app.open(Pairs, Place(app.screen.at.path, LARGE_ROUND))
    drawn.cursor = -1
    at = await app.picture_of(lambda: drawn.cursor == 0 and not drawn.lacking)
    figures["open pairs: first rows"] = at - begun
    figures["open pairs: all read"] = await app.picture_of(lambda: app.screen.settled) - begun
    figures["memory, MiB: all read"] = _resident()


def look(run: Path, pairs: int) -> Figures:
    """Filters, sorts, the end, and a long scroll."""

    async def at(pilot: Pilot[None], app: TimedReader, drawn: Drawn, figures: Figures) -> None:
        page, line = app.screen, app.screen.query_one(FilterLine)
        assert isinstance(page, Pairs)
        for words in (*_filters(page.FILTER), ""):
            begun = time.perf_counter()
            line.value = words
            done = await app.picture_of(lambda words=words: page.words == words and page.settled)
            figures[f"filter: {words or 'none'}"] = done - begun
        first = page.sort
        while page.sort != first or f"sort: {first}" not in figures:
            before, begun = page.sort, time.perf_counter()
            app.simulate_key("s")
            done = await app.picture_of(lambda before=before: page.sort != before)
            figures[f"sort: {page.sort}"] = done - begun
        figures["jump to the end"], figures["jump to the end: texts"] = await _key(app, drawn, "G")
        await _key(app, drawn, "g")
        begun = time.perf_counter()
        for _ in range(200):
            await _key(app, drawn, "j")
        figures["scroll 200 rows"] = time.perf_counter() - begun
        figures.update(_spread("keys at rest", [(await _key(app, drawn, key))[0] for key in KEYS[:AT_REST]]))

    return _with_pairs(run, at)


def _filters(hint: str) -> list[str]:
    """The kinds of filter, with names that the run has."""
    return [word.replace(":ID", ":kind").replace(":NAME", ":even") for word in hint.split()]


async def _key(app: TimedReader, drawn: Drawn, key: str) -> tuple[float, float]:
    """Seconds from a key that moves the cursor to the picture of that, and to the one with all texts."""
    grid, before, begun = app.screen.query_one(Grid), drawn.cursor, time.perf_counter()
    app.simulate_key(key)
    painted = await app.picture_of(lambda: before != drawn.cursor == grid.cursor)
    texts = await app.picture_of(lambda: not drawn.lacking) if drawn.lacking else painted
    return painted - begun, texts - begun


def written(run: Path, pairs: int) -> Figures:
    """Keys while another process writes."""

    async def at(pilot: Pilot[None], app: TimedReader, drawn: Drawn, figures: Figures) -> None:
        await pilot.press("a")
        await settled(pilot)
        drawn.cursor = app.screen.query_one(Grid).cursor
        counted, stop = multiprocessing.Array("l", 2), multiprocessing.Event()
        writer = multiprocessing.Process(target=_write, args=(app.screen.at.path, counted, stop))
        writer.start()
        begun = time.perf_counter()
        while not counted[1]:
            await asyncio.sleep(0.05)
        times = [await _key(app, drawn, key) for key in KEYS]
        figures["written meanwhile: events/s"] = counted[0] / (time.perf_counter() - begun)
        figures["written meanwhile: shards/s"] = counted[1] / (time.perf_counter() - begun)
        stop.set()
        writer.join()
        figures.update(_spread("keys while written", [painted for painted, _ in times]))
        figures["keys while written: texts, p95"] = statistics.quantiles([texts for _, texts in times], n=20)[-1]

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / run.name
        shutil.copytree(run, copy)
        return _with_pairs(copy, at)


def _write(path: Path, counted: Any, stop: Any) -> None:
    run, number = Run.open(path), LARGE_ROUND
    with run.lock():
        while not stop.is_set():
            number += 1
            for done, step in enumerate(large_round(run, number, 5000, shard=100)):
                counted[1] += 1
                for _ in range(20):
                    run.emit("progress", round=number, stage="judge", step=step, done=done, total=200, unit="shards")
                    counted[0] += 1
                if stop.is_set():
                    break


def screens(run: Path, pairs: int) -> Figures:
    """Each screen, from its key to its first picture with what it read."""
    figures: Figures = {}

    async def go() -> None:
        app = TimedReader(Library(run.parent, run), Place(run, LARGE_ROUND))
        async with app.run_test(size=SIZE) as pilot:
            await settled(pilot)
            for page in (*PAGES[2:], *PAGES[:2]):
                begun = time.perf_counter()
                app.action_go(page.NUMBER)  # digits may be verdicts
                done = await app.picture_of(lambda page=page: _shows(app, page))
                figures[f"screen {page.NUMBER} {page.NAME}"] = done - begun
                await settled(pilot)

    asyncio.run(go())
    return figures


def _shows(app: TimedReader, kind: type[Page]) -> bool:
    return type(app.screen) is kind and app.screen.ready


def walk(run: Path, pairs: int) -> Figures:
    """Go through everything, ten screens at a time."""

    async def at(pilot: Pilot[None], app: TimedReader, drawn: Drawn, figures: Figures) -> None:
        grid = app.screen.query_one(Grid)
        step = 10 * grid.scrollable_content_region.height
        for row in range(step, pairs, step):
            grid.put_cursor(row)
            await app.picture_of(lambda row=row: drawn.cursor == row and not drawn.lacking)
        figures["memory, MiB: all gone through"] = _resident()

    return _with_pairs(run, at)


def table(run: Path, pairs: int) -> Figures:
    """The same rows in a DataTable; it has no texts to wait for, for it has them all."""
    figures: Figures = {}
    rows = [_table_row(i, pairs) for i in range(pairs)]

    async def go() -> None:
        app = Shelf()
        async with app.run_test(size=SIZE) as pilot:
            await pilot.pause()
            figures["memory, MiB: before"] = _resident()
            shelf, begun = app.query_one(DataTable), time.perf_counter()
            shelf.add_columns(*TABLE_HEADS)
            shelf.add_rows(rows)
            figures["open pairs: first rows"] = await app.picture_of(lambda: shelf.virtual_size.height > pairs) - begun
            figures["open pairs: all read"] = figures["open pairs: first rows"]
            figures["memory, MiB: all read"] = _resident()
            figures["jump to the end"] = figures["jump to the end: texts"] = await _table_key(app, shelf, "G")
            await _table_key(app, shelf, "g")
            begun = time.perf_counter()
            for _ in range(200):
                await _table_key(app, shelf, "j")
            figures["scroll 200 rows"] = time.perf_counter() - begun
            times = [await _table_key(app, shelf, key) for key in KEYS[:AT_REST]]
            figures.update(_spread("keys at rest", times))

    asyncio.run(go())
    return figures


def _table_row(i: int, pairs: int) -> tuple[str, ...]:
    tag = "odd" if i % 2 else "even"
    tokens = f"{i % 50}/{i % 50}"
    return (f"{LARGE_ROUND}:{i}", f"{i / pairs:.2f}", "0.80", "⇄" if i % 10 == 0 else "", tokens, "kind", tag,
            f"question {i}", f"a answer {i}", f"b answer {i}")  # fmt: skip


async def _table_key(app: Shelf, shelf: DataTable[str], key: str) -> float:
    before, begun = shelf.cursor_row, time.perf_counter()
    app.simulate_key(TABLE_KEYS.get(key, key))
    return await app.picture_of(lambda: shelf.cursor_row != before) - begun


TURNS: dict[str, Callable[[Path, int], Figures]] = {
    "look": look,
    "written": written,
    "screens": screens,
    "walk": walk,
    "table": table,
}


def _resident() -> float:
    """MiB of memory that this process has at the moment."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _spread(name: str, seconds: list[float]) -> Figures:
    return {
        f"{name}: median": statistics.median(seconds),
        f"{name}: p95": statistics.quantiles(seconds, n=20)[-1],
        f"{name}: max": max(seconds),
    }


# What came out ------------------------------------------------------------------------------------------------------


def _report(columns: list[tuple[str, list[Figures]]]) -> None:
    """A line for each figure; times in milliseconds."""
    middles = [_middles(turns) for _, turns in columns]
    names = sorted({key for found in middles[:2] for key in found}, key=list(middles[1]).index)
    print(f"{'ms':38}" + "".join(f"{name:>15}" for name, _ in columns) + f"{'ours is':>10}  goal")
    for name in names:
        _, ours, peer = (found.get(name) for found in middles)
        ratio = f"{peer / ours:.3g} x" if peer and ours else ""
        goal = GOALS.get(name)
        said = f"  under {goal * 1e3:.0f}: {'met' if ours < goal else 'MISSED'}" if goal else ""
        print(f"{name:38}" + "".join(_cell(name, found.get(name)) for found in middles) + f"{ratio:>10}{said}")


def _middles(turns: list[Figures]) -> Figures:
    """Medians over turns; of the longest waits the longest, of what was not in every turn those there are."""
    names = {name: None for turn in turns for name in turn}
    found = {name: [turn[name] for turn in turns if name in turn] for name in names}
    return {name: max(seen) if name.endswith("max") else statistics.median(seen) for name, seen in found.items()}


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return f"{'':>15}"
    return f"{value:15,.0f}" if "MiB" in name or "/s" in name else f"{value * 1e3:15,.1f}"


def _start(runs: Path, repeats: int) -> None:
    """How long the reader takes to start, and whether it brings torch along."""
    picture = [sys.executable, "-m", "selfalign", "tui", "--runs", str(runs), "--screenshot", "campaigns"]
    code = "import sys, selfalign.tui.app; print('torch' in sys.modules or 'vllm' in sys.modules)"
    for name, command in (("start, picture of all runs", picture), ("import", [sys.executable, "-c", code])):
        seconds = []
        for _ in range(2 * repeats):
            begun = time.perf_counter()
            done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
            seconds.append(time.perf_counter() - begun)
        print(f"{name:38}{statistics.median(seconds) * 1e3:15,.1f}")
    print(f"torch or vllm imported: {done.stdout.strip()}")


if __name__ == "__main__":
    main()
