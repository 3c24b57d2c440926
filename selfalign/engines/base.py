"""The one seam of inference: conversations in, text and log-probabilities out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from selfalign.records import InvalidReason, Message


@dataclass(frozen=True, slots=True)
class Sampling:
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 512
    logprobs: bool = False  # whether Generation.logprobs are wanted: on a CPU they cost up to a fifth of the time
    schema: str = ""  # JSON Schema of the answer; where an engine cannot enforce it, it says so and answers freely


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """Sample one answer to a conversation. The same request with the same seed and weights gives the same answer."""

    id: str
    messages: tuple[Message, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Generation:
    """`logprobs`: of each of `token_ids` under the sampled-from model at temperature 1, in nats, and `logprob` their
    sum; an engine may leave both None where they were not asked for.

    `token_ids` end with the end-of-turn token where one was sampled; `text` leaves control tokens out. A request that
    cannot be served (a prompt longer than the model's context) has finish reason "error", with the reason as text; so
    has one that a service refuses to answer, which is `refused`.
    """

    id: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str  # stop | length | error
    logprob: float | None
    num_prompt_tokens: int
    logprobs: tuple[float, ...] | None = None
    refused: bool = False


@dataclass(frozen=True, slots=True)
class ChoiceRequest:
    """Ask for the probabilities of the labels as the first token of the answer, or as the next after `prefix`.

    `prefix` is how the answer begins: text of a model, encoded without control tokens.
    """

    id: str
    messages: tuple[Message, ...]
    labels: tuple[str, ...]
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """`probabilities` sum to 1 over the labels, in the request's order; None where the engine got no valid answer.

    `raw` is the most probable label, or the reason why there is none, of which `invalid` is the kind.
    """

    id: str
    probabilities: tuple[float, ...] | None
    raw: str
    num_prompt_tokens: int
    seconds: float
    invalid: InvalidReason = ""


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Ask for the log-probabilities of given completion tokens after a conversation, or for their reward."""

    id: str
    messages: tuple[Message, ...]
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Score:
    id: str
    logprobs: tuple[float, ...]  # one per completion token, nats, temperature 1


@dataclass(frozen=True, slots=True)
class Rewarded:
    """What a reward model makes of a completion: its raw output at the last token."""

    id: str
    reward: float


class EngineError(RuntimeError):
    """The engine cannot serve: what, why and what to do next, in one message."""


class Engine(Protocol):
    """An engine holds one model at a time. Results come as they finish, in any order, one for each request id.

    Requests are pulled lazily from the iterable, so that a stage of any size runs in flat memory; closing the returned
    generator drops what is in flight.
    """

    dtype: str  # in which the model computes: float32, bfloat16 or float16

    def generate(self, requests: Iterable[GenerateRequest], sampling: Sampling) -> Iterator[Generation]: ...

    def choose(self, requests: Iterable[ChoiceRequest]) -> Iterator[Choice]: ...

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[Score]: ...

    def reward(self, requests: Iterable[ScoreRequest]) -> Iterator[Rewarded]:
        """The rewards of given completions, where the model is a sequence classifier of one label.

        Raises EngineError where it is none, or a completion is too long for it.
        """

    def check_labels(self, labels: Sequence[str]) -> None:
        """Raise EngineError unless each label is a single token of its own."""

    def accepts(self, model_path: str) -> bool:
        """Whether `load` can take this model: same architecture, same shapes, same tokenizer."""

    def load(self, model_path: str) -> None:
        """Put the weights of `model_path` in place of the present ones. Raises EngineError unless they fit."""

    def sleep(self) -> None:
        """Give the accelerator's memory back until the next call. Without an accelerator this does nothing."""

    def close(self) -> None: ...


def softmax(logprobs: Sequence[float]) -> tuple[float, ...] | None:
    """Normalise log-probabilities over the given entries alone, in float64; None for nan or all -inf."""
    largest = max(logprobs)
    if not math.isfinite(largest) or any(map(math.isnan, logprobs)):
        return None
    weights = [math.exp(value - largest) for value in logprobs]
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights)
