"""Screen 2: the matrix of rounds and stages, the charts with their keys, and what needs attention."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from textual.pilot import Pilot

from selfalign.progress import Progress
from selfalign.records import Behaviour
from selfalign.store import Run
from selfalign.tui import alerts
from selfalign.tui.campaign import view_of
from selfalign.tui.charts import Enlarged, Laid
from selfalign.tui.label.screen import Labelling
from selfalign.tui.picking import Choose
from selfalign.tui.reading import Watched
from selfalign.tui.round import Round
from selfalign.tui.shown import line
from tests.cli.fabricate import make_run
from tests.tui.conftest import look, page_of, press, screen_of, until


def told(pilot: Pilot[None]) -> list[str]:
    """What was said in the corner."""
    return [str(one.message) for one in pilot.app._notifications]


def test_one_chart_is_enlarged_with_the_exact_values_under_a_cursor(made: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "z")
        page = page_of(pilot)
        assert isinstance(page, Enlarged)
        shown = screen_of(pilot)
        assert "chart 1 of" in shown and "Win rate" in shown and "round 1" in shown and "0.59 to 0.7" in shown
        await press(pilot, "left")
        assert "round 0" in screen_of(pilot) and "0.52 to 0.63" in screen_of(pilot)
        await press(pilot, "left", "right", "right")
        assert "round 1" in screen_of(pilot) and page.cursor is None  # it stays at the newest
        await press(pilot, "home")
        assert "round 0" in screen_of(pilot)
        await press(pilot, "end", "pageup")
        assert "round 0" in screen_of(pilot)
        await press(pilot, "pagedown", "y")
        assert pilot.app.clipboard.startswith("round\tvs base\tvs base low")
        await press(pilot, "c")
        assert pilot.app.clipboard.startswith("selfalign status")
        await press(pilot, "n")
        assert "KL to base, nats per answer" in screen_of(pilot) and "chart 2 of" in screen_of(pilot)
        await press(pilot, "p", "p")
        assert "chart 1 of" in screen_of(pilot)
        await press(pilot, "question_mark")
        assert "a tenth to the left" in screen_of(pilot)
        await press(pilot, "escape", "z")
        assert page_of(pilot).NAME == "Campaign"
        await press(pilot, "z", "escape")
        assert page_of(pilot).NAME == "Campaign"
        await pilot.click("#chart1")
        await until(pilot, lambda: "chart 2 of" in screen_of(pilot))

    look(made, at, run="sample", size=(120, 50))


def test_charts_go_to_a_log_scale_and_back(made: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "l")
        await until(pilot, lambda: "Length over the base's  log" in screen_of(pilot))
        await press(pilot, "z")
        assert "Win rate  log  ● vs base" in screen_of(pilot)
        await press(pilot, "l", "z", "r")
        await until(pilot, lambda: "  log" not in screen_of(pilot))

    look(made, at, run="sample", size=(120, 50))


def test_another_run_is_laid_beside_and_taken_away(made: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "o")
        await until(pilot, lambda: isinstance(pilot.app.screen, Choose))
        names = pilot.app.screen.names
        assert set(names) == {"sample", "mixed", "midway"}
        await press(pilot, "escape")
        assert "○" not in screen_of(pilot)
        await press(pilot, "o")
        await until(pilot, lambda: isinstance(pilot.app.screen, Choose))
        await press(pilot, *["j"] * names.index("mixed"), "enter")
        await until(pilot, lambda: "○ ◇ dotted: mixed" in screen_of(pilot))
        assert "○" in screen_of(pilot).replace("○ ◇ dotted", "") and "●" in screen_of(pilot)
        await press(pilot, "z")
        shown = screen_of(pilot)
        assert "● vs base" in shown and "○ vs base of mixed" in shown
        await press(pilot, "o", "r")  # takes it away from there too
        await until(pilot, lambda: "of mixed" not in screen_of(pilot))

    look(made, at, run="other", size=(120, 50))


def test_a_run_beside_that_is_gone_does_no_harm(made: Path, tmp_path: Path) -> None:
    for name in ("sample", "other"):
        shutil.copytree(made / name, tmp_path / name)

    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "o")
        await until(pilot, lambda: isinstance(pilot.app.screen, Choose))
        await press(pilot, "enter")
        await until(pilot, lambda: "dotted: other" in screen_of(pilot))
        shutil.rmtree(tmp_path / "other")
        await press(pilot, "r", "z", "r")
        assert "Win rate" in screen_of(pilot) and pilot.app.is_running
        await press(pilot, "z", "o", "o")
        await until(pilot, lambda: "there is no other run to lay beside" in told(pilot))

    look(tmp_path, at, run="sample", size=(120, 50))


def test_a_fresh_run_has_no_charts_and_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path, finished=False)
    for round in (run.path / "rounds").iterdir():
        shutil.rmtree(round)
    (run.path / "events.jsonl").write_text("")

    async def at(pilot: Pilot[None]) -> None:
        assert "○ not started" in screen_of(pilot) and "Win rate" not in screen_of(pilot)
        await press(pilot, "z")
        assert page_of(pilot).NAME == "Campaign" and told(pilot) == ["there is no chart yet"]
        await press(pilot, "l", "o", "space", "enter")
        await press(pilot, "1")
        assert "0/3" in screen_of(pilot)  # as the settings say: no event has yet

    look(tmp_path / "runs", at, run="sample", size=(80, 24))


def test_thirty_rounds_fit_a_small_screen(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with run.lock():
        run.emit("campaign_started", rounds=30)
        for number in range(2, 30):
            run.emit("round_started", round=number)
            run.emit("stage_done", round=number, stage="train", seconds=40.0)
            run.emit("gate", round=number, accepted=True, reason="")

    async def at(pilot: Pilot[None]) -> None:
        shown = screen_of(pilot)
        assert "24 " in shown and "29 " in shown and "round" in shown.splitlines()[2] and "40s" in shown
        assert "Win rate" in shown  # the table leaves room for what stands below
        await press(pilot, "g")
        assert page_of(pilot).place().round is None
        await press(pilot, "j")
        assert page_of(pilot).place().round == 0
        assert all(len(line) <= 80 for line in screen_of(pilot).splitlines())

    look(tmp_path / "runs", at, run="sample", size=(80, 24))


# The matrix ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def midway(made: Path, tmp_path: Path) -> Path:
    """A run in training at this moment, by its events."""
    shutil.copytree(made / "midway", tmp_path / "midway")
    return tmp_path / "midway"


def row_of(path: Path, now: float) -> str:
    with Watched(path).reading() as run:
        view = view_of(run, now, Laid((), line("")))
    return " ".join(cell.plain for cell in view.rows[view.current]) + " | " + view.title.plain + view.hand.plain


def test_labelling_is_opened_at_a_round_only_where_one_is_chosen(made: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        page = page_of(pilot)
        assert page.place_for(Labelling).round is None and page.place_for(Round).round is not None
        await press(pilot, "k")
        assert page.place_for(Labelling) == page.place()

    look(made, at, run="sample")


def test_a_stage_under_way_tells_its_rate_and_the_time_left(midway: Path) -> None:
    with Run(midway).lock():
        shown = row_of(midway, time.time())
    assert "▸57% ~" in shown and ("/min" in shown or "/s" in shown)
    assert "23/40 steps" in shown and "left" in shown


def test_a_stalled_and_a_dead_stage_bear_the_sign_of_the_run(midway: Path) -> None:
    assert "✗ 57%" in row_of(midway, time.time()) and "✗ dead" in row_of(midway, time.time())
    events = [json.loads(line) for line in (midway / "events.jsonl").read_text().splitlines()]
    aged = [json.dumps({**event, "time": event["time"] - 5000}) for event in events]
    (midway / "events.jsonl").write_text("".join(f"{event}\n" for event in aged))
    with Run(midway).lock():
        shown = row_of(midway, time.time())
    assert "◌ 57%" in shown and "◌ stalled" in shown


# Alerts --------------------------------------------------------------------------------------------------------------


def reports_of(made: Path) -> list:
    with Watched(made / "sample").reading() as run:
        return run.evaluated()


def test_what_an_evaluated_round_tells_is_said_in_words(made: Path) -> None:
    before, after = reports_of(made)
    assert alerts.of_round(after, before) == []
    refusing = Behaviour(128, 21.5, 0.01, 0.2, 0.6, 0.3, 0.31, 0.62)
    win = after.win_rates["base"]
    worse = replace(win, rate=0.4, low=0.35, high=0.45)
    unsure = replace(win, rate=0.51, low=0.46, high=0.56)
    health = after.judges["labelling"]
    sick = replace(health, swap_consistency=0.6, invalid=0.2, longer_preferred=0.8)
    ill = replace(
        after,
        behaviour={**after.behaviour, "policy": refusing},
        win_rates={"previous": worse, "base": unsure},
        judges={"labelling": sick},
        candidates={"candidates": 100, "duplicate": 40},
        length_ratio=1.5,
    )
    said = "\n".join(alerts.of_round(ill, before))
    for words in (
        "round 1: the labelling judge's swap consistency fell from 91% to 60%",
        "20% of the labelling judge's verdicts could not be read",
        "prefers the longer answer in 80%",
        "1.50 times as long",
        "60% of its answers refuse, 25% of those",
        "30% of its answers repeat themselves",
        "20% of its answers are empty",
        "40% of the samples are duplicates, 8% in the round before",
        "worse than the policy before it: win rate 0.40, 95% interval 0.35 to 0.45",
        "not shown to be better than the base policy: win rate 0.51",
    ):
        assert words in said, words


def training_events(chosen: float, margin: float, warned: bool = False) -> list[dict]:
    events: list[dict] = [{"event": "campaign_started", "time": 1.0, "rounds": 2}]
    events += [{"event": "round_started", "time": 1.0, "round": 1}]
    events += [{"event": "stage_started", "time": 1.0, "round": 1, "stage": "train", "total": 40}]
    for step in range(1, 31):
        metrics = {"rewards/chosen": chosen * step / 30, "rewards/margins": margin * step / 30}
        events.append({"event": "train_step", "time": 1.0 + step, "round": 1, "step": step, "metrics": metrics})
    warning = {"event": "warning", "time": 99.0, "message": "round 1: chosen answers became less likely (…)"}
    return [*events, warning] if warned else events


def test_chosen_answers_that_become_less_likely_are_told_while_training(made: Path) -> None:
    (said,) = alerts.in_training(Progress.of(training_events(-0.5, 2.0)), 1, None)
    assert "chosen answers become less likely (-4.8 nats each) while the margin grows" in said
    for chosen, margin, warned in ((0.5, 2.0, False), (-0.5, -1.0, False), (-0.5, 2.0, True)):
        assert alerts.in_training(Progress.of(training_events(chosen, margin, warned)), 1, None) == []


def test_canaries_that_stop_a_round_are_told() -> None:
    found = {"event": "canaries", "round": 0, "go": False, "rate": 0.9, "low": 0.8, "high": 0.95, "comparisons": 48}
    progress = Progress.of([{"event": "campaign_started", "time": 1.0, "rounds": 1}, {**found, "time": 2.0}])
    said = alerts.alerts(progress, [], "failed", "selfalign run x", 3.0)
    assert any("canaries win 90.0% of 48 comparisons (80.0% to 95.0%): NO-GO" in one for one in said)
