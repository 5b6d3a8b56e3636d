"""Addresses that a server may speak to, and nothing that only looks like one of them."""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from reelray.proto.errors import ForbiddenUrlError, InputError

LONGEST_URL = 2048
LONGEST_LABEL = 63
"""Of a host's name, between two dots."""
PORTS = {"http": 80, "https": 443}
_URL = re.compile(r"(https?)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?(/[!-~]*)?", re.IGNORECASE)
_CRAFTED = re.compile(r"%(?:2[ef]|5c|00)|/\.{1,2}(?:[/;]|$)|//", re.IGNORECASE)
"""What one program reads as another path than the next one does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """An address of HTTP, taken apart.

    Args:
        scheme: `http` or `https`.
        host: Name or number, without brackets.
        port: Where.
        target: Path, and what follows it.
    """

    scheme: str
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read an address; what programs disagree about is none.

        Raises:
            InputError: It is none.
        """
        found = _URL.fullmatch(url) if len(url) <= LONGEST_URL else None
        if found is None:
            raise InputError(f"{url[:80]!r} is no address; write https://HOST[:PORT]/PATH, in plain ASCII")
        scheme, host, port, target = found[1].lower(), found[2].strip("[]").lower(), found[3], found[4] or "/"
        path, _, _ = target.partition("?")
        if "[" not in found[2] and not all(0 < len(label) <= LONGEST_LABEL for label in host.rstrip(".").split(".")):
            raise InputError(
                f"{url[:80]!r} is no address: its host has an empty part, or one above {LONGEST_LABEL} letters"
            )
        if _CRAFTED.search(path) or "\\" in target or "#" in target or int(port or 1) > 65535 or port == "0":
            raise InputError(f"{url[:80]!r} is no plain address: no #, \\, empty or dotted steps, or escapes of them")
        return cls(scheme=scheme, host=host, port=int(port or PORTS[scheme]), target=target)

    @property
    def path(self) -> str:
        """Without what follows a question mark."""
        return self.target.partition("?")[0]

    @property
    def number(self) -> "ipaddress.IPv4Address | ipaddress.IPv6Address | None":
        """The address of the network where the host is one; None for a name."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    @property
    def shown(self) -> str:
        """For messages: without what may be secret."""
        return f"{self.scheme}://{self.host}"

    def lies_below(self, prefix: "Address") -> bool:
        """Whether a prefix allows it; whole steps of paths count."""
        same_place = (self.scheme, self.host, self.port) == (prefix.scheme, prefix.host, prefix.port)
        beginning = prefix.path.rstrip("/")
        return same_place and (self.path == beginning or self.path.startswith(f"{beginning}/"))


@dataclass(frozen=True, kw_only=True, slots=True)
class AllowList:
    """Addresses that begin with one of some prefixes.

    A host's name must lead to addresses of the public network. One that is allowed as a number is what it is.

    Args:
        prefixes: Scheme, host, port and beginning of the path.
        option: Where they were said, for messages.
    """

    prefixes: tuple[Address, ...] = ()
    option: str = "--allow-url"

    @classmethod
    def of(cls, texts: Iterable[str], option: str = "--allow-url") -> Self:
        """Read prefixes.

        Raises:
            InputError: One is no address, or has a question mark.
        """
        try:
            return cls(prefixes=tuple(read_prefix(text) for text in texts), option=option)
        except InputError as error:
            raise InputError(f"{option}: {error.message}") from None

    def check(self, url: str) -> Address:
        """Take an address apart that is allowed.

        Raises:
            InputError: It is no address.
            ForbiddenUrlError: It is not allowed.
        """
        address = Address.parse(url)
        if not any(address.lies_below(prefix) for prefix in self.prefixes):
            raise ForbiddenUrlError(
                f"this server was not told to trust {address.shown} and that path ({self.option}); it speaks to "
                + ("other places only" if self.prefixes else "nobody")
            )
        return address


def read_prefix(text: str) -> Address:
    """Read the beginning of addresses.

    Raises:
        InputError: It is no address, or has a question mark.
    """
    prefix = Address.parse(text)
    if "?" in prefix.target:
        raise InputError(f"{text[:80]!r} has a question mark; it must end with a path")
    return prefix


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """Whom a server speaks to by itself.

    Args:
        urls: From where it fetches what conditions name.
        webhooks: To whom it tells that renders have ended.
        webhook_secret: Key by which those know that it was this server; needed where there are any.
    """

    urls: AllowList = field(default_factory=AllowList)
    webhooks: AllowList = field(default_factory=lambda: AllowList(option="--allow-webhook"))
    webhook_secret: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        if self.webhooks.prefixes and not self.webhook_secret:
            raise InputError(
                "--allow-webhook needs a key to sign with: set REELRAY_WEBHOOK_SECRET, such as to "
                '"whsec_$(openssl rand -base64 32)"'
            )
