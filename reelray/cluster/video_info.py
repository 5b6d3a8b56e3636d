"""Reads back what a video file says of itself."""

import contextlib
import json
from pathlib import Path
from typing import Any

from reelray.proto.errors import InputError


def read_video_info(path: Path) -> dict[str, object]:
    """Size and length of a video, and the facts that reelray put into it.

    Raises:
        InputError: The file is missing or no video.
    """
    if not path.exists():
        raise InputError(f"'{path}' does not exist")
    if path.is_dir():
        return _read_png_folder(path)
    if path.suffix == ".npy":
        return _read_raw(path)
    return _read_container(path)


def _read_container(path: Path) -> dict[str, object]:
    import av  # noqa: PLC0415  folders and raw frames do not need it

    try:
        with av.open(str(path.absolute())) as container:
            stream = container.streams.video[0]
            frames = sum(packet.size > 0 for packet in container.demux(stream))
            facts: dict[str, object] = {
                "format": stream.codec_context.name,
                "width": stream.codec_context.width,
                "height": stream.codec_context.height,
                "frames": frames,
                "fps": float(stream.average_rate or 0),
            }
            tags = {name.lower(): value for name, value in container.metadata.items()}
    except (OSError, ValueError, IndexError):
        raise InputError(f"'{path}' is not a video that can be read") from None
    return {**_made_by(tags.get("comment", "")), **facts}


def _read_png_folder(path: Path) -> dict[str, object]:
    frames = len(list(path.glob("frame_*.png")))
    if not frames:
        raise InputError(f"folder '{path}' holds no frame_*.png files")
    file = path / "reelray.json"
    return {**_made_by(file.read_text() if file.exists() else ""), "format": "png", "frames": frames}


def _read_raw(path: Path) -> dict[str, object]:
    import numpy as np  # noqa: PLC0415  containers do not need it

    try:
        frames, height, width, _ = np.load(path, mmap_mode="r").shape
    except (OSError, ValueError):
        raise InputError(f"'{path}' does not hold raw frames") from None
    return {"format": "raw", "width": width, "height": height, "frames": frames}


def _made_by(comment: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        facts = json.loads(comment)
        if isinstance(facts, dict):
            return facts
    return {}
