"""Raw frames: `.npy` in a file, exact and seekable (`numpy.load(path, mmap_mode="r")`); pixels alone in a pipe."""

from pathlib import Path

import numpy as np

from reelray.cluster.video_writer import ByteSink, FramesArray, VideoSpec


class RawWriter:
    """Writes the `.npy` header for the announced frames, then their bytes."""

    def __init__(self, path: Path, spec: VideoSpec) -> None:
        self._shape = (spec.height, spec.width, 3)
        self._frames, self._grows, self._written = spec.frames, spec.grows, 0
        self._file = path.open("wb")
        self._begin(spec.frames)

    def write(self, frames_FHWC: FramesArray) -> None:
        """Append RGB frames."""
        self._written += len(frames_FHWC)
        self._file.write(np.ascontiguousarray(frames_FHWC).data)

    def close(self) -> None:
        """Finish the file.

        Raises:
            ValueError: Fewer or more frames came than were announced.
        """
        if self._grows:
            self._file.seek(0)
            self._begin(self._written)
        self._file.close()
        if self._written != self._frames and not self._grows:
            raise ValueError(f"the number of frames differs from the announced one by {self._written - self._frames}")

    def _begin(self, frames: int) -> None:
        """Write the header; NumPy leaves room in it, so that another count takes as many bytes."""
        shape = (frames, *self._shape)
        header = {"descr": np.dtype(np.uint8).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def abandon(self) -> None:
        """Let go of the file."""
        try:
            self._file.close()
        except OSError:
            return


class PixelWriter:
    """Writes rows of RGB bytes, frame after frame, with nothing before or between: rgb24, as players call it.

    Args:
        target: Where bytes go.
        spec: Not needed: the frames say all.
    """

    def __init__(self, target: ByteSink, spec: VideoSpec) -> None:  # noqa: ARG002  the seam has it
        self._target = target

    def write(self, frames_FHWC: FramesArray) -> None:
        """Append RGB frames."""
        self._target.write(np.ascontiguousarray(frames_FHWC).data)

    def close(self) -> None:
        """Nothing is left to do."""

    def abandon(self) -> None:
        """Nothing is held open."""
