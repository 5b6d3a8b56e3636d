"""A blocking source for one task: in order, held back by its reader, and left when nobody reads any more."""

import asyncio
import threading
from contextlib import aclosing
from functools import partial

import pytest

from reelray.cluster.gateway.event_pump import EventPump
from tests.support.waiting import wait_until


class Source:
    """Counts up and says how far it is; `fail_at` raises."""

    def __init__(self, count=100, fail_at=None):
        self.count, self.fail_at, self.given, self.left = count, fail_at, 0, threading.Event()

    def __iter__(self):
        for number in range(self.count):
            if number == self.fail_at:
                raise ValueError("it failed")
            self.given = number + 1
            yield number

    def is_at(self, number):
        return self.given >= number

    def pump(self, ahead=0):
        return EventPump(self, leave=self.left.set, name="a test", ahead=ahead)


def test_all_items_come_in_order():
    async def read():
        return [item async for item in Source().pump().items()]

    assert asyncio.run(read()) == list(range(100))


def test_what_the_source_raises_comes_after_its_items():
    found = []

    async def read():
        async for item in Source(fail_at=3).pump().items():
            found.append(item)  # noqa: PERF401  those before the error count

    with pytest.raises(ValueError, match="it failed"):
        asyncio.run(read())
    assert found == [0, 1, 2]


@pytest.mark.parametrize("ahead", [0, 1])
def test_the_source_is_as_far_ahead_of_its_reader_as_it_may_and_no_further(ahead):
    source, found = Source(), []

    async def read():
        async with aclosing(source.pump(ahead).items()) as items:
            async for item in items:
                await asyncio.to_thread(wait_until, partial(source.is_at, item + 1 + ahead))
                await asyncio.sleep(0.001)  # it would go on now, if it could
                found.append(source.given - item - 1)
                if item == 50:
                    return

    asyncio.run(read())
    assert set(found) == {ahead}
    wait_until(source.left.is_set)
    assert source.given == 51 + ahead


def test_a_source_that_waits_is_left_as_soon_as_nobody_reads():
    left = threading.Event()

    def wait():
        yield 1
        left.wait()

    async def read():
        async with aclosing(EventPump(wait(), leave=left.set, name="a test").items()) as items:
            async for _ in items:
                return

    asyncio.run(read())
    assert left.wait(20)
