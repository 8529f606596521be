from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from ruler.reading import read_in_thread


async def test_items_come_in_order_from_another_thread() -> None:
    threads: list[int] = []

    def items() -> Iterator[int]:
        for item in range(3):
            threads.append(threading.get_ident())
            yield item

    assert [item async for item in read_in_thread(items())] == [0, 1, 2]
    assert threading.get_ident() not in threads


async def test_errors_come_where_the_item_was_wanted() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("x")

    reader = read_in_thread(items())
    assert await anext(reader) == 1
    with pytest.raises(KeyError):
        await anext(reader)


async def test_the_thread_ends_when_the_reader_leaves() -> None:
    reader = read_in_thread(iter(range(10)))
    assert await anext(reader) == 0
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "ruler-reader"]
    await reader.aclose()
    thread.join(10)
    assert not thread.is_alive()
