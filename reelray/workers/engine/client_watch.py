"""Which clients of an engine are still there: whoever was killed cannot cancel what it asked for.

And the other way round: an engine that is about to go says so to its clients, so that they find another one.
"""

import math
import threading
import time
from collections.abc import Callable, Collection

from reelray.proto.errors import EngineError
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
        self._closes_s = math.inf
        self._lock = threading.Lock()

    def hear(self, client: str) -> bool:
        """A client is there; returns whether the engine stays."""
        with self._lock:
            self._heard_s[client] = self._clock()
            return self._closes_s == math.inf

    def bye(self, client: str) -> None:
        """A client is gone, and waits for nothing."""
        with self._lock:
            self._heard_s.pop(client, None)

    def retire(self, open_s: float) -> None:
        """The engine is about to go; it takes requests for so long, in which clients hear of it."""
        with self._lock:
            self._closes_s = min(self._closes_s, self._clock() + open_s)

    def check_open(self) -> None:
        """Refuse new requests.

        Raises:
            EngineError: The engine is about to go, and clients had time to hear of it.
        """
        if self._clock() >= self._closes_s:
            raise EngineError("the engine is about to end and takes nothing new; try again soon")

    def may_ask(self, patience_s: float) -> bool:
        """Whether requests may still come: clients are there, and they are not refused."""
        with self._lock:
            oldest_s = self._clock() - patience_s
            return self._clock() < self._closes_s and any(at_s >= oldest_s for at_s in self._heard_s.values())

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
