"""Which clients of an engine are still there: whoever was killed cannot cancel what it asked for."""

import threading
import time
from collections.abc import Callable, Collection

from reelray.proto.request import RequestId


class ClientWatch:
    """Clients say again and again that they are there; may be used by several threads.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard_s: dict[str, float] = {}
        self._owners: dict[RequestId, str] = {}
        self._lock = threading.Lock()

    def hear(self, client: str) -> None:
        """A client is there."""
        with self._lock:
            self._heard_s[client] = self._clock()

    def begin(self, client: str, request_id: RequestId) -> None:
        """A client, which is there, begins a request."""
        with self._lock:
            self._heard_s[client] = self._clock()
            self._owners[request_id] = client

    def abandoned(self, running: Collection[RequestId], patience_s: float) -> list[RequestId]:
        """Requests among those that run whose clients said nothing for so long; they and what ended are forgotten."""
        with self._lock:
            oldest_s = self._clock() - patience_s
            self._heard_s = {client: at_s for client, at_s in self._heard_s.items() if at_s >= oldest_s}
            owners = {request: client for request, client in self._owners.items() if request in running}
            self._owners = {request: client for request, client in owners.items() if client in self._heard_s}
            return [request for request in owners if request not in self._owners]
