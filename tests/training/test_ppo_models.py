"""The models of PPO: what one sweep says of rollouts, against transformers' own models, one answer at a time."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from selfalign.chat import encode_chat
from selfalign.config import Adapter, RewardModel
from selfalign.training.checkpoint import trainable
from selfalign.training.job import HELDOUT_FILE, HeldOut, ModelShare, TrainJob
from selfalign.training.loop import Stopped
from selfalign.training.model import ValueScorer, load_reward_model
from selfalign.training.ppo_models import Measured, Members, Models, load_models, shares_base
from selfalign.training.reward_model import NonFiniteReward
from selfalign.training.rollouts import Handed, Rollouts, load_rollouts
from selfalign.training.saving import BASE_FILE
from selfalign.training.setup import Setup, prepare
from selfalign.training.trainer import train
from tests.training.conftest import END, make_job, metrics_of, save_tiny, tiny_tokenizer
from tests.training.test_ppo import Sampler, ppo_job, roll_out, run_processes, save_reward_model, write
from tests.training.test_reward_model import with_other_tokens


def with_ensemble(job: TrainJob, count: int, combine: str) -> TrainJob:
    """The job with `count` random reward models that are apart by more than a constant, and their held-out answers."""
    whole = Path(job.reward_path).parent / "ensemble"
    for number in range(count):
        torch.manual_seed(number)
        model = AutoModelForSequenceClassification.from_pretrained(job.reward_path)
        torch.nn.init.normal_(model.score.weight, std=0.3)
        model.save_pretrained(whole / f"member-{number}")
        tiny_tokenizer().save_pretrained(whole / f"member-{number}")
        held = HeldOut(
            prompt_ids=["p"], chosen=[float(number)], rejected=[-1.0], p_chosen=[0.9], lengths=[0],
            trained_p_chosen=[0.9], trained_lengths=[0],
        )  # fmt: skip
        (whole / f"member-{number}" / HELDOUT_FILE).write_bytes(msgspec.json.encode(held))
    return replace(job, reward_path=str(whole), rewarded_by=RewardModel(ensemble=count, combine=combine))


def measured(job: TrainJob, tmp_path: Path) -> tuple[Setup, Models, Measured, list[list[int]], list[int]]:
    """What the models of a job say of its first rollouts; the rows of ids, and how long their prompts are."""
    prompts, candidates = roll_out(job.policy_path, 0, job.ppo)
    decode = partial(tiny_tokenizer().decode, skip_special_tokens=True)
    candidates = [replace(candidate, text=decode(candidate.token_ids)) for candidate in candidates]
    write(tmp_path / "sampled", prompts=prompts, candidates=candidates)
    steps = tmp_path / "sampled" / "rounds" / "000"
    Path(job.output_dir).mkdir(exist_ok=True)
    setup = prepare(job)
    groups, kept, _ = load_rollouts(setup, Handed([str(steps / "prompts")], [str(steps / "candidates")]))
    starts = torch.from_numpy(np.concatenate([[0], groups.answer_lengths.cumsum()]))
    models, nothing = load_models(setup), torch.zeros(0)
    rollouts = Rollouts(groups, starts, nothing, nothing, nothing)
    found = models.measure(replace(setup, groups=groups), rollouts, {p.id: p for p in prompts}, kept)
    asked = {p.id: encode_chat(tiny_tokenizer(), p.messages) for p in prompts}
    rows = [[*asked[c.prompt_id], *c.token_ids] for c in kept]
    return setup, models, found, rows, [len(asked[c.prompt_id]) for c in kept]


@torch.no_grad()
def logprobs_by_hand(path: str, rows: list[list[int]], prompts: list[int], temperature: float) -> torch.Tensor:
    model, found = AutoModelForCausalLM.from_pretrained(path), []
    for row, length in zip(rows, prompts, strict=True):
        logits = model(torch.tensor([row])).logits[0, length - 1 : -1] / temperature
        found.append(logits.log_softmax(-1).gather(-1, torch.tensor(row[length:])[:, None]).squeeze(-1))
    return torch.cat(found)


@torch.no_grad()
def scalars_by_hand(path: Path | str, rows: list[list[int]], prompts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards of the answers, and values before each of their tokens."""
    model, rewards, values = AutoModelForSequenceClassification.from_pretrained(path), [], []
    for row, length in zip(rows, prompts, strict=True):
        every = model.score(model.base_model(torch.tensor([row])).last_hidden_state)[0, :, 0]
        rewards.append(every[-1:])
        values.append(every[length - 1 : -1])
    return torch.cat(rewards), torch.cat(values)


@pytest.mark.parametrize("adapter", [None, Adapter(rank=4)], ids=["all weights", "adapter"])
def test_one_sweep_says_what_each_model_says_alone(adapter: Adapter | None, tmp_path: Path) -> None:
    job = replace(ppo_job(tmp_path), temperature=0.7, adapter=adapter)
    _, _, found, rows, prompts = measured(job, tmp_path)
    logprobs = logprobs_by_hand(job.policy_path, rows, prompts, 0.7)
    rewards, values = scalars_by_hand(job.reward_path, rows, prompts)
    for ours, theirs in (
        (found.old, logprobs), (found.reference, logprobs), (found.values, values), (found.rewards, rewards),
    ):  # fmt: skip
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert found.spread is None


