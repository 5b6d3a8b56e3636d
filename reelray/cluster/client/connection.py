"""A channel to a server, and the server's statuses as our errors."""

import asyncio
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from reelray.cluster.wire import KEEPALIVE, LARGEST_MESSAGE, check_token
from reelray.proto import errors
from reelray.proto.errors import CancelledError, EngineError, InputError, ReelrayError, UnsupportedError

DEFAULT_PORT = 50051
CONNECT_S, REFUSED_S = 5.0, 1.5
"""A server that has never answered is waited for so long; no longer than the second after it was refused at first."""
REFUSED = os.strerror(errno.ECONNREFUSED)
"""As gRPC says it at the end of what it tried."""
WRITE_FAILED = "Internal error from Core"
"""What gRPC's asyncio says where the line broke while it wrote; nothing came of a server."""
OPTIONS = (("grpc.max_receive_message_length", LARGEST_MESSAGE), *KEEPALIVE)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerAddress:
    """Where a server is and how to come in.

    Args:
        address: ``HOST`` or ``HOST:PORT``.
        token: What the server wants to hear; None where it wants nothing.
        certificate: PEM file of whoever signed the server's certificate; None speaks in the clear.
    """

    address: str
    token: str | None = field(default=None, repr=False)
    certificate: Path | None = None

    def __post_init__(self) -> None:
        if self.token is not None:
            check_token(self.token)

    @property
    def target(self) -> str:
        """Host and port."""
        if self.address.startswith("unix:"):
            return self.address
        if self.address.count(":") > 1 and not self.address.startswith("["):
            return f"[{self.address}]:{DEFAULT_PORT}"
        host, colon, port = self.address.rpartition(":")
        has_port = colon and host and port.isdecimal() and not self.address.endswith("]")
        return self.address if has_port else f"{self.address}:{DEFAULT_PORT}"

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call."""
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)


@contextmanager
def open_channel(server: ServerAddress) -> Iterator[grpc.Channel]:
    """Connect to a server.

    Raises:
        EngineError: Nobody answers there in time.
        InputError: The certificate cannot be read.
    """
    if server.certificate is None:
        channel = grpc.insecure_channel(server.target, options=OPTIONS)
    else:
        channel = grpc.secure_channel(server.target, _credentials(server.certificate), options=OPTIONS)
    with channel:
        if not _is_ready(channel):
            raise _nobody_at(server)
        yield channel


async def open_async_channel(server: ServerAddress) -> grpc.aio.Channel:
    """The same in asyncio; whoever gets it closes it."""
    if server.certificate is None:
        channel = grpc.aio.insecure_channel(server.target, options=OPTIONS)
    else:
        channel = grpc.aio.secure_channel(server.target, _credentials(server.certificate), options=OPTIONS)
    clock, until_s = FirstTry(), CONNECT_S
    with suppress(TimeoutError):
        while until_s > 0:
            state = channel.get_state(try_to_connect=True)
            if state is grpc.ChannelConnectivity.READY:
                return channel
            until_s = clock.left_s(state)
            async with asyncio.timeout(until_s):
                await channel.wait_for_state_change(state)
    await channel.close()
    raise _nobody_at(server)


class NobodyListensError(EngineError):
    """Connections to the server's address are refused: its process is gone, and what it held in memory with it."""


class FirstTry:
    """How long a server is waited for that has never answered: not long where something refuses.

    Who has heard a server once goes on trying for as long as it promised; whoever begins is told soon.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._until_s = clock, clock() + CONNECT_S
        self._is_refused = False

    def left_s(self, state: grpc.ChannelConnectivity) -> float:
        """Seconds from now on, by how the channel is; 0 at the end."""
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE and not self._is_refused:
            self._is_refused = True
            self._until_s = min(self._until_s, self._clock() + REFUSED_S)
        return max(0.0, self._until_s - self._clock())


def _is_ready(channel: grpc.Channel) -> bool:
    changed, state = threading.Condition(), grpc.ChannelConnectivity.IDLE
    first = FirstTry()

    def hear(heard: grpc.ChannelConnectivity) -> None:
        nonlocal state
        with changed:
            state = heard
            changed.notify_all()

    channel.subscribe(hear, try_to_connect=True)
    try:
        with changed:
            while state is not grpc.ChannelConnectivity.READY and (left_s := first.left_s(state)) > 0:
                changed.wait(left_s)
            return state is grpc.ChannelConnectivity.READY
    finally:
        channel.unsubscribe(hear)


def error_of(failed: grpc.RpcError) -> ReelrayError:
    """What the server said, as the error that it was there."""
    status = None
    with suppress(ValueError):  # a proxy has changed it
        status = rpc_status.from_call(failed)
    if status is not None:
        for detail in status.details:
            info = error_details_pb2.ErrorInfo()
            if detail.Is(info.DESCRIPTOR) and detail.Unpack(info) and info.domain == "reelray":
                return error_for(info.reason, status.message, dict(info.metadata))
    code, text = failed.code(), failed.details() or "the server gave no reason"
    kinds: dict[grpc.StatusCode, type[ReelrayError]] = {
        grpc.StatusCode.UNAVAILABLE: EngineError,
        grpc.StatusCode.CANCELLED: CancelledError,
        grpc.StatusCode.UNAUTHENTICATED: InputError,
        grpc.StatusCode.PERMISSION_DENIED: InputError,
        grpc.StatusCode.UNIMPLEMENTED: UnsupportedError,
        grpc.StatusCode.INVALID_ARGUMENT: InputError,
        grpc.StatusCode.DEADLINE_EXCEEDED: EngineError,
    }
    if code is grpc.StatusCode.INTERNAL and text == WRITE_FAILED:
        code = grpc.StatusCode.UNAVAILABLE
    if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
        if REFUSED in text:
            return NobodyListensError(f"the server was lost: {text}")
        text = f"the server was lost: {text}"
    if code is grpc.StatusCode.UNIMPLEMENTED:  # of the server itself: what our services say comes with details
        text = f"this server does not have the call: it keeps no renders, or is of another version ({text})"
    return kinds.get(code, ReelrayError)(text)


def error_for(reason: str, message: str, ids: dict[str, str]) -> ReelrayError:
    """An error as the server told it: the kind of its code, or the base where only newer servers know it."""
    return _kind_of(reason)(message, ids=ids)


def _kind_of(code: str) -> type[ReelrayError]:
    known = (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ReelrayError))
    return next((kind for kind in known if kind.code == code), ReelrayError)


def _nobody_at(server: ServerAddress) -> EngineError:
    return EngineError(
        f"no server answers at {server.target}; start one with reelray serve, or look at the address, and whether it "
        "wants TLS (--tls-ca)"
    )


def _credentials(certificate: Path) -> grpc.ChannelCredentials:
    try:
        return grpc.ssl_channel_credentials(certificate.read_bytes())
    except OSError as error:
        raise InputError(f"certificate '{certificate}' cannot be read: {error.strerror}") from None
