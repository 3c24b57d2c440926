"""Prompts to write, and bits to flip."""

from __future__ import annotations

from pathlib import Path

from selfalign.records import Message, Prompt


def prompts(number: int, label: str = "q") -> list[Prompt]:
    return [Prompt.make((Message("user", f"{label} {i}"),)) for i in range(number)]


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))