def test_another_reference_is_read_even_beside_an_adapter(tmp_path: Path) -> None:
    job = ppo_job(tmp_path)
    other = tmp_path / "other"
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_pretrained(job.policy_path)
    torch.nn.init.normal_(model.lm_head.weight, std=0.2)
    model.save_pretrained(other)
    job = replace(job, adapter=Adapter(rank=4), reference=(ModelShare(str(other)),))
    _, _, found, rows, prompts = measured(job, tmp_path)
    expected = logprobs_by_hand(str(other), rows, prompts, 1.0)
    torch.testing.assert_close(found.reference, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("combine", ["mean", "min", "mean-variance"])
def test_an_ensembles_members_are_taken_about_their_held_out_means(combine: str, tmp_path: Path) -> None:
    job = with_ensemble(ppo_job(tmp_path), 3, combine)
    _, _, found, rows, prompts = measured(job, tmp_path)
    said = [scalars_by_hand(Path(job.reward_path) / f"member-{k}", rows, prompts) for k in range(3)]
    about = torch.stack([rewards - (k - 1.0) / 2 for k, (rewards, _) in enumerate(said)])
    spread = ((about - about.mean(0)) ** 2).mean(0).sqrt()
    expected = {"mean": about.mean(0), "min": about.min(0).values, "mean-variance": about.mean(0) - 0.5 * spread**2}
    torch.testing.assert_close(found.rewards, expected[combine], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.spread, spread, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.values, said[0][1], atol=1e-5, rtol=1e-5)


def test_a_run_against_an_ensemble_logs_how_far_its_members_are_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = with_ensemble(ppo_job(tmp_path, ppo_iterations=2), 2, "min")
    Sampler(job, tmp_path / "rollouts", monkeypatch)
    train(job)
    spreads = [step["rollout/reward_spread"] for step in metrics_of(job)]
    assert len(spreads) == 4 and min(spreads) > 0.05 and spreads[0] == spreads[1] != spreads[2]


@pytest.mark.parametrize("advantage", ["gae", "rloo"])
def test_a_reward_model_of_another_tokenizer_reads_the_texts(
    advantage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = ppo_job(tmp_path, ppo_advantage=advantage)
    other = with_other_tokens(tmp_path / "other")
    save_reward_model(tmp_path / "foreign", other)
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.save_pretrained(tmp_path / "foreign")
    job = replace(job, reward_path=str(tmp_path / "foreign"))
    _, models, found, rows, lengths = measured(job, tmp_path)
    assert models.apart is not None and "rollouts are encoded anew from their text" in capsys.readouterr().out
    prompts, candidates = roll_out(job.policy_path, 0, job.ppo)
    asked = {prompt.id: encode_chat(tokenizer, prompt.messages) for prompt in prompts}
    texts = [tiny_tokenizer().decode(c.token_ids, skip_special_tokens=True) for c in candidates]
    ends = [[END] * (candidate.finish_reason == "stop") for candidate in candidates]
    said = [tokenizer.encode(text) + end for text, end in zip(texts, ends, strict=True)]
    translated = [[*asked[c.prompt_id], *tokens] for c, tokens in zip(candidates, said, strict=True)]
    assert translated != rows
    rewards, _ = scalars_by_hand(job.reward_path, translated, lengths)
    torch.testing.assert_close(found.rewards, rewards, atol=1e-5, rtol=1e-5)
    assert (found.values is not None) == (advantage == "gae")


def test_a_reward_that_is_not_finite_ends_it(tmp_path: Path) -> None:
    job = ppo_job(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(job.reward_path)
    torch.nn.init.constant_(model.score.weight, float("nan"))
    model.save_pretrained(job.reward_path)
    with pytest.raises(NonFiniteReward, match="24 of 24 rewards are not finite"):
        measured(job, tmp_path)


# One base.


def on_one_base(tmp_path: Path, *, ensemble: int = 1, **changes: Any) -> TrainJob:
    """A job with an adapter whose reward model is one too, trained from the same policy."""
    job = ppo_job(tmp_path, **changes)
    settings = RewardModel(holdout=0.3, ensemble=ensemble, combine="min" if ensemble > 1 else "mean")
    trained = make_job(
        tmp_path / "trained", model=Path(job.policy_path), num_pairs=20,
        train_epochs=2, reward_model=settings, adapter=Adapter(rank=3),
    )  # fmt: skip
    train(replace(trained, rewarded_dirs=trained.candidates_dirs))
    return replace(job, adapter=Adapter(rank=4), reward_path=trained.output_dir, rewarded_by=settings)


def apart(job: TrainJob) -> TrainJob:
    """The same job, with nothing that says on which base the reward models were trained."""
    folder = shutil.copytree(job.reward_path, f"{job.reward_path}-apart")
    for file in Path(folder).rglob(BASE_FILE):
        file.unlink()
    return replace(job, reward_path=str(folder), output_dir=f"{job.output_dir}-apart")


@pytest.mark.parametrize("ensemble", [1, 2])
def test_models_on_one_base_say_what_separate_ones_say(ensemble: int, tmp_path: Path) -> None:
    job = replace(on_one_base(tmp_path, ensemble=ensemble), temperature=0.7)
    setup, models, shared, *_ = measured(job, tmp_path / "shared")
    _, separate, alone, *_ = measured(apart(job), tmp_path / "separate")
    assert not models.frozen and len(separate.frozen) == 1
    for name in ("old", "reference", "values", "rewards", "spread"):
        torch.testing.assert_close(getattr(shared, name), getattr(alone, name), atol=1e-5, rtol=1e-5)
    base = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(job.policy_path).parameters())
    small = ("lora_", "heads.")
    held = sum(p.numel() for n, p in models.trained.named_parameters() if not any(part in n for part in small))
    assert held == base
    assert {name.split(".")[-2] for name in trainable(models.trained) if "lora_" in name} == {"default", "value"}
    assert setup.scorer.adapters == ["default"]


@pytest.mark.parametrize("change", ["policy", "reward"])
def test_other_weights_are_no_shared_base(change: str, tmp_path: Path) -> None:
    job = on_one_base(tmp_path)
    assert shares_base(job, Members.of(job))
    if change == "policy":
        save_tiny(Path(job.policy_path), seed=3)
    else:
        shutil.rmtree(Path(job.reward_path) / "adapter")
    assert not shares_base(job, Members.of(job))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_gradient_is_that_of_a_critic_apart(checkpointing: bool, tmp_path: Path) -> None:
    """The critic's adapter and head, trained on a base of their own, get the same gradient."""
    job = on_one_base(tmp_path)
    job = replace(job, train=replace(job.train, gradient_checkpointing=checkpointing))
    setup, models, *_ = measured(job, tmp_path / "shared")
    with torch.no_grad():  # an adapter that does something, so that taking the wrong one shows
        for name, parameter in trainable(models.trained).items():
            if "lora_B.default" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    batch = next(iter(setup.micro_batches(np.arange(len(setup.groups))))).batch
    logprobs, values, _ = models.trained(batch)
    (logprobs.sum() + values.sum()).backward()
    whole = load_reward_model(job.policy_path, torch.float32, 0)
    lone = PeftModel.from_pretrained(whole, str(Path(job.reward_path) / "adapter"), is_trainable=True)
    ValueScorer(lone)(batch).sum().backward()
    expected = {n.replace(".default.", "."): p.grad for n, p in lone.named_parameters() if ".lora_" in n}
    found = {n.replace(".value.", "."): p.grad for n, p in setup.scorer.model.named_parameters() if ".value." in n}
    assert found.keys() == expected.keys() and found
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4, msg=name)
    assert all(p.grad is None for n, p in models.trained.named_parameters() if "reward" in n)


def test_a_run_on_one_base_trains_policy_and_critic_and_keeps_the_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = on_one_base(tmp_path, ppo_iterations=3)
    Sampler(job, tmp_path / "rollouts", monkeypatch)
    train(job)
    steps = metrics_of(job)
    assert [s["val/ratio"] for s in steps[::2]] == pytest.approx([1.0] * 3, abs=1e-5)
    assert steps[0]["objective/kl"] == pytest.approx(0.0, abs=1e-5) != steps[-1]["objective/kl"]
    assert all(step["rollout/sampler_difference"] < 1e-4 for step in steps)  # what was saved is the policy
    saved = load_file(Path(job.output_dir) / "adapter" / "adapter_model.safetensors")
    assert saved and not any("reward" in name or "value" in name for name in saved)
    assert not [path for path in (Path(job.output_dir) / "adapter").iterdir() if path.is_dir()]
    names = load_file(Path(job.policy_path) / "model.safetensors").keys()
    assert load_file(Path(job.output_dir) / "model.safetensors").keys() == names


def test_a_run_on_one_base_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = on_one_base(tmp_path, ensemble=2)
    Sampler(whole, tmp_path / "rollouts", monkeypatch)
    train(whole)
    job = replace(whole, output_dir=str(tmp_path / "cut"))
    Sampler(job, tmp_path / "cut-rollouts", monkeypatch, stop_after=2)
    with pytest.raises(Stopped):
        train(job)
    again = Sampler(job, tmp_path / "cut-rollouts", monkeypatch)
    train(job)
    assert again.asked == [2] and metrics_of(whole) == metrics_of(job)
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        assert (Path(whole.output_dir) / name).read_bytes() == (Path(job.output_dir) / name).read_bytes()


@pytest.mark.slow
def test_two_processes_on_one_base_equal_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = on_one_base(tmp_path, ensemble=2, ppo_iterations=2, train_learning_rate=1e-3)
    sampler = Sampler(one, tmp_path / "rollouts", monkeypatch)
    train(one)
    two = replace(one, output_dir=str(tmp_path / "two"), train=replace(one.train, num_processes=2))
    run_processes(two, tmp_path, sampler)
    for ours, theirs in zip(metrics_of(one), metrics_of(two), strict=True):
        assert theirs == pytest.approx(ours, rel=1e-2, abs=1e-3)
