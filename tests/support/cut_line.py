"""A line to a server that can be cut, as a network does it: nobody is told why."""

import socket
import threading
from contextlib import contextmanager, suppress


class CutLine:
    """Hands bytes on between its own port and a server's.

    Args:
        address: Of the server.
    """

    def __init__(self, address):
        host, _, port = address.rpartition(":")
        self._there = (host, int(port))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._ends, self.lets_in = [], True
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        """End all connections."""
        ends, self._ends = self._ends, []
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self):
        self.lets_in = False
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()

    def _accept(self):
        with suppress(OSError):
            while True:
                here, _ = self._listening.accept()
                if not self.lets_in:
                    here.close()
                    continue
                there = socket.create_connection(self._there)
                self._ends += [here, there]
                for source, sink in ((here, there), (there, here)):
                    threading.Thread(target=_hand_on, args=(source, sink), daemon=True).start()


def _hand_on(source, sink):
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def cut_line(address):
    line = CutLine(address)
    try:
        yield line
    finally:
        line.close()
