"""Preference pairs as token ids: read from the records of a round, held as flat arrays."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from selfalign.records import Candidate, Message, Pair, Prompt, digest
from selfalign.store import read_records

Encode = Callable[[Sequence[Message]], list[int]]


class NoPairs(ValueError):
    """Nothing is left to train on."""


@dataclass(frozen=True)
class TokenPair:
    """One pair as it is trained on. `key` names it: prompt, chosen and rejected id."""

    key: str
    prompt: Sequence[int]
    chosen: Sequence[int]
    rejected: Sequence[int]
    p_chosen: float = 1.0
    weight: float = 1.0


class PairDataset:
    """N pairs; all token ids lie in one int32 array, prompt, chosen and rejected of each pair one after the other."""

    def __init__(self, pairs: Iterable[TokenPair]) -> None:
        tokens: list[np.ndarray] = []
        lengths, labels, keys = [], [], []
        for pair in pairs:
            parts = [np.asarray(part, dtype=np.int32) for part in (pair.prompt, pair.chosen, pair.rejected)]
            tokens += parts
            lengths.append([len(part) for part in parts])
            labels.append((pair.p_chosen, pair.weight))
            keys.append(pair.key)
        self.keys = keys
        self.lengths = np.asarray(lengths, dtype=np.int64).reshape(-1, 3)  # [N, 3]: prompt, chosen, rejected
        self.labels = np.asarray(labels, dtype=np.float64).reshape(-1, 2)  # [N, 2]: p_chosen, weight
        self._tokens = np.concatenate(tokens) if tokens else np.zeros(0, dtype=np.int32)
        self._starts = np.concatenate([[0], np.cumsum(self.lengths.sum(1))])

    def __len__(self) -> int:
        return len(self.keys)

    def parts(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Token ids of prompt, chosen and rejected."""
        index %= len(self)
        start, stop = self._starts[index], self._starts[index + 1]
        prompt, chosen, _ = self.lengths[index]
        tokens = self._tokens[start:stop]
        return tokens[:prompt], tokens[prompt : prompt + chosen], tokens[prompt + chosen :]

    def mismatched(self, max_length: int) -> PairDataset:
        """Every prompt with the answers of the pair before it, cut where they would exceed `max_length` tokens.

        Raises NoPairs for a single pair, whose answers belong to the only prompt there is.
        """
        if len(self) < 2:
            raise NoPairs("KTO needs two pairs or more: its divergence is estimated on answers to other prompts")

        def pairs() -> Iterator[TokenPair]:
            for index, key in enumerate(self.keys):
                prompt = self.parts(index)[0]
                room = max(1, max_length - len(prompt))
                _, chosen, rejected = self.parts(index - 1)
                yield TokenPair(key, prompt, chosen[:room], rejected[:room])

        return PairDataset(pairs())

    def digest(self) -> str:
        """Hash of names, tokens, labels and weights."""
        content = hashlib.sha256()
        for array in (self._tokens, self.lengths, self.labels):
            content.update(np.ascontiguousarray(array).data)
        return digest("pairs", self.keys, content.hexdigest())

    def highest_token(self) -> int:
        return int(self._tokens.max(initial=0))

    def num_tokens(self, indexes: np.ndarray) -> int:
        """Tokens of both sequences of these pairs; a prompt counts twice, as in a trainer that does not share it."""
        return int((self.lengths[indexes] * (2, 1, 1)).sum())


def load_pairs(
    prompts_dir: Path, candidates_dir: Path, pairs_dir: Path, encode: Encode, max_length: int
) -> tuple[PairDataset, Counter[str]]:
    """Read a round's pairs as token ids, and count the pairs left out, by reason.

    A pair whose prompt and longer answer exceed `max_length` tokens is left out whole: truncation would take its
    end-of-turn token away. Raises NoPairs where none is left, KeyError where a record is missing.
    """
    pairs = list(read_records(pairs_dir, Pair))
    wanted = {pair.chosen_id for pair in pairs} | {pair.rejected_id for pair in pairs}
    answers = {
        candidate.id: np.asarray(candidate.token_ids, dtype=np.int32)
        for candidate in read_records(candidates_dir, Candidate)
        if candidate.id in wanted
    }
    needed = {pair.prompt_id for pair in pairs}
    prompts = {
        prompt.id: np.asarray(encode(prompt.messages), dtype=np.int32)
        for prompt in read_records(prompts_dir, Prompt)
        if prompt.id in needed
    }
    dropped: Counter[str] = Counter()
    dataset = PairDataset(_usable(_joined(pairs, prompts, answers), max_length, dropped))
    if not len(dataset):
        raise NoPairs(_no_pairs_message(pairs_dir, len(pairs), dropped))
    return dataset, dropped


def _joined(
    pairs: Iterable[Pair], prompts: dict[str, np.ndarray], answers: dict[str, np.ndarray]
) -> Iterator[TokenPair]:
    for pair in pairs:
        key = f"{pair.prompt_id}/{pair.chosen_id}/{pair.rejected_id}"
        try:
            prompt, chosen, rejected = prompts[pair.prompt_id], answers[pair.chosen_id], answers[pair.rejected_id]
        except KeyError as error:
            raise KeyError(f"pair {key}: no record has the id {error}; were prompts or candidates changed?") from error
        yield TokenPair(key, prompt, chosen, rejected, pair.p_chosen, pair.weight)


def _usable(pairs: Iterable[TokenPair], max_length: int, dropped: Counter[str]) -> Iterator[TokenPair]:
    for pair in pairs:
        if not (len(pair.prompt) and len(pair.chosen) and len(pair.rejected)):
            dropped["empty"] += 1
        elif len(pair.prompt) + max(len(pair.chosen), len(pair.rejected)) > max_length:
            dropped["too_long"] += 1
        elif np.array_equal(pair.chosen, pair.rejected):
            dropped["same_tokens"] += 1
        else:
            yield pair


def _no_pairs_message(folder: Path, total: int, dropped: Counter[str]) -> str:
    if not total:
        return f"{folder}: there are no pairs to train on. Loosen the filters under `pairs`, or draw more prompts."
    reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
    return f"{folder}: all {total} pairs were left out ({reasons}). For too_long ones raise train.max_length."
