"""Calls to the store that travel together: whoever calls while others are on their way shares the next trip."""

import asyncio
from typing import TYPE_CHECKING, Any, TypeAlias

import redis.asyncio as redis

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MOST_TRIPS = 4
"""At a time, each over a connection of its own; what comes meanwhile waits for one of them to come back."""
MOST_CALLS = 64
"""Of one trip, so that a short call waits for no more than that."""
Word: TypeAlias = str | bytes | int


class Trips:
    """Calls commands of the server, many in one write and one read where many come at once.

    A trip that is lost is lost for all its calls. A call whose caller is cancelled may be made all the same.

    Args:
        client: Of the server.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._alone: Callable[..., Awaitable[Any]] = client.execute_command  # has no types
        self._waiting: list[tuple[tuple[Word, ...], asyncio.Future[Any]]] = []
        self._trips: set[asyncio.Task[None]] = set()

    async def call(self, *command: Word) -> Any:
        """The answer to a command; raises what the client raises."""
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append((command, answer))
        if len(self._trips) < MOST_TRIPS:
            trip = asyncio.create_task(self._travel())
            self._trips.add(trip)
            trip.add_done_callback(self._trips.discard)
        return await answer

    async def close(self) -> None:
        """End what is on its way."""
        for trip in self._trips:
            trip.cancel()
        await asyncio.gather(*self._trips, return_exceptions=True)

    async def _travel(self) -> None:
        while self._waiting:
            calls, self._waiting = self._waiting[:MOST_CALLS], self._waiting[MOST_CALLS:]
            try:
                said = await self._ask([command for command, _ in calls])
            except Exception as error:  # noqa: BLE001  raised again where it is awaited
                said = [error] * len(calls)
            except asyncio.CancelledError:
                _give(calls, [asyncio.CancelledError()] * len(calls))
                raise
            _give(calls, said)

    async def _ask(self, commands: list[tuple[Word, ...]]) -> list[Any]:
        if len(commands) == 1:
            return [await self._alone(*commands[0])]
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute(raise_on_error=False)


def _give(calls: list[tuple[tuple[Word, ...], asyncio.Future[Any]]], said: list[Any]) -> None:
    for (_, answer), found in zip(calls, said, strict=True):
        if answer.done():  # its caller was cancelled
            continue
        if isinstance(found, BaseException):
            answer.set_exception(found)
        else:
            answer.set_result(found)
