"""An engine that is loaded when somebody asks for something, and put away when nobody has for a while."""

import logging
import threading
from collections.abc import Callable, Iterator

from reelray.cluster.engine_api import Engine
from reelray.cluster.engine_groups.watched_stream import WatchedStream
from reelray.proto.errors import EndedError
from reelray.proto.events import Event
from reelray.proto.request import RenderRequest, RequestId
from reelray.proto.session import Fork, Forked, Order, Standing
from reelray.proto.snapshot import Snapshot, SnapshotKind

LOG = logging.getLogger("reelray.gateway")


class OnDemandEngine:
    """Implements `Engine`.

    It is opened once at the start, so that a server knows that it can be, and put away until it is asked for.

    Args:
        open_engine: Loads it.
        idle_s: How long it stays loaded without a request.
        name: For the log.

    Raises:
        ReelrayError: It cannot be loaded.
    """

    def __init__(self, open_engine: Callable[[], Engine], idle_s: float, name: str) -> None:
        self._open, self._idle_s, self._name = open_engine, idle_s, name
        self._lock = threading.Lock()
        self._running = 0
        self._closed = False
        self._timer: threading.Timer | None = None
        self._engine: Engine | None = open_engine()
        self.description = self._engine.description
        self._put_away()

    @property
    def is_loaded(self) -> bool:
        """Whether it is there now."""
        return self._engine is not None

    def render(self, request: RenderRequest, snapshot: Snapshot | None = None) -> Iterator[Event]:
        """See `Engine`; waits until it is loaded.

        Raises:
            ReelrayError: It cannot be loaded.
        """
        engine = self._take()
        try:
            return WatchedStream(engine.render(request, snapshot), lambda _error: self._give())
        except BaseException:
            self._give()
            raise

    def tell(self, request_id: RequestId, order: Order) -> Standing:
        """See `Engine`."""
        return self._loaded(request_id).tell(request_id, order)

    def snapshot(self, request_id: RequestId, kind: SnapshotKind) -> Snapshot:
        """See `Engine`."""
        return self._loaded(request_id).snapshot(request_id, kind)

    def fork(self, request_id: RequestId, fork: Fork) -> tuple[Forked, Iterator[Event]]:
        """See `Engine`."""
        engine = self._loaded(request_id)
        self._take()
        try:
            forked, events = engine.fork(request_id, fork)
        except BaseException:
            self._give()
            raise
        return forked, WatchedStream(events, lambda _error: self._give())

    def close(self) -> None:
        """Free everything; harmless when called twice."""
        with self._lock:
            self._closed = True
            self._forget_timer()
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def _loaded(self, request_id: RequestId) -> Engine:
        engine = self._engine
        if engine is None:
            raise EndedError(f"request {request_id} is not here")
        return engine

    def _take(self) -> Engine:
        with self._lock:
            self._forget_timer()
            if self._engine is None:
                if self._closed:
                    raise EndedError("the engine was closed")
                LOG.warning("loading %s", self._name)
                self._engine = self._open()
            self._running += 1
            return self._engine

    def _give(self) -> None:
        with self._lock:
            self._running -= 1
            if self._running == 0 and not self._closed:
                self._timer = threading.Timer(self._idle_s, self._put_away)
                self._timer.daemon = True
                self._timer.start()

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _put_away(self) -> None:
        with self._lock:  # who asks meanwhile waits, and then loads it anew
            if self._running or self._engine is None:
                return
            engine, self._engine = self._engine, None
            engine.close()
        LOG.warning("%s is put away until it is asked for", self._name)
