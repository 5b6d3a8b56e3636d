"""What windows attend where the sink moves along as an anchor, right before the latest frames.

Pure, as `regions` is. Source: Rolling Forcing, arXiv 2509.25161.
"""

from collections.abc import Sequence

from reelray.workers.memory.entries import Frame


def anchor(
    sink: Sequence[Frame], local: Sequence[Frame], first: int, reach: int
) -> tuple[tuple[Frame, ...], tuple[int, ...]]:
    """What a denoise step attends before its window, and its places: the sink stands right before the latest frames.

    Args:
        sink: First frames of the video.
        local: Frames after them, as far as they are kept.
        first: First latent frame of the window.
        reach: How many latent frames before it are attended, besides the sink.
    """
    latest = [frame for frame in local if frame.index >= first - reach]
    begin = first - len(latest) - len(sink)
    return (*sink, *latest), tuple(range(begin, first))


def forget_anchor(
    sink: Sequence[Frame], local: Sequence[Frame], first: int, reach: int
) -> tuple[tuple[Frame, ...], tuple[int, ...]]:
    """The same for a clean pass: the latest frames, each where it stands, whether it was in the sink or not.

    Args:
        sink: First frames of the video.
        local: Frames after them, as far as they are kept.
        first: First latent frame of the chunk.
        reach: How many latent frames before it are attended.
    """
    frames = tuple(frame for frame in (*sink, *local) if frame.index >= first - reach)
    return frames, tuple(frame.index for frame in frames)
