"""One request over HTTP to an address that is allowed, within limits of time and size; no proxies, no cookies."""

import errno
import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urljoin

from reelray.cluster.outbound.allow_list import Address, AllowList
from reelray.proto.errors import FetchError, ForbiddenUrlError, TooLargeError

MOST_REDIRECTS = 3
REDIRECTS = {301, 302, 303, 307, 308}
PIECE_BYTES = 1 << 16
_TRANSLATED = tuple(ipaddress.IPv6Network(net) for net in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"))
"""IPv6 addresses that lead to IPv4 ones."""
_INSIDE = tuple(ipaddress.IPv6Network(net) for net in ("fec0::/10", "3fff::/20"))
"""Of sites and of examples, which the standard library takes for public."""
Number = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], list[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much of an answer is waited for.

    Args:
        total_s: From the line's being there to the last byte, and as long at most until it is.
        largest_bytes: Of its body; None leaves the body alone.
    """

    total_s: float = 20.0
    largest_bytes: int | None = 32_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Letter:
    """What is sent.

    Args:
        method: Such as ``GET``.
        body: Bytes; None for none.
        headers: Besides those that HTTP needs.
    """

    method: str = "GET"
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came back.

    Args:
        status: Of HTTP.
        location: Where else it points to; may be empty.
        body: Its bytes; none where it points elsewhere, or was left alone.
    """

    status: int
    location: str
    body: bytes


def is_public(number: Number) -> bool:
    """Whether an address is of the public network."""
    if isinstance(number, ipaddress.IPv6Address):
        if number.ipv4_mapped is not None:
            return is_public(number.ipv4_mapped)
        if any(number in network for network in (*_TRANSLATED, *_INSIDE)):
            return False
    return number.is_global and not number.is_multicast and not number.is_reserved


def resolve(host: str, port: int) -> list[str]:
    """Addresses of a host.

    Raises:
        OSError: It has none.
    """
    rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(row[4][0]) for row in rows]


def exchange(address: Address, letter: Letter, limits: Limits, look_up: Resolve = resolve) -> Answer:
    """Send a request and read its answer. Blocks.

    Args:
        address: Allowed.
        letter: What to send.
        limits: How much to wait for.
        look_up: Addresses of a name.

    Raises:
        ForbiddenUrlError: The name leads into a network that is not public.
        FetchError: No answer in time, or none that is HTTP.
        TooLargeError: The answer is larger than is taken.
    """
    try:
        with _cut_off(_connect(address, limits, look_up), limits.total_s) as line:
            if address.scheme == "https":
                line.secure(address.host)
            return _ask(line.socket, address, letter, limits)
    except (OSError, http.client.HTTPException) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise FetchError(
            f"{address.shown} did not answer as it should within {limits.total_s:g} s ({reason})"
        ) from None


def fetch(allowed: AllowList, url: str, limits: Limits, look_up: Resolve = resolve) -> bytes:
    """What lies at an address; redirects are followed within the list only. Blocks.

    Raises:
        InputError: It is no address.
        ForbiddenUrlError: It, or where it leads to, is not allowed.
        FetchError: It cannot be had.
        TooLargeError: It is larger than is taken.
    """
    for _ in range(MOST_REDIRECTS + 1):
        address = allowed.check(url)
        answer = exchange(address, Letter(headers={"Accept-Encoding": "identity"}), limits, look_up)
        if answer.status in REDIRECTS and answer.location:
            url = _follow(url, answer.location, address)
            continue
        if answer.status != http.client.OK:
            raise FetchError(f"{address.shown} answered {answer.status} and not 200")
        return answer.body
    raise FetchError(f"more than {MOST_REDIRECTS} redirects; the last is {address.shown}")


def _follow(url: str, location: str, address: Address) -> str:
    try:
        return urljoin(url, location)
    except ValueError:  # such as a bracket that is never closed
        raise FetchError(f"{address.shown} points to what is no address") from None


def _connect(address: Address, limits: Limits, look_up: Resolve) -> socket.socket:
    """A line to the very address that was looked at, so that a name cannot lead elsewhere meanwhile."""
    numbers = [address.host] if address.number is not None else look_up(address.host, address.port)
    if address.number is None and not all(is_public(ipaddress.ip_address(one.partition("%")[0])) for one in numbers):
        raise ForbiddenUrlError(f"{address.shown} does not lead to the public network; such places are not spoken to")
    line = _first_line(numbers, address.port, limits.total_s / len(numbers))
    line.settimeout(limits.total_s)  # the answer may take as long as if there were one number
    return line


def _first_line(numbers: list[str], port: int, each_s: float) -> socket.socket:
    for number in numbers[:-1]:
        with suppress(OSError):
            return socket.create_connection((number, port), timeout=each_s)
    return socket.create_connection((numbers[-1], port), timeout=each_s)


def _ask(line: socket.socket, address: Address, letter: Letter, limits: Limits) -> Answer:
    connection = http.client.HTTPConnection(address.host, address.port)
    connection.sock = line
    # Without the port that the scheme has anyway, which the class for plain HTTP would add to HTTPS.
    name = f"[{address.host}]" if ":" in address.host else address.host
    host = name if address.port == (443 if address.scheme == "https" else 80) else f"{name}:{address.port}"
    headers = {"Host": host, "User-Agent": "reelray", "Connection": "close", **letter.headers}
    connection.request(letter.method, address.target, letter.body, headers)
    said = connection.getresponse()
    location = said.headers.get("Location", "")
    if said.status in REDIRECTS or limits.largest_bytes is None:
        return Answer(status=said.status, location=location, body=b"")
    return Answer(status=said.status, location=location, body=_read(said, address, limits.largest_bytes))


def _read(said: http.client.HTTPResponse, address: Address, largest_bytes: int) -> bytes:
    if said.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise FetchError(f"{address.shown} sent a packed answer, which is not unpacked")
    announced = said.length
    if announced is not None and announced > largest_bytes:
        raise TooLargeError(f"{address.shown} has {announced} bytes there; at most {largest_bytes} are fetched")
    body = bytearray()
    while piece := said.read(PIECE_BYTES):
        body += piece
        if len(body) > largest_bytes:
            raise TooLargeError(f"{address.shown} has more than {largest_bytes} bytes there")
    if announced is not None and len(body) < announced:
        raise FetchError(f"{address.shown} sent {len(body)} of {announced} bytes")
    return bytes(body)


class _Line:
    """A line that somebody else may cut."""

    def __init__(self, line: socket.socket) -> None:
        self.socket, self._is_cut = line, threading.Event()

    def secure(self, host: str) -> None:
        """Speak TLS from now on, with who can show to be this host."""
        secured = ssl.create_default_context().wrap_socket(
            self.socket, server_hostname=host, do_handshake_on_connect=False
        )
        self.socket = secured
        secured.do_handshake()

    def cut(self) -> None:
        """End it, whatever is read or written at that moment."""
        self._is_cut.set()
        with suppress(OSError):
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)  # not that of TLS, which is not for another thread

    def check(self) -> None:
        """Tell a line that was cut from one that has ended.

        Raises:
            TimeoutError: It was cut.
        """
        if self._is_cut.is_set():
            raise TimeoutError(errno.ETIMEDOUT, "it took too long")


@contextmanager
def _cut_off(connected: socket.socket, after_s: float) -> Iterator[_Line]:
    """A line that ends after a while, also where the other end takes its time, byte by byte."""
    line = _Line(connected)
    timer = threading.Timer(after_s, line.cut)
    timer.daemon = True
    timer.start()
    try:
        yield line
        line.check()
    finally:
        timer.cancel()
        line.socket.close()
