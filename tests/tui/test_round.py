"""Screen 3: the sections of a round of each kind, its charts, and each of its keys."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text
from textual.pilot import Pilot

from selfalign.records import (
    BucketAccuracy,
    CanaryRate,
    CanaryReport,
    Guarded,
    Interval,
    JudgeCard,
    JudgeHealth,
    Look,
    RewardReport,
)
from selfalign.stages import report as pages
from selfalign.store import Run
from selfalign.tui.charts import Enlarged
from selfalign.tui.picking import Choose
from selfalign.tui.reading import Watched
from selfalign.tui.round import Round, charts_of, drift, of_principles, sections
from tests.cli.fabricate import make_judged_run, make_report, make_run
from tests.tui.conftest import look, page_of, press, screen_of, until

EVEN = Interval(0.2, 0.8)


def words(made: Text | Table) -> str:
    """What stands in something that was made, on a wide screen."""
    console = Console(width=160)
    with console.capture() as found:
        console.print(made)
    return found.get()


def told(path: Path, number: int) -> dict[str, str]:
    """What the sections of a round say."""
    with Watched(path).reading() as run:
        return {name: words(made) for name, made in sections(run, number).items()}


@pytest.fixture(scope="module")
def ppo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose round 1 was trained by PPO, with a judge card, canaries, a reward model and a guard."""
    root = tmp_path_factory.mktemp("ppo")
    run = make_run(root)
    settings = (run.path / "campaign.yaml").read_text()
    (run.path / "campaign.yaml").write_text(settings.replace("algorithm: dpo", "algorithm: ppo"))
    canaries = CanaryReport(1, ("judge",), 0.9, Interval(0.8, 0.95), 48, 8, (CanaryRate("blank", 0.9, EVEN, 8),))
    health = JudgeHealth(600, 0.01, 0.02, 300, 0.91, 0.53, 0.55)
    card = JudgeCard(1, "judge", health, 300, 12, 0.1, 0.05, {"no verdict": 6}, 111.0, 0.5, canaries=canaries)
    bucket = BucketAccuracy(0.6, 0.7, 0.8, EVEN, 15)
    reward = RewardReport(
        1, "model", False, "no-go: it knows nothing\nsample more", 180, 62, 62, 0.93, EVEN, (bucket,), 0.7, 0.8, 0.83,
        0.03, 0.12, 0.02, 0.01, 0.9, (),
    )  # fmt: skip
    looks = (Look(0, 0.5, 0.5, 0.5), Look(2, 0.56, 0.5, 0.6), Look(4, 0.44, 0.4, 0.48))
    steps = [
        {"step": i, "iteration": i // 2, "objective/scores": 0.1 * i, "objective/rlhf_reward": 0.05 * i,
         "objective/kl": 0.02 * i, "policy/approxkl": 0.001, "rollout/mean_tokens": 20 + i, "loss": 0.1}
        for i in range(1, 21)
    ]  # fmt: skip
    (run.path / "rounds/001/policy/metrics.jsonl").write_text("".join(f"{json.dumps(step)}\n" for step in steps))
    with run.lock():
        pages.write_canaries(run, replace(canaries, stopped="the judge falls for canaries\nanother judge"))
        pages.write_judge_cards(run, 1, [card])
        pages.write_reward_model(run, reward)
        pages.write_guard(run, 1, Guarded(looks, 2, "the reward is over-optimised", 5))
    return run.path


def test_a_round_of_ppo_tells_of_its_judge_reward_model_and_guard(ppo: Path) -> None:
    said = told(ppo, 1)
    for name, some in {
        "judge": ("judge card", "tokens a pair", "invalid: no verdict", "Canaries", "falls for canaries", "90.0%"),
        "reward": ("Reward model", "no-go: it knows nothing", "sample more", "Brier score", "0.6 to 0.7"),
        "method": ("PPO", "guard", "stopped in iteration 5", "over-optimised", "rollouts"),
    }.items():  # fmt: skip
        for one in some:
            assert one in said[name], (one, said[name])
    with Watched(ppo).reading() as run:
        charts = {chart.title: chart for chart in charts_of(run, 1, {})}
    assert charts["Held-out judge: win rate against the base"].curves[0].y == [0.5, 0.56, 0.44]
    assert charts["Held-out judge: win rate against the base"].along == "iteration"
    assert "Scores of the reward model" in charts and "Training loss" not in charts


def test_what_cannot_be_read_is_said_and_the_rest_is_shown(ppo: Path, tmp_path: Path) -> None:
    shutil.copytree(ppo, tmp_path / "ppo")
    (tmp_path / "ppo/rounds/001/judge_card.json").write_text('[{"round": "newer"}]')
    (tmp_path / "ppo/rounds/001/guard.json").write_text("{half")
    said = told(tmp_path / "ppo", 1)
    assert said["judge"].startswith("! ") and said["method"].startswith("! ")
    assert "left out: below margin" in said["data"]


