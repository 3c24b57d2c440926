"""transformers as an engine: padded batches of similar length, for machines on which vLLM does not run."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, DynamicCache

from selfalign.chat import ChatError
from selfalign.config import EngineSettings
from selfalign.engines.base import (
    Choice,
    ChoiceRequest,
    EngineError,
    GenerateRequest,
    Generation,
    Rewarded,
    Sampling,
    Score,
    ScoreRequest,
    softmax,
)
from selfalign.engines.folders import Identity, resolve_model
from selfalign.engines.hardware import compute_dtype
from selfalign.engines.prompts import PromptEncoder

_BATCH_TOKENS = 16384  # padded prompt tokens of one forward pass
_LOGIT_VALUES = 1 << 27  # values of one [rows, positions, vocabulary] tensor: 512 MiB in float32
_SHRINK = 0.75  # drop finished rows from the batch once this share of it or less is alive

Item = TypeVar("Item")


@dataclass(slots=True, eq=False)
class _Row:
    """One sequence being sampled. `draws`: a uniform number in [0, 1) for each token to come, from the row's seed."""

    request: GenerateRequest
    prompt: list[int]
    draws: torch.Tensor
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class TransformersEngine:
    """One model in transformers, on a GPU where there is one, else on the CPU."""

    def __init__(self, model_path: str, settings: EngineSettings, *, trust_remote_code: bool = False) -> None:
        """Load a model. Raises EngineError where the folder is unfit or the model cannot be loaded."""
        self._settings = settings
        self._trust = trust_remote_code
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = compute_dtype(settings.dtype)
        self._folder = resolve_model(model_path)
        self._identity = Identity.of(self._folder)
        self._read()

    def generate(self, requests: Iterable[GenerateRequest], sampling: Sampling) -> Iterator[Generation]:
        if sampling.schema:
            warnings.warn(
                "the transformers engine cannot hold a model to a schema: its replies are free text, and those that "
                "are not the JSON asked for are invalid verdicts. Use vLLM where it runs",
                stacklevel=2,
            )
        for window in _windows(requests, self._window):
            rows: list[_Row] = []
            for request in window:
                try:
                    prompt = self._fitting(self._prompts.encode(request.messages))
                except ChatError as error:
                    yield Generation(request.id, str(error), (), "error", None, 0)
                    continue
                count = min(sampling.max_tokens, max(1, self._limit - 1 - len(prompt)))
                generator = torch.Generator().manual_seed(request.seed)
                rows.append(_Row(request, prompt, torch.rand(count, generator=generator, dtype=torch.float64)))
            for batch in self._batches(rows, [len(row.prompt) for row in rows]):
                yield from self._sample(batch, sampling)

    def choose(self, requests: Iterable[ChoiceRequest]) -> Iterator[Choice]:
        for window in _windows(requests, self._window):
            asked: list[tuple[ChoiceRequest, list[int]]] = []
            for request in window:
                try:
                    asked.append((request, self._fitting(self._prompts.encode_choice(request))))
                except ChatError as error:
                    yield Choice(request.id, None, str(error), 0, 0.0, "error")
            for batch in self._batches(asked, [len(prompt) for _, prompt in asked]):
                started = time.perf_counter()
                logits = self._forward([prompt for _, prompt in batch], keep=1)[:, -1].float().cpu()
                seconds = (time.perf_counter() - started) / len(batch)
                for (request, prompt), row in zip(batch, logits, strict=True):
                    yield self._choice(request, row, len(prompt), seconds)

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[Score]:
        for window in _windows(requests, self._window):
            asked = [(request, self._scored(request)) for request in window]
            for batch in self._batches(asked, [len(tokens) for _, tokens in asked]):
                yield from self._score(batch)

    def reward(self, requests: Iterable[ScoreRequest]) -> Iterator[Rewarded]:
        if not self._identity.rewards:
            raise EngineError(f"{self._folder} is no reward model: it gives no reward")
        for window in _windows(requests, self._window):
            asked = [(request, self._scored(request)) for request in window]
            for batch in self._batches(asked, [len(tokens) for _, tokens in asked]):
                rewards = self._rewards([tokens for _, tokens in batch])
                yield from (Rewarded(request.id, reward) for (request, _), reward in zip(batch, rewards, strict=True))

    def check_labels(self, labels: Sequence[str]) -> None:
        self._prompts.label_ids(labels)

    def accepts(self, model_path: str) -> bool:
        try:
            return self._identity.difference(Identity.of(resolve_model(model_path))) is None
        except EngineError:
            return False

    def load(self, model_path: str) -> None:
        folder = resolve_model(model_path)
        identity = Identity.of(folder)
        if (difference := self._identity.difference(identity)) is not None:
            raise EngineError(f"{model_path} does not fit into the engine that holds {self._folder}: {difference}")
        self._folder, self._identity = folder, identity
        self._model = None  # two models might not fit
        self._read()

    def sleep(self) -> None:
        if self._device.type == "cuda":
            self._model.to("cpu")
            torch.cuda.empty_cache()

    def close(self) -> None:
        self._model = None

    @property
    def _window(self) -> int:
        """Requests to read ahead, from which batches of similar length are made."""
        return 4 * self._settings.max_num_seqs

    def _read(self) -> None:
        self._prompts = PromptEncoder(self._folder, trust_remote_code=self._trust)
        kind = AutoModelForSequenceClassification if self._identity.rewards else AutoModelForCausalLM
        try:
            model = kind.from_pretrained(
                self._folder, dtype=getattr(torch, self.dtype), use_safetensors=True, trust_remote_code=self._trust
            )
        except Exception as error:  # unknown architecture, damaged file, out of memory: each its own type
            raise EngineError(f"transformers cannot load {self._folder}: {error}") from error
        self._model: Any = model.to(self._device).eval()
        config = model.config.get_text_config()
        self._limit = self._settings.max_model_len or getattr(config, "max_position_embeddings", None) or 4096
        self._vocabulary = config.vocab_size
        self._ends = _end_tokens(model, self._prompts.tokenizer)

    def _fitting(self, prompt: list[int]) -> list[int]:
        if len(prompt) >= self._limit:
            raise ChatError(f"prompt too long: {len(prompt)} tokens, at most {self._limit - 1}")
        return prompt

    def _scored(self, request: ScoreRequest) -> list[int]:
        try:
            tokens = [*self._prompts.encode(request.messages), *request.token_ids]
        except ChatError as error:
            raise EngineError(f"request {request.id} cannot be scored: {error}") from error
        if len(tokens) > self._limit:
            raise EngineError(f"request {request.id} cannot be scored: {len(tokens)} tokens, at most {self._limit}")
        return tokens

    def _batches(self, items: Sequence[Item], lengths: Sequence[int]) -> Iterator[list[Item]]:
        """Group items of similar length, longest first, by rows and padded tokens."""
        order = sorted(range(len(items)), key=lambda i: -lengths[i])
        while order:
            rows = max(1, min(self._settings.max_num_seqs, _BATCH_TOKENS // max(1, lengths[order[0]])))
            yield [items[i] for i in order[:rows]]
            order = order[rows:]

    @torch.inference_mode()
    def _forward(self, sequences: Sequence[list[int]], *, keep: int) -> torch.Tensor:
        """Logits [rows, keep, vocabulary] at the last `keep` positions of each sequence."""
        tokens, mask = self._padded(sequences)
        return self._model(
            input_ids=tokens, attention_mask=mask, position_ids=_positions(mask), logits_to_keep=keep, use_cache=False
        ).logits

    @torch.inference_mode()
    def _rewards(self, sequences: Sequence[list[int]]) -> list[float]:
        """The head's output, in float32, at the last token of each sequence."""
        tokens, mask = self._padded(sequences)
        states = self._model.base_model(
            input_ids=tokens, attention_mask=mask, position_ids=_positions(mask), use_cache=False
        ).last_hidden_state[:, -1]
        return torch.nn.functional.linear(states.float(), self._model.score.weight.float()).squeeze(-1).tolist()

    def _padded(self, sequences: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Left-padded token ids and attention mask, [rows, longest]."""
        self._model.to(self._device)  # after sleep
        longest = max(map(len, sequences))
        tokens = torch.zeros(len(sequences), longest, dtype=torch.long)
        mask = torch.zeros(len(sequences), longest, dtype=torch.long)
        for i, sequence in enumerate(sequences):
            tokens[i, longest - len(sequence) :] = torch.tensor(sequence)
            mask[i, longest - len(sequence) :] = 1
        return tokens.to(self._device), mask.to(self._device)

    @torch.inference_mode()
    def _sample(self, rows: list[_Row], sampling: Sampling) -> Iterator[Generation]:
        """Sample a batch to its end; rows are yielded as they finish and leave the batch by and by."""
        tokens, mask = self._padded([row.prompt for row in rows])
        positions = _positions(mask)
        cache = DynamicCache(config=self._model.config)
        alive: list[_Row | None] = list(rows)
        while True:
            output = self._model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            picked, logprobs = _pick(output.logits[:, -1].float().cpu(), alive, sampling)
            for i, row in enumerate(alive):
                if row is not None and (reason := self._extend(row, picked[i], logprobs[i])):
                    alive[i] = None
                    yield self._generation(row, reason)
            kept = [i for i, row in enumerate(alive) if row is not None]
            if not kept:
                return
            tokens = torch.tensor(picked, device=self._device).unsqueeze(1)
            positions = positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            if len(kept) <= _SHRINK * len(alive):
                index = torch.tensor(kept, device=self._device)
                tokens, positions, mask = tokens[index], positions[index], mask[index]
                cache.batch_select_indices(index)
                alive = [alive[i] for i in kept]

    def _extend(self, row: _Row, token: int, logprob: float) -> str | None:
        """Add a sampled token to its row; the finish reason where it was the last."""
        row.tokens.append(token)
        row.logprobs.append(logprob)
        if token in self._ends:
            return "stop"
        return "length" if len(row.tokens) == len(row.draws) else None

    def _generation(self, row: _Row, reason: str) -> Generation:
        text, tokens, logprobs = self._prompts.decode(row.tokens), tuple(row.tokens), tuple(row.logprobs)
        return Generation(row.request.id, text, tokens, reason, math.fsum(logprobs), len(row.prompt), logprobs)

    def _choice(self, request: ChoiceRequest, logits: torch.Tensor, prompt_tokens: int, seconds: float) -> Choice:
        labels = self._prompts.label_ids(request.labels)
        probabilities = softmax(logits[list(labels)].tolist())
        if probabilities is None:
            reason = "the model gives none of the labels a finite probability"
            return Choice(request.id, None, reason, prompt_tokens, seconds, "error")
        best = max(zip(probabilities, request.labels, strict=True))[1]
        return Choice(request.id, probabilities, best, prompt_tokens, seconds)

    def _score(self, batch: Sequence[tuple[ScoreRequest, list[int]]]) -> Iterator[Score]:
        """Score a batch in as many passes as its logits need room for."""
        keep = max(len(request.token_ids) for request, _ in batch) + 1
        rows = max(1, _LOGIT_VALUES // (keep * self._vocabulary))
        for start in range(0, len(batch), rows):
            part = batch[start : start + rows]
            logits = self._forward([tokens for _, tokens in part], keep=keep)
            for (request, _), row in zip(part, logits, strict=True):
                yield Score(request.id, _logprobs(row, request.token_ids))


def _logprobs(logits: torch.Tensor, token_ids: Sequence[int]) -> tuple[float, ...]:
    """Log-probabilities of the last tokens, from the logits [positions, vocabulary] that end at the last of them."""
    if not token_ids:
        return ()
    targets = torch.tensor(token_ids, device=logits.device)
    rows = logits[-len(token_ids) - 1 : -1].float()
    return tuple((rows.gather(1, targets[:, None]).squeeze(1) - rows.logsumexp(1)).tolist())


def _pick(logits: torch.Tensor, rows: Sequence[_Row | None], sampling: Sampling) -> tuple[list[int], list[float]]:
    """Sample a token for each row by inverting the distribution function at the row's own uniform draw.

    `logits`: [rows, vocabulary], float32. Returns the tokens and their log-probabilities at temperature 1.
    """
    raw = torch.log_softmax(logits, dim=-1)
    if sampling.temperature == 0.0:
        picked = raw.argmax(dim=-1)
    else:
        probabilities = torch.softmax(logits.double() / sampling.temperature, dim=-1)
        if sampling.top_p < 1.0:
            probabilities = _nucleus(probabilities, sampling.top_p)
        cumulative = probabilities.cumsum(dim=-1)
        draws = torch.stack(
            [torch.zeros((), dtype=torch.float64) if r is None else r.draws[len(r.tokens)] for r in rows]
        )
        picked = torch.searchsorted(cumulative, (draws * cumulative[:, -1])[:, None], right=True).squeeze(1)
        picked = picked.clamp(max=logits.shape[1] - 1)
    return picked.tolist(), raw.gather(1, picked[:, None]).squeeze(1).tolist()


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keep the smallest set of tokens with a total probability of at least `top_p` (Holtzman et al. 2020)."""
    ordered, index = probabilities.sort(dim=-1, descending=True)
    before = ordered.cumsum(dim=-1) - ordered
    return torch.zeros_like(probabilities).scatter(1, index, ordered.where(before < top_p, 0.0))


def _positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    ends = model.generation_config.eos_token_id if model.can_generate() else None
    listed = ends if isinstance(ends, list) else [ends]
    return frozenset(i for i in [*listed, tokenizer.eos_token_id] if i is not None)


def _windows(requests: Iterable[Item], size: int) -> Iterator[list[Item]]:
    source = iter(requests)
    while window := list(islice(source, size)):
        yield window
