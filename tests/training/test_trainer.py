"""A whole DPO job on a tiny model: what it learns, writes, keeps, refuses, and how it goes on after a crash."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfalign.config import Adapter
from selfalign.records import Pair
from selfalign.store import read_records, sha256_file
from selfalign.training import checkpoint, dpo, loop, saving, trainer
from selfalign.training import reference as reference_module
from selfalign.training.checkpoint import CheckpointError, NonFiniteWeights
from selfalign.training.dataset import GroupDataset, NothingToTrainOn
from selfalign.training.job import ModelShare, TrainJob, read_job, write_job
from selfalign.training.loop import NonFiniteStep, Stopped
from selfalign.training.model import ModelError
from selfalign.training.reference import WrongStart
from selfalign.training.setup import prepare
from selfalign.training.task import METRICS
from selfalign.training.trainer import train
from tests.training.conftest import END, make_job, metrics_of, save_tiny, tiny_tokenizer


def elsewhere(job: TrainJob, name: str) -> TrainJob:
    """The same job with another output folder."""
    return replace(job, output_dir=str(Path(job.output_dir).with_name(name)))


def weights_digest(job: TrainJob) -> str:
    return sha256_file(Path(job.output_dir) / "model.safetensors")


# What a job does ---------------------------------------------------------------------------------------------------


def test_training_raises_the_margin_and_writes_a_model_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make_job(tmp_path, num_pairs=16, train_epochs=6)
    train(job)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    steps = [line for line in lines if line["event"] == "train_step"]
    assert [line["step"] for line in steps] == list(range(1, 25))
    assert steps[0]["metrics"]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert steps[-1]["metrics"]["rewards/margins"] > 0.3
    assert set(steps[0]["metrics"]) == {*METRICS, "grad_norm", "learning_rate", "num_tokens"}
    assert [{"step": line["step"], **line["metrics"]} for line in steps] == metrics_of(job)
    output = Path(job.output_dir)
    assert AutoTokenizer.from_pretrained(output).chat_template == tiny_tokenizer().chat_template
    assert AutoModelForCausalLM.from_pretrained(output).dtype == torch.float32
    assert not (output / "checkpoint").exists()


def test_trained_weights_are_saved_in_float32_though_the_base_is_stored_in_bfloat16(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base", dtype=torch.bfloat16)
    job = make_job(tmp_path, model=base, train_learning_rate=1e-6)
    train(job)
    before, after = load_file(base / "model.safetensors"), load_file(Path(job.output_dir) / "model.safetensors")
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    moved = after["lm_head.weight"] - before["lm_head.weight"].float()
    assert 0 < moved.abs().max() < 1e-4  # far less than bfloat16 tells apart
    assert json.loads((Path(job.output_dir) / "config.json").read_text())["dtype"] == "float32"


def test_probes_are_what_the_saved_model_says(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    train(job)
    recorded = json.loads((Path(job.output_dir) / "probes.json").read_text())
    for key, folder in (("before", job.policy_path), ("after", job.output_dir)):
        assert recorded[key][0] == pytest.approx(probe_by_hand(job, folder), abs=1e-4)
    assert recorded["before"] != recorded["after"]


def probe_by_hand(job: TrainJob, folder: str) -> list[float]:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), tiny_tokenizer()
    turns = [{"role": m.role, "content": m.content} for m in job.probes[0].messages]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    answer = list(job.probes[0].token_ids)
    with torch.no_grad():
        logps = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return logps.gather(-1, torch.tensor(answer)[:, None]).squeeze(-1).tolist()


def test_an_adapter_is_merged_in_the_dtype_of_the_base_and_kept_beside(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base", dtype=torch.bfloat16)
    job = make_job(tmp_path, model=base, adapter=Adapter(rank=4), train_epochs=2)
    train(job)
    output = Path(job.output_dir)
    merged = load_file(output / "model.safetensors")
    assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}
    assert merged.keys() == load_file(base / "model.safetensors").keys()
    adapter = load_file(output / "adapter" / "adapter_model.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in adapter.values())
    recorded = json.loads((output / "probes.json").read_text())
    assert recorded["after"][0] == pytest.approx(probe_by_hand(job, job.output_dir), abs=1e-4)
    from peft import PeftModel

    beside = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), output / "adapter"
    )
    ids = torch.arange(5, 20)[None]
    whole = AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32)
    torch.testing.assert_close(beside(input_ids=ids).logits, whole(input_ids=ids).logits, atol=0.3, rtol=0.05)


def test_gradient_checkpointing_changes_nothing(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    train(job)
    other = elsewhere(replace(job, train=replace(job.train, gradient_checkpointing=True)), "other")
    train(other)
    assert weights_digest(other) == weights_digest(job)


@pytest.mark.parametrize("budget", [1, 60, 10_000])
def test_the_token_budget_does_not_change_the_step(tmp_path: Path, budget: int) -> None:
    job = make_job(tmp_path, train_learning_rate=1e-4)
    train(job)
    other = elsewhere(replace(job, train=replace(job.train, max_tokens_per_batch=budget)), "other")
    train(other)
    for one, two in zip(metrics_of(job), metrics_of(other), strict=True):
        if one["step"] == 1:  # margins are rounding noise there, of either sign
            del one["rewards/accuracies"], two["rewards/accuracies"]
        assert two == pytest.approx(one, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("loss", ["ipo", "hinge"])
def test_other_losses_start_at_their_value_and_fall(tmp_path: Path, loss: str) -> None:
    job = make_job(tmp_path, train_loss=loss, train_epochs=6, train_beta=0.5, train_learning_rate=3e-4)
    train(job)
    losses = [step["loss"] for step in metrics_of(job)]
    assert losses[0] == pytest.approx(1.0, abs=1e-3)  # hinge: 1; ipo: 1 / (2 beta)^2
    assert sum(losses[-3:]) < sum(losses[:3])


def test_another_reference_is_scored_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = save_tiny(tmp_path / "reference", seed=5)
    job = make_job(tmp_path, reference=(ModelShare(str(reference)),))
    train(job)
    output = Path(job.output_dir)
    assert metrics_of(job)[0]["rewards/margins"] != pytest.approx(0.0, abs=1e-3)
    with safe_open(output / "reference" / "logps.safetensors", "pt") as file:
        names = json.loads(file.metadata()["groups"])
    pairs = list(read_records(Path(job.examples_dirs[0]), Pair))
    assert names == [f"{pair.prompt_id}/{pair.chosen_id}/{pair.rejected_id}" for pair in pairs]

    digest = weights_digest(job)
    (output / "training.json").unlink()
    monkeypatch.setattr(reference_module, "score_all", lambda *_: pytest.fail("scored a second time"))
    train(job)
    assert weights_digest(job) == digest


def test_a_finished_job_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(tmp_path)
    train(job)
    monkeypatch.setattr(trainer, "prepare", lambda *_: pytest.fail("started again"))
    train(job)


def test_pairs_that_are_too_long_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = make_job(tmp_path, train_max_length=20)
    train(job)
    done = json.loads((Path(job.output_dir) / "training.json").read_text())
    assert done["dropped"]["too_long"] > 0
    assert done["dropped"]["too_long"] + done["groups"] == 12
    assert f"{done['dropped']['too_long']} too_long" in capsys.readouterr().out


def test_a_job_survives_its_json(tmp_path: Path) -> None:
    job = make_job(tmp_path, adapter=Adapter(rank=2), train_loss="ipo")
    write_job(job, tmp_path / "job.json")
    assert read_job(tmp_path / "job.json") == job
    assert read_job(tmp_path / "job.json").identity() == job.identity()


# What a job refuses ------------------------------------------------------------------------------------------------


def test_no_pairs_left(tmp_path: Path) -> None:
    with pytest.raises(NothingToTrainOn, match=r"12 too_long.*train\.max_length"):
        train(make_job(tmp_path, train_max_length=3))


def test_tokens_of_another_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GroupDataset, "highest_token", lambda self: 64)
    with pytest.raises(ModelError, match="token 64"):
        train(make_job(tmp_path))


def test_a_reference_that_is_not_this_policy_stops_the_first_step(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    train(job)
    output = Path(job.output_dir)
    with safe_open(output / "reference" / "logps.safetensors", "pt") as file:
        kept, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    changed = {"logps": kept["logps"] + torch.tensor([1.0, 0.0]).repeat(12)}  # of chosen and rejected answers
    save_file(changed, output / "reference" / "logps.safetensors", metadata)
    (output / "training.json").unlink()
    with pytest.raises(WrongStart, match=r"loss is 0\.722.*must be 0\.693147") as error:
        train(job)
    assert "reference/logps.safetensors" in str(error.value)


def poison(monkeypatch: pytest.MonkeyPatch, at_call: int, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Let `change` at the losses of one micro-batch."""
    original, calls = dpo.pair_loss, iter(range(10_000))

    def poisoned(*args: object, **kwargs: object) -> torch.Tensor:
        losses = original(*args, **kwargs)
        return change(losses) if next(calls) == at_call else losses

    monkeypatch.setattr(dpo, "pair_loss", poisoned)


