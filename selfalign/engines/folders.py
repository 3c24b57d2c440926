"""Model folders: where they are, whether they may be loaded, and whether one's weights fit into another's engine."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfalign.engines.base import EngineError

# Fields of config.json that say nothing of the shape of the model.
_INCIDENTAL = frozenset(
    {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache", "_attn_implementation_autoset"}
)
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

    shape: dict[str, Any]
    tokenizer: str
    template: str

    @staticmethod
    def of(folder: Path) -> Identity:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        shape = {key: value for key, value in config.items() if key not in _INCIDENTAL}
        vocabulary = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
        template = ("chat_template.jinja", "tokenizer_config.json", "special_tokens_map.json")
        return Identity(shape, _hash(folder, vocabulary), _hash(folder, template))

    def difference(self, other: Identity) -> str | None:
        """Say what keeps the weights of `other` out of an engine that holds `self`; None where they fit."""
        fields = self.shape.keys() | other.shape.keys()
        changed = sorted(f for f in fields if self.shape.get(f) != other.shape.get(f))
        if changed:
            was = [f"{f} is {other.shape.get(f)!r}, not {self.shape.get(f)!r}" for f in changed[:3]]
            return "its config.json differs: " + "; ".join(was)
        return None if self.tokenizer == other.tokenizer else "its tokenizer differs"


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
