"""What a model folder tells without loading the model: its size, and how many tokens a text has."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MAX_HEADER = 100 * 2**20  # bytes, the format's own limit
CHARS_PER_TOKEN = 4.0  # of English text under the usual tokenizers


@dataclass(frozen=True)
class ModelSize:
    num_parameters: int
    num_bytes: int  # on disk


def read_size(folder: Path) -> ModelSize | None:
    """The size of a model by the headers of its safetensors files; None where there are none or they are damaged."""
    try:
        files = sorted(folder.glob("*.safetensors"))
        headers = [_header(file) for file in files]
    except (OSError, ValueError):
        return None
    if not files:
        return None
    shapes = [entry["shape"] for header in headers for name, entry in header.items() if name != "__metadata__"]
    return ModelSize(sum(map(math.prod, shapes)), sum(file.stat().st_size for file in files))


def _header(file: Path) -> dict[str, dict[str, list[int]]]:
    """A safetensors header: eight bytes of length, little-endian, then JSON."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= MAX_HEADER:
            raise ValueError(f"{file}: not a safetensors file")
        return json.loads(stream.read(length))


def token_counter(folder: Path | None) -> tuple[Callable[[str], int], bool]:
    """A function that counts the tokens of a text, and whether it counts exactly, by the model's own tokenizer."""
    if folder is not None and (folder / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids), True
    return lambda text: math.ceil(len(text) / CHARS_PER_TOKEN), False