class BadGradient(torch.autograd.Function):
    """A loss whose value is sound and whose gradient is not."""

    @staticmethod
    def forward(ctx: object, losses: torch.Tensor) -> torch.Tensor:
        return losses.clone()

    @staticmethod
    def backward(ctx: object, grad: torch.Tensor) -> torch.Tensor:
        return torch.full_like(grad, float("inf"))


CHANGES = {"loss": lambda losses: losses * float("nan"), "gradient": BadGradient.apply}


@pytest.mark.parametrize("what", CHANGES)
def test_a_step_that_is_not_finite_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    states, original = [], loop.Loop._step

    def step(self: loop.Loop, number: int, before: object) -> bool:
        weights, moments = checkpoint.training_state(self.accelerator, self.model, self.optimizer)
        states.append((self, {k: v.detach().clone() for k, v in {**weights, **moments}.items()}))
        return original(self, number, before)

    monkeypatch.setattr(loop.Loop, "_step", step)
    poison(monkeypatch, at_call=1, change=CHANGES[what])
    job = make_job(tmp_path, train_max_tokens_per_batch=10_000)
    with pytest.raises(NonFiniteStep, match="training step 2 of 3: not finite"):
        train(job)
    its_loop, before = states[-1]
    weights, moments = checkpoint.training_state(its_loop.accelerator, its_loop.model, its_loop.optimizer)
    after = {**weights, **moments}
    assert len(states) == 2
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not (Path(job.output_dir) / "model.safetensors").exists()
    assert len(metrics_of(job)) == 1


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = saving.full_state

    def state(*args: object) -> dict[str, torch.Tensor]:
        weights = original(*args)
        next(iter(weights.values())).data[0, 0] = float("nan")
        return weights

    monkeypatch.setattr(saving, "full_state", state)
    job = make_job(tmp_path)
    with pytest.raises(NonFiniteWeights, match=r"embed_tokens\.weight"):
        train(job)
    assert not (Path(job.output_dir) / "model.safetensors").exists()


