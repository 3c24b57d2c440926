"""Nothing that a model, a prompt or a file says acts on the terminal or on the reader."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path

import pytest
from textual.app import App, ComposeResult
from textual.pilot import Pilot

from selfalign.constitution import Constitution as Rules
from selfalign.constitution import Example, Principle
from selfalign.records import Candidate, Judgment, Message, Pair, Prompt
from selfalign.source import HIDDEN
from selfalign.store import Run
from selfalign.tui import shown
from selfalign.tui.app import Reader
from selfalign.tui.constitution.bench import Asked
from selfalign.tui.constitution.impact import Impact
from selfalign.tui.constitution.screen import Constitution
from selfalign.tui.page import Place
from selfalign.tui.pictures import settled
from selfalign.tui.reading import Library
from selfalign.tui.widgets import Chart, Column, Curve, FilterLine, Grid, Words, Writing
from tests.cli.conftest import environment
from tests.tui.conftest import look, page_of, press, screen_of, until
from tests.tui.evaluated import evaluate

PACKAGE = Path(__file__).resolve().parents[2] / "selfalign" / "tui"
CORPUS = (
    "[/INST] <s>[INST]",
    "[/]",
    "[@click=app.quit]press me[/]",
    "[link=http://evil.example]here[/link] [bold red]not markup[/]",
    "\x1b]52;c;aGk=\x07clipboard",
    "\x1b]0;title\x07 \x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\",
    "\x1b[2J\x1b[31mred\x1b[0m \x1bP+q\x1b\\",
    "\x9b31mc1\x9d52;c;aGk=\x9c",
    "\u202eright to left\u202c \u2066isolate\u2069",
    "lone \ud800 surrogate",
    "\x00\x07\x08bell\x7f",
    "x" * 1_000_000,
    "",
    "👩‍👩‍👧‍👦 漢字 \u200b\ufeff\u2028line",
    "{0.__class__} %s {{7*7}} $primary",
)
FOREIGN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\ufeff\ud800-\udfff]"
)


def assert_harmless(pilot: Pilot[None]) -> None:
    """No control is on the screen, and no segment of it is a link or acts when it is clicked."""
    for strip in pilot.app.screen._compositor.render_strips():
        for segment in strip:
            assert segment.control is None
            assert not FOREIGN.search(segment.text), ascii(segment.text[:200])
            assert segment.style is None or not segment.style.link
            assert segment.style is None or "@click" not in segment.style.meta


class Shelf(App[None]):
    """Every widget with every text of the corpus."""

    def compose(self) -> ComposeResult:
        for text in CORPUS:
            yield Words(text, (text, "bold"))
            block = Words()
            block.show(shown.block(text))
            yield block
            table = Words()
            table.show(shown.table((text, "b"), [(text, (text, "red"))]))
            yield table
            yield Chart(text[:50])
        yield Grid([Column(text[:20]) for text in CORPUS[:3]])
        yield FilterLine("a hint")
        yield Writing()


def test_every_widget_shows_every_text_as_it_is() -> None:
    async def main() -> None:
        async with Shelf().run_test(size=(100, 200)) as pilot:
            grid = pilot.app.query_one(Grid)
            grid.styles.height = 20
            grid.fill(len(CORPUS), lambda at: [shown.cell(CORPUS[at]), shown.line(CORPUS[at]), shown.cell(None)])
            for chart, text in zip(pilot.app.query(Chart), CORPUS, strict=True):
                chart.draw([Curve(text[:30], [0, 1], [0.0, 1.0]), Curve(text[:30], [0, 1], [1.0, 0.0])])
            line = pilot.app.query_one(FilterLine)
            line.display = True
            for text in CORPUS:
                line.value = text
                pilot.app.query_one(Writing).load_text(f"text: {text[:5000]}")
                pilot.app.query_one(Writing).insert(text[:5000])
                pilot.app.notify(shown.line(text).plain[:200], markup=False)
                await pilot.pause()
                assert_harmless(pilot)
            pilot.app.screen.scroll_end(animate=False)
            await pilot.pause()
            assert_harmless(pilot)

    asyncio.run(main())


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, made: Path) -> Path:
    """A folder of runs in which every text is one of the corpus."""
    runs = tmp_path_factory.mktemp("hostile")
    shutil.copytree(made / "other", runs / "bad [bold]name[INST] \u202e")
    shutil.copytree(made / "sample", runs / "evil")
    run = Run.open(runs / "evil")
    with run.lock():
        for text in CORPUS:
            run.emit("campaign_started", rounds=3, name=text)
            run.emit("stage_started", round=2, stage=text[:100], total=3, done=0, unit=text[:100])
            run.emit("progress", round=2, stage=text[:100], total=3, done=1, unit=text[:100])
            run.emit("gate", round=2, accepted=False, reason=text)
            run.emit(text[:100] or "empty", **{text[:50] or "empty": text})
            run.emit("warning", message=text)
        run.emit("failed", message=CORPUS[2] + CORPUS[4])
        _pairs(run)
        run.write_text("rounds/002/constitution.yaml", _principles().to_yaml())
    evaluate(run, list(CORPUS), 2, shard=4, tail="".join(CORPUS[:11]))
    for number in (0, 1):
        _rules(run, number)
    named = runs / "evil" / "campaign.yaml"
    named.write_text(
        re.sub("constitution: .*rules.yaml", f"constitution: {runs / 'evil.rules.yaml'}", named.read_text())
    )
    (runs / "evil.rules.yaml").write_text("".join(f"- {text[:900]}\n" for text in CORPUS), "utf-8", "replace")
    logs = runs / "evil" / "logs"
    logs.mkdir()
    (logs / "[@click=app.quit]\u202e.log").write_text("".join(f"{text}\n" for text in CORPUS), "utf-8", "surrogatepass")
    policy = runs / "evil" / "rounds" / "001" / "policy"
    (policy / "metrics.jsonl").open("a").write(json.dumps({"step": 21, "loss": 0.5, CORPUS[2]: CORPUS[4]}) + "\n")
    return runs


def _rules(run: Run, number: int) -> None:
    """A constitution whose every text is of the corpus; a file cannot hold all of them."""
    texts = [text for text in CORPUS[:4] + CORPUS[11:12] if text]
    found = [f"  - {{id: p{i}, text: {json.dumps(f'{t[:9999]} {number}')}}}\n" for i, t in enumerate((*texts, "kind"))]
    head = "schema: selfalign.constitution/v1\nname: rules\nprinciples:\n  - {id: kind, text: be kind}\n"
    (run.path / f"rounds/{number:03d}/constitution.yaml").write_text(head + "".join(found))


def _principles() -> Rules:
    """Principles with what of the corpus a constitution may hold."""
    texts = [text[:5000] for text in CORPUS if text and not HIDDEN.search(text)]
    fields = ({"title": t[:90], "text": t, "compare": t, "rationale": t, "tags": (t[:90],)} for t in texts)
    example = (Example(prompt=CORPUS[0], better=CORPUS[2], worse=CORPUS[3]),)
    principles = tuple(Principle(id=f"p{i}", examples=example, **each) for i, each in enumerate(fields))
    return Rules(name="evil", version="1.0.0", preamble=CORPUS[0], principles=principles)


def _pairs(run: Run) -> None:
    """A third round, whose prompts, answers, judgments, tags and principles are of the corpus."""
    prompts = [Prompt.make((Message("user", t),), source=t[:99], tags=(t[:99],)) for t in CORPUS]
    answers = [
        Candidate(f"{p.id}{side}", p.id, text[:99], side, 0, text, (1, 2), text[:99])
        for p, text in zip(prompts, CORPUS, strict=True)
        for side in (0, 1)
    ]
    two = list(zip(answers[::2], answers[1::2], CORPUS, strict=True))
    judgments = [
        Judgment(f"{a.id}{i}", a.prompt_id, x.id, y.id, t[:99], "hash", t[:99], "template", "first", 0.9, None, t, t)
        for a, b, t in two
        for i, (x, y) in enumerate(((a, b), (b, a)))
    ]
    pairs = [Pair(a.prompt_id, a.id, b.id, 0.9, 1.0) for a, b, _ in two]
    made: dict[str, str] = {}
    for name, rows in (("prompts", prompts), ("candidates", answers), ("judgments", judgments), ("pairs", pairs)):
        step = run.step(f"rounds/002/{name}", inputs=made, config={})
        step.write(0, rows)
        step.finish({})
        made = {**made, step.name: step.digest}


EVERY = len(CORPUS)
WALKS = {  # by what they show: keys, each of which leads to something that hostile words wrote
    "campaigns": "1 escape 2",
    "round": "3 space space f G z right n y l o enter question_mark escape z",
    "logs": "8 tab g enter escape",
    "label": "6 p enter d f 0 tab b escape y escape",
    "pairs": "4 a G" + " k enter v a right y escape" * EVERY,
    "one pair": "4 a g enter v a right y escape",
    "one prompt": "7 G enter left p d escape w enter",
    "compare": "7 tab tab tab tab enter G enter left" + " p" * EVERY + " d escape w enter",
    "principles": "5" + " j" * EVERY + " g enter G n G escape m G escape",
    "constitution": "5 d escape p escape i f8 G escape question_mark escape",
}


LONG = {"pairs", "compare"}  # every text by itself, opened and turned


@pytest.mark.parametrize(
    "walk",
    [pytest.param(keys, id=name, marks=[pytest.mark.slow] * (name in LONG)) for name, keys in WALKS.items()],
)
def test_every_screen_shows_hostile_runs_as_they_are(hostile: Path, walk: str) -> None:
    async def at(pilot: Pilot[None]) -> None:
        assert_harmless(pilot)
        for key in walk.split():
            await press(pilot, key)
            assert_harmless(pilot)
        assert pilot.app.is_running

    look(hostile, at, run="evil", size=(100, 40))


def test_the_names_of_runs_are_shown_as_they_are(hostile: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "1")
        assert "bad [" in screen_of(pilot)
        await press(pilot, "colon")
        await pilot.press(*"open")
        await pilot.pause(0.5)
        assert_harmless(pilot)

    look(hostile, at, run="evil", size=(100, 40))


def test_every_kind_of_example_is_shown_as_it_is(made: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "4", "a")
        for kind in ("demonstrations", "rankings", "pairs"):
            assert kind in screen_of(pilot)
            await press(pilot, "enter")
            for key in ("v", "a", "right", "right", "d", "n", "escape"):
                await press(pilot, key)
                assert_harmless(pilot)
            await press(pilot, "t")
        await press(pilot, "o", "slash")
        for text in ("[/INST]", CORPUS[4], 'tag:"[bold]'):
            page_of(pilot).query_one(FilterLine).value = text
            await pilot.pause(0.05)
            assert_harmless(pilot)

    look(made, at, run="mixed", size=(100, 40))


@pytest.mark.slow
def test_a_preview_of_hostile_answers_is_shown_as_it_is(hostile: Path) -> None:
    share = {"count": 1, "n": 2, "interval": [0.1, 0.9]}
    said = {"verdict": CORPUS[2], "lead": 0.5}
    measured = {"flips": share, "noise": share, "beyond_noise": True}
    groups = [{"name": text[:99], "kinds": {text[:9]: 1}, **measured} for text in CORPUS]
    asked = Asked(hostile / "evil", "", None)
    asked.found = {
        "round": 2, "pairs": 2, "added": [{"name": CORPUS[3], "flips": share}], "unchanged": {CORPUS[1]: 1},
        "change": {"before": CORPUS[4], "after": CORPUS[2], "changes": [
            {"kind": "reworded", "principle": "", "field": CORPUS[4], "before": CORPUS[4], "after": CORPUS[6]}]},
        "principles": groups, "tags": groups,
        "cost": {"asked": 1, "known": 1, "tokens": 1, "seconds": 1.0, "dollars": None},
        "flips": [{"number": i, "principle": t[:99], "flip": t[:99], "noisy": True, "before": said, "after": said,
                   "again": said, "tags": [t[:99]], "messages": [{"role": "user", "content": t}],
                   "first": {"id": "a", "text": t}, "second": {"id": "b", "text": t}} for i, t in enumerate(CORPUS)],
    }  # fmt: skip

    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "5")
        page = page_of(pilot)
        assert isinstance(page, Constitution) and page.subject is not None
        pilot.app.bench.asked[page.subject.run] = asked
        for state in ("asking", "failed", "cancelled", "done"):
            asked.state = state
            asked.said.extend(CORPUS)
            pilot.app.push_screen(Impact(page.at, page.subject, pilot.app.bench))
            await pilot.pause(0.2)
            assert_harmless(pilot)
        await press(pilot, "enter")
        for _ in CORPUS:
            assert_harmless(pilot)
            await press(pilot, "n", "y", "c")

    look(hostile, at, run="evil", size=(100, 40))


def test_a_click_on_a_models_text_does_nothing(hostile: Path) -> None:
    async def main() -> None:
        app = Reader(Library(hostile, hostile / "evil"), Place(hostile / "evil"))
        async with app.run_test(size=(100, 40)) as pilot:
            await settled(pilot)
            await press(pilot, "4", "a")
            await until(pilot, lambda: app.screen.query_one(Grid).count == 12 + len(CORPUS))
            app.screen.query_one(Grid).put_cursor(12 + 2)
            await press(pilot, "enter")
            assert "[@click=app.quit]" in screen_of(pilot)
            for y in range(2, 12):
                for x in (4, 10, 20, 55):
                    await pilot.click(offset=(x, y))
            assert app.is_running and page_of(pilot).NAME == "Pair"

    asyncio.run(main())


# What Textual sends of its own: the pointer's shape, colours, cursor positions, modes, the kitty keyboard.
OURS = re.compile(
    rb"\x1b\]22;[a-z-]+\x07|\x1b\[(?:[0-9;:]*m|[0-9;]*H|\?[0-9;]+(?:h|l|\$p)|[<>=][0-9;]*u|\?u|[0-9]*[ABCDGKJ]|c)|\x1b[78]"
)


@pytest.mark.slow
def test_a_terminal_gets_no_foreign_sequence(hostile: Path) -> None:
    leader, follower = pty.openpty()
    ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    child = subprocess.Popen(
        [sys.executable, "-m", "selfalign", "tui", "evil", "--runs", str(hostile)],
        stdin=follower, stdout=follower, stderr=follower, close_fds=True, start_new_session=True,
        env=environment(TERM="xterm-256color", COLUMNS="100", LINES="40"),
    )  # fmt: skip
    os.close(follower)
    received = b"".join(_typed(leader, b"1\x1b2 3  46p\rdb\x1b08\tg7\t\t\t\t\r\r\x1b\x1b4aGkkkk\rv?\x1b\x1b1:\x1bq"))
    os.close(leader)
    assert child.wait(timeout=30) == 0, received[-2000:]
    rest = OURS.sub(b"", received)
    assert b"\x1b" not in rest, rest[rest.index(b"\x1b") - 20 :][:300]
    assert b"\x1b[2J" not in received
    assert not FOREIGN.search(re.sub("[\r\n\t]", "", rest.decode("utf-8")))
    assert b"[/INST]" in received


def _typed(leader: int, keys: bytes) -> Iterator[bytes]:
    """Press a key whenever the screen has been still for a while; yield all that comes."""
    os.set_blocking(leader, False)
    waiting, still = [keys[i : i + 1] for i in range(len(keys))], 0.0
    begun, started = False, time.monotonic()
    while time.monotonic() - started < 60:
        try:
            chunk = os.read(leader, 65536)
        except BlockingIOError:
            time.sleep(0.02)
            still += 0.02
        except OSError:  # the other end is closed
            return
        else:
            begun, still = True, 0.0
            yield chunk
        if begun and waiting and still >= 0.25:
            os.write(leader, waiting.pop(0))
            still = 0.0


# The source

MAKERS = {"Text", "Content", "Segment", "Markdown", "Panel", "Syntax", "Static", "Label", "Button", "RichLog", "Log"}
MAKERS |= {"DataTable", "OptionList", "Tree", "TextArea", "Pretty", "Table", "Collapsible", "from_markup", "render"}
MAY = {  # by module what it may call: `shown` makes, the widgets take only what it made
    "shown.py": {"Text", "Table"},
    "widgets.py": {"render"},
}
TAKES_TEXT = {"notify": "app.py", "Hit": "app.py", "DiscoveryHit": "app.py", "copy_to_clipboard": "app.py"}


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.name)
def test_no_widget_takes_raw_text(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = called(node)
            assert name not in MAKERS - MAY.get(path.name, set()), f"{path.name}:{node.lineno} calls {name}; see shown"
            assert path.name == TAKES_TEXT.get(name, path.name), (
                f"{path.name}:{node.lineno} calls {name}; use Reader.say"
            )
        if isinstance(node, ast.keyword) and node.arg == "markup":
            assert isinstance(node.value, ast.Constant) and node.value.value is False
        if isinstance(node, ast.ImportFrom) and node.module == "textual.widgets":
            assert path.name == "widgets.py", f"{path.name}:{node.lineno} imports a widget past widgets.py"


def test_widgets_refuse_what_shown_did_not_make() -> None:
    with pytest.raises(TypeError, match="not made by shown"):
        Words().show("[bold]raw[/]")  # type: ignore[arg-type]
