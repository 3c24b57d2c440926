"""Both layouts give the same log-probabilities on every architecture; adapters merge to what they computed."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, MambaConfig, MambaForCausalLM

from selfalign.config import Adapter
from selfalign.training.batches import AttentionKinds, collate
from selfalign.training.dataset import Group, GroupDataset
from selfalign.training.model import (
    ModelError,
    Scorer,
    add_adapter,
    add_saved_adapter,
    attention_kinds,
    choose_layout,
    completion_logprobs,
    load_model,
    load_reward_model,
    merge_lora,
    save_adapter,
    save_model,
    sequence_logps,
)
from tests.training.conftest import END, random_words, save_tiny, tiny_model, tiny_tokenizer

ARCHITECTURES = ["llama", "qwen3", "gemma3", "gpt2", "mistral"]


def random_pairs(count: int = 5, seed: int = 0) -> GroupDataset:
    generator = np.random.default_rng(seed)
    words = [[random_words(generator, 1, 12) for _ in range(3)] for _ in range(count)]
    return GroupDataset([Group.pair(str(i), p, [*c, END], [*r, END]) for i, (p, c, r) in enumerate(words)])


def rows_of(pairs: GroupDataset, layout: str) -> list[np.ndarray]:
    """All pairs in one batch, in the shared layout two and more of them on a row."""
    indexes = np.arange(len(pairs))
    return [indexes[:3], indexes[3:]] if layout == "shared" else list(indexes[:, None])


def naive_logps(model: torch.nn.Module, pairs: GroupDataset) -> torch.Tensor:
    """Sequence log-probabilities, one sequence at a time, by the model's own logits. [N, 2]"""
    rows = []
    for index in range(len(pairs)):
        prompt, answers = pairs.parts(index)
        row = []
        for answer in answers:
            tokens = torch.tensor([[*prompt.tolist(), *answer.tolist()]])
            logps = model(input_ids=tokens).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            row.append(logps.gather(-1, tokens[0, len(prompt) :, None]).sum())
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_both_layouts_give_the_log_probabilities_of_separate_sequences(name: str) -> None:
    model, pairs = tiny_model(name), random_pairs()
    scorer = Scorer(model)
    expected = naive_logps(model, pairs)
    for layout in ("shared", "plain"):
        batch = collate(pairs, rows_of(pairs, layout), layout, scorer.attention)
        found = sequence_logps(scorer(batch), batch).view(-1, 2)
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_both_layouts_give_the_same_gradients(name: str) -> None:
    pairs, gradients = random_pairs(), {}
    for layout in ("shared", "plain"):
        scorer = Scorer(tiny_model(name))
        batch = collate(pairs, rows_of(pairs, layout), layout, scorer.attention)
        chosen, rejected = sequence_logps(scorer(batch), batch).view(-1, 2).unbind(1)
        torch.nn.functional.softplus(rejected - chosen).sum().backward()
        gradients[layout] = {key: p.grad for key, p in scorer.named_parameters() if p.grad is not None}
    assert gradients["shared"].keys() == gradients["plain"].keys()
    for key, gradient in gradients["shared"].items():
        torch.testing.assert_close(gradient, gradients["plain"][key], atol=1e-4, rtol=1e-3, msg=key)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_shared_layout_is_chosen(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_layout(Scorer(tiny_model(name)), random_pairs()) == "shared"


def test_a_recurrent_model_falls_back_to_plain_rows() -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "initializer_range": 0.5}
    model, pairs = MambaForCausalLM(MambaConfig(**sizes)).eval(), random_pairs()
    scorer = Scorer(model)
    with pytest.warns(UserWarning, match="prompts are computed twice"):
        layout = choose_layout(scorer, pairs)
    assert layout == "plain"
    batch = collate(pairs, rows_of(pairs, layout), layout, AttentionKinds())
    found = sequence_logps(scorer(batch), batch).view(-1, 2)
    torch.testing.assert_close(found, naive_logps(model, pairs), atol=2e-4, rtol=1e-5)


def test_a_head_that_is_not_understood_is_refused() -> None:
    scorer = Scorer(tiny_model("gemma3"))
    scorer.head = type(scorer.head)()  # as if the configuration had not told of its capping
    with pytest.raises(ModelError, match="differ from its own logits"):
        choose_layout(scorer, random_pairs())


