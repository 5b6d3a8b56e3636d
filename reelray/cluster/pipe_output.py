"""A video that is watched while it is made: standard output, or a pipe that has a name.

Nothing that was written can be taken back. What ends before its time leaves its reader with the frames until then.
"""

import os
import sys
from collections.abc import Callable, Mapping
from typing import Self

from reelray.cluster.pipe_end import PipeEnd, open_pipe
from reelray.cluster.video_format import STANDARD_OUTPUT, VideoFormat
from reelray.cluster.video_output import output_errors
from reelray.cluster.video_writer import FramesArray, VideoSpec, VideoWriter, load_pipe_writer
from reelray.proto.errors import InputError


class PipeOutput:
    """One pipe, from its claim on.

    While standard output is claimed, whatever else this process or those that it starts print there goes to standard
    error: the video stays whole.

    Args:
        name: Of the pipe; ``-`` is standard output.
        video_format: What is written.
        tell: Says that nobody reads yet.

    Raises:
        InputError: It is a terminal, or the format is none for pipes.
        OutputError: It cannot be written.
    """

    replaces = False

    def __init__(self, name: str, video_format: VideoFormat, tell: Callable[[str], None]) -> None:
        if video_format is VideoFormat.PNG_DIR:
            raise InputError(f"a folder of PNG frames cannot go into a pipe; {_SAY}")
        self.format, self._name, self._tell = video_format, name, tell
        self._writer: VideoWriter | None = None
        self._end: PipeEnd | None = None
        self._kept: int | None = None
        if name == STANDARD_OUTPUT:
            with output_errors(self._title):
                self._kept = _claim_standard_output()
        if _is_terminal(name, self._kept):
            self.discard()
            raise InputError(
                "the video would go to a terminal; send it on, such as: reelray … -o - | ffplay -, or name a file "
                "(-o clip.mp4)"
            )

    def start(self, spec: VideoSpec) -> None:
        """Wait for a reader, and write what comes before the first frame.

        Raises:
            OutputError: The pipe cannot be opened.
            BrokenPipeError: Its reader has left.
        """
        with output_errors(self._title):
            descriptor = open_pipe(self._name, self._wait) if self._kept is None else os.dup(self._kept)
            self._end = PipeEnd(descriptor)
            self._writer = load_pipe_writer(self.format)(self._end, spec)

    def write(self, frames_FHWC: FramesArray) -> None:
        """Write RGB frames; waits for a reader that is slower.

        Raises:
            OutputError: It failed.
            BrokenPipeError: The reader has left.
        """
        assert self._writer is not None, "start comes first"
        with output_errors(self._title):
            self._writer.write(frames_FHWC)

    def commit(self, metadata: Mapping[str, object] | None = None) -> None:  # noqa: ARG002  the seam has it
        """Write what comes behind the last frame, and tell the reader that it was.

        Args:
            metadata: Not needed: the facts were written at the start.

        Raises:
            OutputError: It failed.
            BrokenPipeError: The reader has left.
        """
        assert self._writer is not None, "start comes first"
        with output_errors(self._title):
            self._writer.close()
            self._writer = None
        self.discard()

    def check(self) -> None:
        """Look whether somebody still reads.

        Raises:
            BrokenPipeError: The reader has left.
        """
        if self._end is not None:
            self._end.check()

    def interrupt(self) -> None:
        """Free a thread that waits in `write`; nothing more is written."""
        if self._end is not None:
            self._end.free()

    def discard(self) -> None:
        """Close the pipe, complete or not."""
        self.interrupt()
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None
        if self._end is not None:
            self._end.close()
            self._end = None
        if self._kept is not None:
            _give_back_standard_output(self._kept)
            self._kept = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    @property
    def _title(self) -> str:
        return "standard output" if self._name == STANDARD_OUTPUT else self._name

    def _wait(self) -> None:
        self._tell(f"waiting for somebody to read {self._name}")


_SAY = "say --format mp4, webm, gif or raw (rgb24)"
_STDOUT, _STDERR = 1, 2


def _claim_standard_output() -> int:
    """A descriptor of standard output, which then leads to standard error, or nowhere without one."""
    sys.stdout.flush()
    kept = os.dup(_STDOUT)
    try:
        os.dup2(_STDERR, _STDOUT)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, _STDOUT)
        os.close(nowhere)
    return kept


def _give_back_standard_output(kept: int) -> None:
    sys.stdout.flush()
    os.dup2(kept, _STDOUT)
    os.close(kept)


def _is_terminal(name: str, kept: int | None) -> bool:
    if kept is not None:
        return os.isatty(kept)
    return os.path.realpath(name).startswith(("/dev/tty", "/dev/pts/", "/dev/console"))