# Going on after a crash --------------------------------------------------------------------------------------------


# Each job runs in a process forked from a server that has imported what a job needs and done nothing else: a fork of
# the test's own process would inherit the locks of whatever threads torch and vLLM keep in it, and hang.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["selfalign.training.trainer", "selfalign.store.tables", __name__])


def in_child(work: Callable[..., None], *arguments: object) -> int:
    """Run `work` in a process of its own and return its exit status, negative for a signal."""
    child = SERVER.Process(target=work, args=arguments)
    child.start()
    child.join()
    return child.exitcode


def killed_after_step(job: TrainJob, step: int) -> None:
    """Train, and die by SIGKILL as soon as the metrics of `step` are written."""
    original = loop.MetricsLog.write

    def write(self: loop.MetricsLog, number: int, *args: object) -> None:
        original(self, number, *args)
        if number == step:
            os.kill(os.getpid(), signal.SIGKILL)

    loop.MetricsLog.write = write
    train(job)


def killed_at_commit(job: TrainJob, number: int, before: bool) -> None:
    """Train, and die by SIGKILL just before or just after the `number`-th checkpoint is renamed into place."""
    original, calls = os.rename, iter(range(100))

    def rename(source: object, target: object) -> None:
        due = next(calls) == number
        if not (due and before):
            original(source, target)
        if due:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.os.rename = rename
    train(job)


