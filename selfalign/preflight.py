"""What a campaign's settings name is looked at before any model is loaded: constitution, prompts, model folders."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfalign import constitution, judge_calibration, resources
from selfalign.config import ConfigError, Loaded
from selfalign.source import InputError, Problem

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
NOT_FOLDERS = ("self", "base")  # judges that are the policy itself


def check_files(loaded: Loaded) -> None:
    """Raise ConfigError unless every file that the settings name exists and can be used. Opens no network connection.

    A model that is neither a folder nor written like a path is taken for a name on the Hub, and left to it.
    """
    looks = (_constitutions, _prompts, _accelerate, _calibration, _models)
    problems = [problem for look in looks for problem in look(loaded)]
    if problems:
        raise ConfigError(problems)


def _folder(loaded: Loaded) -> Path | None:
    return loaded.file.parent if loaded.file else None


def _constitutions(loaded: Loaded) -> Iterator[Problem]:
    named = {
        "constitution": loaded.campaign.constitution,
        "evaluate.constitution": loaded.campaign.evaluate.constitution,
    }
    for setting, name in named.items():
        if name is not None:
            yield from _constitution(loaded, setting, name)


def _constitution(loaded: Loaded, setting: str, name: str) -> Iterator[Problem]:
    path = resources.find_constitution(name, _folder(loaded))
    if path is None:
        fix = f"Write its path, or one of {', '.join(resources.constitutions())}."
        yield loaded.problem(setting, f"there is no constitution {name!r}", fix)
        return
    try:
        constitution.load(path)
    except InputError as error:
        yield from error.problems


def _prompts(loaded: Loaded) -> Iterator[Problem]:
    campaign = loaded.campaign
    named = {
        "prompts.train": campaign.prompts.train,
        "prompts.heldout": campaign.prompts.heldout,
        "revise.prompts": campaign.revise.prompts or [],
        "revise.helpful": campaign.revise.helpful or [],
    }
    for setting, patterns in named.items():
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            if not pattern.startswith("datasets:") and resources.find_pattern(pattern, _folder(loaded)) is None:
                fix = "Write a path or glob of .jsonl or .parquet files, or datasets:NAME."
                yield loaded.problem(setting, f"no file matches {pattern!r}", fix)


def _accelerate(loaded: Loaded) -> Iterator[Problem]:
    name = loaded.campaign.train.accelerate_config
    if name and resources.find(name, _folder(loaded)) is None:
        fix = "Make one with `accelerate config --config_file accelerate.yaml`."
        yield loaded.problem("train.accelerate_config", f"there is no file {name!r}", fix)


def _calibration(loaded: Loaded) -> Iterator[Problem]:
    name = loaded.campaign.judge.calibration
    path = resources.find(name, _folder(loaded)) if name else None
    if name and path is None:
        fix = "Make one with `selfalign judge calibrate RUN --out calibration.json`."
        yield loaded.problem("judge.calibration", f"there is no file {name!r}", fix)
    elif path is not None:
        try:
            judge_calibration.read(path)
        except InputError as error:
            yield from error.problems


def _models(loaded: Loaded) -> Iterator[Problem]:
    campaign = loaded.campaign
    named = {
        "policy.model": (campaign.policy.model, campaign.policy.trust_remote_code),
        "judge.model": (campaign.judge.model, campaign.judge.trust_remote_code),
        "evaluate.judge.model": (campaign.evaluate.judge.model, campaign.judge.trust_remote_code),
    }
    for setting, (model, trust) in named.items():
        if model and model not in NOT_FOLDERS and not model.startswith("openai:"):
            yield from _model(loaded, setting, model, trust)


def _model(loaded: Loaded, setting: str, name: str, trust_remote_code: bool) -> Iterator[Problem]:
    path = resources.find(resources.model(name), _folder(loaded))
    if path is not None:
        for message, fix in model_problems(path, trust_remote_code=trust_remote_code):
            yield loaded.problem(setting, f"{setting} is {name!r}: {message}", fix)
    elif name != resources.model(name):
        yield loaded.problem(
            setting, f"the model {name!r} does not come with this installation", "Install selfalign anew."
        )
    elif not HUB_NAME.fullmatch(name):
        fix = "Write a folder that exists, or a name on the Hub such as Qwen/Qwen3-4B."
        yield loaded.problem(setting, f"there is no model folder {name!r}", fix)


def model_problems(path: Path, *, trust_remote_code: bool = False) -> Iterator[tuple[str, str]]:
    """What keeps a folder from being a model that can be loaded safely, as (what, fix)."""
    if not path.is_dir():
        yield "it is a file, not a model folder", "Name the folder that holds config.json."
        return
    settings = _json(path / "config.json")
    if not isinstance(settings, dict):
        yield "it has no readable config.json, so it is not a model folder", "Name the folder that holds config.json."
        return
    yield from _weights(path)
    tokenizer = _json(path / "tokenizer_config.json")
    tokenizer = tokenizer if isinstance(tokenizer, dict) else {}
    yield from _tokenizer(path, tokenizer)
    if not trust_remote_code:
        yield from _code(settings, tokenizer)


def _weights(path: Path) -> Iterator[tuple[str, str]]:
    shards = _json(path / "model.safetensors.index.json")
    if isinstance(shards, dict) and isinstance(shards.get("weight_map"), dict):
        missing = sorted(name for name in set(shards["weight_map"].values()) if not (path / str(name)).is_file())
        if missing:
            yield f"the shard {missing[0]} of its weights is missing ({len(missing)} in all)", "Copy the folder again."
    elif not any(path.glob("*.safetensors")):
        pickled = sorted(found.name for ending in ("*.bin", "*.pt", "*.pth") for found in path.glob(ending))
        if pickled:
            fix = "Convert it once, where you trust it: load it with transformers and save_pretrained it."
            yield f"its weights are in {pickled[0]}, a pickle that can run code; only safetensors are loaded", fix
        else:
            yield "it holds no *.safetensors weights", "Copy the folder again, with its weights."


def _tokenizer(path: Path, settings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")):
        yield "it has no tokenizer", "Save the tokenizer into the same folder."
    elif not (settings.get("chat_template") or (path / "chat_template.jinja").is_file()):
        fix = "Use an instruction-tuned model, or put a chat_template.jinja into the folder."
        yield "its tokenizer has no chat template, so it is not clear how to ask it", fix


def _code(*settings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Settings through which a model folder names code to run."""
    for values in settings:
        for key in ("auto_map", "_attn_implementation_internal"):
            if values.get(key):
                fix = "If you have read and trust it, set trust_remote_code: true beside the model."
                yield f"its {key} names code of its own, which would be run", fix
                return


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
