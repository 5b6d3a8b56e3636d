"""The writing end of a pipe, whose reader may be slow, may stand still, or may leave."""

import errno
import os
import select
import stat
import threading
import time
from collections.abc import Callable

LOOK_MS = 100


class PipeEnd:
    """Writes bytes in order; a writer that waits for a reader can be freed by another thread.

    Args:
        descriptor: Open for writing; closed by `close`.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._freed = threading.Event()
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        # A pipe that can take something takes this much without waiting; a larger piece could wait for ever.
        self._piece = select.PIPE_BUF if os.get_blocking(descriptor) and not _is_file(descriptor) else 1 << 20

    def write(self, data: bytes | memoryview, /) -> int:
        """Write all of it, however long the reader takes; once freed, drop it.

        Returns:
            How many bytes that are.

        Raises:
            BrokenPipeError: The reader has left.
            OSError: Writing failed.
        """
        left = memoryview(data).cast("B")
        total = len(left)
        while left and not self._freed.is_set():
            if self._poll.poll(LOOK_MS):
                left = left[self._write_piece(left[: self._piece]) :]
        return total

    def check(self) -> None:
        """Look whether somebody still reads.

        Raises:
            BrokenPipeError: The reader has left.
        """
        if any(event & select.POLLERR for _, event in self._poll.poll(0)):
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    def free(self) -> None:
        """Let nobody wait here any more; what has not been read is lost."""
        self._freed.set()

    def close(self) -> None:
        """Tell the reader that nothing follows."""
        os.close(self._descriptor)

    def _write_piece(self, piece: memoryview) -> int:
        try:
            return os.write(self._descriptor, piece)
        except BlockingIOError:  # somebody else, who shares the pipe, was faster
            return 0


def open_pipe(path: str, wait: Callable[[], None]) -> int:
    """Open a pipe that has a name, once somebody reads it.

    Args:
        path: Its name.
        wait: Called once if nobody does yet.

    Returns:
        A descriptor whose writes never wait.

    Raises:
        OSError: It cannot be opened.
    """
    waits = False
    while True:
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:  # a pipe without a reader
                raise
        if not waits:
            waits = True
            wait()
        time.sleep(LOOK_MS / 1000)


def is_pipe(path: str) -> bool:
    """Whether bytes that are written there cannot be taken back: a pipe, or a device such as ``/dev/null``."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116  a name may be a descriptor's, such as /dev/fd/63
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def _is_file(descriptor: int) -> bool:
    return stat.S_ISREG(os.fstat(descriptor).st_mode)
