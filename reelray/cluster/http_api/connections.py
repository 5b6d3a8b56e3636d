"""Connections over HTTP/1.1 that nobody can hold open by saying nothing, by saying it slowly, or by reading nothing."""

import asyncio
import logging
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from reelray.cluster.gateway.boundary import UNREAD_S

LOG = logging.getLogger("reelray.gateway")
HEADS_S = 15.0
"""From a connection's beginning, or its last answer, to the end of the next request's headers."""


class HurriedProtocol(H11Protocol):
    """Closes connections whose next request takes too long to be said, and those whose answer nobody reads."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._patience: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # `pause_writing` whenever something is left to be read
        self._wait_for_heads()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._stop_waiting()
        self._stop_waiting_for_reader()
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

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        super().pause_writing()
        self._stop_waiting_for_reader()
        self._unread = self.loop.call_later(UNREAD_S, self._cut_off)

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._stop_waiting_for_reader()
        super().resume_writing()

    def _cut_off(self) -> None:
        """End it at once: closing would wait for the reader."""
        LOG.warning("nothing was read for %g s; the answer was cut off", UNREAD_S)
        self.transport.abort()

    def _stop_waiting_for_reader(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _wait_for_heads(self) -> None:
        self._stop_waiting()
        self._patience = self.loop.call_later(HEADS_S, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
