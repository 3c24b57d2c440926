"""The trainer as a process: exit codes, what it prints, and several processes that decide alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from selfalign.training import __main__ as trainer
from selfalign.training.job import TrainJob, write_job
from selfalign.training.setup import LaunchError
from selfalign.training.trainer import train
from tests.training.conftest import make_job

ROOT = Path(__file__).parents[2]
LAUNCH = [
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
]  # accelerate's launcher needs MPI on CPUs

POISONED = """
import sys
import torch
from accelerate import PartialState
from selfalign.training import dpo
from selfalign.training.__main__ import main

original, calls = dpo.pair_loss, iter(range(100))


def poisoned(*args, **kwargs):
    losses = original(*args, **kwargs)
    return losses * float("nan") if next(calls) == 1 and PartialState().process_index == 1 else losses


dpo.pair_loss = poisoned
sys.exit(main(sys.argv[1:]))
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=280)


def metrics_of(job: TrainJob) -> list[dict[str, float]]:
    return [json.loads(line) for line in (Path(job.output_dir) / "metrics.jsonl").read_text().splitlines()]


def test_a_job_that_is_refused_says_why_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer.signal, "signal", lambda *_: None)
    write_job(make_job(tmp_path, train_max_length=3), tmp_path / "job.json")
    assert trainer.main([str(tmp_path / "job.json")]) == 1
    told = capsys.readouterr().err
    assert "raise train.max_length" in told
    assert "Traceback" not in told


def test_fewer_processes_than_asked_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"train\.num_processes is 2, but 1 was started"):
        train(make_job(tmp_path, train_num_processes=2))


def test_without_a_job_it_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert trainer.main([]) == 2
    assert "JOB.json" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["sigmoid", "aot"])  # aot sorts over the pairs of all processes
def test_two_processes_equal_one(loss: str, tmp_path: Path) -> None:
    one = make_job(tmp_path, num_pairs=13, train_epochs=2, train_learning_rate=3e-3, train_loss=loss)
    train(one)
    two = replace(one, output_dir=str(tmp_path / "two"), train=replace(one.train, num_processes=2))
    write_job(two, tmp_path / "two.json")
    result = run(*LAUNCH, "-m", "selfalign.training", str(tmp_path / "two.json"))
    assert result.returncode == 0, result.stderr[-3000:]
    steps, others = metrics_of(one), metrics_of(two)
    for first in (steps[0], others[0]):  # policy and reference are still the same: who leads is a matter of rounding
        assert abs(first["rewards/margins"]) < 1e-6
        del first["rewards/accuracies"]
    for ours, theirs in zip(steps, others, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-2, abs=1e-3)
    weights, others = (load_file(Path(job.output_dir) / "model.safetensors") for job in (one, two))
    for name, weight in weights.items():
        torch.testing.assert_close(others[name], weight, atol=2e-3, rtol=1e-2, msg=name)


@pytest.mark.slow
def test_nan_in_one_process_stops_all_before_the_step(tmp_path: Path) -> None:
    job = make_job(tmp_path, train_max_tokens_per_batch=10_000, train_num_processes=2)
    write_job(job, tmp_path / "job.json")
    (tmp_path / "poisoned.py").write_text(POISONED)
    result = run(*LAUNCH, str(tmp_path / "poisoned.py"), str(tmp_path / "job.json"))
    assert result.returncode != 0
    assert result.stderr.count("training step 2 of 3: not finite: grad_norm nan, loss nan") == 2
    assert len(metrics_of(job)) == 1
    assert not (Path(job.output_dir) / "model.safetensors").exists()
