"""Run as a program: waits until its owner is gone, then ends the server. Standard library only, to start fast.

Its standard input is a pipe that only the owner holds; it ends with the owner, however that ends.
"""

import os
import select
import signal
import sys

_GRACE_S = 10.0


def guard(server: int, handle: int) -> None:
    """Wait for the end of standard input, then end the server.

    Args:
        server: Process id, used where the system has no process descriptors.
        handle: Process descriptor, or -1.
    """
    while os.read(0, 1 << 16):
        pass
    try:
        if handle < 0:
            os.kill(server, signal.SIGTERM)
            return
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        if not select.select([handle], [], [], _GRACE_S)[0]:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    guard(int(sys.argv[1]), int(sys.argv[2]))
