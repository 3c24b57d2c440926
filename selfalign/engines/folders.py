"""Model folders: where they are, whether they may be loaded, and whether one's weights fit into another's engine."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfalign.engines.base import EngineError

# Settings of a model that say nothing of its weights. (A model that is read and saved again often changes in them.)
_INCIDENTAL = frozenset(
    {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache", "pad_token_id", "bos_token_id"}
)
_VOCABULARY = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
_TEMPLATE = ("chat_template.jinja", "tokenizer_config.json", "special_tokens_map.json")
_DOWNLOADED = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.py"]


def resolve_model(model: str) -> Path:
    """Return the folder of a model: `model` itself, or a snapshot of the Hugging Face model NAME or NAME@REVISION.

    Raises EngineError where there is no such model, or it has no safetensors weights: other formats run code.
    """
    folder = Path(model)
    if not folder.is_dir():
        if folder.is_absolute() or model.startswith("."):
            raise EngineError(f"{model} is not a folder; give the path of a model folder or a Hugging Face model name")
        folder = _download(model)
    if not (folder / "config.json").is_file():
        raise EngineError(f"{model} is not a model folder: it has no config.json")
    if not any(folder.glob("*.safetensors")):
        raise EngineError(
            f"{model} has no *.safetensors weights. Weights in other formats can run code and are not loaded; "
            "convert them with `model.save_pretrained(folder)`"
        )
    return folder


@dataclass(frozen=True, slots=True)
class Identity:
    """What must agree for the weights of one folder to fit into an engine that holds another."""

    folder: Path  # it may be gone by the time that it is compared
    shape: dict[str, Any]
    vocabulary: str  # hash of the tokenizer's files
    files: str  # the same with the chat template

    @staticmethod
    def of(folder: Path) -> Identity:
        shape = {key: value for key, value in _config(folder).items() if key not in _INCIDENTAL}
        return Identity(folder, shape, _hash(folder, _VOCABULARY), _hash(folder, (*_VOCABULARY, *_TEMPLATE)))

    @property
    def rewards(self) -> bool:
        """Whether the model is a sequence classifier, such as a reward model."""
        return str((self.shape.get("architectures") or [""])[0]).endswith("ForSequenceClassification")

    def difference(self, other: Identity) -> str | None:
        """Say what keeps the weights of `other` out of an engine that holds `self`; None where they fit."""
        fields = self.shape.keys() | other.shape.keys()
        changed = sorted(f for f in fields if self.shape.get(f) != other.shape.get(f))
        if changed:
            was = [f"{f} is {other.shape.get(f)!r}, not {self.shape.get(f)!r}" for f in changed[:3]]
            return "its config.json differs: " + "; ".join(was)
        same = self.vocabulary == other.vocabulary
        return None if same or _words(self.folder) == _words(other.folder) else "its tokenizer differs"


def _config(folder: Path) -> dict[str, Any]:
    """The model's settings, read through transformers: versions of it write the same settings in different ways."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False).to_dict()
    except Exception:  # an architecture that transformers does not know; vLLM may
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def _words(folder: Path) -> dict[str, int] | None:
    """Tokens and their ids. Saving a tokenizer again may rewrite its files and leave this as it is."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    try:
        return Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    except Exception as error:  # tokenizers raises plain Exception
        raise EngineError(f"{path} cannot be read as a tokenizer: {error}") from error


def _download(model: str) -> Path:
    from huggingface_hub import snapshot_download

    name, _, revision = model.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=_DOWNLOADED))
    except Exception as error:  # the hub's errors have many types
        raise EngineError(
            f"{model} is neither a folder nor a model that could be fetched from Hugging Face: {error}"
        ) from error


def _hash(folder: Path, names: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for name in names:
        path = folder / name
        if path.is_file():
            digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
