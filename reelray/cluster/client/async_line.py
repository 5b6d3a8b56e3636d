"""The line of a conversation in asyncio: a task that listens, and takes the session up again where a call breaks."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import grpc

from reelray.cluster.client.connection import ServerAddress, error_of
from reelray.cluster.client.dialogue import Answer, Dialogue, Reunion
from reelray.cluster.client.line_state import LineState
from reelray.cluster.client.orders import Order
from reelray.cluster.client.patience import Patience
from reelray.cluster.video_writer import FramesArray
from reelray.proto.errors import ReelrayError
from reelray.proto.events import Progress
from reelray.proto.v1 import converse_pb2 as wire
from reelray.proto.v1 import videos_pb2_grpc

LEAVE_S = 2.0
Said = asyncio.Queue[wire.ConverseRequest | None]


class AsyncLine:
    """Speaks with one session of a server; for any number of tasks of one loop, of which one takes frames.

    Args:
        channel: To the server.
        server: Whose it is.
        dialogue: What is known and what is to be said.
        patience_s: How long a broken call is tried again.
    """

    def __init__(self, channel: grpc.aio.Channel, server: ServerAddress, dialogue: Dialogue, patience_s: float) -> None:
        stub = videos_pb2_grpc.VideosStub(channel)  # type: ignore[no-untyped-call]
        self._converse: Callable[..., Any] = stub.Converse
        self._metadata, self.patience_s = server.metadata, patience_s
        self._state = LineState(dialogue)
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="conversation")

    async def open(self) -> None:
        """Wait until the server has answered.

        Raises:
            ReelrayError: It refused, or was lost.
        """
        await self._until(lambda: self._state.is_open)
        self._state.check_end()

    async def take(self, on_progress: Callable[[Progress], None]) -> FramesArray | None:
        """See `ConverseLine.take`."""
        while True:
            news = self._news
            frames_FHWC, told = self._state.take()
            for progress in told:
                on_progress(progress)
            if frames_FHWC is not None:
                return frames_FHWC
            if self._state.is_over and not told:
                self._state.check_end()
                return None
            if not told:
                await news.wait()

    async def tell(self, order: Order) -> Answer:
        """See `ConverseLine.tell`."""
        number = self._state.say(order)
        await self._until(lambda: self._state.is_answered(number))
        return self._state.answer(number)

    async def close(self) -> None:
        """Leave; the session ends where it is. Harmless when called twice."""
        if self._state.leave():
            self._notify()
        await asyncio.wait({self._task}, timeout=LEAVE_S)
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        reunion, end = Reunion(self._state.dialogue, Patience(self.patience_s)), None
        try:
            while not self._state.closed:
                error = await self._converse_once(reunion)
                if self._state.is_complete:
                    break
                await self._pause(reunion.pause_s(error))
        except ReelrayError as error:
            end = error
        finally:
            self._state.end(end)
            self._notify()

    async def _converse_once(self, reunion: Reunion) -> ReelrayError | None:
        """One call, up to its end; returns how it broke."""
        said: Said = asyncio.Queue()
        said.put_nowait(self._state.dialogue.first)
        call = self._converse(_words(said), metadata=self._metadata)
        try:
            async for event in call:
                self._state.hear(event, said.put_nowait, reunion)
                self._notify()
        except grpc.RpcError as failed:
            return error_of(failed)
        finally:
            self._state.hang_up()
            call.cancel()
        return None

    async def _pause(self, pause_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._until(lambda: self._state.closed)

    async def _until(self, look: Callable[[], bool]) -> None:
        while not look():
            await self._news.wait()

    def _notify(self) -> None:
        """Wake whoever waits now; whoever waits later waits for what is next."""
        news, self._news = self._news, asyncio.Event()
        news.set()


async def _words(said: Said) -> AsyncIterator[wire.ConverseRequest]:
    while (word := await said.get()) is not None:
        yield word
