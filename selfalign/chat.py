"""Conversations to token ids, so that no text inside a message can become a control token.

Engines and training both encode through here: what the policy is asked is then what it is trained on.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from selfalign.records import Message

_PRIVATE_USE = range(0xE000, 0xF900)


class ChatError(ValueError):
    """A conversation that cannot be encoded: the tokenizer has no chat template, or the template refuses it."""


def encode_chat(tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> list[int]:
    """Render `messages` with the tokenizer's chat template and return the token ids.

    Control tokens come from the template alone: where a message spells one ("<|im_end|>"), it is encoded as the plain
    text that it is. For all other messages the ids equal those of `tokenizer.apply_chat_template`.

    How: control tokens spelled inside messages are broken up by a private-use character before rendering, which
    survives whatever the template does to contents (trimming, lower-casing, cutting). Whole control tokens in the
    rendered text are then the template's own; the text between them is encoded with special tokens switched off.

    Raises ChatError where the tokenizer has no chat template, the template refuses the conversation, or the tokenizer
    still produces a control token that the template did not write.
    """
    controls = _controls(tokenizer)
    mark = _unused_character(messages)
    turns = [{"role": m.role, "content": _break_up(m.content, controls, mark)} for m in messages]
    rendered = _render(tokenizer, turns, add_generation_prompt)
    expected = controls.among([controls.ids[text] for text in controls.whole(mark).findall(rendered)])
    if mark not in rendered:
        ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
        if controls.among(ids) == expected:
            return ids
    ids = _encode_apart(tokenizer, rendered, controls, mark)
    if controls.among(ids) != expected:
        raise ChatError("the tokenizer makes control tokens out of message text; it cannot be used safely")
    return ids


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Token ids of text as it is: where it spells a control token, that is encoded as plain text too."""
    return _encode_plain(tokenizer, text)


def encode_answer(tokenizer: Any, messages: Sequence[Message], text: str, ends: Collection[int]) -> list[int]:
    """The tokens with which a model would answer `text`: what the template adds to the conversation, to the turn's end.

    `ends` are the model's end-of-turn tokens; the answer keeps the first, as a sampled one does. Raises ChatError where
    the template does not write the answer behind the words that ask for it, or closes it with none of `ends`.
    """
    asked = encode_chat(tokenizer, messages)
    whole = encode_chat(tokenizer, [*messages, Message("assistant", text)], add_generation_prompt=False)
    if whole[: len(asked)] != asked:
        raise ChatError("the chat template does not continue its own generation prompt; answers cannot be encoded")
    answer = whole[len(asked) :]
    end = next((place for place, token in enumerate(answer) if token in ends), None)
    if end is None:
        raise ChatError("the chat template ends an answer with none of the model's end-of-turn tokens")
    return answer[: end + 1]


class _Controls:
    """The control tokens of a tokenizer, and the patterns that find them in text."""

    def __init__(self, ids: dict[str, int], unknown: int | None) -> None:
        self.ids = ids
        self._values = frozenset(ids.values()) - {unknown}  # characters out of the vocabulary are honest text
        self._literals = "|".join(re.escape(text) for text in sorted(ids, key=len, reverse=True)) or r"(?!)"
        self.spelled = re.compile(self._literals, re.IGNORECASE)
        self._starts = frozenset(text[i:] for text in ids for i in range(1, len(text)))
        self._ends = frozenset(text[:i] for text in ids for i in range(1, len(text)))
        self._longest = max(map(len, ids), default=0)
        self._whole: dict[str, re.Pattern[str]] = {}

    def whole(self, mark: str) -> re.Pattern[str]:
        """Matches control tokens that are not broken up by `mark`."""
        if mark not in self._whole:
            self._whole[mark] = re.compile(f"(?<!{mark})(?:{self._literals})")
        return self._whole[mark]

    def among(self, ids: Sequence[int]) -> list[int]:
        return [i for i in ids if i in self._values]

    def is_tail(self, text: str) -> bool:
        """Whether `text` starts like the tail of a control token, which template text before it could complete."""
        return any(text[:size] in self._starts for size in range(1, self._longest))

    def head_length(self, text: str) -> int:
        """How many characters at the end of `text` are the head of a control token, which later text could complete."""
        sizes = range(min(self._longest, len(text)), 0, -1)
        return next((size for size in sizes if text[-size:] in self._ends), 0)


def _controls(tokenizer: Any) -> _Controls:
    """The control tokens of `tokenizer`, read once and kept on it."""
    known = getattr(tokenizer, "_selfalign_controls", None)
    if known is None:
        added = tokenizer.added_tokens_decoder
        known = _Controls({token.content: i for i, token in added.items() if token.special}, tokenizer.unk_token_id)
        tokenizer._selfalign_controls = known
    return known


def _unused_character(messages: Sequence[Message]) -> str:
    """A private-use character that occurs in none of the messages."""
    used = {c for m in messages for c in m.content if c >= "\ue000"} if not _all_ascii(messages) else set()
    return next(chr(code) for code in _PRIVATE_USE if chr(code) not in used)


def _all_ascii(messages: Sequence[Message]) -> bool:
    return all(m.content.isascii() for m in messages)


def _break_up(content: str, controls: _Controls, mark: str) -> str:
    """Put `mark` before each character of every control token spelled in `content`, and of one begun or ended there."""
    bare = content.strip()
    start = content.find(bare)
    before, after = content[:start], content[start + len(bare) :]
    head = controls.head_length(bare)
    kept, head_text = bare[: len(bare) - head], bare[len(bare) - head :]
    broken = controls.spelled.sub(lambda match: _spaced(match.group(), mark), kept) + _spaced(head_text, mark)
    return before + (mark if controls.is_tail(bare) else "") + broken + after


def _spaced(text: str, mark: str) -> str:
    return "".join(mark + character for character in text)


def _render(tokenizer: Any, turns: list[dict[str, str]], add_generation_prompt: bool) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise ChatError(
            "the tokenizer has no chat template, so conversations cannot be put to the model; "
            "use an instruction-tuned model, or add a chat_template.jinja to the model folder"
        )
    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt)
    except Exception as error:  # templates refuse by whatever exception they like
        roles = ", ".join(turn["role"] for turn in turns)
        raise ChatError(f"the chat template refuses a conversation of {roles}: {error}") from error


def _encode_apart(tokenizer: Any, rendered: str, controls: _Controls, mark: str) -> list[int]:
    """Encode the template's control tokens as themselves, and all text between them without special tokens."""
    ids: list[int] = []
    end = 0
    for match in controls.whole(mark).finditer(rendered):
        ids += _encode_plain(tokenizer, rendered[end : match.start()].replace(mark, ""))
        ids.append(controls.ids[match.group()])
        end = match.end()
    return ids + _encode_plain(tokenizer, rendered[end:].replace(mark, ""))


def _encode_plain(tokenizer: Any, text: str) -> list[int]:
    if not text:
        return []
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
