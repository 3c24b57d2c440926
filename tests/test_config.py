"""Settings: precedence and origins, what is refused and how it is said, and the schema for editors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from selfalign import config, resources, source
from selfalign.config import ConfigError

MINIMAL = """\
name: mine
constitution: rules.yaml
policy: {model: org/model}
prompts: {train: train.jsonl, heldout: heldout.jsonl}
"""


def write(folder: Path, text: str, name: str = "campaign.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path | None, *overrides: str, environ: dict[str, str] | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        config.load(path, overrides=list(overrides), environ=environ or {})
    return caught.value


def test_defaults_fill_what_a_file_leaves_out(tmp_path: Path) -> None:
    campaign = config.load(write(tmp_path, MINIMAL)).campaign
    assert campaign.name == "mine"
    assert campaign.train == config.Train()
    assert campaign.evaluate.judge.model is None


def test_precedence_is_flag_environment_file_recipe_default(tmp_path: Path) -> None:
    path = write(tmp_path, "recipe: pocket\nrounds: 7\ntrain:\n  epochs: 4\n  beta: 0.3\n  batch_size: 16\n")
    environ = {"SELFALIGN_TRAIN__BETA": "0.5", "SELFALIGN_TRAIN__BATCH_SIZE": "8", "HOME": "/nowhere"}
    loaded = config.load(path, overrides=["train.batch_size=4"], environ=environ)
    train = loaded.campaign.train
    assert (train.batch_size, train.beta, train.epochs) == (4, 0.5, 4)
    assert loaded.origin("train.batch_size") == "--set"
    assert loaded.origin("train.beta") == "SELFALIGN_TRAIN__BETA"
    assert loaded.origin("train.epochs") == f"{path}:4"
    assert loaded.origin("rounds") == f"{path}:2"
    assert loaded.origin("generate.samples") == "recipe pocket"
    assert loaded.origin("train.weight_decay") == "default"
    assert loaded.recipe == "pocket"


def test_every_setting_is_listed_with_its_origin(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    settings = {name: (value, origin) for name, value, origin in config.load(path).settings()}
    assert settings["name"] == ("mine", f"{path}:1")
    assert settings["train.learning_rate"] == (5e-6, "default")
    assert "evaluate.judge.model" in settings


def test_the_last_of_two_flags_for_a_setting_wins(tmp_path: Path) -> None:
    loaded = config.load(write(tmp_path, MINIMAL), overrides=["seed=1", "seed=2"])
    assert loaded.campaign.seed == 2


def test_a_flag_reads_yaml_but_a_text_setting_takes_any_text(tmp_path: Path) -> None:
    flags = ["name=2024", "judge.labels_pairwise=[X, Y]", "policy.adapter={rank: 8}", "train.learning_rate=1e-6"]
    flags += ["accept.max_kl=null", "prompts.train=*.jsonl", "reference=1", "policy.revision=12"]
    campaign = config.load(write(tmp_path, MINIMAL), overrides=flags).campaign
    assert campaign.name == "2024"
    assert campaign.judge.labels_pairwise == ("X", "Y")
    assert campaign.policy.adapter == config.Adapter(rank=8)
    assert campaign.train.learning_rate == 1e-6
    assert campaign.accept.max_kl is None
    assert campaign.prompts.train == "*.jsonl"
    assert campaign.reference == 1
    assert campaign.policy.revision == "12"


def test_a_null_in_the_file_removes_the_recipes_section(tmp_path: Path) -> None:
    text = MINIMAL.replace("model: org/model", "model: org/model, adapter: null")
    loaded = config.load(write(tmp_path, "recipe: qwen3-8b-lora\n" + text))
    assert loaded.campaign.policy.adapter is None
    assert loaded.origin("policy.adapter.rank").endswith("campaign.yaml:4")


@pytest.mark.parametrize("name", resources.recipes())
def test_every_recipe_is_valid_and_survives_being_frozen(name: str, tmp_path: Path) -> None:
    loaded = config.load(recipe=name)
    assert loaded.campaign.name == name
    frozen = config.load(write(tmp_path, loaded.to_yaml()))
    assert frozen.campaign == loaded.campaign
    assert frozen.to_yaml() == loaded.to_yaml()


def test_a_recipe_may_stand_on_another(tmp_path: Path) -> None:
    loaded = config.load(recipe="qwen3-8b-lora-judge-32b")
    assert loaded.campaign.policy.adapter is not None
    assert loaded.origin("judge.model") == "recipe qwen3-8b-lora-judge-32b"
    assert loaded.origin("policy.adapter.rank") == "recipe qwen3-8b-lora"


def test_what_a_recipe_brings_for_one_choice_counts_where_that_choice_is_made(tmp_path: Path) -> None:
    """The pocket recipe brings settings of PPO and of a reward model, which its DPO never reads."""
    loaded = config.load(recipe="pocket")
    assert (loaded.campaign.ppo, loaded.campaign.reward_model) == (config.Ppo(), config.RewardModel())
    assert loaded.origin("ppo.samples") == loaded.origin("reward_model.holdout") == "default"
    loaded = config.load(recipe="pocket", overrides=["train.algorithm=ppo", "ppo.iterations=7"])
    assert (loaded.campaign.ppo.samples, loaded.campaign.ppo.iterations) == (2, 7)
    assert loaded.campaign.reward_model.train.learning_rate == 2e-4
    assert loaded.origin("ppo.samples") == "recipe pocket" and loaded.origin("ppo.iterations") == "--set"
    frozen = config.load(write(tmp_path, loaded.to_yaml()))
    assert frozen.campaign == loaded.campaign
    distilled = config.load(recipe="pocket", overrides=["train.loss={sigmoid: 1, distill: 0.1}"]).campaign
    assert distilled.reward_model == loaded.campaign.reward_model and distilled.ppo == config.Ppo()
    phased = config.load(recipe="pocket", overrides=["schedule=[{rounds: 2}, {rounds: 1, train: {algorithm: ppo}}]"])
    assert phased.campaign.ppo.samples == 2


@pytest.mark.parametrize("override", ["ppo.samples=4", "reward_model.holdout=0.2", "revise.steps=2"])
def test_what_a_user_sets_and_nothing_reads_is_refused_over_a_recipe_too(override: str, tmp_path: Path) -> None:
    error = refused(write(tmp_path, "recipe: pocket\n"), override)
    assert (error.file, error.suggestion[:9]) == ("--set", "Remove it")
    section, setting = override.split("=")[0].split(".")
    path = write(tmp_path, f"recipe: pocket\n{section}:\n  {setting}: {override.split('=')[1]}\n")
    assert (refused(path).file, refused(path).line) == (str(path), 2)


@settings(deadline=None)
@given(
    beta=st.floats(min_value=1e-300, max_value=1e300),
    name=st.from_regex(config.NAME, fullmatch=True),
    revision=st.none() | st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=20),
)
def test_freezing_round_trips_every_value(beta: float, name: str, revision: str | None) -> None:
    assume(revision is None or not source.HIDDEN.search(revision))
    base = config.load(recipe="pocket").campaign
    campaign = dataclasses.replace(
        base,
        name=name,
        policy=dataclasses.replace(base.policy, revision=revision),
        train=dataclasses.replace(base.train, beta=beta),
    )
    document = source.read_yaml(config.to_yaml(campaign), "frozen.yaml")
    assert document.value["train"]["beta"] == beta
    assert document.value["name"] == name
    assert document.value["policy"]["revision"] == revision


@pytest.mark.parametrize(
    ("line", "message", "suggestion"),
    [
        ("train: {betta: 0.1}", 'unknown setting "train.betta"', 'Did you mean "train.beta"?'),
        ("learning_rate: 1e-6", 'unknown setting "learning_rate"', 'Did you mean "train.learning_rate"?'),
        ("zzz: 1", 'unknown setting "zzz"', "A campaign has name, seed"),
        (
            'train: {learning_rate: "1e-5"}',
            "train.learning_rate is the text '1e-5', not a number above 0",
            "Remove the quotes.",
        ),
        ("train: {beta: -1}", "train.beta is -1, not a number above 0", ""),
        ("train: {beta: .nan}", ".nan is not a finite number", ""),
        ("train: {beta: .inf}", ".inf is not a finite number", ""),
        ("train: {beta: 1e999}", "1e999 is not a finite number", ""),
        ("train: {epochs: 1.5}", "train.epochs is 1.5, not a whole number of at least 1", ""),
        ("judge: {both_orders: no}", "judge.both_orders is the text 'no', not true or false", "Write false."),
        ("train: {loss: ippo}", "not one of sigmoid, hinge, ipo", 'Did you mean "ipo"?'),
        ("seed: true", "seed is true, not a whole number", ""),
        ("train: 3", "train has no settings under it", "Indent"),
        ("train:", "train has no settings under it", "Indent"),
        ("judge: {model: 7}", "judge.model is 7, not a text", "Put it in quotes."),
        ("seed: 1\nseed: 2", '"seed" stands twice, first on line 5', "Keep one"),
        (
            "seed: !!python/object/apply:os.system [ls]",
            "has the tag 'tag:yaml.org,2002:python/object/apply:os.system'",
            "",
        ),
        ("seed: !local 1", "has the tag '!local'", ""),
        ("seed: [1", "is not valid YAML here", ""),
        ("? [a]\n: 1", "a key must be a word", ""),
        ("<<: {seed: 1}", "the merge key << is not supported", ""),
        ("seed: 99999999999999999999999", "23 digits", ""),
        ("name: \x07", "holds a character that YAML does not allow", ""),
        ('judge: {model: "a\\u202Eb"}', "holds a hidden character", ""),
        ('judge: {labels_pairwise: [A, "B\\n"]}', "holds a hidden character", ""),
        ("train: &t {epochs: *t}", "is nested deeper than", ""),
    ],
)
def test_a_bad_value_is_refused_with_its_line(line: str, message: str, suggestion: str, tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + line + "\n")
    error = refused(path)
    assert message in error.message
    assert suggestion in error.suggestion
    assert error.file == str(path)
    assert error.line == 5 + line.startswith(("seed: 1\n", "seed: [1"))
    assert str(error).startswith(f"{path}:{error.line}: ")


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    error = refused(write(tmp_path, MINIMAL + "train:\n  beta: no\n  epochz: 2\nrounds: 0\n"))
    assert {problem.line for problem in error.problems} == {6, 7, 8}
    assert len(str(error).splitlines()) == 3


def test_aliases_are_kept_and_alias_bombs_refused(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "evaluate: {judge: {model: &m org/judge}}\njudge: {model: *m}\n")
    assert config.load(path).campaign.judge.model == "org/judge"
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
    assert "expands to more than 100,000 values" in refused(write(tmp_path, bomb)).message


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    assert "nested deeper" in refused(write(tmp_path, "a: " + "[" * 60 + "]" * 60)).message
    assert "nested deeper" in refused(write(tmp_path, "a: " + "[" * 1000)).message


def test_a_missing_empty_or_foreign_file_is_refused(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in refused(tmp_path / "none.yaml").message
    assert "holds no settings" in refused(write(tmp_path, "")).message
    assert "holds no settings" in refused(write(tmp_path, "- a\n")).message
    (tmp_path / "latin.yaml").write_bytes(b"name: a\nseed: \xff\n")
    error = refused(tmp_path / "latin.yaml")
    assert (error.line, error.message) == (2, "is not UTF-8 text")
    (tmp_path / "big.yaml").write_bytes(b"#" * (5 * 2**20))
    assert "is larger than" in refused(tmp_path / "big.yaml").message


def test_flags_and_variables_are_refused_by_their_names(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    assert str(refused(path, "train.beta")) == "--set: 'train.beta' is not key=value. Write --set train.beta=0.2."
    assert refused(path, "train.beta=-1").file == "--set"
    assert refused(path, "train.bata=1").suggestion == 'Did you mean "train.beta"?'
    assert refused(path, "train=1").file == "--set"
    assert refused(path, "seed.x=1").file == "--set"
    error = refused(path, environ={"SELFALIGN_TRAIN__BETTA": "1"})
    assert (error.file, error.suggestion) == ("SELFALIGN_TRAIN__BETTA", 'Did you mean "train.beta"?')


def test_an_unknown_recipe_is_refused_where_it_is_named(tmp_path: Path) -> None:
    error = refused(write(tmp_path, MINIMAL + "recipe: pockett\n"))
    assert (error.line, error.suggestion) == (5, 'Did you mean "pocket"?')
    with pytest.raises(ConfigError, match="--recipe: there is no recipe"):
        config.load(recipe="../pocket")
    assert "there is no recipe 3" in refused(write(tmp_path, MINIMAL + "recipe: 3\n")).message
    assert config.load(write(tmp_path, MINIMAL), overrides=["recipe=pocket"]).recipe == "pocket"


@pytest.mark.parametrize(
    ("override", "setting", "words"),
    [
        ("name=../x", "name", "cannot name a run folder"),
        ("name=-rf", "name", "cannot name a run folder"),
        ("name=" + "a" * 65, "name", "cannot name a run folder"),
        ("reference=3", "reference", "reference is round 3"),
        ("reference=2", "reference", "a later round must follow it"),
        ("reference=-1", "reference", "reference is round -1"),
        ("reference=prevoius", "reference", "not previous, base, ema or a round's number"),
        ("generate.temperature=0", "generate.temperature", "all samples of a prompt are the same"),
        ("generate.max_tokens=2048", "generate.max_tokens", "leave no room for a prompt"),
        ("engine.max_model_len=512", "generate.max_tokens", "leave no room for a prompt in engine.max_model_len"),
        ("judge.labels_pairwise=[A, A]", "judge.labels_pairwise", "all different"),
        ("judge.tie_margin=0.5", "judge.tie_margin", "makes every verdict a tie"),
        ("pairs.min_margin=1", "pairs.min_margin", "no pair can reach"),
        ("pairs.rating_scale=2", "pairs.rating_scale", "no ratings to scale"),
        ("pairs.max_per_prompt=2", "pairs.max_per_prompt", "best-worst makes one pair"),
        ("pairs.rso_beta=1", "pairs.rso_beta", "only strategy rso reads it"),
        ("pairs.buckets=4", "pairs.buckets", "only strategy margin-buckets reads it"),
        ("pairs.desirable_above=3", "pairs.desirable_above", "gives no ratings"),
        ("judge.comparisons=active", "judge.budget", "nothing says how many"),
        ("judge.budget=3", "judge.budget", "which has no budget"),
        ("judge.samples=3", "judge.samples", "asks for no reasons"),
        ("judge.cot_tokens=64", "judge.cot_tokens", "asks for no reasons"),
        ("judge.cot_clamp=[0.3, 0.7]", "judge.cot_clamp", "there are none"),
        ("judge.labels_pointwise=[a, b]", "judge.labels_pointwise", "rates no answers"),
        ("judge.base_url=http://localhost", "judge.base_url", "not reached over an API"),
        ("judge.revision=main", "judge.revision", "has its own"),
        ("judge.max_cost=2", "judge.max_cost", "nothing says what the judge's tokens cost"),
        ("judge.price={input: 0.15}", "judge.price", "not reached over an API"),
        ("train.max_length=9000", "train.max_length", "does not fit"),
        ("evaluate.against=[base]", "accept.win_rate_lower_bound", "win rate against the previous policy"),
        ("evaluate.against=[base, previous, base]", "evaluate.against", "stands twice"),
        ("train.loss={}", "train.loss", "needs a weight above 0"),
        ("train.loss={sigmoid: 0}", "train.loss", "needs a weight above 0"),
        ("train.loss=nll", "train.loss", "prefers nothing"),
        ("train.loss=aot", "train.loss", "no use for soft labels"),
        ("train.loss=robust", "train.label_smoothing", "needs train.label_smoothing above 0"),
        ("train.length_average=true", "train.length_average", "only the loss ipo reads it"),
        ("train.simpo_gamma=1", "train.simpo_gamma", "only the loss simpo reads it"),
        ("train.f_alpha=0.3", "train.f_alpha", "only the alpha divergence"),
        ("reference=none", "reference", "sigmoid is regularised toward a reference"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    override: str, setting: str, words: str, tmp_path: Path
) -> None:
    path = write(tmp_path, MINIMAL)
    error = refused(path, override)
    assert words in error.message
    assert error.suggestion
    assert error.file == ("--set" if override.startswith(f"{setting}=") else str(path))


@pytest.mark.parametrize(
    ("overrides", "setting", "words"),
    [
        (["train.loss=simpo", "reference=base"], "reference", "reference-free"),
        (["train.loss={orpo: 1, nll: 1}", "reference=1"], "reference", "reference-free"),
        (["train.loss=ipo", "train.f_divergence=js"], "train.f_divergence", "another f-divergence"),
        (["train.loss=simpo", "train.ld_alpha=0.5"], "train.ld_alpha", "summed log-ratios"),
        (["train.loss=aot", "pairs.labels=hard", "train.wpo=true"], "train.wpo", "no pair keeps a weight"),
        (
            ["train.loss=kto", "pairs.labels=hard", "train.desirable_weight=2"],
            "train.desirable_weight",
            "between 1 and 4/3",
        ),
        (["train.loss={kto: 1, bco: 1}", "pairs.labels=hard"], "train.loss", "no sum of the two"),
        (["train.loss=nca", "train.label_smoothing=0.1"], "train.label_smoothing", "means nothing to nca"),
    ],
)
def test_what_a_loss_cannot_use_is_refused(overrides: list[str], setting: str, words: str, tmp_path: Path) -> None:
    error = refused(write(tmp_path, MINIMAL), *overrides)
    assert words in error.message and error.suggestion
    assert error.file == "--set"


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.loss={sigmoid: 1, nll: 0.2}", "train.wpo=true", "train.ld_alpha=0.6"],
        ["train.loss=simpo", "train.simpo_gamma=1", "reference=none"],
        ["train.loss=exo", "train.label_smoothing=0.001", "train.f_divergence=alpha", "train.f_alpha=0.3"],
        ["train.loss=aot", "pairs.labels=hard", "train.label_smoothing=0.1"],
    ],
)
def test_losses_take_their_settings(overrides: list[str], tmp_path: Path) -> None:
    campaign = config.load(write(tmp_path, MINIMAL), overrides=overrides).campaign
    again = config.load(write(tmp_path, config.to_yaml(campaign), "again.yaml")).campaign
    assert again.train == campaign.train


@pytest.mark.parametrize("setting", ["tensor_parallel_size=2", "enforce_eager=true", "max_num_seqs=8"])
def test_settings_of_vllm_alone_are_refused_with_transformers(setting: str, tmp_path: Path) -> None:
    error = refused(write(tmp_path, MINIMAL), "engine.backend=transformers", f"engine.{setting}")
    assert "is for vLLM" in error.message


def test_pointwise_contradictions(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "judge: {method: pointwise-logprob}\n")
    assert config.load(path, overrides=["pairs.min_margin=2", "pairs.rating_scale=2"]).campaign.pairs.min_margin == 2
    assert "no pair can reach" in refused(path, "pairs.min_margin=4").message
    assert "compares no candidates" in refused(path, "judge.comparisons=ring").message
    assert "compares no candidates" in refused(path, "judge.comparisons=active", "judge.budget=2").message
    assert "dpo calls no single answer good or bad" in refused(path, "pairs.desirable_above=3").message


def test_methods_and_what_they_read(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "judge: {method: pairwise-cot, samples: 3, cot_tokens: 64}\n")
    assert config.load(path).campaign.judge.cot_clamp == (0.4, 0.6)
    assert config.load(path, overrides=["judge.cot_clamp=[0, 1]"]).campaign.judge.label_clamp == (0.0, 1.0)
    assert "can prefer either" in refused(path, "judge.cot_clamp=[0.5, 0.6]").message
    assert "there are none" in refused(path, "judge.cot_clamp=[0.3, 0.7]", "pairs.labels=hard").message
    assert "no room for a question" in refused(path, "judge.cot_tokens=4096", "engine.max_model_len=2048").message
    assert "compares no answers" in refused(path, "judge.method=pointwise-cot", "judge.labels_pairwise=[X, Y]").message
    assert "compares no candidates" in refused(path, "judge.method=pointwise-cot", "judge.comparisons=ring").message
    plain = ["judge.method=pairwise-logprob", "evaluate.judge.method=pairwise-cot"]
    assert config.load(path, overrides=plain).campaign.judge.samples == 3
    rubric = write(tmp_path, MINIMAL + "judge: {method: rubric, labels_pointwise: [a, b, c]}\n")
    assert config.load(rubric, overrides=["pairs.min_margin=3.9"]).campaign.judge.pointwise
    assert "no pair can reach" in refused(rubric, "pairs.min_margin=4").message


def test_a_budget_leaves_something_to_choose(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "judge: {comparisons: active, budget: 5}\n")
    assert config.load(path).campaign.judge.budget == 5
    assert "4 candidates make 6 comparisons" in refused(path, "judge.budget=6").message


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("max_per_prompt=2", "spin makes one pair a prompt"),
        ("length_balance=0.1", "picks no best candidate"),
    ],
)
def test_settings_that_spin_does_not_read_are_refused(setting: str, words: str, tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "pairs: {strategy: spin, labels: soft}\n")
    assert config.load(path).campaign.pairs.strategy == "spin"
    assert words in refused(path, f"pairs.{setting}").message


@pytest.mark.parametrize("key", ["name", "constitution", "policy.model", "prompts.train", "prompts.heldout"])
def test_what_has_no_default_is_asked_for(key: str, tmp_path: Path) -> None:
    error = refused(write(tmp_path, MINIMAL), f"{key}=")
    assert "missing" in error.message or "not a text" in error.message


def test_an_empty_campaign_lists_all_that_is_missing(tmp_path: Path) -> None:
    error = refused(write(tmp_path, "seed: 3\n"))
    assert [problem.message.split()[0] for problem in error.problems] == [
        "name", "policy.model", "constitution", "prompts.train", "prompts.heldout",
    ]  # fmt: skip


def test_user_paths_become_absolute_and_shipped_ones_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, elsewhere = tmp_path / "campaign", tmp_path / "cwd"
    (folder / "data").mkdir(parents=True)
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    write(folder, "x", "rules.yaml")
    write(folder / "data", "{}", "a.jsonl")
    write(elsewhere, "{}", "heldout.jsonl")
    text = MINIMAL.replace("train: train.jsonl", "train: [data/*.jsonl, 'datasets:org/set', none.jsonl]")
    campaign = config.load(write(folder, text)).campaign
    assert campaign.constitution == str(folder / "rules.yaml")
    assert campaign.prompts.train == [str(folder / "data/*.jsonl"), "datasets:org/set", "none.jsonl"]
    assert campaign.prompts.heldout == str(elsewhere / "heldout.jsonl")
    assert campaign.policy.model == "org/model"
    shipped = config.load(write(folder, MINIMAL.replace("rules.yaml", "constitutions/pocket.yaml"))).campaign
    assert shipped.constitution == "constitutions/pocket.yaml"


def test_the_evaluations_constitution_is_found_as_the_campaigns_is(tmp_path: Path) -> None:
    (tmp_path / "meant.yaml").write_text("")
    campaign = config.load(write(tmp_path, MINIMAL), overrides=["evaluate.constitution=meant"]).campaign
    assert campaign.evaluate.constitution == str(tmp_path / "meant.yaml")
    assert config.load(recipe="pocket-hack").campaign.evaluate.constitution == "constitutions/pocket.yaml"


def test_a_folder_called_self_is_not_the_judge_called_self(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    assert config.load(write(tmp_path, MINIMAL)).campaign.judge.model == "self"


def test_a_name_that_no_file_system_takes_is_only_not_found(tmp_path: Path) -> None:
    flags = [f"policy.model={'a' * 5000}", f"prompts.train={'b' * 5000}.jsonl", f"constitution={'c' * 5000}"]
    assert config.load(write(tmp_path, MINIMAL), overrides=flags).campaign.policy.model == "a" * 5000


def test_a_file_that_declares_yaml_1_1_is_read_by_its_rules(tmp_path: Path) -> None:
    settings = "judge: {both_orders: no}\ntrain: {gradient_checkpointing: yes}\n"
    path = write(tmp_path, "%YAML 1.1\n---\n" + MINIMAL + settings)
    campaign = config.load(path).campaign
    assert (campaign.judge.both_orders, campaign.train.gradient_checkpointing) == (False, True)


def test_the_schema_for_editors_is_current() -> None:
    command = "python -c 'from selfalign import config; print(config.schema_text(), end=\"\")'"
    stale = f"run: {command} > selfalign/schemas/campaign.schema.json"
    assert resources.schema("campaign") == config.schema_text(), stale


def test_the_schema_accepts_recipes_and_refuses_unknown_keys() -> None:
    from jsonschema import Draft202012Validator

    validator = Draft202012Validator(json.loads(config.schema_text()))
    for name in resources.recipes():
        text = resources.recipe(name).read_text(encoding="utf-8")
        assert not list(validator.iter_errors(source.read_yaml(text, name).value))
    assert list(validator.iter_errors({"train": {"betta": 1}}))


def test_a_section_keeps_the_defaults_of_the_place_it_stands_in(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "train: {reward_weight: true}\nreward_model: {train: {epochs: 2}}\n")
    campaign = config.load(path).campaign
    assert campaign.reward_model.train == config.Optimizer(learning_rate=1e-5, epochs=2)
    assert config.load(write(tmp_path, config.to_yaml(campaign))).campaign == campaign


@pytest.mark.parametrize("override", ["train.algorithm=kto", "train.loss=kto"])
def test_kto_on_batches_of_one_is_refused(override: str, tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match="mean over the batch"):
        config.load(write(tmp_path, MINIMAL + "train: {batch_size: 1}\n"), overrides=[override])
