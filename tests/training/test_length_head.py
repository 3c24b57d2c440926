"""The reward model's head for length: correlations by hand, gradients exact in parts, what is left in the folder."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from selfalign.config import Adapter, RewardModel
from selfalign.launch.local import trainer_command
from selfalign.records import Candidate, Message, Pair, Prompt
from selfalign.store import Run, read_records
from selfalign.training.job import TrainJob, write_job
from selfalign.training.length_head import LengthHeadTask, length_loss, pearson
from selfalign.training.reward_model import centering_loss, reward_loss
from selfalign.training.setup import prepare
from selfalign.training.trainer import train
from tests.training.conftest import END, make_job, metrics_of


def test_correlations_by_hand() -> None:
    lengths = torch.tensor([1.0, 2.0, 3.0])
    assert pearson(torch.tensor([2.0, 4.0, 6.0]), lengths).item() == pytest.approx(1.0)
    assert pearson(torch.tensor([1.0, 3.0, 2.0]), lengths).item() == pytest.approx(0.5)
    found = length_loss(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([1.0, 3.0, 2.0]), lengths)
    assert found.item() == pytest.approx(0.5 + 1.0 - 0.5)
    assert length_loss(torch.tensor([1.0, -2.0, 1.0]), lengths * 5, lengths).item() == pytest.approx(0.0, abs=1e-6)


def test_correlations_are_those_of_numpy() -> None:
    x, y = torch.randn(2, 40, generator=torch.Generator().manual_seed(0))
    assert pearson(x, y).item() == pytest.approx(np.corrcoef(x.numpy(), y.numpy())[0, 1], abs=1e-6)


@pytest.mark.parametrize("lengths", [[4.0, 4.0, 4.0], [1.0, 2.0, 3.0]])
def test_what_never_changes_has_no_correlation_and_no_gradient(lengths: list[float]) -> None:
    rewards = torch.full((3,), 0.5, requires_grad=True)
    found = pearson(rewards, torch.tensor(lengths))
    found.backward()
    assert found.item() == 0.0 and rewards.grad.tolist() == [0.0, 0.0, 0.0]


def length_job(tmp_path: Path, weight: float = 1.0, **changes: object) -> TrainJob:
    model = RewardModel(holdout=0.3, length_head=weight, centering=0.1, margin=0.2)
    settings = {"num_pairs": 24, "train_batch_size": 16, **changes}
    job = make_job(tmp_path, reward_model=model, **settings)
    return replace(job, rewarded_dirs=job.candidates_dirs)


def accumulated(job: TrainJob) -> tuple[dict[str, torch.Tensor], dict[str, float], LengthHeadTask]:
    """Gradients and metrics of the second step, micro-batch by micro-batch."""
    setup = prepare(job)
    task, sums = LengthHeadTask(replace(setup, groups=setup.groups.with_room_behind()), None), 0.0
    for micro in task.micro_batches(1):
        loss, found = task.loss(setup.scorer, micro, 1)
        loss.backward()
        sums = sums + found
    gradients = {name: p.grad for name, p in setup.scorer.named_parameters() if p.grad is not None}
    return gradients, dict(zip(task.metric_names, sums.tolist(), strict=True)), task


def naive(task: LengthHeadTask) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """The same by rows of their own, numpy's formula for a correlation, and plain autograd."""
    setup, settings = task.setup, task.setup.job.reward_model
    whole, length_head, rewards, lengths, labels = setup.scorer.whole, setup.scorer.length_head.weight, [], [], []
    setup.scorer.zero_grad()
    for index in task.indexes(1):
        group = setup.groups.group(int(index))
        labels.append(group.labels[0])
        for answer in group.answers:
            row = torch.from_numpy(np.concatenate([group.prompt, answer[:-1]]).astype(np.int64))[None]
            state = whole.base_model(row).last_hidden_state[0, -1]
            rewards.append(torch.stack([whole.score.weight[0] @ state, length_head[0] @ state]))
            lengths.append(len(answer) - 1.0)
    quality, by_length = torch.stack(rewards).T
    rho = [torch.corrcoef(torch.stack([head, torch.tensor(lengths)]))[0, 1] for head in (quality, by_length)]
    cosine = whole.score.weight[0] @ length_head[0] / (whole.score.weight.norm() * length_head.norm())
    both, p = quality + by_length, torch.tensor(labels)
    losses = reward_loss(both[::2], both[1::2], p, margin=settings.margin)
    losses = losses + settings.centering * centering_loss(quality[::2], quality[1::2])
    loss = losses.mean() + settings.length_head * (rho[0].abs() + 1 - rho[1] + cosine.abs())
    loss.backward()
    figures = {"loss": loss, "length/reward": rho[0], "length/head": rho[1], "length/cosine": cosine}
    gradients = {name: p.grad for name, p in setup.scorer.named_parameters() if p.grad is not None}
    return gradients, {name: value.item() for name, value in figures.items()}


