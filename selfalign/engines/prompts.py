"""The prompts of requests as token ids, for the engines that hold a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfalign.chat import encode_chat, encode_text
from selfalign.engines.base import ChoiceRequest, EngineError
from selfalign.records import Message


class PromptEncoder:
    """A tokenizer that encodes conversations and labels, and decodes answers."""

    def __init__(self, folder: Path, *, trust_remote_code: bool) -> None:
        from transformers import AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        self._labels: dict[str, int] = {}
        self._last: tuple[tuple[Message, ...], list[int]] | None = None

    def encode(self, messages: tuple[Message, ...]) -> list[int]:
        """Token ids of a conversation up to where the answer starts. The last is kept: samples come in a row."""
        if self._last is None or self._last[0] != messages:
            self._last = (messages, encode_chat(self.tokenizer, messages))
        return self._last[1]

    def encode_choice(self, request: ChoiceRequest) -> list[int]:
        """Token ids of a conversation up to where a label is to come."""
        ids = self.encode(request.messages)
        return [*ids, *encode_text(self.tokenizer, request.prefix)] if request.prefix else ids

    def decode(self, token_ids: Sequence[int]) -> str:
        return self.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def label_ids(self, labels: Sequence[str]) -> tuple[int, ...]:
        """The token of each label. Raises EngineError unless each is a single token of its own."""
        for label in labels:
            if label not in self._labels:
                self._labels[label] = self._label_id(label)
        ids = tuple(self._labels[label] for label in labels)
        if len(set(ids)) != len(ids):
            raise EngineError(f"the labels {', '.join(labels)} share tokens, so answers by them cannot be told apart")
        return ids

    def _label_id(self, label: str) -> int:
        ids = self.tokenizer(label, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and self.tokenizer.decode(ids) == label:
            return ids[0]
        raise EngineError(
            f"the label {label!r} is not a single token of this model's tokenizer (it is {len(ids)}), so its "
            "probability cannot be read off the first token; choose other labels in judge.labels_pairwise or "
            "judge.labels_pointwise"
        )
