"""The place a video will appear: checked before rendering, filled under another name, renamed at success.

An existing file is replaced, as `cp` and `gcc -o` do, but only by a complete video and in one step; until then, and
after any failure, it is what it was.
"""

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace as with_
from pathlib import Path
from types import TracebackType
from typing import Self

from reelray.cluster.video_format import VideoFormat
from reelray.cluster.video_tags import write_tags
from reelray.cluster.video_writer import (
    FramesArray,
    VideoSpec,
    VideoWriter,
    load_writer,
)
from reelray.proto.errors import OutputError

REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than the system allows",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOENT: "its folder does not exist",
    errno.ENOTDIR: "its folder is not a folder",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EIO: "the disk reports an error",
}


class VideoOutput:
    """One output file or folder, under a temporary name until `commit`.

    Use as a context manager: whatever was not committed is removed at the end.

    Args:
        path: Final name; a symbolic link is followed.
        video_format: What is written.
        replace: False refuses a name that is taken.

    Raises:
        OutputError: The name cannot be written, found out now and not after the render.
    """

    def __init__(self, path: Path, video_format: VideoFormat, *, replace: bool = True) -> None:
        self.path = path
        self.format = video_format
        self._writer: VideoWriter | None = None
        self._spec: VideoSpec | None = None
        with output_errors(path):
            self._final = Path(os.path.realpath(path))
            self.replaces = os.path.lexists(self._final)
            if self.replaces:
                _check_replaceable(path, self._final, video_format, replace=replace)
            self._partial = _claim_partial(self._final, folder=video_format is VideoFormat.PNG_DIR)

    def start(self, spec: VideoSpec) -> None:
        """Open the writer.

        Raises:
            OutputError: The file cannot be made, or the disk is too small for raw frames.
        """
        if self.format is VideoFormat.RAW:
            self._check_room(spec.frames * spec.width * spec.height * 3)
        self._spec = spec
        with output_errors(self.path):
            self._writer = load_writer(self.format)(self._partial, spec)

    def write(self, frames_FHWC: FramesArray) -> None:
        """Append RGB frames.

        Raises:
            OutputError: The disk is full or failed.
        """
        assert self._writer is not None, "start comes first"
        with output_errors(self.path):
            self._writer.write(frames_FHWC)

    def commit(self, metadata: Mapping[str, object] | None = None) -> None:
        """Finish the file and give it its final name.

        Args:
            metadata: Facts that travel in the file, where they are others than those at the start.

        Raises:
            OutputError: The disk is full or failed; nothing has appeared under the final name.
        """
        assert self._writer is not None, "start comes first"
        assert self._spec is not None, "start comes first"
        with output_errors(self.path):
            self._writer.close()
            self._writer = None
            if metadata is not None and metadata != self._spec.metadata:
                write_tags(self._partial, self.format, with_(self._spec, metadata=metadata))
            _flush(self._partial)
            _move(self._partial, self._final)

    def check(self) -> None:
        """A file can be written until it cannot."""

    def interrupt(self) -> None:
        """Nothing waits here for long."""

    def discard(self) -> None:
        """Remove what was not committed; harmless after `commit`."""
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None
        _remove(self._partial)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.discard()

    def _check_room(self, needed_bytes: int) -> None:
        free_bytes = shutil.disk_usage(self._final.parent).free
        if needed_bytes > free_bytes:
            raise OutputError(
                f"cannot write '{self.path}': the raw frames need {needed_bytes / 1e6:.0f} MB "
                f"and {free_bytes / 1e6:.0f} MB are free; use .mp4 or another disk"
            )


@contextlib.contextmanager
def output_errors(path: Path | str) -> Iterator[None]:
    """Turn OSError into OutputError with the reason in plain words; a reader that has left is no such error."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = REASONS.get(error.errno or 0) or error.strerror or str(error)
        raise OutputError(f"cannot write '{path}': {reason}") from error


def _check_replaceable(path: Path, final: Path, video_format: VideoFormat, *, replace: bool) -> None:
    if final.is_dir():
        if video_format is not VideoFormat.PNG_DIR:
            raise OutputError(f"cannot write '{path}': it is a folder; name a file in it, such as {path / 'clip.mp4'}")
        from reelray.cluster.video_writer_png import is_png_folder  # noqa: PLC0415  Pillow only where it is needed

        if not is_png_folder(final):
            raise OutputError(f"cannot write '{path}': the folder holds other files; name a new or an empty folder")
    elif not final.is_file() or video_format is VideoFormat.PNG_DIR:
        kind = "a file" if final.is_file() else "a device, pipe or broken link"
        raise OutputError(f"cannot write '{path}': it is {kind} that a video cannot replace; choose another name")
    if not replace:
        raise OutputError(f"cannot write '{path}': it exists, and --no-clobber was given; choose another name")


def _claim_partial(final: Path, *, folder: bool) -> Path:
    with contextlib.suppress(FileNotFoundError):
        final.lstat()  # a name that is too long is refused here and not at the rename
    partial = final.parent / f".reelray-{secrets.token_hex(6)}.part"
    if folder:
        partial.mkdir()
    else:
        partial.touch(exist_ok=False)
    return partial


def _flush(partial: Path) -> None:
    """Let the file system say now what it would otherwise say to nobody: network disks and quotas report late."""
    if partial.is_file():
        with partial.open("rb") as file:
            os.fsync(file.fileno())


def _move(partial: Path, final: Path) -> None:
    if partial.is_dir() and final.is_dir():
        old = final.parent / f".reelray-{secrets.token_hex(6)}.old"
        final.replace(old)
        partial.replace(final)
        shutil.rmtree(old, ignore_errors=True)
    else:
        partial.replace(final)


def _remove(partial: Path) -> None:
    if partial.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            partial.unlink()
