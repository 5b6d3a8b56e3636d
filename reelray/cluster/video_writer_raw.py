"""Raw frames as one `.npy` file: exact, seekable, read back by `numpy.load(path, mmap_mode="r")`."""

from pathlib import Path

import numpy as np

from reelray.cluster.video_writer import FramesArray, VideoSpec


class RawWriter:
    """Writes the `.npy` header for the announced frames, then their bytes."""

    def __init__(self, path: Path, spec: VideoSpec) -> None:
        self._shape = (spec.height, spec.width, 3)
        self._left = spec.frames
        self._file = path.open("wb")
        np.lib.format.write_array_header_1_0(
            self._file,
            {"descr": np.dtype(np.uint8).str, "fortran_order": False, "shape": (spec.frames, *self._shape)},
        )

    def write(self, frames_FHWC: FramesArray) -> None:
        """Append RGB frames."""
        self._left -= len(frames_FHWC)
        self._file.write(np.ascontiguousarray(frames_FHWC).data)

    def close(self) -> None:
        """Finish the file.

        Raises:
            ValueError: Fewer or more frames came than were announced.
        """
        self._file.close()
        if self._left:
            raise ValueError(f"the number of frames differs from the announced one by {-self._left}")

    def abandon(self) -> None:
        """Let go of the file."""
        try:
            self._file.close()
        except OSError:
            return