@pytest.mark.parametrize("weight", [1.0, 0.3])
@pytest.mark.parametrize("max_tokens", [40, 96, 100_000])
def test_gradients_in_parts_are_those_of_the_whole_step(weight: float, max_tokens: int, tmp_path: Path) -> None:
    job = length_job(tmp_path, weight, train_max_tokens_per_batch=max_tokens)
    Path(job.output_dir).mkdir()
    found, figures, task = accumulated(job)
    found = {name: gradient.clone() for name, gradient in found.items()}
    expected, expected_figures = naive(task)
    assert len(list(task.micro_batches(1))) == 1 if max_tokens > 1000 else len(list(task.micro_batches(1))) > 2
    assert {name: figures[name] for name in expected_figures} == pytest.approx(expected_figures, abs=2e-5)
    assert found.keys() == expected.keys() and "length_head.weight" in found
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=2e-5, rtol=1e-3, msg=name)


def test_dropout_is_drawn_alike_in_both_passes(tmp_path: Path) -> None:
    job = length_job(tmp_path, adapter=Adapter(rank=4, dropout=0.5))
    Path(job.output_dir).mkdir()
    setup = prepare(job)
    with torch.no_grad():
        for name, weight in setup.scorer.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    task = LengthHeadTask(replace(setup, groups=setup.groups.with_room_behind()), None)
    torch.manual_seed(5)
    first = task.rewards_of(setup.scorer, 0)
    for micro in task.micro_batches(0):
        found = setup.scorer(micro.batch, both_heads=True)
        torch.testing.assert_close(first[:, micro.batch.answers], torch.stack([found.rewards, found.lengths]))
    assert not torch.equal(first, task.rewards_of(setup.scorer, 0))


@pytest.mark.slow
def test_two_processes_find_the_correlation_of_all_answers(tmp_path: Path) -> None:
    one = length_job(tmp_path, train_epochs=2)
    train(one)
    two = replace(one, output_dir=str(tmp_path / "two"), train=replace(one.train, num_processes=2))
    write_job(two, tmp_path / "two.json")
    command, threads = trainer_command(two, tmp_path / "two.json"), {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=threads, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for ours, theirs in zip(metrics_of(one), metrics_of(two), strict=True):
        assert theirs == pytest.approx(ours, rel=1e-3, abs=1e-4)


# What is left in the folder.

GOOD = 40  # the token that makes an answer the better one, three times in four


def leaking_job(folder: Path, weight: float, num_pairs: int = 160) -> TrainJob:
    """Better answers hold a certain token, and in nine pairs of ten they are the longer ones too."""
    generator = np.random.default_rng(0)
    prompts, candidates, pairs = [], [], []
    for number in range(num_pairs):
        prompt = Prompt.make((Message("user", f"w{number % 59} w{number // 59}"),))
        longer = generator.random() < 0.9
        sizes = sorted(generator.choice(np.arange(3, 16), size=2, replace=False), reverse=bool(longer))
        for place, size in enumerate(sizes):
            words = generator.integers(5, GOOD, size=size)
            words[generator.integers(size)] = GOOD if (place == 0) == (generator.random() < 0.75) else 41
            name = f"{prompt.id}-{place}"
            tokens = (*words.tolist(), END)
            candidates.append(Candidate(name, prompt.id, "p", place, 0, "text", tokens, "stop"))
        prompts.append(prompt)
        pairs.append(Pair(prompt.id, candidates[-2].id, candidates[-1].id, p_chosen=1.0, margin=1.0))
    run = Run.create(folder / "leaking", "name: leaking\n")
    with run.lock():
        for name, rows in (("prompts", prompts), ("candidates", candidates), ("pairs", pairs)):
            step = run.step(f"rounds/000/{name}", inputs={})
            step.write(0, rows)
            step.finish({})
    model = RewardModel(holdout=0.3, length_head=weight)
    settings = {"train_epochs": 8, "train_learning_rate": 3e-3, "train_batch_size": 32}
    job = make_job(folder, reward_model=model, train_max_tokens_per_batch=2048, **settings)
    places = {name: (str(folder / "leaking/rounds/000" / name),) for name in ("prompts", "candidates", "pairs")}
    return replace(
        job, prompts_dirs=places["prompts"], candidates_dirs=places["candidates"], examples_dirs=places["pairs"],
        rewarded_dirs=places["candidates"],
    )  # fmt: skip


def with_length(job: TrainJob) -> float:
    """The correlation of the rewards of held-out answers with their lengths."""
    output = Path(job.output_dir)
    rewards, held = (json.loads((output / f"{name}.json").read_text()) for name in ("rewards", "heldout"))
    answers = [c for c in read_records(Path(job.candidates_dirs[0]), Candidate) if c.prompt_id in held["prompt_ids"]]
    return float(np.corrcoef([rewards[c.id] for c in answers], [len(c.token_ids) for c in answers])[0, 1])


def test_the_head_that_is_saved_knows_less_of_length(tmp_path: Path) -> None:
    found = {}
    for weight in (0.0, 1.0):
        job = leaking_job(tmp_path / str(weight), weight)
        train(job)
        found[weight] = with_length(job)
    assert found[0.0] > 0.4 and abs(found[1.0]) < 0.5 * found[0.0]
