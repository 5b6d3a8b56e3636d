"""What happens to a render, told to whoever watches."""

from collections.abc import AsyncGenerator

from reelray.cluster.gateway.archive import Archive, in_plain_words
from reelray.cluster.gateway.render_answers import at_ms, event_of, render_of
from reelray.cluster.store.connection import BLOCK_S
from reelray.cluster.store.events import Event
from reelray.cluster.store.names import JobRef
from reelray.proto.errors import InputError
from reelray.proto.v1 import renders_pb2


async def watch(archive: Archive, ref: JobRef, after: int) -> AsyncGenerator[renders_pb2.WatchRenderEvent, None]:
    """Yield events after a cursor until the one that ends the render.

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
    while True:
        with in_plain_words():
            found, skipped = await archive.store.events.read(ref, after=after, wait_s=BLOCK_S)
        if skipped:
            yield await _instead(archive, ref, found[0])
        for event in found:
            after = event.number
            if (told := event_of(event)) is not None:
                yield told
            if event.ends:
                return
        if not found and await _is_over(archive, ref, after):
            return


async def _instead(archive: Archive, ref: JobRef, first: Event) -> renders_pb2.WatchRenderEvent:
    """What stands for events that were forgotten: those before `first`."""
    with in_plain_words():
        job = await archive.store.jobs.get(ref)
    return renders_pb2.WatchRenderEvent(number=first.number - 1, at=at_ms(first.at_ms), skipped_to=render_of(job))


async def _is_over(archive: Archive, ref: JobRef, after: int) -> bool:
    with in_plain_words():
        job = await archive.store.jobs.get(ref)
    return job.state.ended and job.events <= after
