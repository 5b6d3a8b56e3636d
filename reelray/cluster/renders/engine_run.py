"""One request on an engine, as a source of events that may be left from another thread."""

import contextlib
import logging
import threading
from collections.abc import Iterator

from reelray.cluster.engine_api import Engine
from reelray.proto.errors import InputError, ReelrayError
from reelray.proto.events import Event
from reelray.proto.request import RenderRequest
from reelray.proto.snapshot import Snapshot, SnapshotKind

LOG = logging.getLogger("reelray.renders")


class EngineRun:
    """Iterate once, in one thread; the other methods may be called from others.

    Args:
        engine: Holds the model.
        request: What to make.
        snapshot: Where to go on.
    """

    def __init__(self, engine: Engine, request: RenderRequest, snapshot: Snapshot | None) -> None:
        self._engine, self._request, self._snapshot = engine, request, snapshot
        self._lock = threading.Lock()
        self._events: Iterator[Event] | None = None
        self._left = False

    def __iter__(self) -> Iterator[Event]:
        """Yield what the engine tells; leaving early stops it at its next step.

        Raises:
            ReelrayError: The engine refused or failed.
        """
        with self._lock:
            if self._left:
                return
            self._events = self._engine.render(self._request, self._snapshot)
            self._snapshot = None  # it may be large
        try:
            yield from self._events
        finally:
            _close(self._events)

    def leave(self) -> None:
        """Stop the engine at its next step."""
        with self._lock:
            self._left = True
            events = self._events
        if events is not None:
            _close(events)

    def put_down(self) -> Snapshot | None:
        """Have an exact snapshot; None where nothing is left to be made.

        Raises:
            ReelrayError: The engine failed.
        """
        try:
            return self._engine.snapshot(self._request.request_id, SnapshotKind.EXACT)
        except InputError as error:
            LOG.info("request %s is not put down: %s", self._request.request_id, error)
            return None


def _close(events: Iterator[Event]) -> None:
    close = getattr(events, "close", None)
    if close is not None:
        # A generator that runs in the other thread ends there; an engine that is lost has stopped, too.
        with contextlib.suppress(ValueError, ReelrayError):
            close()
