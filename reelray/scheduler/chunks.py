"""Cuts a video in time: chunks that are denoised together, and pieces of chunks that are decoded together."""

from collections.abc import Sequence
from dataclasses import dataclass

from reelray.proto.chunking import Chunking
from reelray.proto.errors import SizeError

MOST_CHUNKS = 20_000
"""Of a video: hours of it. Every step of every chunk is counted anew whenever the length or a prompt changes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Consecutive latent frames.

    Args:
        first: Index of the first latent frame in the video.
        length: Latent frames.
    """

    first: int
    length: int

    @property
    def end(self) -> int:
        """Index after the last latent frame."""
        return self.first + self.length


def cut_chunks(chunking: Chunking, latent_frames: int) -> tuple[Span, ...]:
    """Cut a video of `latent_frames` into chunks; a whole clip is the one-chunk case.

    The last chunk is shorter where the count does not divide.

    Args:
        chunking: Sizes, in latent frames.
        latent_frames: Latent frames of the whole video, at least 1.

    Raises:
        SizeError: They are more than `MOST_CHUNKS`.
    """
    size = chunking.latent_frames or latent_frames
    first_size = chunking.first_latent_frames or size
    if latent_frames > first_size + (MOST_CHUNKS - 1) * size:
        raise SizeError(
            f"{latent_frames} latent frames are too many for one video: it has at most {MOST_CHUNKS} chunks, which are "
            f"{first_size + (MOST_CHUNKS - 1) * size}"
        )
    starts = [0, *range(first_size, latent_frames, size)]
    ends = [*starts[1:], latent_frames]
    return tuple(Span(first=a, length=b - a) for a, b in zip(starts, ends, strict=True))


def cut_rounds(chunking: Chunking, chunks: Sequence[Span]) -> list[tuple[range, range]]:
    """Rounds of chunks: for each, the chunks of earlier ones that it begins with, and its own.

    Args:
        chunking: Sizes of rounds; without them all chunks are one.
        chunks: Of the video, as `cut_chunks` cuts them.
    """
    if chunking.round_latent_frames is None or chunking.latent_frames is None:
        return [(range(0), range(len(chunks)))]
    most, overlap = chunking.round_latent_frames // chunking.latent_frames, chunking.overlap // chunking.latent_frames
    starts = [0, *range(most, len(chunks), most - overlap)]
    ends = [*starts[1:], len(chunks)]
    return [(range(max(0, a - overlap), a), range(a, b)) for a, b in zip(starts, ends, strict=True)]


def cut_pieces(chunks: Sequence[Span], size: int) -> tuple[Span, ...]:
    """Cut chunks into decode pieces of at most `size` latent frames.

    The cuts depend on the request alone, never on timing, so that a video decodes to the same bytes however it is
    interleaved with others.
    """
    return tuple(
        Span(first=first, length=min(size, chunk.end - first))
        for chunk in chunks
        for first in range(chunk.first, chunk.end, size)
    )
