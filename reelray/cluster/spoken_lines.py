"""Lines that are typed, or come through a pipe, while a stream runs."""

import codecs
import os
import select
import threading
from collections.abc import Callable, Iterator

LOOK_S = 0.1


class SpokenLines:
    """Reads lines in a thread of its own and hands each on; the end of the input is told too.

    The thread never waits inside a read: one that does would hold the interpreter's end up.

    Args:
        source: File descriptor; None is one that has ended.
        hear: Called with each line, without its end.
        ended: Called when there are no more.
    """

    def __init__(self, source: int | None, hear: Callable[[str], None], ended: Callable[[], None]) -> None:
        self._source, self._hear, self._ended = source, hear, ended
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spoken-lines", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Read no more."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        for line in self._lines():
            if self._stopping.is_set():
                return
            if line.strip():
                self._hear(line.strip())
        if not self._stopping.is_set():
            self._ended()

    def _lines(self) -> Iterator[str]:
        decoder, rest = codecs.getincrementaldecoder("utf-8")(errors="replace"), ""
        while data := self._read():
            *lines, rest = (rest + decoder.decode(data)).split("\n")
            yield from lines
        yield rest

    def _read(self) -> bytes:
        """What has come; nothing at the end."""
        while self._source is not None and not self._stopping.is_set():
            try:
                if select.select([self._source], [], [], LOOK_S)[0]:
                    return os.read(self._source, 1 << 16)
            except OSError:
                return b""
        return b""
