"""The seam that the writers of all formats share.

Shape legend: F pixel frames, H/W pixel height/width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from reelray.cluster.video_format import VideoFormat

FramesArray = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoSpec:
    """What a writer must know before the first frame.

    Args:
        width: Pixels.
        height: Pixels.
        frames: Pixel frames that will come.
        fps: Frames per second.
        grows: Whether that is only what is known by now.
        metadata: JSON-ready facts that travel in the file, such as prompt and seed.
    """

    width: int
    height: int
    frames: int
    fps: Fraction
    grows: bool = False
    metadata: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("width", "height", "frames", "fps"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be greater than 0")


class VideoWriter(Protocol):
    """Writes one video as its frames arrive; memory does not grow with the length.

    Every method may raise OSError. After `close` or `abandon` nothing else may be called.
    """

    def write(self, frames_FHWC: FramesArray) -> None:
        """Append RGB frames, uint8, shape F, H, W, 3."""
        ...

    def close(self) -> None:
        """Finish the file; it is complete afterwards."""
        ...

    def abandon(self) -> None:
        """Let go of the file, complete or not; raises nothing."""
        ...


class ByteSink(Protocol):
    """Takes bytes in order; cannot go back."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Take all of it; returns how many bytes that are. May raise OSError."""
        ...


CreateWriter = Callable[[Path, VideoSpec], VideoWriter]
"""Starts writing to a path, over an empty file or folder if there is one; its name does not matter. May raise
OSError."""

CreatePipeWriter = Callable[[ByteSink, VideoSpec], VideoWriter]
"""Starts writing bytes in order. May raise OSError."""


def load_writer(video_format: VideoFormat) -> CreateWriter:
    """Import what a format needs, and nothing else."""
    if video_format is VideoFormat.PNG_DIR:
        from reelray.cluster.video_writer_png import PngWriter  # noqa: PLC0415

        return PngWriter
    if video_format is VideoFormat.RAW:
        from reelray.cluster.video_writer_raw import RawWriter  # noqa: PLC0415

        return RawWriter
    from reelray.cluster.video_encodings import FILES  # noqa: PLC0415
    from reelray.cluster.video_writer_av import AvWriter  # noqa: PLC0415

    return partial(AvWriter, FILES[video_format])


def load_pipe_writer(video_format: VideoFormat) -> CreatePipeWriter:
    """The same for what is watched while it is written; not for folders."""
    if video_format is VideoFormat.RAW:
        from reelray.cluster.video_writer_raw import PixelWriter  # noqa: PLC0415

        return PixelWriter
    from reelray.cluster.video_encodings import PIPES  # noqa: PLC0415
    from reelray.cluster.video_writer_av import AvWriter  # noqa: PLC0415

    return partial(AvWriter, PIPES[video_format])
