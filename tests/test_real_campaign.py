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

pytest.importorskip("vllm")
pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.timeout(900)]

SMALL = [
    "rounds=2", "prompts.per_round=24", "generate.shard_prompts=4", "generate.max_tokens=24", "train.epochs=1",
    "evaluate.prompts=12", "accept.win_rate_lower_bound=null", "accept.max_length_ratio=null",
]  # fmt: skip
COMMAND = [sys.executable, "-m", "selfalign", "run", "pocket", "--display", "log", *(f"--set={s}" for s in SMALL)]


def events(folder: Path) -> list[dict[str, object]]:
    path = folder / "runs" / "pocket" / "events.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def killed_when(folder: Path, step: str) -> None:
    """Run the campaign until a shard of `step` is written, then SIGKILL it and whatever it has started."""
    with (folder / "killed.log").open("w") as log:
        process = subprocess.Popen(COMMAND, cwd=folder, stdout=log, stderr=log)
    while not any(event["event"] == "progress" and event["step"] == step for event in events(folder)):
        assert process.poll() is None, (folder / "killed.log").read_text()
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_a_campaign_killed_twice_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    killed_when(tmp_path, "rounds/000/candidates")
    killed_when(tmp_path, "rounds/001/judgments")
    before = {event["step"] for event in events(tmp_path) if event["event"] == "stage_done"}
    seen = len(events(tmp_path))
    finished = subprocess.run(COMMAND, cwd=tmp_path, text=True, capture_output=True)
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
