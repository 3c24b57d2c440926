"""The loop's own parts."""

from __future__ import annotations

from collections.abc import Iterator
from weakref import WeakSet

import pytest

from selfalign.training.loop import with_last


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_only_the_last_item_is_marked(count: int) -> None:
    assert list(with_last(range(count))) == [(item, item == count - 1) for item in range(count)]


def test_no_more_than_two_items_are_held() -> None:
    class Item:
        pass

    alive: WeakSet[Item] = WeakSet()

    def items() -> Iterator[Item]:
        for _ in range(6):
            item = Item()
            alive.add(item)
            yield item
            del item

    held = [len(alive) for _ in with_last(items())]
    assert len(held) == 6 and max(held) <= 2
