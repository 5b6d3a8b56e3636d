"""Where the ranks of a gang connect to their leader."""

import logging
import queue
import secrets
import socket
import struct
import threading
import time
from itertools import count
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge

from reelray.workers.engine.gang_wire import Hello, Invitation, Wire, send_at_once

_LOG = logging.getLogger(__name__)
GREETING_S = 10.0
"""How long someone who has connected may be silent."""
TICK_S = 0.5


class Door:
    """Lets in those who know the secret of this gang, each greeted in a thread of its own: nobody waits for another.

    Args:
        host: Address to listen on.
        interface: Network interface that the ranks are told.
        backlog: Connections that may wait.
        greeting_s: How long someone who has connected may be silent.
    """

    def __init__(self, host: str, *, interface: str | None, backlog: int, greeting_s: float = GREETING_S) -> None:
        self._secret = secrets.token_bytes(32)
        self._interface = interface
        self._greeting_s = greeting_s
        self._tickets = count()
        self._arrivals: queue.SimpleQueue[tuple[Hello, Wire]] = queue.SimpleQueue()
        self._closed = False
        self._socket = socket.create_server((host, 0), backlog=backlog)
        self._socket.settimeout(TICK_S)  # closing a socket does not wake who waits at it
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        threading.Thread(target=self._listen, name="reelray-gang-door", daemon=True).start()

    def invite(self, rank: int) -> Invitation:
        """What a new process of this rank is to be told."""
        return Invitation(
            address=self.address, secret=self._secret, rank=rank, ticket=next(self._tickets), interface=self._interface
        )

    def arrivals(self) -> list[tuple[Hello, Wire]]:
        """Those who have come in since the last call."""
        found = []
        while not self._arrivals.empty():
            found.append(self._arrivals.get())
        return found

    def close(self) -> None:
        """Let nobody in any more."""
        self._closed = True

    def _listen(self) -> None:
        with self._socket:
            while not self._closed:
                try:
                    arrived, _ = self._socket.accept()
                except TimeoutError:
                    continue
                except OSError:  # gone again, or there are too many
                    time.sleep(TICK_S)
                    continue
                threading.Thread(target=self._greet, args=(arrived,), name="reelray-gang-greeting", daemon=True).start()

    def _greet(self, arrived: socket.socket) -> None:
        _limit_waits(arrived, self._greeting_s)
        send_at_once(arrived)
        connection: Connection = Connection(arrived.detach())
        wire = Wire(connection)
        try:
            deliver_challenge(connection, self._secret)
            answer_challenge(connection, self._secret)
            hello = wire.receive()
        except Exception as error:  # noqa: BLE001  whatever a stranger sends
            _LOG.debug("someone at the door was turned away: %s", error)
            wire.close()
            return
        with socket.socket(fileno=connection.fileno()) as known:
            _limit_waits(known, 0)
            known.detach()
        if isinstance(hello, Hello):
            self._arrivals.put((hello, wire))


def _limit_waits(connection: socket.socket, limit_s: float) -> None:
    """Let reads of the connection fail after a time; 0 is for ever. Python's own time limit would not block at all."""
    seconds, rest = divmod(limit_s, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(seconds), int(rest * 1e6)))
