"""Formats a video can be written in, by name or by file ending.

| format | file | what it is |
|---|---|---|
| mp4 | .mp4 .m4v | H.264, 4:2:0, bt709, index at the front, metadata |
| webm | .webm | VP9, 4:2:0, bt709, metadata |
| gif | .gif | one palette per frame, no metadata |
| png-dir | a folder | frame_000000.png … and reelray.json |
| raw | .npy | uint8 array (frames, height, width, 3) for `numpy.load` |

Into a pipe go mp4 (in fragments), webm, gif, and raw as nothing but the frames' RGB bytes (rgb24).
"""

import re
from enum import StrEnum
from pathlib import Path

from reelray.proto.errors import InputError


class VideoFormat(StrEnum):
    """What a video is written as."""

    MP4 = "mp4"
    WEBM = "webm"
    GIF = "gif"
    PNG_DIR = "png-dir"
    RAW = "raw"


SUFFIXES = {
    ".mp4": VideoFormat.MP4,
    ".m4v": VideoFormat.MP4,
    ".webm": VideoFormat.WEBM,
    ".gif": VideoFormat.GIF,
    ".npy": VideoFormat.RAW,
}
STANDARD_OUTPUT = "-"
ENDINGS = {VideoFormat.RAW: ".npy", VideoFormat.PNG_DIR: "/"}
NAME_CHARACTERS = 40


def format_for(output: str) -> VideoFormat:
    """Guess the format from a name; a name that ends in `/` is a folder of PNG files.

    Raises:
        InputError: The ending is not known.
    """
    if output.endswith("/"):
        return VideoFormat.PNG_DIR
    suffix = Path(output).suffix.lower()
    if suffix not in SUFFIXES:
        ending = f"ends in '{suffix}'" if suffix else "has no ending"
        raise InputError(
            f"output '{output}' {ending}, which is no known video format; use .mp4, .webm, .gif, .npy (raw frames), "
            "a folder ending in / (PNG frames), or --format; - is standard output"
        )
    return SUFFIXES[suffix]


def name_for(prompt: str, seed: int, video_format: VideoFormat) -> str:
    """A file name that tells two renders apart."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower())[:NAME_CHARACTERS].strip("-") or "video"
    return f"{words}-{seed}" + ENDINGS.get(video_format, f".{video_format}")
