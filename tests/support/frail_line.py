"""A network between clients and a server that tests cut, freeze and mend."""

import socket
import threading
from contextlib import suppress


class FrailLine:
    """Listens on loopback and hands bytes on, both ways, as long as it is whole.

    Args:
        target: ``HOST:PORT`` to which it leads.
    """

    def __init__(self, target: str) -> None:
        host, port = target.rsplit(":", 1)
        self._target, self._lines = (host, int(port)), []
        self._flows = threading.Event()
        self._flows.set()
        self._whole = True
        self._door = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._door.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break all connections and refuse others."""
        self._whole = False
        for line in self._lines:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._whole = True
        self._flows.set()

    def freeze(self) -> None:
        """Lose every byte from now on, and say nothing."""
        self._flows.clear()

    def close(self) -> None:
        self.cut()
        self._flows.set()
        self._door.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._door.accept()
                if not self._whole:
                    near.close()
                    continue
                far = socket.create_connection(self._target)
                self._lines += [near, far]
                for way in ((near, far), (far, near)):
                    threading.Thread(target=self._hand_on, args=way, daemon=True).start()

    def _hand_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError), source:
            while data := source.recv(1 << 16):
                self._flows.wait()
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
