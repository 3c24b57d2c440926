"""What settings name is refused before any model is loaded, with the line where it was named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfalign import config, preflight, resources
from selfalign.config import ConfigError
from selfalign.stages import prompts

RULES = """\
schema: selfalign.constitution/v1
name: rules
version: 1.0.0
principles:
  - {id: a, text: The response is true.}
"""


@pytest.fixture
def campaign(tmp_path: Path) -> Path:
    """A campaign file whose every file is there."""
    (tmp_path / "rules.yaml").write_text(RULES)
    for split in ("train", "heldout"):
        (tmp_path / f"{split}.jsonl").write_text('{"prompt": "a"}\n')
    make_model(tmp_path / "model")
    path = tmp_path / "campaign.yaml"
    path.write_text(
        "name: mine\nconstitution: rules.yaml\npolicy: {model: model}\nprompts:\n"
        "  train: train.jsonl\n  heldout: heldout.jsonl\n"
    )
    return path


def make_model(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "llama"}')
    (path / "model.safetensors").write_bytes(b"")
    (path / "tokenizer.json").write_text("{}")
    (path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')


def refused(path: Path, *overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        preflight.check_files(config.load(path, overrides=list(overrides)))
    return caught.value


def test_a_campaign_whose_files_are_there_passes(campaign: Path) -> None:
    preflight.check_files(config.load(campaign))
    flags = ["policy.model=Qwen/Qwen3-8B", "judge.model=openai:gpt-5", "prompts.train=datasets:org/set"]
    preflight.check_files(config.load(campaign, overrides=[*flags, "evaluate.judge.model=base"]))


def test_a_method_finds_what_it_needs_in_the_principles(campaign: Path) -> None:
    assert "no active principle of rules has a rubric" in refused(campaign, "judge.method=rubric").message
    wrong = refused(campaign, "evaluate.judge.method=rubric")
    assert [problem.message for problem in wrong.problems] == ["no active principle of rules has a rubric"]
    assert "no active principle of rules has examples" in refused(campaign, "judge.examples=2").message
    levels = 'rubric: {levels: [{score: 1, means: "bad"}, {score: 5, means: "good"}]}'
    example = "examples: [{prompt: a, better: b, worse: c}]"
    (campaign.parent / "rules.yaml").write_text(RULES.replace("is true.}", f"is true., {levels}, {example}}}"))
    preflight.check_files(config.load(campaign, overrides=["judge.method=rubric", "judge.examples=2"]))


def test_missing_files_are_told_together_with_their_lines(campaign: Path) -> None:
    folder = campaign.parent
    for name in ("rules.yaml", "train.jsonl", "heldout.jsonl"):
        (folder / name).unlink()
    error = refused(campaign, "train.accelerate_config=none.yaml", "judge.model=./none")
    found = {(problem.file, problem.line, problem.message) for problem in error.problems}
    assert found == {
        (str(campaign), 2, "there is no constitution 'rules.yaml'"),
        (str(campaign), 5, "no file matches 'train.jsonl'"),
        (str(campaign), 6, "no file matches 'heldout.jsonl'"),
        ("--set", None, "there is no file 'none.yaml'"),
        ("--set", None, "there is no model folder './none'"),
    }
    assert all(problem.suggestion for problem in error.problems)


def test_the_evaluations_constitution_is_looked_at_too(campaign: Path) -> None:
    error = refused(campaign, "evaluate.constitution=none.yaml")
    assert (error.file, error.message) == ("--set", "there is no constitution 'none.yaml'")
    (campaign.parent / "meant.yaml").write_text("schema: selfalign.constitution/v1\n")
    assert refused(campaign, "evaluate.constitution=meant.yaml").file.endswith("meant.yaml")
    (campaign.parent / "meant.yaml").write_text(RULES)
    preflight.check_files(config.load(campaign, overrides=["evaluate.constitution=meant.yaml"]))


def test_a_bad_constitution_is_told_at_its_own_line(campaign: Path) -> None:
    rules = campaign.parent / "rules.yaml"
    rules.write_text(RULES.replace("text:", "txet:"))
    error = refused(campaign)
    assert (error.file, error.line) == (str(rules), 5)
    rules.write_text(RULES.replace("id: a,", "id: a, status: draft,"))
    assert "no active principle" in refused(campaign).message


def spoil_config(model: Path) -> None:
    (model / "config.json").unlink()


def spoil_weights(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def spoil_all_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()


def spoil_shards(model: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


def spoil_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()


def spoil_template(model: Path) -> None:
    (model / "tokenizer_config.json").write_text("{}")


def spoil_by_code(model: Path) -> None:
    (model / "config.json").write_text('{"model_type": "x", "auto_map": {"AutoModel": "modeling.X"}}')


def spoil_by_tokenizer_code(model: Path) -> None:
    (model / "tokenizer_config.json").write_text('{"chat_template": "x", "auto_map": {"AutoTokenizer": "t.T"}}')


def spoil_by_attention(model: Path) -> None:
    (model / "config.json").write_text('{"_attn_implementation_internal": "org/kernel"}')


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_config, "it has no readable config.json"),
        (spoil_weights, "its weights are in pytorch_model.bin, a pickle that can run code"),
        (spoil_all_weights, "it holds no *.safetensors weights"),
        (spoil_shards, "the shard model-00001-of-00002.safetensors of its weights is missing"),
        (spoil_tokenizer, "it has no tokenizer"),
        (spoil_template, "its tokenizer has no chat template"),
        (spoil_by_code, "its auto_map names code of its own"),
        (spoil_by_tokenizer_code, "its auto_map names code of its own"),
        (spoil_by_attention, "its _attn_implementation_internal names code of its own"),
    ],
)
def test_a_folder_that_is_no_safe_model_is_refused(spoil, message: str, campaign: Path) -> None:
    spoil(campaign.parent / "model")
    error = refused(campaign)
    assert message in error.message
    assert error.suggestion
    assert (error.file, error.line) == (str(campaign), 3)


def test_code_of_a_model_is_allowed_by_name_alone(campaign: Path) -> None:
    spoil_by_code(campaign.parent / "model")
    preflight.check_files(config.load(campaign, overrides=["policy.trust_remote_code=true"]))


def test_a_template_beside_the_tokenizer_counts(campaign: Path) -> None:
    spoil_template(campaign.parent / "model")
    (campaign.parent / "model" / "chat_template.jinja").write_text("{{ messages }}")
    preflight.check_files(config.load(campaign))


def test_a_file_is_not_a_model_folder(campaign: Path) -> None:
    assert "it is a file, not a model folder" in refused(campaign, "judge.model=rules.yaml").message


@pytest.mark.parametrize("recipe", [name for name in resources.recipes() if name != "pocket"])
def test_the_files_of_every_recipe_are_there(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = config.load(recipe=recipe)
    preflight.check_files(loaded)
    train, heldout = (prompts.load(getattr(loaded.campaign.prompts, s), s) for s in ("train", "heldout"))
    prompts.check_disjoint(train, heldout)
