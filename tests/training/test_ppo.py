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
from selfalign.records import Candidate, Message, Prompt, Reward
from selfalign.store import Run, read_records
from selfalign.training import rollouts
from selfalign.training.dataset import NothingToTrainOn
from selfalign.training.job import TrainJob, write_job
from selfalign.training.loop import Stopped
from selfalign.training.ppo import PpoTask
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
            write(folder / "run", prompts=prompts, candidates=candidates)
        steps = folder / "run" / "rounds" / "000"
        return {"prompts": [str(steps / "prompts")], "candidates": [str(steps / "candidates")]}


class GivenRewards(Sampler):
    """Hands rewards over with the rollouts: short answers are the better ones."""

    def __init__(self, *arguments: Any, without: tuple[str, ...] = (), **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.without = without

    def reward(self, candidate: Candidate) -> float:
        return 1.0 - 2.0 * len(candidate.token_ids) / LENGTH

    def sample(self, iteration: int, model: str | None) -> dict[str, list[str]]:
        said = super().sample(iteration, model)
        folder = self.folder / f"{iteration:03d}" / "rewards"
        if not folder.exists():
            sampled = read_records(Path(said["candidates"][0]), Candidate)
            rewards = [Reward(c.id, "judge", self.reward(c)) for c in sampled if c.id not in self.without]
            write(folder, rewards=rewards)
        return said | {"rewards": [str(folder / "rounds" / "000" / "rewards")]}


def roll_out(path: str, iteration: int, ppo: Ppo) -> tuple[list[Prompt], list[Candidate]]:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), tiny_tokenizer()
    generator = torch.Generator().manual_seed(iteration)
    prompts, candidates = [], []
    for number in range(ppo.prompts):
        prompt = Prompt.make((Message("user", f"w{number} w{iteration % 3}"),))
        ids = encode_chat(tokenizer, prompt.messages)
        prompts.append(prompt)
        for sample in range(ppo.samples):
            tokens, found = [], []
            while len(tokens) < LENGTH and (not tokens or tokens[-1] != END):
                with torch.no_grad():
                    logprobs = model(torch.tensor([ids + tokens])).logits[0, -1].log_softmax(-1)
                token = int(torch.multinomial(logprobs.exp(), 1, generator=generator))
                found.append(logprobs[token].item())
                tokens.append(token)
            ended = "stop" if tokens[-1] == END else "length"
            name = f"{iteration}-{number}-{sample}"
            text = tokenizer.decode(tokens)
            said = Candidate(name, prompt.id, "p", sample, 0, text, tuple(tokens), ended, sum(found))
            candidates.append(replace(said, logprobs=tuple(found)))
    return prompts, candidates


def write(path: Path, **records: list[Any]) -> None:
    run = Run.create(path, "name: rollouts\n")
    with run.lock():
        for name, rows in records.items():
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
        assert step["rollout/sampler_kl"] == pytest.approx(0.0, abs=1e-7)
        assert "policy/entropy" not in step and "rollout/sampler_truncated" not in step
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


def losses_with_sampler(
    job: TrainJob, folder: Path, monkeypatch: pytest.MonkeyPatch, shift: float | None
) -> list[dict[str, float]]:
    """Train on rollouts whose engine says of each token what the trainer says, less `shift`."""
    weights_of = PpoTask.sampler_weights

    def weights(self: PpoTask, old: torch.Tensor, sampler: torch.Tensor, lengths: torch.Tensor) -> Any:
        return weights_of(self, old, old - shift, lengths)

    with monkeypatch.context() as patched:
        if shift is not None:
            patched.setattr(PpoTask, "sampler_weights", weights)
        Sampler(job, folder, patched)
        train(job)
    return metrics_of(job)


