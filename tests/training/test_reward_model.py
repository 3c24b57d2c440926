"""Reward models: the loss by hand, real jobs on tiny models, and what other programs load of them."""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from selfalign.chat import encode_chat
from selfalign.config import Adapter, RewardModel
from selfalign.launch.local import trainer_command
from selfalign.records import Candidate, Pair, Prompt, Reward
from selfalign.store import Run, read_records
from selfalign.training import dataset
from selfalign.training.batches import collate
from selfalign.training.dataset import NothingToTrainOn
from selfalign.training.dpo import reward_weights
from selfalign.training.job import HeldOut, TrainJob, write_job
from selfalign.training.loop import NonFiniteStep, Stopped
from selfalign.training.losses import PairLogps, distill_loss
from selfalign.training.model import ModelError, RewardScorer, choose_layout, load_reward_model
from selfalign.training.reward_model import (
    NonFiniteReward,
    Results,
    centering_loss,
    combine,
    hold_out,
    prompt_of,
    reward_loss,
    rewards_of,
    together,
)
from selfalign.training.setup import make_encoder, prepare
from selfalign.training.trainer import train
from tests.training.conftest import END, make_job, metrics_of, save_tiny, tiny_tokenizer
from tests.training.test_model import random_pairs, rows_of

ARCHITECTURES = ["llama", "qwen3", "mistral", "gpt2"]


def reward_job(tmp_path: Path, ensemble: dict[str, object] | None = None, **changes: object) -> TrainJob:
    model = RewardModel(holdout=0.3, **(ensemble or {}))
    settings = {"num_pairs": 40, "train_epochs": 6, "train_learning_rate": 5e-3, **changes}
    job = make_job(tmp_path, reward_model=model, **settings)
    return replace(job, rewarded_dirs=job.candidates_dirs)


def minus_log_sigmoid(t: float) -> float:
    return math.log1p(math.exp(-t))


def test_the_loss_by_hand() -> None:
    chosen, rejected, p = torch.tensor([1.5]), torch.tensor([0.5]), torch.tensor([0.8])
    found = reward_loss(chosen, rejected, p, margin=0.5).item()
    assert found == pytest.approx(0.8 * minus_log_sigmoid(1.0 - 0.3) + 0.2 * minus_log_sigmoid(-1.0 - 0.3))
    assert centering_loss(chosen, rejected).item() == pytest.approx(4.0)
    assert reward_loss(chosen, chosen, p).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("p", [0.6, 0.9])
def test_a_soft_label_is_least_at_its_own_log_odds(p: float) -> None:
    gap = torch.tensor([math.log(p / (1 - p))], requires_grad=True)
    reward_loss(gap, torch.zeros(1), torch.tensor([p])).backward()
    assert gap.grad.item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_both_layouts_give_the_rewards_of_separate_sequences(name: str, tmp_path: Path) -> None:
    model = load_reward_model(str(save_tiny(tmp_path, name)), torch.float32, 0).eval()
    scorer, pairs = RewardScorer(model), random_pairs()
    assert choose_layout(scorer, pairs) == "shared"
    expected = []
    for index in range(len(pairs)):
        prompt, answers = pairs.parts(index)
        rows = [torch.from_numpy(np.concatenate([prompt, answer]).astype(np.int64))[None] for answer in answers]
        expected += [model(row).logits.item() for row in rows]
    wide = pairs.with_room_behind()
    for layout in ("shared", "plain"):
        found = scorer(collate(wide, rows_of(wide, layout), layout, scorer.attention))
        torch.testing.assert_close(found, torch.tensor(expected), atol=2e-4, rtol=1e-4)


def test_a_new_head_is_as_wide_as_its_hidden_states_ask(tmp_path: Path) -> None:
    folder = str(save_tiny(tmp_path))
    torch.manual_seed(0)
    heads = [load_reward_model(folder, torch.float32, 0).score.weight for _ in range(20)]
    assert torch.cat(heads).std().item() == pytest.approx(33**-0.5, rel=0.1)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded as a reward model"):
        load_reward_model(str(tmp_path), torch.float32, 0)


