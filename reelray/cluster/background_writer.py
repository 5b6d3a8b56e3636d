"""Encodes frames in a thread of its own, while the engine makes the next ones."""

import queue
import threading
from collections.abc import Callable, Mapping

from reelray.cluster.output_choice import Output
from reelray.cluster.video_writer import FramesArray

QUEUED_BATCHES = 4
"""Batches that may wait; a slow disk then holds the engine back and memory stays bounded."""
POLL_S = 0.1


class BackgroundWriter:
    """Feeds an output from a bounded queue.

    Args:
        output: Where frames go, started; committed by `finish`, left uncommitted by `close`.
        failed: Called once in the writer's thread when nothing more can be written: whoever waits for frames may not
            hear of it otherwise.
    """

    def __init__(self, output: Output, failed: Callable[[], None] = lambda: None) -> None:
        self._output, self._failed = output, failed
        self._batches: queue.Queue[FramesArray | None] = queue.Queue(QUEUED_BATCHES)
        self._stopping = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="video-writer", daemon=True)
        self._thread.start()

    def write(self, frames_FHWC: FramesArray) -> None:
        """Queue RGB frames; blocks while the queue is full.

        Raises:
            OutputError: An earlier batch could not be written.
            BrokenPipeError: Whoever read the output has left.
        """
        self._put(frames_FHWC)

    def finish(self, metadata: Mapping[str, object] | None = None) -> None:
        """Write what is queued and commit the output.

        Args:
            metadata: Facts that travel in the file, where they are others than those at the start.

        Raises:
            OutputError: The file could not be completed; nothing has appeared under its name.
        """
        self._put(None)
        self._thread.join()
        self.check()
        self._output.commit(metadata)

    def check(self) -> None:
        """Raise what went wrong until now.

        Raises:
            OutputError: Something could not be written.
            BrokenPipeError: Whoever read the output has left.
        """
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Drop what is queued and wait for the thread; harmless after `finish`."""
        self._stopping.set()
        self._output.interrupt()
        self._thread.join()

    def _put(self, batch: FramesArray | None) -> None:
        while True:
            self.check()
            try:
                self._batches.put(batch, timeout=POLL_S)
            except queue.Full:
                continue
            return

    def _run(self) -> None:
        try:
            while (batch := self._take()) is not None:
                self._output.write(batch)
        except BaseException as error:  # noqa: BLE001  raised again in the thread that feeds this one
            self._error = error
            self._failed()

    def _take(self) -> FramesArray | None:
        while not self._stopping.is_set():
            try:
                return self._batches.get(timeout=POLL_S)
            except queue.Empty:
                self._output.check()
        return None
