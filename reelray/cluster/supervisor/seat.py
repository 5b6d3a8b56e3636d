"""What a server knows of its supervisor."""

import json
import os
import time
from dataclasses import asdict, dataclass


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
    """What a server has said.

    Args:
        ports: Where it listens.
        at_s: When that was, in seconds of the monotonic clock.
    """

    ports: Ports
    at_s: float


class Seat:
    """Of one server.

    Args:
        before: Where a server that was lost has listened; None for the first one.
        pipe: Descriptor that takes news; None where nobody supervises.
    """

    def __init__(self, before: Ports | None = None, pipe: int | None = None) -> None:
        self.before, self._pipe = before, pipe

    def is_ready(self, ports: Ports) -> None:
        """Say that the server listens; from now on it is started again when it is lost."""
        if self._pipe is not None:
            os.write(self._pipe, json.dumps({"ports": asdict(ports), "at_s": time.monotonic()}).encode())


def read_news(pipe: int) -> News | None:
    """What a server that has ended said; None if it was never ready."""
    os.set_blocking(pipe, False)
    try:
        said = os.read(pipe, 4096)
    except BlockingIOError:  # one of its children still holds the other end
        return None
    if not said:
        return None
    news = json.loads(said)
    return News(ports=Ports(**news["ports"]), at_s=news["at_s"])
