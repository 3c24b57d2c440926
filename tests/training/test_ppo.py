"""PPO and its kin in real jobs: a tiny model that samples for itself, and a random reward model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from selfalign.chat import encode_chat
from selfalign.config import Adapter, Ppo
from selfalign.launch.local import trainer_command
from selfalign.records import Candidate, Message, Prompt
from selfalign.store import Run
from selfalign.training import rollouts
from selfalign.training.job import TrainJob, write_job
from selfalign.training.loop import Stopped
from selfalign.training.trainer import train
from tests.training.conftest import END, make_job, metrics_of, save_tiny, tiny_tokenizer

PROMPTS, SAMPLES, LENGTH = 6, 4, 5


def save_reward_model(folder: Path, policy: Path) -> Path:
    """A classifier with a random head: what it likes is nothing in particular, but always the same."""
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(policy, num_labels=1)
    torch.nn.init.normal_(model.score.weight, std=0.3)
    model.config.pad_token_id = 0
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


class Sampler:
    """Stands for the campaign at the other end of the trainer's pipes: samples from the weights it is told of."""

    def __init__(self, job: TrainJob, folder: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None):
        self.job, self.folder, self.stop_after = job, folder, stop_after
        self.asked: list[int] = []
        self.policies: list[str | None] = []
        self.warnings: list[str] = []
        monkeypatch.setattr(rollouts, "emit", self.emit)
        monkeypatch.setattr(sys, "stdin", self)
        self.reply = ""

    def emit(self, event: str, **fields: Any) -> None:
        self.warnings += [fields["message"]] if event == "warning" else []
        if event == "rollouts_wanted":
            self.asked.append(fields["iteration"])
            self.policies.append(fields["model"])
            over = self.stop_after is not None and len(self.asked) > self.stop_after
            said = self.sample(fields["iteration"], fields["model"]) | self.guard(fields["iteration"])
            self.reply = "" if over else json.dumps(said) + "\n"

    def guard(self, iteration: int) -> dict[str, Any]:
        return {"best": None, "stop": None}

    def readline(self) -> str:
        return self.reply

    def sample(self, iteration: int, model: str | None) -> dict[str, list[str]]:
        folder = self.folder / f"{iteration:03d}"
        if not (folder / "run").exists():
            prompts, candidates = roll_out(model or self.job.policy_path, iteration, self.job.ppo)
            write(folder / "run", prompts, candidates)
        steps = folder / "run" / "rounds" / "000"
        return {"prompts": [str(steps / "prompts")], "candidates": [str(steps / "candidates")]}


def roll_out(path: str, iteration: int, ppo: Ppo) -> tuple[list[Prompt], list[Candidate]]:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), tiny_tokenizer()
    generator = torch.Generator().manual_seed(iteration)
    prompts, candidates = [], []
    for number in range(ppo.prompts):
        prompt = Prompt.make((Message("user", f"w{number} w{iteration % 3}"),))
        ids = encode_chat(tokenizer, prompt.messages)
        prompts.append(prompt)
        for sample in range(ppo.samples):
            tokens, logprob = [], 0.0
            while len(tokens) < LENGTH and (not tokens or tokens[-1] != END):
                with torch.no_grad():
                    logprobs = model(torch.tensor([ids + tokens])).logits[0, -1].log_softmax(-1)
                token = int(torch.multinomial(logprobs.exp(), 1, generator=generator))
                logprob += logprobs[token].item()
                tokens.append(token)
            ended = "stop" if tokens[-1] == END else "length"
            name = f"{iteration}-{number}-{sample}"
            candidates.append(Candidate(name, prompt.id, "p", sample, 0, "text", tuple(tokens), ended, logprob))
    return prompts, candidates


def write(path: Path, prompts: list[Prompt], candidates: list[Candidate]) -> None:
    run = Run.create(path, "name: rollouts\n")
    with run.lock():
        for name, rows in (("prompts", prompts), ("candidates", candidates)):
            step = run.step(f"rounds/000/{name}", inputs={})
            step.write(0, rows)
            step.finish({})


def ppo_job(tmp_path: Path, *, train_learning_rate: float = 5e-3, **changes: Any) -> TrainJob:
    settings = {name.removeprefix("ppo_"): value for name, value in changes.items() if name.startswith("ppo_")}
    others = {name: value for name, value in changes.items() if not name.startswith("ppo_")}
    usual = {"iterations": 3, "prompts": PROMPTS, "samples": SAMPLES, "epochs": 2, "missing_eos": "keep"}
    policy = save_tiny(tmp_path / "policy")
    job = make_job(tmp_path, model=policy, train_learning_rate=train_learning_rate, train_algorithm="dpo", **others)
    return replace(
        job,
        train=replace(job.train, algorithm="ppo", schedule="constant", warmup_ratio=0.0),
        ppo=Ppo(**(usual | settings)),
        reward_path=str(save_reward_model(tmp_path / "reward", policy)),
    )


