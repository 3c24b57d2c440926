"""Shards through one engine call: lazily, completely, each exactly once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfalign.engines.base import EngineError
from selfalign.engines.streaming import answer_shards


@dataclass(frozen=True)
class Item:
    id: str


def shards(*sizes: int, read: list[int] | None = None) -> Iterator[tuple[int, int, list[Item]]]:
    for index, size in enumerate(sizes):
        if read is not None:
            read.append(index)
        yield index, size, [Item(f"{index}/{i}") for i in range(size)]


def one_by_one(requests: Iterable[Item]) -> Iterator[Item]:
    yield from requests


def windowed(window: int):
    """An engine that keeps `window` requests in flight and finishes the newest first."""

    def call(requests: Iterator[Item]) -> Iterator[Item]:
        flight: list[Item] = []
        for request in requests:
            flight.append(request)
            if len(flight) == window:
                yield flight.pop()
        yield from reversed(flight)

    return call


@given(st.lists(st.integers(0, 5), max_size=8), st.integers(1, 7))
def test_every_shard_comes_once_with_all_of_its_answers(sizes, window):
    results = list(answer_shards(shards(*sizes), windowed(window)))
    assert sorted(index for index, _, _ in results) == list(range(len(sizes)))
    for index, size, answers in results:
        assert size == sizes[index]
        assert set(answers) == {f"{index}/{i}" for i in range(size)}


def test_a_shard_is_yielded_before_later_shards_are_read():
    read: list[int] = []
    results = answer_shards(shards(2, 2, 2, read=read), one_by_one)
    assert next(results)[0] == 0
    assert read == [0]
    assert next(results)[0] == 1
    assert read == [0, 1]


def test_the_batch_spans_shards():
    """With room for four in flight, the engine gets the second shard's requests before the first shard is complete."""
    read: list[int] = []
    results = answer_shards(shards(3, 3, 3, read=read), windowed(4))
    next(results)
    assert read == [0, 1]


def test_closing_closes_the_engine_call():
    closed = []

    def call(requests: Iterator[Item]) -> Iterator[Item]:
        try:
            yield from requests
        finally:
            closed.append(True)

    results = answer_shards(shards(1, 1), call)
    next(results)
    results.close()
    assert closed == [True]


def test_an_unanswered_request_is_an_error():
    def call(requests: Iterator[Item]) -> Iterator[Item]:
        yield from (request for request in requests if request.id != "1/0")

    results = answer_shards(shards(1, 2), call)
    assert next(results)[0] == 0
    with pytest.raises(EngineError, match="1 requests unanswered, the first being 1/0"):
        next(results)


@pytest.mark.parametrize("answers", [["0/0", "0/0"], ["other"]])
def test_an_answer_that_was_not_asked_is_an_error(answers):
    def call(requests: Iterator[Item]) -> Iterator[Item]:
        list(requests)
        yield from map(Item, answers)

    with pytest.raises(EngineError, match="not asked or already answered"):
        list(answer_shards(shards(2), call))


def test_a_repeated_request_is_an_error():
    with pytest.raises(EngineError, match="asked twice"):
        list(answer_shards([(0, None, [Item("a"), Item("a")])], windowed(3)))
