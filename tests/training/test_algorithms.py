"""Training on single answers, rankings and demonstrations, in real jobs."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from selfalign.chat import ChatError, encode_answer, encode_chat
from selfalign.config import Train
from selfalign.records import Candidate, Message, Prompt, Ranking
from selfalign.store import Run, read_records
from selfalign.training.answers import check_balance
from selfalign.training.dataset import Group, GroupDataset, NothingToTrainOn
from selfalign.training.job import ModelShare, TrainJob
from selfalign.training.ranking import in_order
from selfalign.training.reference import REFERENCE_FILE, average_weights
from selfalign.training.setup import end_tokens
from selfalign.training.trainer import train
from tests.training.conftest import END, make_job, metrics_of, save_tiny, tiny_model, tiny_tokenizer

PREFERENCE = {"kto": 0.5, "bco": math.log(2), "sppo": None, "ranking": math.log(6)}


@pytest.mark.parametrize("algorithm", PREFERENCE)
def test_every_algorithm_raises_the_margin_from_its_known_start(algorithm: str, tmp_path: Path) -> None:
    settings = {"train_algorithm": algorithm, "train_learning_rate": 3e-3, "train_batch_size": 4, "train_epochs": 8}
    settings |= {"train_beta": 0.5} if algorithm == "sppo" else {}
    samples = 3 if algorithm in ("ranking", "sppo") else 4
    job = make_job(tmp_path, num_pairs=8, samples=samples, **settings)
    train(job)
    first, *_, last = metrics_of(job)
    assert last["rewards/margins"] > first["rewards/margins"] + 0.05
    if PREFERENCE[algorithm] is not None:
        assert first["loss"] == pytest.approx(PREFERENCE[algorithm], abs=1e-4)
    else:  # win rates .8, .5, .2 and eta 2: the mean of (+-.6)^2, 0
        assert first["loss"] == pytest.approx(2 * 0.36 / 3, abs=1e-4)


@pytest.mark.parametrize("algorithm", ["sft", "raft"])
def test_demonstrations_become_likely_without_a_reference(algorithm: str, tmp_path: Path) -> None:
    job = make_job(tmp_path, train_algorithm=algorithm, train_epochs=6, samples=3)
    train(job)
    first, *_, last = metrics_of(job)
    assert last["logps/chosen"] > first["logps/chosen"] + 1.0
    assert last["loss"] < first["loss"]
    assert not (Path(job.output_dir) / REFERENCE_FILE).exists()


def test_the_loss_of_demonstrations_is_a_mean_over_all_their_tokens(tmp_path: Path) -> None:
    job = make_job(tmp_path, num_pairs=4, train_algorithm="sft", train_batch_size=4)
    train(job)
    prompts = {p.id: p for p in read_records(Path(job.prompts_dirs[0]), Prompt)}
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    logps = []
    for answer in read_records(Path(job.examples_dirs[0]), Candidate):
        prompt = encode_chat(tokenizer, prompts[answer.prompt_id].messages)
        tokens = torch.tensor([[*prompt, *answer.token_ids]])
        logits = model(tokens).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        logps += logits.gather(-1, tokens[0, len(prompt) :, None]).flatten().tolist()
    assert metrics_of(job)[0]["loss"] == pytest.approx(-np.mean(logps), rel=1e-5)


def test_gold_answers_are_encoded_with_the_end_of_their_turn(tmp_path: Path) -> None:
    messages = (Message("user", "w1 w2"),)
    prompt = Prompt.make(messages, response="w7 w8 w9")
    job = on_demonstrations(tmp_path, [prompt], [prompt.gold()])
    train(job)
    assert metrics_of(job)[-1]["num_tokens"] == len(encode_chat(tiny_tokenizer(), messages)) + 4
    assert encode_answer(tiny_tokenizer(), messages, "w7 w8 w9", {END}) == [12, 13, 14, END]


def test_an_answer_that_the_template_does_not_end_is_refused() -> None:
    with pytest.raises(ChatError, match="end-of-turn"):
        encode_answer(tiny_tokenizer(), (Message("user", "w1"),), "w7", {63})
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }} {% endfor %}{% if add_generation_prompt %}<s>{% endif %}"
    )
    with pytest.raises(ChatError, match="generation prompt"):
        encode_answer(tokenizer, (Message("user", "w1"),), "w7", {END})


def test_control_tokens_spelled_in_a_gold_answer_end_nothing() -> None:
    """This tokenizer knows whole words alone, control tokens among them, so that it can only refuse."""
    with pytest.raises(ChatError, match="control tokens out of message text"):
        encode_answer(tiny_tokenizer(), (Message("user", "w1"),), "w7 <end> w8", {END})


def test_the_ends_of_a_turn_are_those_of_the_model_and_its_tokenizer(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m")
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [7, 9]}))
    assert end_tokens(str(folder), tiny_tokenizer()) == {7, 9, END}
    (folder / "generation_config.json").unlink()
    assert end_tokens(str(folder), tiny_tokenizer()) == {END}


def on_demonstrations(tmp_path: Path, prompts: list[Prompt], demonstrations: list[Candidate]) -> TrainJob:
    job = make_job(tmp_path, train_algorithm="sft")
    run = Run.create(tmp_path / "given", "name: given\n")
    folders = {}
    with run.lock():
        for name, rows in (("prompts", prompts), ("demonstrations", demonstrations)):
            step = run.step(f"rounds/000/{name}", inputs={})
            step.write(0, rows)
            step.finish({})
            folders[name] = (str(step.path),)
    return replace(job, prompts_dirs=folders["prompts"], examples_dirs=folders["demonstrations"])


# What single answers need.


def labelled(*labels: float) -> GroupDataset:
    return GroupDataset([Group(str(i), [1], ([2],), (label,)) for i, label in enumerate(labels)])


def test_unbalanced_answers_are_said_aloud_with_the_weight_to_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Train(algorithm="kto")
    assert check_balance(labelled(1, 0), settings) is None
    assert check_balance(labelled(1, 1, 1, 1, 0, 0, 0), settings) is None  # 4/3
    assert "between 3 and 4" in check_balance(labelled(1, 0, 0, 0), settings)
    assert check_balance(labelled(1, 0, 0, 0), replace(settings, desirable_weight=3.5)) is None
    assert check_balance(labelled(1, 0, 0, 0), Train(algorithm="bco")) is None
    train(make_job(tmp_path, num_pairs=6, samples=3, train_algorithm="kto"))
    assert "6 desirable and 12 undesirable answers" in capsys.readouterr().out


def test_answers_of_one_kind_teach_nothing() -> None:
    for labels, kind in (((1, 1), "desirable"), ((0, 0), "undesirable")):
        with pytest.raises(NothingToTrainOn, match=f"all 2 answers are {kind}: bco needs both"):
            check_balance(labelled(*labels), Train(algorithm="bco"))


def test_bco_goes_on_from_the_mean_reward_of_all_answers(tmp_path: Path) -> None:
    job = make_job(tmp_path, num_pairs=9, samples=3, train_algorithm="bco", train_epochs=2)
    train(job)
    steps = metrics_of(job)
    means = [step["rewards/chosen"] / 3 + step["rewards/rejected"] * 2 / 3 for step in steps]  # 1 of 3 is desirable
    for number, step in enumerate(steps):
        assert step["shift"] == pytest.approx(np.mean(means[:number]) if number else 0.0, abs=1e-6)


# What rankings need.


def test_only_the_answer_that_does_not_fit_is_left_out_of_a_ranking(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make_job(tmp_path, num_pairs=8, samples=3, train_algorithm="ranking", train_max_length=20)
    train(job)
    done = json.loads((Path(job.output_dir) / "training.json").read_text())
    assert done["dropped"]["too_long"] > done["dropped"].get("too_few_answers", 0)
    assert "left out of training" in capsys.readouterr().out


def test_neighbours_in_order() -> None:
    found = in_order(torch.tensor([3.0, 2.0, 1.0, 1.0, 5.0, 2.0, 3.0, 1.0]), torch.tensor([3, 2, 3]))
    assert found.tolist() == [1.0, 0.0, 0.5]


def test_a_ranking_of_records_reaches_the_loss_best_first(tmp_path: Path) -> None:
    job = make_job(tmp_path, num_pairs=6, samples=4, train_algorithm="ranking", train_epochs=10)
    train(job)
    assert metrics_of(job)[-1]["rewards/accuracies"] > 0.9
    assert all(r.win_rates[0] == max(r.win_rates) for r in read_records(Path(job.examples_dirs[0]), Ranking))


# Averaged references.


def test_weights_are_averaged_by_their_shares(tmp_path: Path) -> None:
    folders = [save_tiny(tmp_path / str(seed), seed=seed) for seed in range(3)]
    shares = [ModelShare(str(folder), weight) for folder, weight in zip(folders, (0.5, 0.3, 0.2), strict=True)]
    model = tiny_model("llama", seed=9)
    average_weights(model, shares)
    parts = [dict(tiny_model("llama", seed).named_parameters()) for seed in range(3)]
    for name, weight in model.named_parameters():
        expected = sum(share.weight * part[name] for share, part in zip(shares, parts, strict=True))
        torch.testing.assert_close(weight, expected)


def test_an_averaged_reference_is_one_of_its_own(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    other = save_tiny(tmp_path / "other", seed=5)
    train(replace(job, reference=(ModelShare(job.policy_path, 0.5), ModelShare(str(other), 0.5))))
    averaged = metrics_of(job)[0]["loss"]
    same = replace(job, output_dir=str(tmp_path / "same"))
    train(replace(same, reference=(ModelShare(job.policy_path, 0.5), ModelShare(job.policy_path, 0.5))))
    assert metrics_of(same)[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert abs(averaged - math.log(2)) > 1e-3
