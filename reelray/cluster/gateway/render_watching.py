"""What happens to a render, told to whoever watches."""

from collections.abc import AsyncGenerator, Awaitable, Callable

from google.protobuf.timestamp_pb2 import Timestamp

from reelray.cluster.coordinator.messages import Waits
from reelray.cluster.gateway.archive import Archive, in_plain_words
from reelray.cluster.gateway.render_answers import at_ms, event_of, render_of
from reelray.cluster.gateway.video_answers import standing
from reelray.cluster.store.connection import BLOCK_S
from reelray.cluster.store.events import Event
from reelray.cluster.store.job import JobState
from reelray.cluster.store.names import JobRef
from reelray.proto.errors import InputError
from reelray.proto.request import RequestId
from reelray.proto.v1 import renders_pb2

FIRST_LOOK_S = 0.25
"""Who waits is told soon how it stands, then ever more rarely."""
Stands = Callable[[RequestId], Awaitable[Waits | None]]


async def watch(
    archive: Archive, ref: JobRef, after: int, stands: Stands
) -> AsyncGenerator[renders_pb2.WatchRenderEvent, None]:
    """Yield events after a cursor until the one that ends the render.

    Args:
        archive: Where it is kept.
        ref: Which.
        after: Number of the last event seen.
        stands: Tells how it stands while it waits.

    Raises:
        UnknownJobError: The tenant has no such render, or it was forgotten meanwhile.
        InputError: The cursor is none of this render.
        StoreError: The store does not answer.
    """
    with in_plain_words():
        job = await archive.store.jobs.get(ref)
    if after > job.events:
        raise InputError(f"after is {after}, and the newest event of this render is {job.events}")
    if job.state.ended and after == job.events:
        return
    state, look_s = job.state, FIRST_LOOK_S
    while True:
        wait_s = look_s if state is JobState.QUEUED else BLOCK_S
        with in_plain_words():
            found, skipped = await archive.store.events.read(ref, after=after, wait_s=wait_s)
        if skipped:
            yield await _instead(archive, ref, found[0])
        for event in found:
            after, state = event.number, JobState(event.data) if event.kind == "state" else state
            if (told := event_of(event)) is not None:
                yield told
            if event.ends:
                return
        if not found and await _is_over(archive, ref, after):
            return
        if state is JobState.QUEUED and (waits := await stands(RequestId(str(ref)))) is not None:
            yield renders_pb2.WatchRenderEvent(number=after, at=_now(), queued=standing(waits))
        look_s = min(2 * look_s, BLOCK_S)


def _now() -> Timestamp:
    now = Timestamp()
    now.GetCurrentTime()
    return now


async def _instead(archive: Archive, ref: JobRef, first: Event) -> renders_pb2.WatchRenderEvent:
    """What stands for events that were forgotten: those before `first`."""
    with in_plain_words():
        job = await archive.store.jobs.get(ref)
    return renders_pb2.WatchRenderEvent(number=first.number - 1, at=at_ms(first.at_ms), skipped_to=render_of(job))


async def _is_over(archive: Archive, ref: JobRef, after: int) -> bool:
    with in_plain_words():
        job = await archive.store.jobs.get(ref)
    return job.state.ended and job.events <= after
