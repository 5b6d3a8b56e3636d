"""Connections over HTTP/1.1 that nobody can hold open by saying nothing, or by saying it slowly."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADS_S = 15.0
"""From a connection's beginning, or its last answer, to the end of the next request's headers."""


class HurriedProtocol(H11Protocol):
    """Closes connections whose next request takes too long to say what it wants."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._wait_for_heads()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """See `H11Protocol`."""
        self._wait_for_heads()
        super().on_response_complete()
        if self.cycle is not None and not self.cycle.response_complete:  # the next one was there already
            self._stop_waiting()

    def _wait_for_heads(self) -> None:
        self._stop_waiting()
        self._patience = self.loop.call_later(HEADS_S, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