@pytest.mark.parametrize("adapter", [None, Adapter(rank=4)], ids=["all weights", "adapter"])
def test_a_trained_model_is_a_classifier_that_gives_the_rewards_it_wrote(
    adapter: Adapter | None, tmp_path: Path
) -> None:
    job = reward_job(tmp_path, adapter=adapter)
    train(job)
    first, *_, last = metrics_of(job)
    assert last["loss"] < first["loss"] and last["rewards/accuracies"] > 0.8
    output, tokenizer = Path(job.output_dir), tiny_tokenizer()
    model = AutoModelForSequenceClassification.from_pretrained(output)
    assert model.config.num_labels == 1 and model.config.pad_token_id == 0
    rewards = json.loads((output / "rewards.json").read_text())
    prompts = {p.id: p for p in read_records(Path(job.prompts_dirs[0]), Prompt)}
    candidates = list(read_records(Path(job.candidates_dirs[0]), Candidate))
    assert rewards.keys() == {c.id for c in candidates}
    for c in candidates[:6]:
        row = [*encode_chat(tokenizer, prompts[c.prompt_id].messages), *c.token_ids]
        assert model(torch.tensor([row])).logits.item() == pytest.approx(rewards[c.id], abs=1e-3)


def rows_by_id(job: TrainJob) -> dict[str, list[int]]:
    """Prompt and answer of every candidate as other programs would encode them."""
    prompts = {p.id: p for p in read_records(Path(job.prompts_dirs[0]), Prompt)}
    candidates = read_records(Path(job.candidates_dirs[0]), Candidate)
    tokenizer = tiny_tokenizer()
    return {c.id: [*encode_chat(tokenizer, prompts[c.prompt_id].messages), *c.token_ids] for c in candidates}


@torch.no_grad()
def padded_rewards(model: nn.Module, tokenizer: PreTrainedTokenizerBase, rows: list[list[int]]) -> list[float]:
    return model(**tokenizer.pad({"input_ids": rows}, return_tensors="pt")).logits.squeeze(-1).tolist()


@pytest.mark.parametrize("length_head", [0.0, 1.0])
@pytest.mark.parametrize("adapter", [None, Adapter(rank=4)], ids=["all weights", "adapter"])
def test_other_programs_find_the_same_rewards_in_padded_batches(
    adapter: Adapter | None, length_head: float, tmp_path: Path
) -> None:
    job = reward_job(tmp_path, {"length_head": length_head}, adapter=adapter, train_epochs=2)
    train(job)
    output, rows = Path(job.output_dir), rows_by_id(job)
    rewards = json.loads((output / "rewards.json").read_text())
    folders = [str(output), job.policy_path] if adapter else [str(output)]
    for folder in folders:
        tokenizer = AutoTokenizer.from_pretrained(output)
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=1, pad_token_id=tokenizer.pad_token_id
        )
        if folder != str(output):
            model = PeftModel.from_pretrained(model, output / "adapter")
        names = list(rows)[:9]
        assert len({len(rows[name]) for name in names}) > 3
        found = padded_rewards(model, tokenizer, [rows[name] for name in names])
        assert found == pytest.approx([rewards[name] for name in names], abs=1e-5)
    names = {name for file in output.rglob("*.safetensors") for name in load_file(file)}
    assert not any("length" in name for name in names)


def without_pad(folder: Path, pad: str | None) -> Path:
    """A tiny model that says nothing of padding, or pads with what ends answers."""
    save_tiny(folder)
    for name, key in (("config.json", "pad_token_id"), ("tokenizer_config.json", "pad_token")):
        found = json.loads((folder / name).read_text())
        found[key] = pad if key == "pad_token" else None if pad is None else END
        (folder / name).write_text(json.dumps(found))
    return folder


