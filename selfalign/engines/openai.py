"""A judge behind an OpenAI-compatible API: it answers, but holds no weights of ours."""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any, NoReturn

import openai
import stamina

from selfalign.config import Judge
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
from selfalign.records import InvalidReason, Message

_KEY = "OPENAI_API_KEY"
_TIMEOUT = openai.Timeout(120.0, connect=10.0)
_ATTEMPTS = 6
_RETRY_SECONDS = 300.0  # for all attempts at one request
_LONGEST_WAIT = 60.0  # whatever Retry-After says
_TOP_LOGPROBS = 20
_STRING_LIMITS = ("minLength", "maxLength", "pattern")
_QUOTA = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "quota_exceeded")
_TRANSIENT = (openai.APIConnectionError, openai.APIResponseValidationError, openai.InternalServerError)


class OpenAIEngine:
    """Answers through chat completions, some requests at a time.

    A request that stays unanswered after all attempts (rate limits, timeouts, server errors, unreadable replies) is
    an error of its own, never a verdict. What no repetition can mend (key, quota, model name, malformed request)
    raises EngineError at once. The key comes from the environment variable OPENAI_API_KEY alone.
    """

    def __init__(self, judge: Judge, *, timeout: openai.Timeout = _TIMEOUT, wait_initial: float = 0.5) -> None:
        key = os.environ.get(_KEY)
        if not key:
            raise EngineError(f"the judge {judge.model} needs a key: set {_KEY} (any text, for a server without keys)")
        self._model = judge.model.removeprefix("openai:")
        self._concurrency = judge.max_concurrency
        self._wait_initial = wait_initial
        self._knows_schemas = True  # until it says otherwise
        self._client = openai.OpenAI(api_key=key, base_url=judge.base_url, max_retries=0, timeout=timeout)
        # Servers of one's own mostly know the older name; OpenAI's newer models know the newer one alone.
        self._limit_name = "max_tokens" if judge.base_url else "max_completion_tokens"

    def generate(self, requests: Iterable[GenerateRequest], sampling: Sampling) -> Iterator[Generation]:
        return self._stream(requests, lambda request: self._generate(request, sampling))

    def choose(self, requests: Iterable[ChoiceRequest]) -> Iterator[Choice]:
        return self._stream(requests, self._choose)

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[Score]:
        self._refuse("gives no log-probabilities of given texts")

    def reward(self, requests: Iterable[ScoreRequest]) -> Iterator[Rewarded]:
        self._refuse("holds no reward model of ours")

    def check_labels(self, labels: Sequence[str]) -> None:
        """What a token is, only the server knows; labels of one character are tokens everywhere."""
        if len(set(labels)) != len(labels) or not all(len(label) == 1 and not label.isspace() for label in labels):
            raise EngineError(
                f"the labels {', '.join(map(repr, labels))} are not single characters of their own; choose others "
                "in judge.labels_pairwise or judge.labels_pointwise"
            )

    def accepts(self, model_path: str) -> bool:
        return False

    def load(self, model_path: str) -> None:
        self._refuse(f"cannot take the weights of {model_path}")

    def sleep(self) -> None:
        """There is nothing to give back."""

    def close(self) -> None:
        self._client.close()

    def _refuse(self, what: str) -> NoReturn:
        raise EngineError(f"the API judge openai:{self._model} {what}; use a model folder or a Hugging Face model")

    def _stream(self, requests: Iterable[Any], answer: Callable[[Any], Any]) -> Iterator[Any]:
        """Answer requests in threads, reading twice as many ahead as are asked at a time."""
        pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix="judge")
        source = iter(requests)
        running: set[Future[Any]] = set()
        try:
            while True:
                for request in islice(source, 2 * self._concurrency - len(running)):
                    running.add(pool.submit(answer, request))
                if not running:
                    return
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _generate(self, request: GenerateRequest, sampling: Sampling) -> Generation:
        options = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": request.seed}
        try:
            reply = self._ask_for_json(request, sampling, **options)
        except _Unanswered as error:
            return Generation(request.id, str(error), (), "error", None, 0)
        choice = reply.choices[0]
        if _refused(choice):
            refusal = getattr(choice.message, "refusal", None) or choice.message.content or choice.finish_reason
            return Generation(request.id, refusal, (), "error", None, _prompt_tokens(reply), refused=True)
        reason = choice.finish_reason if choice.finish_reason in ("stop", "length") else "error"
        text = choice.message.content or ""
        return Generation(request.id, text, (), reason, None, _prompt_tokens(reply))

    def _ask_for_json(self, request: GenerateRequest, sampling: Sampling, **options: Any) -> Any:
        """One completion that obeys the schema, where there is one and the server knows schemas; else a free one."""
        messages = request.messages
        if sampling.schema and self._knows_schemas:
            try:
                return self._ask(messages, sampling.max_tokens, response_format=_format(sampling.schema), **options)
            except _SchemaRefused as error:
                if self._knows_schemas:  # of requests side by side, one says it
                    self._knows_schemas = False
                    warnings.warn(
                        f"the server of openai:{self._model} does not take a JSON Schema ({error}): its replies are "
                        "free text, and those that are not the JSON asked for are invalid verdicts",
                        stacklevel=2,
                    )
        return self._ask(messages, sampling.max_tokens, **options)

    def _choose(self, request: ChoiceRequest) -> Choice:
        started = time.perf_counter()
        try:
            reply = self._ask(_continued(request), 1, temperature=0.0, logprobs=True, top_logprobs=_TOP_LOGPROBS)
        except _Unanswered as error:
            return Choice(request.id, None, str(error), 0, time.perf_counter() - started, "error")
        choice = reply.choices[0]
        probabilities, raw = _read_labels(choice, request.labels)
        invalid = "" if probabilities else _kind_of_nothing(choice)
        return Choice(request.id, probabilities, raw, _prompt_tokens(reply), time.perf_counter() - started, invalid)

    def _ask(self, conversation: Sequence[Message], max_tokens: int, **options: Any) -> Any:
        """One chat completion. Raises _Unanswered after the last attempt, EngineError where no attempt can help.

        Raises _SchemaRefused where a schema was given and the server takes none.
        """
        messages = [{"role": m.role, "content": m.content} for m in conversation]
        try:
            for attempt in stamina.retry_context(
                on=_backoff,
                attempts=_ATTEMPTS,
                timeout=_RETRY_SECONDS,
                wait_initial=self._wait_initial,
                wait_max=_LONGEST_WAIT,
                wait_jitter=self._wait_initial,
            ):
                with attempt:
                    return self._complete(messages, **{self._limit_name: max_tokens}, **options)
        except openai.OpenAIError as error:
            if is_transient(error):
                raise _Unanswered(f"no answer after {_ATTEMPTS} attempts: {_brief(error)}") from error
            if "response_format" in options and _is_about_schemas(error):
                raise _SchemaRefused(_brief(error)) from error
            if _is_about_this_request(error):
                raise _Unanswered(_brief(error)) from error
            raise EngineError(f"the API judge openai:{self._model} refuses: {_brief(error)}") from error
        raise AssertionError("stamina always returns or raises")

    def _complete(self, messages: list[dict[str, str]], **options: Any) -> Any:
        """One attempt. The client checks no types: a proxy's page or JSON of another kind comes through as it is."""
        try:
            reply = self._client.chat.completions.create(model=self._model, messages=messages, **options)
        except ValueError as error:
            raise _Unreadable(f"the reply is no JSON: {error}") from error
        choices = getattr(reply, "choices", None)
        if not choices or getattr(choices[0], "message", None) is None:
            raise _Unreadable("the reply is no chat completion")
        return reply


