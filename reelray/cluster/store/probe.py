"""Asks a socket whether a server of the Redis protocol answers there."""

import enum
import socket
from pathlib import Path


class Answer(enum.Enum):
    """What came back."""

    READY = "ready"
    LOADING = "loading"
    NOTHING = "nothing"


def ask(path: Path, *, wait_s: float = 1.0) -> Answer:
    """Say `PING` on a Unix socket.

    Args:
        path: The socket.
        wait_s: How long an answer may take.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(wait_s)
            line.connect(str(path))
            line.sendall(b"PING\r\n")
            said = line.recv(64)
    except OSError:
        return Answer.NOTHING
    if said.startswith(b"+PONG"):
        return Answer.READY
    return Answer.LOADING if said else Answer.NOTHING