@pytest.mark.parametrize("pad", [None, "<end>"])
def test_padding_is_never_what_ends_an_answer(pad: str | None, tmp_path: Path) -> None:
    job = reward_job(tmp_path, model=without_pad(tmp_path / "bare", pad), train_epochs=1)
    train(job)
    output, rows = Path(job.output_dir), rows_by_id(job)
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(output), AutoTokenizer.from_pretrained(output)
    assert model.config.pad_token_id == tokenizer.pad_token_id not in (None, END)
    rewards = json.loads((output / "rewards.json").read_text())
    found = padded_rewards(model, tokenizer, list(rows.values())[:9])
    assert found == pytest.approx([rewards[name] for name in list(rows)[:9]], abs=1e-5)


# What pairs can be like.


def with_pairs(job: TrainJob, folder: Path, change: Callable[[int, Pair], Pair]) -> TrainJob:
    pairs = [change(i, pair) for i, pair in enumerate(read_records(Path(job.examples_dirs[0]), Pair))]
    return replace(job, examples_dirs=written(folder, "pairs", pairs))


def written(folder: Path, name: str, rows: list[Any]) -> tuple[str]:
    run = Run.create(folder / "changed", "name: changed\n")
    with run.lock():
        step = run.step(f"rounds/000/{name}", inputs={})
        step.write(0, rows)
        step.finish({})
    return (str(step.path),)


def test_pairs_that_are_all_ties_are_refused(tmp_path: Path) -> None:
    job = with_pairs(reward_job(tmp_path), tmp_path, lambda _, pair: replace(pair, p_chosen=0.5))
    with pytest.raises(NothingToTrainOn, match="all 40 pairs are ties"):
        train(job)


def test_some_ties_are_learned_as_such(tmp_path: Path) -> None:
    job = reward_job(tmp_path, train_epochs=1)
    train(with_pairs(job, tmp_path, lambda i, pair: replace(pair, p_chosen=0.5) if i % 2 else pair))
    assert all(map(math.isfinite, json.loads((Path(job.output_dir) / "rewards.json").read_text()).values()))


def test_answers_that_are_the_same_make_no_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = reward_job(tmp_path)
    Path(job.output_dir).mkdir()
    answers = list(read_records(Path(job.candidates_dirs[0]), Candidate))
    for first, second in ((0, 1), (2, 3), (4, 5)):
        answers[second] = replace(answers[second], token_ids=answers[first].token_ids)
    setup = prepare(replace(job, candidates_dirs=written(tmp_path, "candidates", answers)))
    assert setup.dropped == {"same_tokens": 3} and len(setup.groups) == 37
    assert "left out of training: 3 same_tokens; 37 remain" in capsys.readouterr().out


def test_pairs_that_are_too_long_are_left_out_and_have_no_reward(tmp_path: Path) -> None:
    job = reward_job(tmp_path, train_max_length=20, train_epochs=1)
    train(job)
    lengths = {name: len(row) for name, row in rows_by_id(job).items()}
    rewards = json.loads((Path(job.output_dir) / "rewards.json").read_text())
    assert rewards.keys() == {name for name, length in lengths.items() if length <= 20} != lengths.keys()
    pairs = list(read_records(Path(job.examples_dirs[0]), Pair))
    long = sum(max(lengths[p.chosen_id], lengths[p.rejected_id]) > 20 for p in pairs)
    done = json.loads((Path(job.output_dir) / "training.json").read_text())
    assert done["dropped"] == {"too_long": long} and long > 0


def test_pairs_that_are_all_too_long_are_refused_with_the_setting_to_raise(tmp_path: Path) -> None:
    with pytest.raises(NothingToTrainOn, match=r"40 too_long.*raise reward_model\.train\.max_length"):
        train(reward_job(tmp_path, train_max_length=2))


def test_a_step_that_is_not_finite_names_the_reward_models_own_settings(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteStep, match=r"lower reward_model\.train\.learning_rate"):
        train(reward_job(tmp_path, train_learning_rate=1e30))