def test_kinds_of_attention() -> None:
    assert attention_kinds(tiny_model("llama").config) == AttentionKinds()
    assert attention_kinds(tiny_model("mistral").config) == AttentionKinds(("sliding_attention",), 5)
    both = AttentionKinds(("full_attention", "sliding_attention"), 5)
    assert attention_kinds(tiny_model("gemma3").config) == both
    unknown = type("Config", (), {"layer_types": ["linear_attention"]})()
    assert attention_kinds(unknown) is None


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_merged_adapter_computes_what_it_computed_beside_the_base(name: str, tmp_path: Path) -> None:
    model, pairs = tiny_model(name), random_pairs()
    before = naive_logps(model, pairs)
    adapted = add_adapter(model, Adapter(rank=4))
    for key, parameter in adapted.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.3)
    expected = naive_logps(adapted, pairs)
    assert (expected - before).abs().max() > 0.1
    state = merge_lora(adapted.state_dict(), adapted, torch.float32)
    save_model(tmp_path, Scorer(adapted).whole, state, tiny_tokenizer(), torch.float32)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(naive_logps(merged, pairs), expected, atol=1e-3, rtol=1e-5)


def test_a_fresh_adapter_changes_nothing_and_can_be_turned_off() -> None:
    pairs, model = random_pairs(), tiny_model("llama")
    expected = naive_logps(model, pairs)
    scorer = Scorer(add_adapter(model, Adapter(rank=2)))
    torch.testing.assert_close(naive_logps(scorer.model, pairs), expected)
    for key, parameter in scorer.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter)
    assert (naive_logps(scorer.model, pairs) - expected).abs().max() > 0.1
    with scorer.under():
        torch.testing.assert_close(naive_logps(scorer.model, pairs), expected)


def test_wrong_target_modules_are_named() -> None:
    with pytest.raises(ModelError, match="target_modules"):
        add_adapter(tiny_model("llama"), Adapter(target_modules=["no_such_layer"]))


def test_a_stored_model_is_a_standard_folder_in_its_dtype(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", dtype=torch.bfloat16)
    model = load_model(str(folder), torch.float32)
    save_model(tmp_path / "saved", model, model.state_dict(), tiny_tokenizer(), torch.float32)
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"} <= names
    assert {tensor.dtype for tensor in load_file(tmp_path / "saved" / "model.safetensors").values()} == {torch.float32}


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=str(tmp_path)):
        load_model(str(tmp_path), torch.float32)


def test_probe_log_probabilities_are_those_of_the_model() -> None:
    model, pairs = tiny_model("llama"), random_pairs()
    prompts, answers = zip(
        *[(pairs.parts(i)[0].tolist(), pairs.parts(i)[1][0].tolist()) for i in range(3)], strict=True
    )
    found = completion_logprobs(Scorer(model), prompts, answers, torch.device("cpu"))
    assert [len(row) for row in found] == [len(answer) for answer in answers]
    torch.testing.assert_close(torch.tensor([sum(row) for row in found]), naive_logps(model, pairs)[:3, 0])


def saved_reward_adapter(policy: Path, folder: Path) -> Path:
    """A reward model's adapter that is no longer as it began."""
    model = add_adapter(load_reward_model(str(policy), torch.float32, 0), Adapter(rank=2, dropout=0.1))
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter)
    save_adapter(folder, model, model.state_dict())
    return folder


def test_a_reward_models_adapter_stands_beside_the_policys(tmp_path: Path) -> None:
    policy, folder = save_tiny(tmp_path / "policy"), tmp_path / "adapter"
    saved_reward_adapter(policy, folder)
    model = add_adapter(load_model(str(policy), torch.bfloat16), Adapter(rank=3))
    for name, trained in (("reward-0", False), ("value", True)):
        head = add_saved_adapter(model, folder, name, trained=trained)
        assert head.shape == (1, 32)
    kinds = {key.split(".")[-2]: (p.dtype, p.requires_grad) for key, p in model.named_parameters() if ".lora_" in key}
    assert kinds == {
        "default": (torch.float32, True), "reward-0": (torch.bfloat16, False), "value": (torch.float32, True),
    }  # fmt: skip
    scorer = Scorer(model)
    assert scorer.adapters == ["default"]
    with scorer.under("value"):
        assert scorer.adapters == ["value"]
        with scorer.under():
            assert scorer.adapters == []
        assert scorer.adapters == ["value"]
    assert {p.requires_grad for key, p in model.named_parameters() if ".default." in key} == {True}


def test_an_adapter_that_does_not_fit_the_base_is_refused(tmp_path: Path) -> None:
    policy, folder = save_tiny(tmp_path / "policy"), tmp_path / "adapter"
    saved_reward_adapter(policy, folder)
    state = load_file(folder / "adapter_model.safetensors")
    state["base_model.model.model.layers.7.mlp.up_proj.lora_A.weight"] = torch.zeros(2, 32)
    save_file(state, folder / "adapter_model.safetensors")
    model = add_adapter(load_model(str(policy), torch.float32), Adapter(rank=3))
    with pytest.raises(ModelError, match=r"not one of LlamaForCausalLM: .*layers\.7"):
        add_saved_adapter(model, folder, "reward-0", trained=False)
