"""Where a video goes: into a file, under its name once it is complete, or into a pipe, while it is made."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from reelray.cluster.pipe_end import is_pipe
from reelray.cluster.video_format import STANDARD_OUTPUT, VideoFormat, format_for
from reelray.proto.errors import InputError

if TYPE_CHECKING:
    from types import TracebackType

    from reelray.cluster.video_writer import FramesArray, VideoSpec

STANDARD_OUTPUT_NAMES = (STANDARD_OUTPUT, "/dev/stdout")


class Output(Protocol):
    """What a video is written to, between `__enter__` and `__exit__`."""

    @property
    def format(self) -> VideoFormat:
        """What is written."""
        ...

    @property
    def replaces(self) -> bool:
        """Whether a file is replaced."""
        ...

    def start(self, spec: "VideoSpec") -> None:
        """Begin."""
        ...

    def write(self, frames_FHWC: "FramesArray") -> None:
        """Append RGB frames."""
        ...

    def commit(self, metadata: Mapping[str, object] | None = None) -> None:
        """Finish, with other facts than those at the start where the file can take them."""
        ...

    def check(self) -> None:
        """Look whether something can still be written; may raise OSError."""
        ...

    def interrupt(self) -> None:
        """Free a thread that waits in `write`, which is the end of it."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None: ...


def choose_format(output: str | None, wanted: VideoFormat | None) -> VideoFormat:
    """The format that was asked for, or the one that the output's name says.

    Raises:
        InputError: The name is empty, or says nothing.
    """
    if output == "":
        raise InputError("the output's name is empty; give one (-o clip.mp4), or leave -o out")
    if wanted is not None:
        return wanted
    try:
        return format_for(output or "video.mp4")
    except InputError:
        if output is not None and goes_into_pipe(output):
            return VideoFormat.MP4
        raise


def open_output(output: str, video_format: VideoFormat, *, replace: bool, tell: Callable[[str], None]) -> Output:
    """Claim the place of a video.

    Args:
        output: A file, a folder, a pipe's name, or ``-`` for standard output.
        video_format: What is written.
        replace: False refuses the name of a file that is there.
        tell: Shows a line.

    Raises:
        InputError: A pipe cannot take this format, or is a terminal.
        OutputError: The name cannot be written, found out now and not after the render.
    """
    if goes_into_pipe(output):
        from reelray.cluster.pipe_output import PipeOutput  # noqa: PLC0415  files do not need it

        return PipeOutput(STANDARD_OUTPUT if output in STANDARD_OUTPUT_NAMES else output, video_format, tell)
    from reelray.cluster.video_output import VideoOutput  # noqa: PLC0415

    return VideoOutput(Path(output), video_format, replace=replace)


def goes_into_pipe(output: str) -> bool:
    """Whether what is written there cannot be taken back."""
    return output in STANDARD_OUTPUT_NAMES or is_pipe(output)
