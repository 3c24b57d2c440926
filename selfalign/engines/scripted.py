"""An engine that answers by functions: for tests, and for measuring everything around an engine."""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

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
)
from selfalign.records import Message

TextFunction = Callable[[tuple[Message, ...], int], str]
PreferenceFunction = Callable[[tuple[Message, ...], tuple[str, ...]], Sequence[float] | None]

_WORDS = ("the", "a", "one", "of", "to", "and", "in", "it", "is", "that", "for", "on", "with", "as", "at", "by", "from")


class ScriptedEngine:
    """Answers by two functions of the request, the same always, in the order asked.

    `text(messages, seed)` is the answer to a prompt; `preference(messages, labels)` gives a weight to each label, or
    None for an invalid answer; what an answer is to begin with is its last message. By default both are pseudo-random
    functions of their arguments and the loaded model; where a schema is asked for, a text that is no object fills one.
    Tokens are the bytes of the text. `loaded` lists the models that were put in place.
    """

    dtype = "float32"

    def __init__(
        self, model_path: str = "", *, text: TextFunction | None = None, preference: PreferenceFunction | None = None
    ) -> None:
        self.loaded = [model_path]
        self._text = text or self._words
        self._preference = preference or self._weights

    def generate(self, requests: Iterable[GenerateRequest], sampling: Sampling) -> Iterator[Generation]:
        for request in requests:
            tokens = tuple(self._answer(request, sampling).encode())
            kept = tokens[: sampling.max_tokens]
            logprobs = self._logprobs(request.messages, kept)
            yield Generation(
                id=request.id,
                text=bytes(kept).decode(errors="replace"),
                token_ids=kept,
                finish_reason="length" if len(tokens) > len(kept) else "stop",
                logprob=math.fsum(logprobs),
                num_prompt_tokens=_length(request.messages),
                logprobs=logprobs,
            )

    def choose(self, requests: Iterable[ChoiceRequest]) -> Iterator[Choice]:
        for request in requests:
            begun = (Message("assistant", request.prefix),) if request.prefix else ()
            weights = self._preference((*request.messages, *begun), request.labels)
            size = _length(request.messages)
            if weights is None:
                yield Choice(request.id, None, "no label", size, 0.0, "malformed")
                continue
            total = math.fsum(weights)
            best = max(zip(weights, request.labels, strict=True))[1]
            yield Choice(request.id, tuple(weight / total for weight in weights), best, size, 0.0)

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[Score]:
        for request in requests:
            yield Score(request.id, self._logprobs(request.messages, request.token_ids))

    def reward(self, requests: Iterable[ScoreRequest]) -> Iterator[Rewarded]:
        for request in requests:
            yield Rewarded(request.id, math.fsum(self._logprobs(request.messages, request.token_ids)))

    def check_labels(self, labels: Sequence[str]) -> None:
        if len(set(labels)) != len(labels) or not all(len(label) == 1 for label in labels):
            raise EngineError(f"the labels {', '.join(labels)} are not single characters of their own")

    def accepts(self, model_path: str) -> bool:
        return True

    def load(self, model_path: str) -> None:
        self.loaded.append(model_path)

    def sleep(self) -> None:
        """There is nothing to give back."""

    def close(self) -> None:
        """There is nothing to free."""

    def _answer(self, request: GenerateRequest, sampling: Sampling) -> str:
        text = self._text(request.messages, request.seed)
        return self._object(text, request, sampling.schema) if sampling.schema else text

    def _object(self, text: str, request: GenerateRequest, schema: str) -> str:
        """An object that obeys the schema, if it is one of strings; a text that is an object already stays.

        A property whose value the request spells (`"id": "12ab"`) has that value.
        """
        if text.lstrip().startswith("{"):
            return text
        dice, asked = random.Random(self._digest(request.messages, request.seed, schema)), request.messages[-1].content
        filled = {}
        for name, rule in json.loads(schema)["properties"].items():
            spelled = re.findall(rf'"{re.escape(name)}": "([0-9a-f]+)"', asked) if "pattern" in rule else []
            filled[name] = dice.choice(rule["enum"]) if "enum" in rule else spelled[-1] if spelled else text
        return json.dumps(filled)

    def _words(self, messages: tuple[Message, ...], seed: int) -> str:
        dice = random.Random(self._digest(messages, seed))
        return " ".join(dice.choices(_WORDS, k=dice.randint(4, 12)))

    def _weights(self, messages: tuple[Message, ...], labels: tuple[str, ...]) -> list[float]:
        dice = random.Random(self._digest(messages))
        return [dice.random() + 1e-3 for _ in labels]

    def _logprobs(self, messages: tuple[Message, ...], token_ids: Sequence[int]) -> tuple[float, ...]:
        digest = self._digest(messages).to_bytes(8, "little")
        return tuple(-0.1 - ((token * 31 + digest[i & 7]) & 255) / 64 for i, token in enumerate(token_ids))

    def _digest(self, messages: tuple[Message, ...], *fields: object) -> int:
        text = repr((self.loaded[-1], [(m.role, m.content) for m in messages], fields))
        return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _length(messages: Sequence[Message]) -> int:
    return sum(len(m.content) for m in messages)
