"""A stream that a server makes and that is talked to, in asyncio.

Shape legend: F pixel frames, H/W pixel height/width.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Self

import grpc

from reelray.cluster.client import orders
from reelray.cluster.client.async_line import AsyncLine
from reelray.cluster.client.connection import ServerAddress
from reelray.cluster.client.dialogue import Dialogue
from reelray.cluster.client.orders import Order
from reelray.cluster.client.remote_session import SessionFacts
from reelray.cluster.video_writer import FramesArray
from reelray.proto.errors import InputError
from reelray.proto.events import Progress

if TYPE_CHECKING:
    from weakref import WeakSet


class AsyncSession(SessionFacts, AsyncIterator[FramesArray]):
    """What `RemoteSession` is, for tasks: `async for` takes frames, the rest may be awaited meanwhile.

    It begins with its `async with` block, or with `open`.

    Args:
        connect: Gives the channel to the server.
        server: Whose it is.
        dialogue: The session.
        on_progress: Told whenever a stage moves on, while frames are waited for.
        patience_s: How long a broken line is tried again.
        beside: The sessions that are closed with the client; this one and its forks join them.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[grpc.aio.Channel]],
        server: ServerAddress,
        dialogue: Dialogue,
        *,
        on_progress: Callable[[Progress], None],
        patience_s: float,
        beside: "WeakSet[AsyncSession]",
    ) -> None:
        super().__init__(dialogue)
        self._connect, self._server, self._on_progress = connect, server, on_progress
        self._patience_s, self._beside = patience_s, beside
        self._line: AsyncLine | None = None

    async def open(self) -> Self:
        """Begin; harmless when it has.

        Raises:
            ReelrayError: The server refused, or was lost.
        """
        if self._line is None:
            self._beside.add(self)
            self._line = AsyncLine(await self._connect(), self._server, self._dialogue, self._patience_s)
            try:
                await self._line.open()
            except BaseException:
                await self._line.close()
                raise
        return self

    async def __anext__(self) -> FramesArray:
        """The next frames, RGB uint8, shape F, H, W, 3; see `RemoteSession`."""
        frames_FHWC = await self._open_line().take(self._on_progress)
        if frames_FHWC is None:
            raise StopAsyncIteration
        return frames_FHWC.copy()  # the caller's own

    async def say(self, prompt: str, at: str | float | None = None, *, cut: bool = False) -> float:
        """Go by another prompt; see `reelray.StreamSession.say`."""
        return self.begin_of(await self._open_line().tell(orders.order_say(prompt, at, cut=cut)))

    async def extend(self, seconds: float | str) -> float:
        """Make the video longer; see `reelray.StreamSession.extend`."""
        return self.length_of(await self._open_line().tell(orders.order_extend(seconds)))

    async def pause(self) -> None:
        """Have the engine begin nothing until `resume`."""
        await self._order(orders.PAUSE)

    async def resume(self) -> None:
        """Go on after `pause`."""
        await self._order(orders.RESUME)

    async def pace(self, fps: float | None) -> None:
        """Be made for another speed of playback; see `reelray.StreamSession.pace`."""
        await self._order(orders.order_pace(fps))

    async def stop(self) -> float:
        """End with the chunks that have begun; see `reelray.StreamSession.stop`."""
        return self.length_of(await self._open_line().tell(orders.STOP))

    async def seek(self, seconds: float | str) -> float:
        """Go back; see `reelray.StreamSession.seek`."""
        order = orders.order_seek(seconds, position=self.position, fps=self.fps)
        return self.begin_of(await self._open_line().tell(order))

    async def fork(self, prompt: str | None = None) -> "AsyncSession":
        """Have a second session that goes its own way; see `RemoteSession.fork`."""
        answer = await self._open_line().tell(orders.order_fork(prompt))
        other = AsyncSession(
            self._connect,
            self._server,
            self.fork_of(answer),
            on_progress=self._on_progress,
            patience_s=self._patience_s,
            beside=self._beside,
        )
        return await other.open()

    async def close(self) -> None:
        """End the stream where it is; harmless when called twice."""
        if self._line is not None:
            await self._line.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _order(self, order: Order) -> None:
        await self._open_line().tell(order)

    def _open_line(self) -> AsyncLine:
        if self._line is None:
            raise InputError("the session has not begun: async with client.converse(…) as session, or await its open()")
        return self._line
