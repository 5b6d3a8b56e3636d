"""A folder of numbered PNG files and a JSON file with the metadata."""

import json
from pathlib import Path

from PIL import Image

from reelray.cluster.video_writer import FramesArray, VideoSpec

METADATA_FILE = "reelray.json"
FAST_COMPRESSION = 3
"""zlib level: a third of the time of Pillow's default for a few percent more bytes."""


class PngWriter:
    """Writes frame_000000.png, frame_000001.png and so on."""

    def __init__(self, path: Path, spec: VideoSpec) -> None:
        path.mkdir(exist_ok=True)
        self._path = path
        self._next = 0
        write_facts(path, spec)

    def write(self, frames_FHWC: FramesArray) -> None:
        """Append RGB frames."""
        for frame_HWC in frames_FHWC:
            name = self._path / f"frame_{self._next:06d}.png"
            Image.fromarray(frame_HWC).save(name, compress_level=FAST_COMPRESSION)
            self._next += 1

    def close(self) -> None:
        """Nothing is left to do: every frame is a file of its own."""

    def abandon(self) -> None:
        """Nothing is held open."""


def write_facts(path: Path, spec: VideoSpec) -> None:
    """Write what a folder says of itself."""
    (path / METADATA_FILE).write_text(json.dumps({**spec.metadata, "fps": float(spec.fps)}, indent=2) + "\n")


def is_png_folder(path: Path) -> bool:
    """True when every entry of a folder was written by `PngWriter`; such a folder may be replaced."""
    names = [entry.name for entry in path.iterdir()]
    return all(name == METADATA_FILE or (name.startswith("frame_") and name.endswith(".png")) for name in names)