class _Unanswered(Exception):
    """One request has no answer; the others may."""


class _SchemaRefused(Exception):
    """The server does not take the schema that answers are to obey; without it, it may answer."""


class _Unreadable(openai.OpenAIError):
    """The reply is no chat completion."""


def is_transient(error: Exception) -> bool:
    """Whether asking again may help: rate limits (but not an exhausted quota), timeouts, server faults, garbage."""
    if isinstance(error, openai.RateLimitError):
        return not _is_quota(error)
    if isinstance(error, openai.APIStatusError) and error.status_code in (408, 409):
        return True
    return isinstance(error, (*_TRANSIENT, _Unreadable))


def retry_after(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds to wait by a Retry-After header (a number or an HTTP date), at most a minute; None where it says none."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(header) - (now or datetime.now(UTC))).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return None
    return min(seconds, _LONGEST_WAIT) if math.isfinite(seconds) and seconds > 0 else None


def _backoff(error: Exception) -> bool | float:
    """For stamina: whether to try again, or after how many seconds."""
    if not is_transient(error):
        return False
    response = getattr(error, "response", None)
    told = retry_after(response.headers.get("retry-after")) if response is not None else None
    return told if told is not None else True


def _is_quota(error: openai.RateLimitError) -> bool:
    return error.code in _QUOTA or error.type in _QUOTA or "exceeded your current quota" in str(error)


def _is_about_this_request(error: openai.OpenAIError) -> bool:
    """A prompt that is too long or filtered says nothing of the other requests."""
    code = getattr(error, "code", None) or ""
    return isinstance(error, openai.BadRequestError) and (
        code in ("context_length_exceeded", "content_filter", "string_above_max_length")
        or "maximum context length" in str(error)
    )


def _is_about_schemas(error: openai.OpenAIError) -> bool:
    text = str(error)
    rejected = isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError)
    return rejected and any(name in text for name in ("response_format", "json_schema", "structured output"))