@pytest.mark.parametrize(
    ("round", "kind", "chart"),
    [(0, "demonstrations", "Training loss"), (1, "rankings", "Rewards"), (2, "pairs", "Reward accuracy")],
)
def test_rounds_of_each_kind_say_what_was_trained_on(made: Path, round: int, kind: str, chart: str) -> None:
    said = told(made / "mixed", round)
    method = {"demonstrations": "SFT", "rankings": "KTO", "pairs": "DPO"}[kind]
    assert f"6 {kind}" in said["method"] and method in said["method"] and f"{kind} trained on" in said["data"]
    assert ("3 pairs of earlier rounds" in said["method"]) == (kind == "pairs")
    with Watched(made / "mixed").reading() as run:
        titles = [one.title for one in charts_of(run, round, {}) if one.drawn]
    assert chart in titles and ("Rewards" in titles) == (kind != "demonstrations")


def test_drift_marks_what_moved_much(made: Path) -> None:
    run = Run(made / "sample")
    before = make_report(run, 0, accepted=True)
    after = make_report(run, 1, accepted=True)
    looks = replace(after.behaviour["policy"], mean_tokens=43.0, refusal=0.05)
    health = replace(after.judges["labelling"], swap_consistency=0.7)
    after = replace(after, behaviour={**after.behaviour, "policy": looks}, judges={"labelling": health})
    said = words(drift(after, before))
    rows = {line[:23].strip(): line for line in said.splitlines()}
    assert "22.5  43.0" in " ".join(rows["answer length, tokens"].split()).replace(" ", "  ")
    assert "▲ +91%" in rows["answer length, tokens"] and "▼ −20.0 points" in rows["refusals"]
    assert "▼ −21.0 points" in rows["judge: swap consistency"] and "▲ +1.00" in rows["KL to base, nats"]
    assert "▲" not in rows["cut off"] and "▼" not in rows["cut off"]
    assert "base" in words(drift(before, None)).splitlines()[0]


def test_principles_are_compared_with_the_round_before(tmp_path: Path) -> None:
    run = make_judged_run(tmp_path, prompts=40)
    said = words(of_principles(run, 1))
    (kind,) = [line for line in said.splitlines() if line.startswith("kind ")]
    assert kind.count("→") == 4 and "%" in kind
    assert "! fickle: " in said and "same verdict in both orders" in said
    assert "→" not in words(of_principles(run, 0)).splitlines()[1]


def test_each_key_of_a_round_does_what_it_says(made: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "3")
        page = page_of(pilot)
        assert isinstance(page, Round)
        await press(pilot, "p", "p")
        assert "round 0" in screen_of(pilot).splitlines()[1] and page.at.round == 0
        await press(pilot, "n")
        assert "round 1" in screen_of(pilot).splitlines()[1]
        await press(pilot, "tab", "tab")
        assert "How it was trained" in screen_of(pilot).splitlines()[2]
        await press(pilot, "shift+tab")
        assert "Training loss" in screen_of(pilot)
        await press(pilot, "l")
        await until(pilot, lambda: "Rewards  log, 20 ≤ 0 left out" in screen_of(pilot))  # the rejected rewards
        await press(pilot, "l")
        await until(pilot, lambda: "left out" not in screen_of(pilot))
        await press(pilot, "o")
        await until(pilot, lambda: isinstance(pilot.app.screen, Choose))
        assert pilot.app.screen.names[0] == "the round before"
        await press(pilot, "enter")
        await until(pilot, lambda: "○ ◇ dotted: the round before" in screen_of(pilot))
        await press(pilot, "z")
        page = page_of(pilot)
        assert isinstance(page, Enlarged) and "round 1" in screen_of(pilot).splitlines()[1]
        shown = screen_of(pilot)
        assert "step 20" in shown and "0.68" in shown and "○ the round before" in shown
        await press(pilot, "left", "o")
        await until(pilot, lambda: "step 19" in screen_of(pilot) and "○" not in screen_of(pilot))
        await press(pilot, "z", "f", "G")
        assert "part-00000" in screen_of(pilot)
        await press(pilot, "c")
        assert pilot.app.clipboard == f"selfalign report {made / 'sample'} --round 1"
        await press(pilot, "y")
        assert pilot.app.clipboard == f"{made / 'sample'}/rounds/001"

    look(made, at, run="sample", size=(120, 40))


@pytest.mark.parametrize("size", [(80, 24), (160, 50)], ids=str)
def test_a_round_of_ppo_is_read_at_any_size(ppo: Path, size: tuple[int, int]) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "3")
        seen = [screen_of(pilot)]
        for _ in range(14):
            await press(pilot, "space")
            seen.append(screen_of(pilot))
        shown = "\n".join(seen)
        for one in ("Held-out judge", "judge card", "Canaries", "drift", "Reward model", "Before and after", "SHA-256"):
            assert one in shown, one
        assert all(len(line) <= size[0] for line in shown.splitlines())

    look(ppo.parent, at, run=ppo.name, size=size)