def test_held_out_prompts_are_not_trained_on(tmp_path: Path) -> None:
    job = reward_job(tmp_path)
    Path(job.output_dir).mkdir()
    whole = prepare(job)
    setup, held = hold_out(whole)
    ours, theirs = ({prompt_of(key) for key in groups.keys} for groups in (setup.groups, held))
    assert not ours & theirs and len(ours) + len(theirs) == 40 and 4 < len(theirs) < 20
    train(job)
    found = json.loads((Path(job.output_dir) / "heldout.json").read_text())
    rewards = json.loads((Path(job.output_dir) / "rewards.json").read_text())
    pairs = {pair.prompt_id: pair for pair in read_records(Path(job.examples_dirs[0]), Pair)}
    assert set(found["prompt_ids"]) == theirs
    columns = (found[name] for name in ("prompt_ids", "chosen", "rejected", "p_chosen"))
    for name, chosen, rejected, p in zip(*columns, strict=True):
        pair = pairs[name]
        assert chosen == pytest.approx(rewards[pair.chosen_id], abs=1e-4)
        assert rejected == pytest.approx(rewards[pair.rejected_id], abs=1e-4)
        assert p == pytest.approx(pair.p_chosen)
    lengths = {c.id: len(c.token_ids) for c in read_records(Path(job.candidates_dirs[0]), Candidate)}
    longer = {name: lengths[pair.chosen_id] - lengths[pair.rejected_id] for name, pair in pairs.items()}
    assert found["lengths"] == [longer[name] for name in found["prompt_ids"]]
    assert sorted(found["trained_lengths"]) == sorted(longer[name] for name in ours)
    assert sorted(found["trained_p_chosen"]) == pytest.approx(sorted(pairs[name].p_chosen for name in ours))


def test_a_reward_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    job = reward_job(tmp_path)
    Path(job.output_dir).mkdir()
    setup = prepare(job)
    with torch.no_grad():
        setup.scorer.whole.score.weight.fill_(math.nan)
    with pytest.raises(NonFiniteReward, match="80 of 80 rewards are not finite"):
        rewards_of(setup, setup.scorer, setup.groups)


def test_too_few_pairs_to_hold_any_out(tmp_path: Path) -> None:
    with pytest.raises(NothingToTrainOn, match="too few to train a reward model and to test it"):
        train(reward_job(tmp_path, num_pairs=1))


def with_other_tokens(folder: Path) -> Path:
    """A tiny model whose tokenizer numbers the same words the other way round."""
    save_tiny(folder)
    file = folder / "tokenizer.json"
    found = json.loads(file.read_text())
    special = {token["content"] for token in found["added_tokens"]}
    words = [word for word in found["model"]["vocab"] if word not in special]
    places = [found["model"]["vocab"][word] for word in words]
    found["model"]["vocab"] |= dict(zip(words, reversed(places), strict=True))
    file.write_text(json.dumps(found))
    return folder


def test_a_model_with_another_tokenizer_reads_the_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = with_other_tokens(tmp_path / "other")
    job = replace(reward_job(tmp_path), policy_path=str(other), sampler_path=str(tmp_path / "policy"))
    texts = {
        c.id: tiny_tokenizer().decode(c.token_ids[:-1]) for c in read_records(Path(job.candidates_dirs[0]), Candidate)
    }
    run = Run.create(tmp_path / "texts", "name: texts\n")
    with run.lock():
        step = run.step("rounds/000/candidates", inputs={})
        step.write(0, [replace(c, text=texts[c.id]) for c in read_records(Path(job.candidates_dirs[0]), Candidate)])
        step.finish({})
    Path(job.output_dir).mkdir()
    setup = prepare(replace(job, candidates_dirs=(str(step.path),)))
    assert "answers are encoded anew from their text" in capsys.readouterr().out and len(setup.groups) == 40
    for index, key in enumerate(setup.groups.keys):
        _, answers = setup.groups.parts(index)
        assert [setup.tokenizer.decode(answer[:-1]) for answer in answers] == [
            texts[name] for name in key.split("/")[1:]
        ]


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_an_answer_encoded_anew_ends_where_it_did(reason: str, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    job = reward_job(tmp_path)
    encoder = replace(make_encoder(job, tokenizer), foreign=True)
    prompt = next(iter(read_records(Path(job.prompts_dirs[0]), Prompt)))
    answer = Candidate("a", prompt.id, "p", 0, 0, "w1 w2", (60, 61), reason)
    found = dataset.answer_tokens(answer, {prompt.id: prompt}, encoder).tolist()
    assert found == [*tokenizer.encode("w1 w2"), *([END] if reason == "stop" else [])]
    assert dataset.answer_tokens(answer, {}, replace(encoder, foreign=False)).tolist() == [60, 61]


def test_the_same_tokenizer_keeps_the_tokens(tmp_path: Path) -> None:
    job = reward_job(tmp_path)
    other = save_tiny(tmp_path / "other", seed=3)
    assert not make_encoder(replace(job, sampler_path=str(other)), tiny_tokenizer()).foreign


# Ensembles.


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"combine": "mean"}, [2.0, 1.0]),
        ({"combine": "min"}, [0.0, 1.0]),
        ({"combine": "mean-variance", "variance_weight": 0.5}, [2.0 - 0.5 * 8 / 3, 1.0]),
    ],
)
def test_rewards_are_combined_by_hand(settings: dict[str, object], expected: list[float]) -> None:
    rewards = torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]])
    assert combine(rewards, RewardModel(ensemble=3, **settings)).tolist() == pytest.approx(expected)


