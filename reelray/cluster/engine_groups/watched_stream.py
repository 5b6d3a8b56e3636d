"""Events of a request, and one word when there are no more."""

import threading
from collections.abc import Callable, Iterator

from reelray.proto.errors import ReelrayError
from reelray.proto.events import Event


class WatchedStream(Iterator[Event]):
    """Passes events on; one thread takes, any other may close.

    Args:
        events: Of an engine.
        ended: Called once, with the error if there was one.
    """

    def __init__(self, events: Iterator[Event], ended: Callable[[ReelrayError | None], None]) -> None:
        self._events, self._ended = events, ended
        self._lock = threading.Lock()
        self._over = False

    def __next__(self) -> Event:
        try:
            return next(self._events)
        except ReelrayError as error:
            self._end(error)
            raise
        except BaseException:
            self._end(None)
            raise

    def close(self) -> None:
        """Cancel the request if it still goes on."""
        try:
            close = getattr(self._events, "close", None)
            if close is not None:
                close()
        finally:
            self._end(None)

    def _end(self, error: ReelrayError | None) -> None:
        with self._lock:
            if self._over:
                return
            self._over = True
        self._ended(error)
