"""Calls that share trips: each has its own answer, and what goes wrong with one goes wrong with no other."""

import asyncio

import pytest
from redis import exceptions

from reelray.cluster.store import trips
from reelray.cluster.store.trips import Trips


async def gather(calls):
    return await asyncio.gather(*calls, return_exceptions=True)


def test_each_of_many_calls_has_its_own_answer(play):
    async def case(store):
        call = store.connection.command
        wrong = {17, 18, 311}
        said = await gather(call("NOTHING") if n in wrong else call("ECHO", str(n)) for n in range(400))
        for number, found in enumerate(said):
            if number in wrong:
                assert isinstance(found, exceptions.ResponseError)
            else:
                assert found == str(number).encode()

    play(case)


class Line:
    """A client that notes how many commands each of its trips has; it answers when it may."""

    def __init__(self):
        self.sizes, self.may, self.error = [], asyncio.Event(), None

    async def execute_command(self, *command):
        return (await self._go([command]))[0]

    def pipeline(self, *, transaction):
        assert not transaction
        return Pipeline(self)

    async def _go(self, commands):
        self.sizes.append(len(commands))
        await self.may.wait()
        if self.error is not None:
            raise self.error
        return list(commands)


class Pipeline:
    def __init__(self, line):
        self._line, self._commands = line, []

    def execute_command(self, *command):
        self._commands.append(command)

    async def execute(self, *, raise_on_error):
        assert not raise_on_error
        return await self._line._go(self._commands)


async def until(is_so):
    while not is_so():  # noqa: ASYNC110  of a task that says nothing
        await asyncio.sleep(0)


def test_what_comes_meanwhile_shares_the_next_trip():
    async def case():
        line = Line()
        shared = Trips(line)
        first = [asyncio.ensure_future(shared.call("ECHO", n)) for n in range(100)]
        await until(lambda: len(line.sizes) == 2)
        later = []
        for n in range(100, 140):
            later.append(asyncio.ensure_future(shared.call("ECHO", n)))
            await asyncio.sleep(0)
        line.may.set()
        assert await asyncio.gather(*first, *later) == [("ECHO", n) for n in range(140)]
        assert line.sizes[:4] == [trips.MOST_CALLS, 100 - trips.MOST_CALLS, 1, 1]
        assert sum(line.sizes) == 140
        assert len(line.sizes) == 5  # no more than four at a time, and the rest together

    asyncio.run(case())


def test_a_lost_trip_is_lost_for_its_calls_and_for_no_later_one():
    async def case():
        line = Line()
        line.error = exceptions.ConnectionError("gone")
        line.may.set()
        shared = Trips(line)
        assert [type(found) for found in await gather(shared.call("ECHO", n) for n in range(3))] == [
            exceptions.ConnectionError
        ] * 3
        line.error = None
        assert await shared.call("ECHO", 3) == ("ECHO", 3)

    asyncio.run(case())


def test_a_caller_that_is_cancelled_takes_nobody_along():
    async def case():
        line = Line()
        shared = Trips(line)
        calls = [asyncio.ensure_future(shared.call("ECHO", n)) for n in range(3)]
        await until(lambda: line.sizes)
        calls[1].cancel()
        line.may.set()
        assert await calls[0] == ("ECHO", 0)
        assert await calls[2] == ("ECHO", 2)
        assert calls[1].cancelled()

    asyncio.run(case())


def test_closing_ends_what_is_on_its_way():
    async def case():
        line = Line()
        shared = Trips(line)
        call = asyncio.ensure_future(shared.call("ECHO", 1))
        await until(lambda: line.sizes)
        await shared.close()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(case())