def _format(schema: str) -> dict[str, Any]:
    """A schema as `response_format`, without the limits on strings that some services refuse."""
    bare = json.loads(schema, object_hook=lambda d: {k: v for k, v in d.items() if k not in _STRING_LIMITS})
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": bare}}


def _continued(request: ChoiceRequest) -> tuple[Message, ...]:
    """A conversation in which a label comes next. What an answer begins with is a turn here, and asked about anew."""
    if not request.prefix:
        return request.messages
    ask = f"Now give the verdict alone, as one of {', '.join(request.labels)}."
    return (*request.messages, Message("assistant", request.prefix), Message("user", ask))


def _refused(choice: Any) -> bool:
    return bool(getattr(choice.message, "refusal", None)) or choice.finish_reason == "content_filter"


def _kind_of_nothing(choice: Any) -> InvalidReason:
    """The kind of a reply of which no label can be read."""
    if _refused(choice):
        return "refused"
    return "malformed" if choice.message.content else "empty"


def _read_labels(choice: Any, labels: Sequence[str]) -> tuple[tuple[float, ...] | None, str]:
    """Probabilities of the labels as the first token, normalised over them; None where neither is among the likely.

    A label is matched as a whole token, in its own case, with or without surrounding space.
    """
    content = choice.message.content or getattr(choice.message, "refusal", None) or choice.finish_reason or ""
    listed = getattr(choice.logprobs, "content", None)
    if not listed:
        return None, f"no log-probabilities in the reply: {content[:200]}"
    weights = [0.0] * len(labels)
    for entry in listed[0].top_logprobs or ():
        label = entry.token.strip()
        if label in labels and math.isfinite(entry.logprob):
            weights[labels.index(label)] += math.exp(entry.logprob)
    total = math.fsum(weights)
    if not 0.0 < total < math.inf:
        return None, content[:200]
    best = max(zip(weights, labels, strict=True))[1]
    return tuple(weight / total for weight in weights), best


def _prompt_tokens(reply: Any) -> int:
    return getattr(getattr(reply, "usage", None), "prompt_tokens", None) or 0


def _brief(error: Exception) -> str:
    """What an error says, in short and without the key."""
    text = f"{type(error).__name__}: {error}"
    return text.replace(os.environ.get(_KEY) or "\0", "***")[:300]
