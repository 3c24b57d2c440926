"""Losses of pairs in real jobs: each starts where it must, raises the margin, and tells what it did."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch

from selfalign.objective import REFERENCE_FREE
from selfalign.training.dataset import NothingToTrainOn
from selfalign.training.job import ModelShare, TrainJob
from selfalign.training.model import Scorer, load_model
from selfalign.training.reference import REFERENCE_FILE, mismatch, score_all
from selfalign.training.setup import prepare
from selfalign.training.trainer import train
from tests.training.conftest import make_job, metrics_of, save_tiny

LOSSES = {
    "hinge": {}, "ipo": {}, "robust": {"label_smoothing": 0.1}, "exo": {"label_smoothing": 0.01}, "discopop": {},
    "sigmoid_norm": {"beta": 2.0}, "nca": {}, "bco": {}, "sppo_hard": {"beta": 0.5}, "aot": {}, "apo_zero": {},
    "apo_down": {}, "kto": {}, "simpo": {"beta": 2.0}, "cpo": {}, "orpo": {"beta": 1.0},
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_raises_the_margin_from_its_known_start(name: str, tmp_path: Path) -> None:
    settings = {"train_batch_size": 8, "train_learning_rate": 3e-3, **_train(LOSSES[name])}
    job = make_job(tmp_path, num_pairs=8, train_epochs=12, train_loss=name, **settings)
    train(job)
    first, *_, last = metrics_of(job)
    assert last["logps/chosen"] - last["logps/rejected"] > first["logps/chosen"] - first["logps/rejected"]
    assert (Path(job.output_dir) / REFERENCE_FILE).exists() == (name not in REFERENCE_FREE)


def _train(settings: dict[str, float]) -> dict[str, float]:
    return {f"train_{name}": value for name, value in settings.items()}


@pytest.mark.parametrize("divergence", ["forward_kl", "js", "alpha"])
def test_other_divergences_raise_the_margin_too(divergence: str, tmp_path: Path) -> None:
    job = make_job(tmp_path, num_pairs=8, train_epochs=6, train_f_divergence=divergence)
    train(job)
    assert metrics_of(job)[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert metrics_of(job)[-1]["rewards/margins"] > 0.05


def test_aot_sorts_over_the_step_whatever_its_micro_batches(tmp_path: Path) -> None:
    reference = save_tiny(tmp_path / "reference", seed=5)
    settings = {"train_batch_size": 12, "train_epochs": 3, "train_beta": 0.5, "train_max_tokens_per_batch": 1}
    job = make_job(tmp_path, reference=(ModelShare(str(reference)),), train_loss="aot", **settings)
    train(job)
    whole = replace(job.train, max_tokens_per_batch=10_000)
    other = replace(job, output_dir=str(tmp_path / "whole"), train=whole)
    train(other)
    for apart, together in zip(metrics_of(job), metrics_of(other), strict=True):
        assert apart == pytest.approx(together, rel=1e-3, abs=1e-4)
    assert metrics_of(job)[0]["loss"] == pytest.approx(first_aot_loss(job), rel=1e-4)


def first_aot_loss(job: TrainJob) -> float:
    setup = prepare(job)
    other = Scorer(load_model(job.reference[0].path, torch.float32))
    policy, reference = score_all(setup, setup.scorer), score_all(setup, other)
    sides = [sorted((logps[2 * i] - logps[2 * i + 1]).item() for i in range(12)) for logps in (policy, reference)]
    return fmean(math.log1p(math.exp(-job.train.beta * (ours - theirs))) for ours, theirs in zip(*sides, strict=True))


def test_kto_estimates_the_divergence_on_answers_to_other_prompts(tmp_path: Path) -> None:
    job = make_job(tmp_path, num_pairs=6, train_loss="kto")
    Path(job.output_dir).mkdir()
    setup = prepare(job)
    other = setup.groups.mismatched(job.train.max_length)
    for index in range(6):
        assert other.parts(index)[0].tolist() == setup.groups.parts(index)[0].tolist()
        before = setup.groups.parts((index - 1) % 6)[1]
        assert [answer.tolist() for answer in other.parts(index)[1]] == [answer.tolist() for answer in before]
    found = mismatch(setup, setup.scorer)
    assert found.divergence(setup.scorer, torch.arange(6)).item() == pytest.approx(0.0, abs=1e-5)
    with pytest.raises(NothingToTrainOn, match="two prompts or more"):
        train(make_job(tmp_path / "one", num_pairs=1, train_loss="kto"))


def test_terms_and_weights_are_told_apart_in_the_metrics(tmp_path: Path) -> None:
    job = make_job(tmp_path, train_loss={"sigmoid": 1.0, "nll": 0.2}, train_wpo=True, train_ld_alpha=0.5)
    train(job)
    first = metrics_of(job)[0]
    assert first["loss"] == pytest.approx(first["loss/sigmoid"] + first["loss/nll"])
    assert first["loss/sigmoid"] == pytest.approx(math.log(2) * first["wpo/weights"], rel=1e-5)
    assert first["wpo/weights"] > 0


def test_the_likelihood_term_keeps_chosen_answers_likely(tmp_path: Path) -> None:
    drift = {}
    for name, loss in (("alone", "sigmoid"), ("with nll", {"sigmoid": 1.0, "nll": 1.0})):
        job = make_job(tmp_path / name, num_pairs=16, train_epochs=6, train_loss=loss)
        train(job)
        drift[name] = metrics_of(job)[-1]["logps/chosen"]
    assert drift["with nll"] > drift["alone"] + 1.0


def test_a_fall_of_chosen_answers_is_said_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(make_job(tmp_path, num_pairs=8, train_epochs=6, train_loss="apo_down", train_learning_rate=3e-2))
    warnings = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"warning"' in line]
    assert "chosen answers became less likely" in warnings[-1]["message"]
