"""The tokenizer that policy and judge share, and how their prompts become tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from selfalign.records import Message
from selfalign.stages import judge

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
SPECIAL = (PAD, END, SYSTEM, USER, ASSISTANT)
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
LABELS = ("A", "B", "1", "2", "3", "4", "5")


def template_literals() -> list[str]:
    """The fixed phrases of the judge templates: one token each, so that a judgment costs little more than its texts."""
    holes = ("\x01", "\x02", "\x03", "\x04")
    message, first, second, principle = holes
    rendered = (
        (
            judge.render_pairwise([Message("user", message)], first, second, principle),
            judge.make_nonce(message, beside=(first, second)),
        ),
        (
            judge.render_pointwise([Message("user", message)], first, principle),
            judge.make_nonce(message, beside=(first,)),
        ),
    )
    pieces = (piece for text, nonce in rendered for piece in re.split("|".join((*holes, nonce)), text))
    return list(dict.fromkeys(piece for piece in pieces if len(piece) > 3))


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: Path) -> None:
    """Train byte-level BPE and write it as a transformers tokenizer with its chat template."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    literals = template_literals()
    split = re.compile("|".join(sorted(map(re.escape, literals), key=len, reverse=True)))
    tokenizer = Tokenizer(models.BPE())
    words = Regex(r" ?[\p{L}\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(literals),
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((piece for text in texts for piece in split.split(text)), trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in literals])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, chat_template=CHAT_TEMPLATE, model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    fast.save_pretrained(folder)


class Coder:
    """Encodes prompts as the engines do: template tokens around contents that can hold no special token."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.pad, self.end, _, self.user, self.assistant = (tokenizer.convert_tokens_to_ids(t) for t in SPECIAL)
        self.labels = {label: self._single(label) for label in LABELS}

    def _single(self, label: str) -> int:
        (token,) = self.encode(label)
        return token

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def encode_many(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"] if texts else []

    def chat(self, content: list[int]) -> list[int]:
        """Wrap one user turn and open the assistant's."""
        return [self.user, *content, self.end, self.assistant]


def load_coder(folder: Path) -> Coder:
    from transformers import AutoTokenizer

    return Coder(AutoTokenizer.from_pretrained(folder))
