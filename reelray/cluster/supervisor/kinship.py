"""Parents and children of a process: that a child ends with its parent, and that none is left over.

Linux does both in the kernel. Elsewhere a thread looks for the parent, and processes that have lost theirs are left to
the pipes and locks by which they notice it themselves.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LOOK_S = 0.5


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, so that they can be found."""
    _tell_kernel(_PR_SET_CHILD_SUBREAPER, 1)


def end_with(parent: int) -> None:
    """Be killed when a process ends, however that ends; call it in a child of that process."""
    if not _tell_kernel(_PR_SET_PDEATHSIG, signal.SIGKILL):
        threading.Thread(target=_watch, args=(parent,), name="end with the parent", daemon=True).start()
    if os.getppid() != parent:  # it has ended already
        os.kill(os.getpid(), signal.SIGKILL)


def end_orphans() -> None:
    """Kill every descendant of this session; those with a session of their own tidy up, and end by themselves."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getsid(process.pid) == os.getsid(0):
                process.kill()


def _tell_kernel(option: int, value: int) -> bool:
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) == 0)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os.kill(os.getpid(), signal.SIGKILL)
