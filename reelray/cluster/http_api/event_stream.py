"""What happens to a video, as server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from reelray.cluster.gateway.archive import Archive, in_plain_words
from reelray.cluster.http_api.video_objects import STATUSES
from reelray.cluster.renders.attempt import PROGRESS
from reelray.cluster.store.connection import BLOCK_S
from reelray.cluster.store.events import Event
from reelray.cluster.store.job import JobState
from reelray.cluster.store.names import JobRef
from reelray.proto.errors import ReelrayError

STILL_HERE = b": still here\n\n"
"""So that what lies between does not take the line for dead."""
FIELDS = ("stage", "done", "total", "frames")
EVENT_STREAM = "text/event-stream"
EVENT_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
"""So that nothing on the way collects events before it passes them on."""


class Following:
    """How many follow events now."""

    def __init__(self) -> None:
        self.count = 0


class EventStream(StreamingResponse):
    """Events for one reader, who counts from when it is answered until it leaves.

    Args:
        told: The events.
        following: Where the reader is counted.
    """

    def __init__(self, told: AsyncIterator[bytes], following: Following) -> None:
        super().__init__(told, headers=EVENT_HEADERS, media_type=EVENT_STREAM)
        self._following = following

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        self._following.count += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._following.count -= 1


async def follow(archive: Archive, ref: JobRef, after: int, closing: asyncio.Event) -> AsyncIterator[bytes]:
    """Yield events behind a number until the one that ends the video, or the server is about to end.

    A reader that was cut off goes on behind the last `id` that it saw (`Last-Event-ID`).
    """
    with suppress(ReelrayError):  # the answer has begun: whoever reads comes again and is told then
        while not closing.is_set():
            found = await _read(archive, ref, after, closing)
            for event in found:
                after = event.number
                if (told := told_of(event)) is not None:
                    yield told
                if event.ends:
                    return
            if not found and not closing.is_set():
                yield STILL_HERE
                with in_plain_words():
                    job = await archive.store.jobs.get(ref)
                if job.state.ended and job.events <= after:
                    return


async def _read(archive: Archive, ref: JobRef, after: int, closing: asyncio.Event) -> tuple[Event, ...]:
    """The next events; none where there are none for a while, or the server is about to end."""
    reading = asyncio.ensure_future(archive.store.events.read(ref, after=after, wait_s=BLOCK_S))
    ending = asyncio.ensure_future(closing.wait())
    try:
        await asyncio.wait({reading, ending}, return_when=asyncio.FIRST_COMPLETED)
        with in_plain_words():
            return (await reading)[0] if reading.done() else ()
    finally:
        reading.cancel()
        ending.cancel()


def told_of(event: Event) -> bytes | None:
    """An event as a line of the stream; None for what only newer versions know."""
    said: dict[str, Any] = {"number": event.number, "at": event.at_ms / 1000}
    kind = {"state": "status", "commit": "committed", PROGRESS: "progress"}.get(event.kind)
    if kind == "status":
        said["status"] = STATUSES[JobState(event.data)]
    elif kind == "committed":
        said["unit"] = int(event.data)
    elif kind == "progress":
        said |= {name: event.value[name] for name in FIELDS if name in event.value}
    else:
        return None
    return f"id: {event.number}\nevent: {kind}\ndata: {json.dumps(said)}\n\n".encode()
