"""One HTTP server beside the gRPC server, in the same event loop."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import uvicorn

from reelray.cluster.gateway.callers import Callers
from reelray.cluster.http_api.app import make_app
from reelray.cluster.http_api.connections import HurriedProtocol
from reelray.cluster.http_api.videos import House
from reelray.proto.errors import InputError, ResourceError

MOST_CONNECTIONS = 2000
"""At a time; further ones are answered 503 at once."""
LARGEST_HEAD = 32 << 10
BACKLOG = 512
LOOK_S = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpPlace:
    """Where and how to listen.

    Args:
        host: Name or address of this machine.
        port: 0 takes a free one.
        on_loopback: Whether only this machine can reach that.
        certificate: PEM file of the certificate chain, for TLS.
        key: PEM file of its private key.
        shares_port: Whether others of the same user may listen there, too, each to be given some of the connections.
    """

    host: str
    port: int
    on_loopback: bool
    certificate: Path | None = None
    key: Path | None = None
    shares_port: bool = False


class HttpServer:
    """Answers from `start` until `stop`.

    Args:
        house: What calls work on.
        place: Where to listen.
        callers: Who may call.
    """

    def __init__(self, house: House, place: HttpPlace, callers: Callers | None = None) -> None:
        self._house, self._place = house, place
        self._app = make_app(house, callers or Callers(), on_loopback=place.on_loopback)
        self._server: _Server | None = None
        self._running: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self) -> Self:
        """Listen.

        Raises:
            ResourceError: The address is taken, or not of this machine.
            InputError: The certificate or its key is none.
        """
        config = self._config()
        try:
            config.load()
        except (OSError, ValueError):  # of ssl
            raise InputError("the certificate and its key cannot be used for HTTP; they must be PEM files") from None
        listening = _listen(self._place)
        self.port = listening.getsockname()[1]
        self._server = _Server(config)
        self._running = asyncio.create_task(self._server.serve([listening]), name="http")
        while not self._server.started and not self._running.done():  # noqa: ASYNC110  it has no event for this
            await asyncio.sleep(LOOK_S)
        return self

    async def stop(self, grace_s: float, at_once: asyncio.Event | None = None) -> None:
        """Take nothing new, end streams of events, and let answers end.

        Args:
            grace_s: What is left then is cut off.
            at_once: Set by who does not want to wait so long.
        """
        self._house.closing.set()
        if self._server is None or self._running is None:
            return
        self._server.should_exit = True
        impatience = asyncio.create_task((at_once or asyncio.Event()).wait())
        await asyncio.wait({self._running, impatience}, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        impatience.cancel()
        if not self._running.done():
            self._server.cut_off()
            await asyncio.wait({self._running})

    def _config(self) -> uvicorn.Config:
        place = self._place
        return uvicorn.Config(
            self._app,
            http=HurriedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=10,
            limit_concurrency=MOST_CONNECTIONS,
            h11_max_incomplete_event_size=LARGEST_HEAD,
            ssl_certfile=place.certificate,
            ssl_keyfile=place.key,
        )


class _Server(uvicorn.Server):
    """Leaves signals to those who started it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    def cut_off(self) -> None:
        """End what is left."""
        self.force_exit = True
        for task in self.server_state.tasks:
            task.cancel()
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()


def _listen(place: HttpPlace) -> socket.socket:
    try:
        found = socket.getaddrinfo(place.host.strip("[]"), place.port, type=socket.SOCK_STREAM)
        family, kind, number, _, address = found[0]
        listening = socket.socket(family, kind, number)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(place.shares_port))
            listening.bind(address)
            listening.listen(BACKLOG)
            listening.setblocking(False)
        except OSError:
            listening.close()
            raise
    except OSError:
        raise ResourceError(
            f"cannot listen for HTTP on {place.host}:{place.port}: it is in use, or no address of this machine; "
            "choose another (--http-port), or none (--http-port off)"
        ) from None
    return listening