@pytest.mark.parametrize("advantage", ["gae", "rloo", "grpo", "reinforce"])
def test_an_engine_that_agrees_changes_nothing_and_one_that_does_not_is_weighed_up_to_the_cap(
    advantage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ppo_job(tmp_path, ppo_advantage=advantage, ppo_iterations=2)
    clipped = replace(job, ppo=replace(job.ppo, sampler_clip=1.5))
    folders = iter(tmp_path / f"out{n}" for n in range(3))

    def run(job: TrainJob, shift: float | None) -> list[dict[str, float]]:
        job = replace(job, output_dir=str(next(folders)))
        return losses_with_sampler(job, tmp_path / "rollouts", monkeypatch, shift)

    plain, same, apart = run(job, None), run(clipped, 0.0), run(clipped, 1.0)
    assert [step["loss"] for step in same] == [step["loss"] for step in plain]
    assert [step["grad_norm"] for step in same] == [step["grad_norm"] for step in plain]
    assert same[0]["rollout/sampler_difference"] == same[0]["rollout/sampler_truncated"] == 0.0
    assert apart[0]["loss/policy"] == pytest.approx(1.5 * plain[0]["loss/policy"], rel=1e-5, abs=1e-7)
    assert apart[0]["loss/value"] == plain[0]["loss/value"]
    assert apart[0]["rollout/sampler_difference"] == pytest.approx(1.0) == apart[0]["rollout/sampler_truncated"]
    assert apart[0]["rollout/sampler_kl"] == pytest.approx(np.e - 2, rel=1e-5)  # r - 1 - log r, r = e


def test_weights_need_log_probabilities_of_single_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = ppo_job(tmp_path, ppo_iterations=1, ppo_sampler_clip=2.0)
    Sampler(job, tmp_path / "rollouts", monkeypatch)
    prompts, candidates = roll_out(job.policy_path, 0, job.ppo)
    unrecorded = [replace(candidate, logprobs=()) for candidate in candidates]
    write(tmp_path / "rollouts/000/run", prompts=prompts, candidates=unrecorded)
    with pytest.raises(NothingToTrainOn, match=r"ppo\.sampler_clip: .* not recorded"):
        train(job)
    without = replace(job, ppo=replace(job.ppo, sampler_clip=None), output_dir=str(tmp_path / "without"))
    Sampler(without, tmp_path / "rollouts", monkeypatch)
    train(without)
    assert "rollout/sampler_difference" not in metrics_of(without)[0]


def test_a_paid_entropy_stays_higher_and_is_that_of_the_whole_vocabulary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ppo_job(tmp_path, ppo_advantage="rloo", ppo_iterations=4, ppo_kl_coef=0.0, ppo_entropy_coef=1e-12)
    ends = []
    for coef in (1e-12, 1.0):
        paid = replace(job, ppo=replace(job.ppo, entropy_coef=coef), output_dir=str(tmp_path / f"out{coef}"))
        Sampler(paid, tmp_path / f"rollouts{coef}", monkeypatch)
        train(paid)
        steps = metrics_of(paid)
        assert steps[0]["loss"] == pytest.approx(steps[0]["loss/policy"] - coef * steps[0]["policy/entropy"], abs=1e-6)
        ends.append(steps[-1]["policy/entropy"])
    assert ends[1] > ends[0] + 1e-3
    prompts, candidates = roll_out(job.policy_path, 0, job.ppo)
    model, by_id = AutoModelForCausalLM.from_pretrained(job.policy_path), {p.id: p for p in prompts}
    found = []
    for c in candidates:
        ids = encode_chat(tiny_tokenizer(), by_id[c.prompt_id].messages)
        logprobs = model(torch.tensor([[*ids, *c.token_ids]])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        found += (-(logprobs.exp() * logprobs).sum(-1)).tolist()
    assert steps[0]["policy/entropy"] == pytest.approx(np.mean(found), rel=1e-4)


def limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best: int | None, **limits: Any
) -> tuple[Sampler, TrainJob, dict[int, Any]]:
    """Train under limits; with the weights that each iteration's rollouts were sampled from."""
    job = ppo_job(tmp_path, ppo_iterations=8, ppo_kl_coef=0.0, train_learning_rate=1e-3, **limits)
    sampler, seen = Sampler(job, tmp_path / "rollouts", monkeypatch), {}

    def guard(iteration: int) -> dict[str, Any]:
        folder = Path(job.output_dir) / f"rollout-{iteration:04d}" if iteration else Path(job.policy_path)
        seen[iteration] = load_file(folder / "model.safetensors")
        return {"best": best if best is None else min(best, iteration), "stop": None}

    sampler.guard = guard
    train(job)
    return sampler, job, seen


@pytest.mark.parametrize("best", [None, 0, 1, 9], ids=["no judge", "the first", "the second", "the one that crossed"])
def test_a_limit_ends_the_phase_with_the_weights_before_it(
    best: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sampler, job, seen = limited(tmp_path, monkeypatch, best, ppo_stop_kl=0.5)
    crossed = sampler.asked[-1]
    assert 1 < crossed < 7, "the limit is crossed on the way"
    expected = best if best in (0, 1) else crossed - 1
    kept = load_file(Path(job.output_dir) / "model.safetensors")
    assert all(torch.equal(kept[name], seen[expected][name]) for name in kept)
    assert not list(Path(job.output_dir).glob("rollout-*"))
    said = f"ppo.stop_kl: in the rollouts of iteration {crossed} the KL to the reference is"
    stopped = json.loads((Path(job.output_dir) / "training.json").read_text())["stopped"]
    assert stopped.startswith(said) and stopped.endswith(f"; the weights of iteration {expected} are kept")
    assert stopped in capsys.readouterr().out
    assert {step["iteration"] for step in metrics_of(job)} == set(range(crossed))


def test_a_limit_is_found_again_where_its_iteration_was_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"ppo_iterations": 8, "ppo_kl_coef": 0.0, "ppo_stop_kl": 0.5, "ppo_stop_length": 1.01}
    ends = []
    for name, stop_after in (("whole", None), ("cut", 5)):
        job = ppo_job(tmp_path / name, train_learning_rate=1e-3, **limits)
        sampler = Sampler(job, tmp_path / name / "rollouts", monkeypatch, stop_after)
        if stop_after is not None:
            with pytest.raises(Stopped):
                train(job)
            assert sampler.asked[-1] == 5
            sampler = Sampler(job, tmp_path / name / "rollouts", monkeypatch)
        train(job)
        assert sampler.asked[-1] == 5
        output = Path(job.output_dir)
        said = json.loads((output / "training.json").read_text())["stopped"]
        ends.append((said, (output / "model.safetensors").read_bytes(), metrics_of(job)))
    assert ends[0] == ends[1]


def test_a_limit_that_the_first_rollouts_are_past_keeps_the_policy_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, job, seen = limited(tmp_path, monkeypatch, None, ppo_stop_kl=1e-9, ppo_stop_repetition=0.99)
    kept = load_file(Path(job.output_dir) / "model.safetensors")
    assert all(torch.equal(kept[name], seen[0][name]) for name in kept)


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
    write(tmp_path / "rollouts/000/run", prompts=prompts, candidates=candidates)
    train(job)
    assert sampler.warnings == ["round 0: rollouts left out: 1 error, 1 too_long; 22 remain"]
    assert metrics_of(job)[0]["rollout/answers"] == 22


@pytest.mark.parametrize("advantage", ["gae", "rloo"])
def test_rewards_that_come_with_the_rollouts_are_followed(
    advantage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short answers are rewarded, and nothing else is known of them."""
    job = ppo_job(tmp_path, ppo_advantage=advantage, ppo_iterations=8, ppo_prompts=12, ppo_kl_coef=0.01)
    job = replace(job, reward_path=None, rewards_given=True)
    GivenRewards(job, tmp_path / "rollouts", monkeypatch)
    train(job)
    steps = metrics_of(job)
    assert steps[-1]["objective/scores"] > steps[0]["objective/scores"] + 0.1
    assert steps[-1]["rollout/mean_tokens"] < steps[0]["rollout/mean_tokens"]
    assert ("loss/value" in steps[0]) and (steps[0]["loss/value"] > 0) == (advantage == "gae")


def test_rewards_are_those_handed_over_and_answers_without_one_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = replace(ppo_job(tmp_path, ppo_iterations=1), reward_path=None, rewards_given=True)
    sampler = GivenRewards(job, tmp_path / "rollouts", monkeypatch, without=("0-0-0", "0-3-1"))
    train(job)
    _, candidates = roll_out(job.policy_path, 0, job.ppo)
    given = [sampler.reward(c) for c in candidates if c.id not in sampler.without]
    assert metrics_of(job)[0]["objective/scores"] == pytest.approx(np.mean(given), abs=1e-6)
    assert sampler.warnings == ["round 0: rollouts left out: 2 without_reward; 22 remain"]


def test_a_critic_that_begins_as_the_policy_begins_the_same_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off before the first checkpoint, and after it."""
    whole = replace(ppo_job(tmp_path / "whole", ppo_iterations=2), reward_path=None, rewards_given=True)
    GivenRewards(whole, tmp_path / "whole" / "rollouts", monkeypatch)
    train(whole)
    job = replace(ppo_job(tmp_path / "cut", ppo_iterations=2), reward_path=None, rewards_given=True)
    for stop_after in (0, 1):
        GivenRewards(job, tmp_path / "cut" / "rollouts", monkeypatch, stop_after=stop_after)
        with pytest.raises(Stopped):
            train(job)
    GivenRewards(job, tmp_path / "cut" / "rollouts", monkeypatch)
    train(job)
    weights = [(Path(j.output_dir) / "model.safetensors").read_bytes() for j in (whole, job)]
    assert weights[0] == weights[1] and metrics_of(whole) == metrics_of(job)


def run_processes(job: TrainJob, tmp_path: Path, sampler: Sampler) -> None:
    """Start the trainer as a campaign does, and answer it."""
    write_job(job, tmp_path / "job.json")
    with (tmp_path / "job.log").open("w") as log:
        process = subprocess.Popen(
            trainer_command(job, tmp_path / "job.json"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        for line in process.stdout:
            if '"rollouts_wanted"' in line:
                asked = json.loads(line)
                reply = sampler.sample(asked["iteration"], asked["model"]) | sampler.guard(asked["iteration"])
                process.stdin.write(json.dumps(reply) + "\n")
                process.stdin.flush()
    assert process.wait() == 0, (tmp_path / "job.log").read_text()[-3000:]


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = ppo_job(tmp_path, ppo_iterations=2)
    sampler = Sampler(one, tmp_path / "rollouts", monkeypatch)
    train(one)
    two = replace(one, output_dir=str(tmp_path / "two"), train=replace(one.train, num_processes=2))
    run_processes(two, tmp_path, sampler)
    for ours, theirs in zip(metrics_of(one), metrics_of(two), strict=True):
        assert theirs == pytest.approx(ours, rel=1e-2, abs=1e-3)
