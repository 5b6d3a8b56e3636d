"""What happens to a video, as server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

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


async def follow(archive: Archive, ref: JobRef, after: int, closing: asyncio.Event) -> AsyncIterator[bytes]:
    """Yield events behind a number until the one that ends the video, or the server is about to end.

    A reader that was cut off goes on behind the last `id` that it saw (`Last-Event-ID`).
    """
    with suppress(ReelrayError):  # the answer has begun: whoever reads comes again and is told then
        while not closing.is_set():
            with in_plain_words():
                found, _ = await archive.store.events.read(ref, after=after, wait_s=BLOCK_S)
            for event in found:
                after = event.number
                if (told := told_of(event)) is not None:
                    yield told
                if event.ends:
                    return
            if not found:
                yield STILL_HERE
                with in_plain_words():
                    job = await archive.store.jobs.get(ref)
                if job.state.ended and job.events <= after:
                    return


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
