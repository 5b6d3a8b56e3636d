"""What is there of a job's video: bytes that only become more, also while workers come and go."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from reelray.cluster.plain_json import from_plain
from reelray.cluster.renders.artifact import Artifact
from reelray.cluster.renders.artifacts import Artifacts
from reelray.cluster.renders.unit_files import segments_of
from reelray.cluster.renders.unit_record import UnitRecord
from reelray.cluster.store.job import Job
from reelray.cluster.store.names import JobRef
from reelray.cluster.store.open import Store
from reelray.proto.errors import GoneError, InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Media:
    """The bytes that are there.

    Args:
        job: As it was just before they were looked up.
        parts: Files that make them up, in order.
        complete: Whether it is the whole video.
    """

    job: Job
    parts: tuple[Artifact, ...]
    complete: bool

    @property
    def size_bytes(self) -> int:
        """How many there are; of the whole video where it is complete."""
        return sum(part.size_bytes for part in self.parts)

    def spans(self, begin: int, end: int) -> Iterator[tuple[Artifact, int, int]]:
        """Where bytes `begin` up to `end` lie: a file, and its bytes from and up to."""
        at = 0
        for part in self.parts:
            first, last = max(begin - at, 0), min(end - at, part.size_bytes)
            if first < last:
                yield part, first, last
            at += part.size_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaPiece:
    """Some bytes of a video.

    Args:
        data: From the offset that was asked for; empty where there is nothing more yet.
        offset: Of the first.
        size_bytes: Of what is there by now.
        complete: Whether that is the whole video.
        job: As it was just before.
    """

    data: bytes
    offset: int
    size_bytes: int
    complete: bool
    job: Job


async def find_media(store: Store, ref: JobRef) -> Media:
    """Look up what is there.

    Raises:
        UnknownJobError: The tenant has no such job.
    """
    job = await store.jobs.get(ref)
    video = result_video(job)
    if video is not None:
        return Media(job=job, parts=(video,), complete=True)
    commits = await store.ledger.commits(ref)
    records = [UnitRecord.from_json(commit.record) for commit in commits]
    return Media(job=job, parts=tuple(segments_of(records)), complete=False)


async def read_media(
    store: Store, artifacts: Artifacts, ref: JobRef, *, offset: int = 0, most_bytes: int = 1 << 20
) -> MediaPiece:
    """Read from an offset on; a commit event of the job says when there may be more.

    Args:
        store: Knows the job.
        artifacts: Has its files.
        ref: Which job.
        offset: Of the first byte.
        most_bytes: Most bytes.

    Raises:
        UnknownJobError: The tenant has no such job.
        InputError: The offset is below zero, or beyond the end of a complete video.
        GoneError: The files were kept as long as was asked.
        ArtifactError: They cannot be read now.
    """
    if offset < 0 or most_bytes < 1:
        raise InputError(f"{most_bytes} bytes from {offset} on: an offset is at least 0, and a read 1 byte or more")
    media = await find_media(store, ref)
    try:
        data = await asyncio.to_thread(_read, artifacts, media, offset, most_bytes)
    except GoneError:  # the job may have ended since, and its parts have become one file
        media = await find_media(store, ref)
        data = await asyncio.to_thread(_read, artifacts, media, offset, most_bytes)
    return MediaPiece(data=data, offset=offset, size_bytes=media.size_bytes, complete=media.complete, job=media.job)


def result_video(job: Job) -> Artifact | None:
    """The whole video of a job that is done.

    Raises:
        InputError: Another build made it.
    """
    if job.result is None:
        return None
    try:
        return from_plain(Artifact, job.result.get("video"))
    except (ValueError, TypeError) as error:
        raise InputError(f"the job's result was written by another build of reelray: {error}") from None


def _read(artifacts: Artifacts, media: Media, offset: int, most_bytes: int) -> bytes:
    if media.complete and offset > media.size_bytes:
        raise InputError(f"offset is {offset}; the video has {media.size_bytes} bytes", ids=media.job.ref.ids)
    spans = media.spans(offset, offset + most_bytes)
    return b"".join(artifacts.read(part, first, last) for part, first, last in spans)
