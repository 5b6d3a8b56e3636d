"""Where houses reach a coordinator: a gRPC server that takes lines while it leads."""

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc

from reelray.cluster.coordinator.coordinator import Coordinator
from reelray.cluster.coordinator.line_security import LineKey, check_clear
from reelray.cluster.coordinator.messages import Joined, Word
from reelray.cluster.coordinator.words import (
    BEAT,
    BEAT_S,
    HOUSE,
    METHOD,
    OPTIONS,
    SECRET,
    SILENCE_S,
    pack_word,
    read_report,
)
from reelray.proto.errors import InputError, ResourceError

LOG = logging.getLogger("reelray.coordinator")
LAST_WORDS_S = 2 * BEAT_S
ASKS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", round(1000 * SILENCE_S / 2)),
    ("grpc.keepalive_timeout_ms", round(1000 * SILENCE_S / 2)),
    ("grpc.http2.ping_timeout_ms", round(1000 * SILENCE_S / 2)),
    ("grpc.http2.max_pings_without_data", 0),
)
"""A house that is frozen, or whose machine was lost, hangs up on nobody: it is asked, and given up if silent."""
MOST_UNHEARD = 10_000
"""A house that hears so little is given up."""


class Switchboard:
    """Listens from `start` until `stop`.

    Args:
        address: Such as ``unix:/run/reelray/c.sock`` or ``10.0.0.7:0``.
        secret: What houses must say.
        key: Encrypts the lines; None for those that stay on this machine.
    """

    def __init__(self, address: str, secret: str, key: LineKey | None = None) -> None:
        self._address, self._secret, self._key = address, secret, key
        self._server: Any = grpc.aio.server(options=(*OPTIONS, *ASKS, ("grpc.so_reuseport", 0)))
        self._server.add_generic_rpc_handlers((_Handler(self._talk),))
        self._coordinator: Coordinator | None = None
        self._over = asyncio.Event()
        self.address = address

    async def start(self) -> None:
        """Listen.

        Raises:
            ResourceError: The address cannot be had.
            InputError: Others could reach it, and there is no key.
        """
        if self._key is None:
            check_clear(self._address)
        try:
            if self._key is None:
                port = self._server.add_insecure_port(self._address)
            else:
                port = self._server.add_secure_port(self._address, self._key.credentials())
        except RuntimeError:
            raise ResourceError(f"the coordinator cannot listen on {self._address}") from None
        if not self._address.startswith("unix:"):
            self.address = f"{self._address.rpartition(':')[0]}:{port}"
        await self._server.start()

    def lead(self, coordinator: Coordinator | None) -> None:
        """Connect houses to this from now on; None hangs up on all."""
        self._over.set()
        self._over, self._coordinator = asyncio.Event(), coordinator

    async def stop(self) -> None:
        """Hang up and listen no more."""
        self.lead(None)
        await self._server.stop(LAST_WORDS_S)

    async def _talk(self, reports: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        said = dict(context.invocation_metadata() or ())
        if not hmac.compare_digest(str(said.get(SECRET, "")).encode(), self._secret.encode()):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "this is no house of ours")
        coordinator, over = self._coordinator, self._over
        if coordinator is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "another one coordinates")
        assert coordinator is not None, "abort raises"
        words: asyncio.Queue[Word] = asyncio.Queue()
        hear, house = words.put_nowait, str(said.get(HOUSE, ""))
        listening = asyncio.create_task(_listen(coordinator, house, hear, reports))
        try:
            while not over.is_set() and not listening.done() and words.qsize() < MOST_UNHEARD:
                yield await _next(words)
        finally:
            listening.cancel()
            coordinator.leave(house, hear)


async def _next(words: "asyncio.Queue[Word]") -> bytes:
    try:
        async with asyncio.timeout(BEAT_S):
            return pack_word(await words.get())
    except TimeoutError:
        return BEAT


async def _listen(coordinator: Coordinator, house: str, hear: Any, reports: AsyncIterator[bytes]) -> None:
    try:
        async for data in reports:
            report = read_report(data)
            if isinstance(report, Joined):
                coordinator.join(replace(report, house=house), hear)
            else:
                coordinator.take(house, report, hear)
    except InputError as error:
        LOG.warning("house %s is given up: %s", house, error.message)
    except Exception:
        LOG.exception("house %s is given up", house)


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    def __init__(self, talk: Any) -> None:
        self._talk = grpc.stream_stream_rpc_method_handler(talk)

    def service(self, details: Any) -> Any:
        return self._talk if details.method == METHOD else None
