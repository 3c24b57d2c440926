"""A campaign of the pocket world with nothing scripted: real vLLM, a real judge, a real trainer, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from selfalign.pocket.measure import iterates

pytest.importorskip("vllm")
pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.timeout(900)]

SMALL = [
    "rounds=2", "prompts.per_round=24", "generate.shard_prompts=4", "generate.max_tokens=24", "train.epochs=1",
    "evaluate.prompts=12", "accept.win_rate_lower_bound=null", "accept.max_length_ratio=null",
]  # fmt: skip
PPO = [
    "rounds=1", "train.algorithm=ppo", "prompts.per_round=256", "generate.shard_prompts=32", "generate.max_tokens=48",
    "ppo.iterations=4", "ppo.prompts=8", "ppo.guard_every=2", "ppo.guard_prompts=12",
]  # fmt: skip


def command(settings: list[str], recipe: str = "pocket") -> list[str]:
    flags = (f"--set={setting}" for setting in settings)
    return [sys.executable, "-m", "selfalign", "run", recipe, "--display", "log", *flags]


def events(folder: Path, name: str = "pocket") -> list[dict[str, object]]:
    path = folder / "runs" / name / "events.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def killed_when(folder: Path, settings: list[str], event: str, **fields: object) -> None:
    """Run the campaign until it tells of an event, then SIGKILL it and whatever it has started."""
    with (folder / "killed.log").open("w") as log:
        process = subprocess.Popen(command(settings), cwd=folder, stdout=log, stderr=log)
    while not any(told["event"] == event and fields.items() <= told.items() for told in events(folder)):
        assert process.poll() is None, (folder / "killed.log").read_text()
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_a_campaign_killed_twice_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    killed_when(tmp_path, SMALL, "progress", step="rounds/000/candidates")
    killed_when(tmp_path, SMALL, "progress", step="rounds/001/judgments")
    before = {event["step"] for event in events(tmp_path) if event["event"] == "stage_done"}
    seen = len(events(tmp_path))
    finished = subprocess.run(command(SMALL), cwd=tmp_path, text=True, capture_output=True)
    assert finished.returncode == 0, finished.stderr
    after = [event for event in events(tmp_path)[seen:] if event["event"] == "stage_started"]
    assert before and not before & {event["step"] for event in after}
    proofs = [event for event in events(tmp_path) if event["event"] == "proof"]
    assert {event["round"] for event in proofs} == {0, 1}
    assert all(event["mean_abs_difference"] < 1e-3 for event in proofs)
    run = tmp_path / "runs" / "pocket"
    reports = [json.loads((run / f"rounds/00{number}/report.json").read_text()) for number in (0, 1)]
    assert all(report["num_examples"] > 0 and report["judges"] for report in reports)
    assert (run / "rounds/001/policy/model.safetensors").is_file()
    verified = subprocess.run(
        [sys.executable, "-m", "selfalign", "verify", "pocket", "--json"], cwd=tmp_path, text=True, capture_output=True
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_ppo_killed_in_an_iteration_goes_on_from_its_beginning(tmp_path: Path) -> None:
    settings = SMALL + PPO
    killed_when(tmp_path, settings, "train_step", step=4, total=8)  # the last of the second iteration of four
    finished = subprocess.run(command(settings), cwd=tmp_path, text=True, capture_output=True)
    assert finished.returncode == 0, finished.stderr
    policy = tmp_path / "runs/pocket/rounds/000/policy"
    steps = [json.loads(line) for line in (policy / "metrics.jsonl").read_text().splitlines()]
    assert [(step["step"], step["iteration"]) for step in steps] == [(n + 1, n // 2) for n in range(8)]
    assert all(step["val/ratio"] == pytest.approx(1.0, abs=1e-4) for step in steps[::2])
    assert all(step["rollout/sampler_difference"] < 1e-3 for step in steps)
    looks = [event["iteration"] for event in events(tmp_path) if event["event"] == "guard"]
    assert {0, 2} <= set(looks)
    assert not list(policy.glob("rollout-*")) and (policy / "model.safetensors").is_file()


def test_a_reward_for_long_answers_is_stopped_where_the_judge_of_what_was_meant_turns_against_it(
    tmp_path: Path,
) -> None:
    """The recipe as it is shipped: about two minutes on two cores."""
    finished = subprocess.run(command([], "pocket-hack"), cwd=tmp_path, text=True, capture_output=True)
    assert finished.returncode == 4, finished.stderr
    run = tmp_path / "runs/pocket-hack"
    guard = json.loads((run / "rounds/000/guard.json").read_text())
    rates = {look["iteration"]: look["rate"] for look in guard["looks"]}
    steps = [json.loads(line) for line in (run / "rounds/000/policy/metrics.jsonl").read_text().splitlines()]
    scores = {step["iteration"]: step["objective/scores"] for step in steps}
    best, last = guard["best"], max(rates.keys() & scores.keys())
    assert "the reward is over-optimised" in guard["stopped"] and guard["ended"] < 20
    assert rates[best] - rates[last] > 0.04 and scores[last] > scores[best] + 0.3
    told = [event for event in events(tmp_path, "pocket-hack") if event["event"] == "campaign_stopped"]
    assert f"PPO was stopped in iteration {guard['ended']}" in told[0]["reason"] and "What to do" in told[0]["reason"]
    assert "the policy stays: the base policy" in finished.stderr
    gold = iterates(run)
    assert gold[f"round 0, iteration {last}"]["gold"] < gold["round 0, iteration 0"]["gold"] - 0.03
    assert gold[f"round 0, iteration {last}"]["padded"] > 2 * gold["round 0, iteration 0"]["padded"]
    page = (run / "rounds/000/report.html").read_text()
    assert f">kept: {best}<" in page and ">stopped<" in page
