"""The models of PPO: what one sweep says of rollouts, against transformers' own models, one answer at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from selfalign.chat import encode_chat
from selfalign.config import Adapter, RewardModel
from selfalign.training.job import HELDOUT_FILE, HeldOut, ModelShare, TrainJob
from selfalign.training.ppo_models import Measured, Models, load_models
from selfalign.training.reward_model import NonFiniteReward
from selfalign.training.rollouts import Rollouts, load_rollouts
from selfalign.training.setup import Setup, prepare
from selfalign.training.trainer import train
from tests.training.conftest import metrics_of, tiny_tokenizer
from tests.training.test_ppo import Sampler, ppo_job, roll_out, write


def with_ensemble(job: TrainJob, count: int, combine: str) -> TrainJob:
    """The job with `count` random reward models that are apart by more than a constant, and their held-out answers."""
    whole = Path(job.reward_path).parent / "ensemble"
    for number in range(count):
        torch.manual_seed(number)
        model = AutoModelForSequenceClassification.from_pretrained(job.reward_path)
        torch.nn.init.normal_(model.score.weight, std=0.3)
        model.save_pretrained(whole / f"member-{number}")
        held = HeldOut(
            prompt_ids=["p"], chosen=[float(number)], rejected=[-1.0], p_chosen=[0.9], lengths=[0],
            trained_p_chosen=[0.9], trained_lengths=[0],
        )  # fmt: skip
        (whole / f"member-{number}" / HELDOUT_FILE).write_bytes(msgspec.json.encode(held))
    return replace(job, reward_path=str(whole), reward_model=RewardModel(ensemble=count, combine=combine))


def measured(job: TrainJob, tmp_path: Path) -> tuple[Setup, Models, Measured, list[list[int]], list[int]]:
    """What the models of a job say of its first rollouts; the rows of ids, and how long their prompts are."""
    prompts, candidates = roll_out(job.policy_path, 0, job.ppo)
    write(tmp_path / "sampled", prompts, candidates)
    steps = tmp_path / "sampled" / "rounds" / "000"
    Path(job.output_dir).mkdir(exist_ok=True)
    setup = prepare(job)
    groups, kept = load_rollouts(setup, [str(steps / "candidates")], [str(steps / "prompts")])
    starts = torch.from_numpy(np.concatenate([[0], groups.answer_lengths.cumsum()]))
    models, nothing = load_models(setup), torch.zeros(0)
    found = models.measure(replace(setup, groups=groups), Rollouts(groups, starts, nothing, nothing, nothing))
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
    assert not found.spread.any()


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


def test_a_reward_that_is_not_finite_ends_it(tmp_path: Path) -> None:
    job = ppo_job(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(job.reward_path)
    torch.nn.init.constant_(model.score.weight, float("nan"))
    model.save_pretrained(job.reward_path)
    with pytest.raises(NonFiniteReward, match="24 of 24 rewards are not finite"):
        measured(job, tmp_path)