RESUMED = {"train_epochs": 2, "train_checkpoint_every": 2, "train_max_tokens_per_batch": 60}


@pytest.mark.parametrize("adapter", [None, Adapter(rank=2, dropout=0.3)], ids=["all weights", "adapter with dropout"])
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, adapter: Adapter | None) -> None:
    whole = make_job(tmp_path, adapter=adapter, **RESUMED)
    assert in_child(train, whole) == 0
    for step in range(1, 7):
        job = elsewhere(whole, f"killed-{step}")
        assert in_child(killed_after_step, job, step) == -signal.SIGKILL
        assert in_child(train, job) == 0
        assert weights_digest(job) == weights_digest(whole)
        assert metrics_of(job) == metrics_of(whole)


def test_the_running_mean_of_bco_is_taken_up_where_it_was(tmp_path: Path) -> None:
    whole = make_job(tmp_path, train_loss="bco", **RESUMED)
    assert in_child(train, whole) == 0
    job = elsewhere(whole, "killed")
    assert in_child(killed_after_step, job, 5) == -signal.SIGKILL
    assert in_child(train, job) == 0
    assert metrics_of(job) == metrics_of(whole)
    assert weights_digest(job) == weights_digest(whole)


def test_kills_during_the_commit_of_a_checkpoint_lose_nothing_else(tmp_path: Path) -> None:
    whole = make_job(tmp_path, **RESUMED)
    assert in_child(train, whole) == 0
    for number, before in ((0, True), (0, False), (1, True), (1, False)):
        job = elsewhere(whole, f"killed-{number}-{before}")
        assert in_child(killed_at_commit, job, number, before) == -signal.SIGKILL
        assert in_child(train, job) == 0
        assert weights_digest(job) == weights_digest(whole)


def test_asked_to_stop_it_saves_and_goes_on_later(tmp_path: Path) -> None:
    whole = make_job(tmp_path, train_epochs=2)
    train(whole)
    job = elsewhere(whole, "stopped")
    answers = iter([False, True])
    with pytest.raises(Stopped):
        train(job, lambda: next(answers))
    assert [path.name for path in (Path(job.output_dir) / "checkpoint").iterdir()] == ["step-000002"]
    train(job)
    assert weights_digest(job) == weights_digest(whole)


@pytest.fixture
def stopped(tmp_path: Path) -> TrainJob:
    """A job with a checkpoint of its second step."""
    job = make_job(tmp_path)
    answers = iter([False, True])
    with pytest.raises(Stopped):
        train(job, lambda: next(answers))
    return job


def test_a_checkpoint_without_optimizer_state_is_refused(stopped: TrainJob) -> None:
    (Path(stopped.output_dir) / "checkpoint/step-000002/optimizer.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors: missing"):
        train(stopped)


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "checkpoint.json"])
def test_a_damaged_checkpoint_is_named_and_refused(stopped: TrainJob, name: str) -> None:
    path = Path(stopped.output_dir) / "checkpoint/step-000002" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="step-000002"):
        train(stopped)


def test_a_checkpoint_of_other_settings_is_refused(stopped: TrainJob) -> None:
    with pytest.raises(CheckpointError, match="another job"):
        train(replace(stopped, train=replace(stopped.train, beta=0.3)))


def test_the_end_of_turn_token_is_scored(tmp_path: Path) -> None:
    setup = prepare(make_job(tmp_path))
    batch = next(iter(setup.micro_batches(np.arange(4)))).batch
    last = batch.lengths.cumsum(0) - 1
    assert (batch.targets[last] == END).all()
