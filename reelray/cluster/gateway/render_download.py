"""The bytes of a render's file, also while it grows."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from reelray.cluster.gateway.archive import Archive, in_plain_words
from reelray.cluster.gateway.read_ahead import read_ahead
from reelray.cluster.renders.growing_media import Media, find_media
from reelray.cluster.store.connection import BLOCK_S
from reelray.cluster.store.job import Job, JobState
from reelray.cluster.store.names import JobRef
from reelray.proto.errors import GoneError, NeverError, RangeError
from reelray.proto.v1 import renders_pb2

ENDED = {JobState.FAILED: "failed", JobState.CANCELLED: "was cancelled", JobState.DONE: "ended"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ByteRange:
    """Which bytes of a file.

    Args:
        begin: The first.
        end: Behind the last; None for the file's end.
        follow: Wait for those that are not there yet.
    """

    begin: int
    end: int | None
    follow: bool


async def download(archive: Archive, ref: JobRef, wanted: ByteRange) -> AsyncGenerator[renders_pb2.RenderChunk, None]:
    """Yield a range of a render's file, in order.

    Raises:
        UnknownJobError: The tenant has no such render.
        RangeError: The range begins behind the end of a complete file.
        NeverError: The render ended without these bytes.
        GoneError: The file was kept as long as was promised.
        StoreError, ArtifactError: They cannot be reached.
    """
    at, before = wanted.begin, None
    while True:
        with in_plain_words():
            media = await find_media(archive.store, ref)
        _check_begin(wanted.begin, media)
        end = media.size_bytes if wanted.end is None else min(wanted.end, media.size_bytes)
        try:
            async with aclosing(_chunks(archive, media, at, end)) as chunks:
                async for chunk in chunks:
                    yield chunk
                    at += len(chunk.data)
        except GoneError:
            if before == media.parts:
                raise
            before = media.parts
            continue  # it has ended since, and its parts have become one file
        if media.complete or at == wanted.end:
            return
        _check_end(media)
        if not wanted.follow:
            return
        await _wait(archive, media.job)


def _check_begin(begin: int, media: Media) -> None:
    if media.complete and begin > media.size_bytes:
        raise RangeError(f"offset is {begin}, and the file has {media.size_bytes} bytes")


def _check_end(media: Media) -> None:
    job = media.job
    if job.state.ended:
        raise NeverError(f"the render {ENDED[job.state]} after {media.size_bytes} bytes: {job.error}")


async def _chunks(archive: Archive, media: Media, at: int, end: int) -> AsyncGenerator[renders_pb2.RenderChunk, None]:
    total = media.size_bytes if media.complete else None
    with in_plain_words():
        async with aclosing(read_ahead(partial(_read, archive, media), at, end)) as pieces:
            async for data in pieces:
                yield renders_pb2.RenderChunk(offset=at, data=data, total_bytes=total)
                at += len(data)


def _read(archive: Archive, media: Media, begin: int, end: int) -> bytes:
    return b"".join(archive.artifacts.read(part, first, last) for part, first, last in media.spans(begin, end))


async def _wait(archive: Archive, job: Job) -> None:
    """Until something has happened, or for a while."""
    with in_plain_words():
        await archive.store.events.read(job.ref, after=job.events, wait_s=BLOCK_S, limit=1)