def results(chosen: list[float], rejected: list[float], rewards: dict[str, float]) -> Results:
    count = len(chosen)
    lengths, labels = [0] * count, [0.9] * count
    held = HeldOut(
        prompt_ids=["p"] * count, chosen=chosen, rejected=rejected, p_chosen=labels, lengths=lengths,
        trained_p_chosen=labels, trained_lengths=lengths,
    )  # fmt: skip
    return Results(held, rewards)


def test_members_that_differ_by_a_constant_agree() -> None:
    one = results([1.0, 3.0], [0.0, 0.0], {"a": 1.0, "b": 3.0})
    two = results([11.0, 13.0], [10.0, 10.0], {"a": 11.0, "b": 13.0})
    found = together([one, two], RewardModel(ensemble=2, combine="min"))
    assert found.spreads == {"a": 0.0, "b": 0.0} and found.rewards == {"a": 0.0, "b": 2.0}
    assert found.heldout.gaps == [1.0, 3.0]


def test_an_ensemble_is_of_seeds_and_says_how_far_they_are_apart(tmp_path: Path) -> None:
    job = reward_job(tmp_path, {"ensemble": 3, "combine": "min"}, train_epochs=2)
    train(job)
    output = Path(job.output_dir)
    assert not (output / "config.json").exists() and not (output / "checkpoint").exists()
    members = [Results.read(output / f"member-{number}") for number in range(3)]
    assert len({one.heldout.chosen[0] for one in members}) == 3
    assert len({tuple(one.heldout.prompt_ids) for one in members}) == 1
    assert AutoModelForSequenceClassification.from_pretrained(output / "member-2").config.num_labels == 1
    held = np.array([[*one.heldout.chosen, *one.heldout.rejected] for one in members])
    rewards, spreads = (json.loads((output / f"{name}.json").read_text()) for name in ("rewards", "spreads"))
    for name in list(rewards)[:5]:
        about = np.array([one.rewards[name] for one in members]) - held.mean(1)
        assert rewards[name] == pytest.approx(about.min()) and spreads[name] == pytest.approx(about.std())
    found = Results.read(output).heldout
    assert found.gaps[0] == pytest.approx(np.subtract(*(held - held.mean(1)[:, None]).min(0)[[0, held.shape[1] // 2]]))
    done, first = (json.loads((folder / "training.json").read_text()) for folder in (output, output / "member-0"))
    assert done["steps"] == 3 * first["steps"]


def test_an_ensemble_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = reward_job(tmp_path / "whole", {"ensemble": 2}, train_epochs=1)
    train(whole)
    job = replace(whole, output_dir=str(tmp_path / "out"))
    steps = len((Path(whole.output_dir) / "member-0/metrics.jsonl").read_text().splitlines())
    calls = iter(range(2 * steps))
    with pytest.raises(Stopped):
        train(job, lambda: next(calls) == steps + 1)  # in the second member
    kept = (tmp_path / "out/member-0/model.safetensors").stat().st_mtime_ns
    train(job)
    assert (tmp_path / "out/member-0/model.safetensors").stat().st_mtime_ns == kept
    for name in ("rewards.json", "spreads.json", "heldout.json", "member-1/model.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (Path(whole.output_dir) / name).read_bytes()


@pytest.mark.slow
def test_an_ensemble_of_two_processes_equals_that_of_one(tmp_path: Path) -> None:
    one = reward_job(tmp_path, {"ensemble": 2, "combine": "min"}, train_epochs=1)
    train(one)
    two = replace(one, output_dir=str(tmp_path / "two"), train=replace(one.train, num_processes=2))
    write_job(two, tmp_path / "two.json")
    result = subprocess.run(
        trainer_command(two, tmp_path / "two.json"), capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    for name in ("rewards", "spreads"):
        ours, theirs = (json.loads((Path(job.output_dir) / f"{name}.json").read_text()) for job in (one, two))
        assert theirs == pytest.approx(ours, rel=1e-2, abs=5e-3)
    assert (tmp_path / "two/member-1/model.safetensors").exists() and not (tmp_path / "two/checkpoint").exists()


# Policies that follow one.


def rewarded(tmp_path: Path, **changes: object) -> TrainJob:
    """A DPO job with a reward of 1 for chosen answers and 0 for rejected ones."""
    job = make_job(tmp_path, num_pairs=12, train_epochs=4, **changes)
    run = Run.create(tmp_path / "rewards", "name: rewards\n")
    with run.lock():
        step = run.step("rounds/000/rewards", inputs={})
        pairs = read_records(Path(job.examples_dirs[0]), Pair)
        step.write(0, [Reward(name, "rm", r) for p in pairs for name, r in ((p.chosen_id, 1.0), (p.rejected_id, 0.0))])
        step.finish({})
    return replace(job, rewards_dirs=(str(step.path),))


def test_pairs_that_the_reward_model_left_out_are_counted(tmp_path: Path) -> None:
    job = rewarded(tmp_path, train_reward_weight=True)
    some = list(read_records(Path(job.rewards_dirs[0]), Reward))[2:]
    run = Run.create(tmp_path / "fewer", "name: rewards\n")
    with run.lock():
        step = run.step("rounds/000/rewards", inputs={})
        step.write(0, some)
        step.finish({})
    setup = prepare(replace(job, rewards_dirs=(str(step.path),)))
    assert setup.dropped == {"no_reward": 1} and len(setup.groups) == 11


def test_distillation_by_hand() -> None:
    zeros, ones = torch.zeros(1), torch.ones(1)
    pairs = PairLogps(torch.tensor([2.0]), torch.tensor([-1.0]), zeros, zeros, ones, ones)
    assert distill_loss(pairs, 0.1, torch.tensor([0.5])).item() == pytest.approx(0.04)


def test_a_policy_is_drawn_to_the_margin_of_the_reward_model(tmp_path: Path) -> None:
    job = rewarded(tmp_path, train_loss="distill", train_beta=0.1, train_learning_rate=5e-3)
    train(job)
    first, *_, last = metrics_of(job)
    assert first["loss"] == pytest.approx(1.0, abs=1e-4)  # (0 - 1)^2
    assert last["loss"] < 0.5 and 0.2 < last["rewards/margins"] < 1.5


def test_pairs_weigh_by_the_reward_models_word(tmp_path: Path) -> None:
    job = rewarded(tmp_path, train_reward_weight=True)
    train(job)
    weight = 2 / (1 + math.exp(-1.0))
    assert metrics_of(job)[0]["loss"] == pytest.approx(weight * math.log(2), abs=1e-4)
    assert reward_weights(torch.tensor([0.0, 50.0, -50.0])).tolist() == pytest.approx([1.0, 2.0, 0.0])
