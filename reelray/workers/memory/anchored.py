"""What windows attend where the sink moves along as an anchor, right before the latest frames.

Pure, as `regions` is. Source: Rolling Forcing, arXiv 2509.25161.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reelray.proto.recipe import MemoryRule

if TYPE_CHECKING:
    from reelray.workers.memory.regions import Frame


def anchor(
    rule: MemoryRule, sink: Sequence["Frame"], local: Sequence["Frame"], first: int, length: int
) -> tuple[tuple["Frame", ...], tuple[int, ...]]:
    """What a denoise step attends before its window, and its places: with the window at most sink and local frames.

    Args:
        rule: The recipe's.
        sink: First frames of the video.
        local: Frames after them, as far as they are kept.
        first: First latent frame of the window.
        length: Its latent frames.
    """
    latest = [frame for frame in local if frame.index >= first - (rule.local - length)]
    begin = first - len(latest) - len(sink)
    return (*sink, *latest), tuple(range(begin, first))


def forget_anchor(
    rule: MemoryRule, sink: Sequence["Frame"], local: Sequence["Frame"], first: int, length: int
) -> tuple[tuple["Frame", ...], tuple[int, ...]]:
    """The same for a clean pass: as many of the latest frames, each where it stands, whether it was in the sink or not.

    So the sink is seen only as long as the video is no longer than sink and local frames.
    """
    begin = first - (rule.sink + rule.local - length)
    frames = tuple(frame for frame in (*sink, *local) if frame.index >= begin)
    return frames, tuple(frame.index for frame in frames)