@pytest.mark.parametrize("advantage", ["gae", "rloo", "grpo", "reinforce"])
def test_every_advantage_raises_the_score(advantage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = ppo_job(tmp_path, ppo_advantage=advantage, ppo_iterations=8, ppo_prompts=12, ppo_kl_coef=0.01)
    Sampler(job, tmp_path / "rollouts", monkeypatch)
    train(job)
    steps = metrics_of(job)
    first, last = steps[0], steps[-1]
    assert last["objective/scores"] > first["objective/scores"] + 0.1
    assert last["objective/kl"] > 0.01
    output = AutoModelForCausalLM.from_pretrained(job.output_dir)
    assert output.dtype == torch.float32 and not list(Path(job.output_dir).glob("rollout-*"))


def test_the_first_step_of_an_iteration_is_at_the_policy_that_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ppo_job(tmp_path)
    sampler = Sampler(job, tmp_path / "rollouts", monkeypatch)
    train(job)
    steps = metrics_of(job)
    assert sampler.asked == [0, 1, 2] and sampler.policies[0] is None
    assert [step["iteration"] for step in steps] == [0, 0, 1, 1, 2, 2]
    for step in steps[::2]:
        assert step["val/ratio"] == pytest.approx(1.0, abs=1e-5)
        assert step["policy/approxkl"] == pytest.approx(0.0, abs=1e-8) and step["policy/clipfrac"] == 0.0
        assert step["rollout/sampler_difference"] == pytest.approx(0.0, abs=1e-4)
    assert steps[0]["objective/kl"] == pytest.approx(0.0, abs=1e-5)
    assert steps[1]["policy/approxkl"] > 0


def test_it_goes_on_from_the_iteration_that_was_cut_off_and_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ppo_job(tmp_path / "whole", ppo_kl_target=0.5)
    Sampler(whole, tmp_path / "whole" / "rollouts", monkeypatch)
    train(whole)
    job = ppo_job(tmp_path / "cut", ppo_kl_target=0.5)
    Sampler(job, tmp_path / "cut" / "rollouts", monkeypatch, stop_after=2)
    with pytest.raises(Stopped):
        train(job)
    again = Sampler(job, tmp_path / "cut" / "rollouts", monkeypatch)
    train(job)
    assert again.asked == [2]
    weights = [(Path(j.output_dir) / "model.safetensors").read_bytes() for j in (whole, job)]
    assert weights[0] == weights[1]
    assert metrics_of(whole) == metrics_of(job)


def test_a_policy_that_has_moved_far_ends_its_iteration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = ppo_job(tmp_path, ppo_epochs=6, ppo_max_approxkl=1e-4, train_learning_rate=2e-2)
    Sampler(job, tmp_path / "rollouts", monkeypatch)
    train(job)
    counts = np.bincount([int(step["iteration"]) for step in metrics_of(job)])
    assert len(counts) == 3 and counts.max() < 6


def test_an_adapter_is_its_own_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = replace(ppo_job(tmp_path, ppo_advantage="rloo", ppo_iterations=2), adapter=Adapter(rank=4))
    Sampler(job, tmp_path / "rollouts", monkeypatch)
    train(job)
    steps = metrics_of(job)
    assert steps[0]["objective/kl"] == pytest.approx(0.0, abs=1e-5) and steps[-1]["objective/kl"] != 0.0
    assert (Path(job.output_dir) / "adapter" / "adapter_model.safetensors").exists()


def test_log_probabilities_are_those_of_the_temperature_of_sampling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = replace(ppo_job(tmp_path, ppo_iterations=1), temperature=0.7)
    Sampler(job, tmp_path / "rollouts", monkeypatch)
    train(job)
    entropy = metrics_of(job)[0]["objective/entropy"]
    prompts, candidates = roll_out(job.policy_path, 0, job.ppo)
    model, by_id = AutoModelForCausalLM.from_pretrained(job.policy_path), {p.id: p for p in prompts}
    found = []
    for c in candidates:
        ids = encode_chat(tiny_tokenizer(), by_id[c.prompt_id].messages)
        logits = model(torch.tensor([[*ids, *c.token_ids]])).logits[0, len(ids) - 1 : -1]
        logprobs = (logits / 0.7).log_softmax(-1)
        found.append(logprobs.gather(-1, torch.tensor(c.token_ids)[:, None]).sum().item())
    assert entropy == pytest.approx(-np.mean(found), rel=1e-4)


@pytest.mark.parametrize("best", [0, 1])
def test_the_best_weights_are_kept_where_the_judge_turns_against_the_reward(
    best: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = ppo_job(tmp_path, ppo_iterations=4)
    sampler, seen = Sampler(job, tmp_path / "rollouts", monkeypatch), {}

    def guard(iteration: int) -> dict[str, Any]:
        if iteration:
            seen[iteration] = load_file(Path(job.output_dir) / f"rollout-{iteration:04d}" / "model.safetensors")
        return {"best": min(best, iteration), "stop": "the judge fell" if iteration == 3 else None}

    sampler.guard = guard
    train(job)
    kept = load_file(Path(job.output_dir) / "model.safetensors")
    expected = seen[1] if best else load_file(Path(job.policy_path) / "model.safetensors")
    assert all(torch.equal(kept[name], expected[name]) for name in expected)
    assert sampler.asked == [0, 1, 2, 3] and not list(Path(job.output_dir).glob("rollout-*"))
    assert f"the judge fell; the weights of iteration {best} are kept" in capsys.readouterr().out
    said = json.loads((Path(job.output_dir) / "probes.json").read_text())
    assert (said["before"] == said["after"]) == (best == 0)


@pytest.mark.parametrize("best", [0, 1])
def test_the_best_adapter_is_kept_beside_the_weights_it_makes(
    best: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = replace(ppo_job(tmp_path, ppo_advantage="rloo", ppo_iterations=3), adapter=Adapter(rank=4))
    sampler = Sampler(job, tmp_path / "rollouts", monkeypatch)
    sampler.guard = lambda iteration: {"best": min(best, iteration), "stop": "it fell" if iteration == 2 else None}
    train(job)
    output, tokens = Path(job.output_dir), torch.tensor([[1, 5, 6, 7]])
    usual = replace(job, output_dir=str(tmp_path / "usual"))
    Sampler(usual, tmp_path / "others", monkeypatch)
    train(usual)
    assert {p.name for p in output.rglob("*")} == {p.name for p in Path(usual.output_dir).rglob("*")}
    merged = AutoModelForCausalLM.from_pretrained(output)(tokens).logits
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(job.policy_path), output / "adapter")
    torch.testing.assert_close(adapted(tokens).logits, merged, atol=1e-5, rtol=1e-5)
    first = AutoModelForCausalLM.from_pretrained(job.policy_path)(tokens).logits
    assert torch.allclose(merged, first, atol=1e-6) == (best == 0)


def test_rollouts_that_cannot_be_trained_on_are_counted_aloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = ppo_job(tmp_path, ppo_iterations=1)
    sampler = Sampler(job, tmp_path / "rollouts", monkeypatch)
    prompts, candidates = roll_out(job.policy_path, 0, job.ppo)
    candidates[0] = replace(candidates[0], finish_reason="error", token_ids=())
    candidates[1] = replace(candidates[1], token_ids=(5,) * 4000)
    write(tmp_path / "rollouts/000/run", prompts, candidates)
    train(job)
    assert sampler.warnings == ["round 0: rollouts left out: 1 error, 1 too_long; 22 remain"]
    assert metrics_of(job)[0]["rollout/answers"] == 22


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = ppo_job(tmp_path, ppo_iterations=2)
    sampler = Sampler(one, tmp_path / "rollouts", monkeypatch)
    train(one)
    two = replace(one, output_dir=str(tmp_path / "two"), train=replace(one.train, num_processes=2))
    write_job(two, tmp_path / "two.json")
    with (tmp_path / "two.log").open("w") as log:
        process = subprocess.Popen(
            trainer_command(two, tmp_path / "two.json"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        for line in process.stdout:
            if '"rollouts_wanted"' in line:
                asked = json.loads(line)
                reply = sampler.sample(asked["iteration"], asked["model"]) | sampler.guard(asked["iteration"])
                process.stdin.write(json.dumps(reply) + "\n")
                process.stdin.flush()
    assert process.wait() == 0, (tmp_path / "two.log").read_text()[-3000:]
    for ours, theirs in zip(metrics_of(one), metrics_of(two), strict=True):
        assert theirs == pytest.approx(ours, rel=1e-2, abs=1e-3)
