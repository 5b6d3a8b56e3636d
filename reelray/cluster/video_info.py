"""Reads back what a video file says of itself."""

import contextlib
import json
import stat
from pathlib import Path
from typing import Any

from reelray.proto.errors import InputError


def read_video_info(path: Path) -> dict[str, object]:
    """Size and length of a video, and the facts that reelray put into it.

    Raises:
        InputError: The file is missing, cannot be read, or is no video.
    """
    kind = _kind_of(path)
    if kind is None:
        raise InputError(f"'{path}' does not exist")
    if stat.S_ISDIR(kind):
        return _read_png_folder(path)
    if not stat.S_ISREG(kind):  # a pipe would be waited for, for ever
        raise InputError(f"'{path}' is not a file; a video that went through a pipe says nothing of itself afterwards")
    if path.suffix == ".npy":
        return _read_raw(path)
    return _read_container(path)


def _kind_of(path: Path) -> int | None:
    """Mode bits of what has this name; None where nothing has it."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"'{path}' cannot be read: {reason}") from None


def _read_container(path: Path) -> dict[str, object]:
    import av  # noqa: PLC0415  folders and raw frames do not need it

    try:
        with av.open(str(path.absolute())) as container:
            # A damaged header may tell of a codec that is none.
            stream = next(stream for stream in container.streams.video if stream.codec_context is not None)
            frames = sum(packet.size > 0 for packet in container.demux(stream))
            facts: dict[str, object] = {
                "format": stream.codec_context.name,
                "width": stream.codec_context.width,
                "height": stream.codec_context.height,
                "frames": frames,
                "fps": float(stream.average_rate or 0),
            }
            tags = {name.lower(): value for name, value in container.metadata.items()}
    except (av.error.FFmpegError, OSError, ValueError, StopIteration):
        raise InputError(f"'{path}' is not a video that can be read") from None
    return {**_made_by(tags.get("comment", "")), **facts}


def _read_png_folder(path: Path) -> dict[str, object]:
    frames = len(list(path.glob("frame_*.png")))
    if not frames:
        raise InputError(f"folder '{path}' holds no frame_*.png files")
    file = path / "reelray.json"
    try:
        comment = file.read_text() if file.exists() else ""
    except (OSError, UnicodeDecodeError):
        raise InputError(f"'{file}' cannot be read; without it the frames say nothing of themselves") from None
    return {**_made_by(comment), "format": "png", "frames": frames}


def _read_raw(path: Path) -> dict[str, object]:
    import numpy as np  # noqa: PLC0415  containers do not need it

    try:
        # Not np.load, which also opens archives, and tells of an empty file by EOFError.
        frames, height, width, _ = np.lib.format.open_memmap(path, mode="r").shape
    except (OSError, ValueError):
        raise InputError(f"'{path}' does not hold raw frames") from None
    return {"format": "raw", "width": width, "height": height, "frames": frames}


def _made_by(comment: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        facts = json.loads(comment)
        if isinstance(facts, dict):
            return facts
    return {}
