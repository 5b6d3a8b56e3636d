"""Passes a video on to its client, and keeps the coordinator informed of what that means for the engine."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from reelray.cluster.coordinator.desk import Desk
from reelray.cluster.coordinator.visit import Visit
from reelray.proto.v1 import video_spec_pb2 as wire
from reelray.proto.v1 import videos_pb2

UNREAD_S = 5.0
"""A client that reads nothing for so long loses its place: its video goes on beside others, as it reads."""
DISTURBED = 0.1
"""Where the client took more than this share of the time, the engine was not measured."""


class PlacedRelay:
    """Of one video.

    Args:
        visit: Its place.
        desk: Hears how fast the engine was.
        send: Sends to the client; waits while it does not read.
    """

    def __init__(self, visit: Visit, desk: Desk, send: Callable[[videos_pb2.GenerateEvent], Awaitable[None]]) -> None:
        self._visit, self._desk, self._send = visit, desk, send
        self._waited_s = 0.0
        self._unread: asyncio.TimerHandle | None = None

    async def pass_on(self, event: videos_pb2.GenerateEvent) -> None:
        """Send the next event."""
        if event.HasField("progress") and event.progress.stage == wire.StageProgress.DENOISE:
            self._visit.moved(event.progress.done, event.progress.total)
        began_s = time.monotonic()
        self._watch()
        try:
            await self._send(event)
        finally:
            if self._unread is not None:
                self._unread.cancel()
        self._waited_s += time.monotonic() - began_s

    def finish(self) -> None:
        """The video is complete: give the place back, and say how long it took."""
        visit, took_s = self._visit, self._visit.took_s
        is_measured = visit.begun is not None and self._waited_s < DISTURBED * took_s
        visit.end(self._desk.measured(visit.begun, took_s) if visit.begun and is_measured else None)

    def _watch(self) -> None:
        self._unread = asyncio.get_running_loop().call_later(UNREAD_S, self._give_up_place)

    def _give_up_place(self) -> None:
        if self._visit.begun is None:  # it may get one while nobody reads that it waits
            self._watch()
        else:
            self._visit.end()
