"""What a server knows of its supervisor."""

import json
import os
import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any

LARGEST_BYTES = 1 << 16
"""What a pipe takes at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ports:
    """Where a server listens.

    Args:
        grpc: Of gRPC.
        http: Of HTTP; None without it.
    """

    grpc: int
    http: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class News:
    """What a server says when it is ready.

    Args:
        ports: Where it listens.
        engines: What its engines say of themselves, by the names of their models; JSON-ready.
        at_s: When that was, in seconds of the monotonic clock.
    """

    ports: Ports
    engines: dict[str, Any] = field(default_factory=dict)
    at_s: float = field(default_factory=time.monotonic)


class Seat:
    """Of one server.

    Args:
        before: What a server said that was lost; None for the first one.
        pipe: Descriptor that takes news; None where nobody supervises.
    """

    def __init__(self, before: News | None = None, pipe: int | None = None) -> None:
        self.before, self._pipe = before, pipe

    def is_ready(self, news: News) -> None:
        """Say that the server listens; from now on it is started again when it is lost."""
        if self._pipe is None:
            return
        said = json.dumps(asdict(news)).encode()
        if len(said) > LARGEST_BYTES:  # nobody reads as long as this process lives
            said = json.dumps(asdict(replace(news, engines={}))).encode()
        os.write(self._pipe, said)


def read_news(pipe: int) -> News | None:
    """What a server that has ended said; None if it was never ready."""
    os.set_blocking(pipe, False)
    try:
        said = os.read(pipe, LARGEST_BYTES)
    except BlockingIOError:  # one of its children still holds the other end
        return None
    if not said:
        return None
    news = json.loads(said)
    return News(ports=Ports(**news["ports"]), engines=news["engines"], at_s=news["at_s"])
