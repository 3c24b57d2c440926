"""Many shards through one engine call: the batch never drains between shards, and memory holds only open shards."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from selfalign.engines.base import EngineError, ScoreRequest
from selfalign.records import Candidate, Prompt


class HasId(Protocol):
    @property
    def id(self) -> str: ...


Work = TypeVar("Work")
Request = TypeVar("Request", bound=HasId)
Answer = TypeVar("Answer", bound=HasId)


@dataclass
class _Open(Generic[Work, Answer]):
    """A shard some of whose requests are with the engine. `unsent` until the last of them has been handed over."""

    index: int
    work: Work
    unsent: bool = True
    waiting: int = 0
    answers: dict[str, Answer] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return not self.unsent and self.waiting == 0


def answer_shards(
    shards: Iterable[tuple[int, Work, Iterable[Request]]], call: Callable[[Iterator[Request]], Iterator[Answer]]
) -> Iterator[tuple[int, Work, dict[str, Answer]]]:
    """Feed the requests of all shards to one `call` of the engine; yield each shard once all its answers are back.

    Shards come in the order in which they are completed, each with its answers by request id. They are read lazily, as
    far as the engine asks for requests. Closing the iterator closes the engine's, which drops what is in flight.
    Raises EngineError unless the engine answers each request exactly once.
    """
    sent: dict[str, _Open[Work, Answer]] = {}
    completed: deque[_Open[Work, Answer]] = deque()
    with closing(call(_requests(shards, sent, completed))) as answers:  # type: ignore[type-var]
        for answer in answers:
            _take(answer, sent, completed)
            while completed:
                yield _result(completed.popleft())
    if sent:
        raise EngineError(f"the engine ended with {len(sent)} requests unanswered, the first being {next(iter(sent))}")
    while completed:
        yield _result(completed.popleft())


def score_requests(prompts: Sequence[Prompt], candidates: Sequence[Candidate]) -> Iterator[ScoreRequest]:
    """A request for each candidate, by its id; there is nothing to ask about those without a token."""
    messages = {prompt.id: prompt.messages for prompt in prompts}
    return (ScoreRequest(c.id, messages[c.prompt_id], c.token_ids) for c in candidates if c.token_ids)


def _requests(
    shards: Iterable[tuple[int, Any, Iterable[Request]]], sent: dict[str, _Open], completed: deque[_Open]
) -> Iterator[Request]:
    for index, work, requests in shards:
        shard = _Open(index, work)
        for request, last in _mark_last(requests):
            if request.id in sent:
                raise EngineError(f"shard {index}: request {request.id} is asked twice; are there duplicate prompts?")
            sent[request.id] = shard
            shard.waiting += 1
            shard.unsent = not last
            yield request
        if shard.unsent:  # it had no requests
            shard.unsent = False
            completed.append(shard)


def _take(answer: HasId, sent: dict[str, _Open], completed: deque[_Open]) -> None:
    shard = sent.pop(answer.id, None)
    if shard is None:
        raise EngineError(f"the engine answered request {answer.id}, which was not asked or already answered")
    shard.answers[answer.id] = answer
    shard.waiting -= 1
    if shard.complete:
        completed.append(shard)


def _result(shard: _Open[Work, Answer]) -> tuple[int, Work, dict[str, Answer]]:
    return shard.index, shard.work, shard.answers


def _mark_last(items: Iterable[Request]) -> Iterator[tuple[Request, bool]]:
    """Each item, and whether it is the last: a shard must be known to be whole before the engine asks for the next."""
    source = iter(items)
    try:
        held = next(source)
    except StopIteration:
        return
    for item in source:
        yield held, False
        held = item
    yield held, True
