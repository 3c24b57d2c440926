"""Two rounds or two runs: what differs, by how much, and the answers to the same prompts."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from textual.pilot import Pilot

from selfalign.stages.report.comparison import settings_of
from selfalign.store import Run, branch
from selfalign.tui.app import Reader
from selfalign.tui.compare.prompt import OnePrompt
from selfalign.tui.compare.screen import Compare, Prompts
from selfalign.tui.compare.sides import MEASURES, Figure, difference, side_of
from selfalign.tui.page import Page, Place, key_name
from selfalign.tui.reading import Watched
from selfalign.tui.widgets import Chart, Grid, Scroll, Words
from tests.tui.conftest import look, page_of, press, screen_of
from tests.tui.evaluated import evaluate

TALL = (120, 90)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, made: Path) -> Path:
    """`sample` and `other`, evaluated on prompts of which they share two; the constitutions of `other` are edited."""
    runs = tmp_path_factory.mktemp("compared") / "runs"
    for name in ("sample", "other"):
        shutil.copytree(made / name, runs / name)
    evaluate(Run.open(runs / "sample"), ["one", "two", "three"], 2)
    evaluate(Run.open(runs / "other"), ["two", "three", "four"], 2)
    edited = "schema: selfalign.constitution/v1\nname: rules\nversion: 1.1.0\nprinciples:\n"
    edited += "  - {id: kind, text: The response is kind to all who ask.}\n"
    for number in (0, 1):
        path = runs / f"other/rounds/{number:03d}/constitution.yaml"
        path.write_text(f"{edited}  - {{id: brief, text: The response is brief., weight: 2.0}}\n")
    (runs / "sample/gold.json").write_text(json.dumps({"base": {"gold": 0.4}, "round 1": {"gold": 0.85}}))
    return runs


def words(pilot: Pilot[None], name: str) -> str:
    """What stands in a part of the screen, its spaces collapsed."""
    return "\n".join(" ".join(line.split()) for line in screen_of_part(pilot, name).splitlines())


def screen_of_part(pilot: Pilot[None], name: str) -> str:
    part = page_of(pilot).query_one(f"#{name}", Words)
    return "\n".join("".join(one.text for one in strip) for strip in part.render_lines(part.size.region))


def test_two_rounds_of_a_run(runs: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "7")
        assert "sample round 0 → round 1" in words(pilot, "title")
        figures = words(pilot, "figures")
        assert "win rate vs base 0.58 ±0.05 0.65 ±0.06 ▲ +0.07 within noise" in figures
        assert "KL to base, nats 1.50 ±0.39 2.50 ±0.39 ▲ +1.00 further" in figures
        assert "labelling: swap 91% 90% ▼ −1.0 points within noise" in figures
        assert [chart.title for chart in page_of(pilot).query(Chart) if chart.display] == [
            "Training loss", "Rewards", "Reward accuracy", "Log-probability of answers", "Reward margin"
        ]  # fmt: skip
        assert "Settings: ✓ the same" in words(pilot, "settings")
        assert "Constitution: ✓ the same rules 1.0.0" in words(pilot, "rules")
        assert "Same prompts: 3 answered by both" in words(pilot, "samehead")
        assert "one" in screen_of(pilot) and "✓ 0.70" in screen_of(pilot)
        assert page_of(pilot).command() == f"selfalign report {runs / 'sample'}"
        await press(pilot, "left_square_bracket")
        assert "base → round 1" in words(pilot, "title")
        assert "gold score 0.400 0.850 ▲ +0.450 higher" in words(pilot, "figures")
        assert "the base policy was not trained by one" in words(pilot, "rules")
        await press(pilot, "left_square_bracket", "x")
        assert "round 1 → base" in words(pilot, "title")
        assert "▼ −0.15 worse" in words(pilot, "figures")
        await press(pilot, "right_curly_bracket", "right_curly_bracket")
        assert "round 1 → round 1" in words(pilot, "title")
        assert "both sides are the same policy" in words(pilot, "notes")
        await press(pilot, "left_curly_bracket", "right_square_bracket")
        assert "round 1 → round 0" in words(pilot, "title")

    look(runs, at, run="sample", size=TALL)


def test_two_marked_runs(runs: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        page = page_of(pilot)
        assert {"Space", "j/↓"} <= {key_name(one.key) for one in page.all_keys() if one.description}
        await press(pilot, "s")  # by name
        await press(pilot, "j", "space", "k", "space")
        assert "◆ sample" in screen_of(pilot) and "◆ other" in screen_of(pilot)
        assert page.place() == Place(runs / "other")
        await press(pilot, "7")
        assert "sample round 1 → other round 1" in words(pilot, "title")
        assert page_of(pilot).command() == f"selfalign runs compare {runs / 'sample'} {runs / 'other'}"
        assert "2 of 3 held-out prompts are in both: figures are of different prompts" in words(pilot, "notes")
        charts = {chart.title: chart for chart in page_of(pilot).query(Chart) if chart.display}
        assert [curve.name for curve in charts["KL to base, nats per answer"]._curves] == ["sample", "other"]
        assert "seed 17 3" in words(pilot, "settings")
        rules = words(pilot, "rules")
        assert "rules 1.0.0 → rules 1.1.0 2 of 2 principles judged anew" in rules
        assert "added brief new, active" in rules
        assert "reworded kind text" in rules and "kind to all who ask." in rules
        assert "left vs base" in screen_of(pilot)
        await press(pilot, "w")
        assert "Compare with which run?" in screen_of(pilot)
        await press(pilot, "escape", "w", "G", "enter")
        assert "sample round 1 → round 1" in words(pilot, "title")
        await press(pilot, "1", "space")
        assert "◆ sample" in screen_of(pilot) and "◆ other" not in screen_of(pilot)

    look(runs, at, size=TALL)


def test_another_run_is_laid_beside_the_last_round(runs: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "7")
        assert "round 0 → round 1" in words(pilot, "title")
        await press(pilot, "w", "g", "enter")
        assert re.search(r"sample round 1 → \w+ round 1", words(pilot, "title"))

    look(runs, at, run="sample")


def test_tab_goes_through_the_sections_and_enter_opens_a_prompt(runs: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "7")
        page = page_of(pilot)
        scroll, grid = page.query_one(Scroll), page.query_one(Prompts)
        seen = []
        while not grid.has_focus:
            await press(pilot, "tab")
            assert scroll.scroll_offset.y not in seen or grid.has_focus
            seen.append(scroll.scroll_offset.y)
        assert "one" in screen_of(pilot)
        await press(pilot, "y")
        assert "To one says round 1." in pilot.app.clipboard
        await press(pilot, "tab")
        assert scroll.scroll_offset.y == 0 and scroll.has_focus
        await press(pilot, "y")
        assert pilot.app.clipboard == f"{runs}/sample/rounds/000 {runs}/sample/rounds/001"
        await press(pilot, "enter", "k")
        assert scroll.has_focus  # from the first prompt up is the rest of the screen
        await press(pilot, "enter", "j", "enter")
        assert "prompt 2 of 3" in screen_of(pilot) and isinstance(page_of(pilot), OnePrompt)
        await press(pilot, "escape")
        assert isinstance(page_of(pilot), Compare) and page_of(pilot).query_one(Grid).cursor == 1
        await press(pilot, "s")
        assert isinstance(page, Compare) and page.sorted and grid.cursor == 0
        assert len(page.ids) == 3 and page.ids is not page.view.ids
        assert "most changed first" in screen_of(pilot)
        await press(pilot, "s")
        assert page.ids is page.view.ids

    look(runs, at, run="sample", size=(80, 24))


def test_the_answers_of_all_rounds_to_one_prompt(runs: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "7", "enter", "enter")
        assert words(pilot, "course") == "base ─ [ ] round 0 ✓ 0.70 ─ ← → round 1 ✓ 0.70"
        assert "To one says round 0." in screen_of(pilot) and "To one says round 1." in screen_of(pilot)
        await press(pilot, "left", "left")
        assert "says round 1." not in screen_of(pilot) and "To one says base." in screen_of(pilot)
        await press(pilot, "right_square_bracket", "n")
        assert "prompt 2 of 3" in screen_of(pilot)
        assert words(pilot, "course") == "← → base ─ round 0 ✓ 0.70 ─ [ ] round 1 ✓ 0.70"
        await press(pilot, "y")
        assert pilot.app.clipboard == (
            "user: two\n\nsample round 1: To two says round 1.\n\nsample base: To two says base."
        )
        await press(pilot, "right", "right", "p")
        assert "= the same words" in screen_of(pilot) and "prompt 1 of 3" in screen_of(pilot)
        await press(pilot, "left_square_bracket")
        assert "underline" in styles(pilot)
        await press(pilot, "d")
        assert "underline" not in styles(pilot)

    look(runs, at, run="sample")


def styles(pilot: Pilot[None]) -> str:
    part = page_of(pilot).query_one("#answer0", Words)
    return " ".join(str(one.style) for strip in part.render_lines(part.size.region) for one in strip)


def test_a_side_that_cannot_be_read_says_why_and_the_other_is_shown(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    runs = tmp_path / "runs"

    async def at(pilot: Pilot[None]) -> None:
        assert isinstance(pilot.app, Reader)
        pilot.app.open(Compare, Place(runs / "sample", against=Place(runs / "other")))
        await press(pilot, "g")
        assert "±" in words(pilot, "figures")
        (runs / "other/rounds/001/report.json").write_text('{"round": 1, "from": "the future"}')
        (runs / "other/campaign.yaml").write_text("quantum: true\n")
        (runs / "other/rounds/001/constitution.yaml").write_text("principles: 7")
        await press(pilot, "r")
        assert "! right: " in screen_of(pilot) and "round 1" in words(pilot, "figures")
        shutil.rmtree(runs / "other")
        await press(pilot, "r")
        assert "this run is gone" in screen_of(pilot)
        assert "0.65 ±0.06 –" in words(pilot, "figures")
        assert "Settings: those of other round 1 could not be read" in words(pilot, "settings")
        assert "other round 1 has no held-out answers" in words(pilot, "samehead")
        await press(pilot, "enter", "x", "tab", "tab")
        assert "left: " in screen_of(pilot)
        await press(pilot, "escape", "1")
        assert isinstance(pilot.app.screen, Page)

    look(runs, at, size=TALL)


def test_a_run_without_any_round(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "midway", tmp_path / "fresh")
    shutil.rmtree(tmp_path / "fresh/rounds")

    async def at(pilot: Pilot[None]) -> None:
        assert isinstance(pilot.app, Reader)
        await press(pilot, "7")
        assert "fresh has no evaluated round yet: w compares with another run" in words(pilot, "notes")
        assert "fresh base has no held-out answers" in words(pilot, "samehead")
        await press(pilot, "enter", "tab")
        shutil.copytree(made / "midway/rounds", tmp_path / "fresh/rounds")
        await press(pilot, "r")
        assert "round 0 → round 1" in words(pilot, "title")

    look(tmp_path, at, run="fresh")


def test_a_difference_says_what_it_means() -> None:
    def said(name: str, left: Figure | None, right: Figure | None) -> str:
        return str(difference(MEASURES[name], left, right)[0])

    sure, surer, unsure = Figure(0.5, "", 0.49, 0.51), Figure(0.6, "", 0.59, 0.61), Figure(0.6, "", 0.4, 0.8)
    assert said("base", sure, surer) == "▲ +0.10  better"
    assert said("base", surer, sure) == "▼ −0.10  worse"
    assert said("base", sure, unsure) == "▲ +0.10  within noise"
    assert said("labelling invalid", sure, surer) == "▲ +10.0 points  worse"
    assert said("labelling first", sure, surer) == "▲ +10.0 points  worse"
    assert said("gold", Figure(0.5, ""), Figure(0.6, "")) == "▲ +0.100  higher"
    assert said("seconds", Figure(90, ""), Figure(30, "")) == "▼ −1:00  shorter"
    assert said("kl", Figure(1, ""), Figure(1.001, "")) == "= the same"
    assert said("base", None, sure) == "–"


def test_settings_of_a_round_that_came_along_are_those_of_the_run_it_came_from(made: Path, tmp_path: Path) -> None:
    source = Run.open(made / "sample")
    edited = source.read_text("campaign.yaml").replace("seed: 17", "seed: 5")
    branched = branch(source, 0, tmp_path / "branched", edited)
    assert [settings_of(branched, number).seed for number in (None, 0, 1)] == [17, 17, 5]


def test_settings_of_a_side_are_those_of_its_phase(made: Path) -> None:
    found = [side_of(Watched(made / "mixed"), number).settings for number in (0, 1)]
    assert [one.train.algorithm for one in found if one] == ["sft", "kto"]
