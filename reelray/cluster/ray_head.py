"""The head node's processes of the Ray that this process started: whether they live, and what they leave behind.

Ray itself does not survive them. Without its control store the process that is connected ends by itself after 60 s;
without its raylet, calls to actors wait for seconds, and actors stay.
"""

import contextlib
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import subprocess

HEAD = ("gcs_server", "raylet")
END_S = 5.0


def head_processes() -> "list[subprocess.Popen[bytes]]":
    """What was started here and must live; nothing where the cluster was started elsewhere, or there is none."""
    node = getattr(sys.modules.get("ray._private.worker"), "_global_node", None)
    started = {} if node is None else node.all_processes
    return [info.process for name in HEAD for info in started.get(name, ())]


def head_is_lost() -> bool:
    """Whether one of them has ended, which ends the cluster."""
    return any(process.poll() is not None for process in head_processes())


def workers_of(head: "Iterable[subprocess.Popen[bytes]]") -> list[psutil.Process]:
    """What those processes have started so far."""
    found: list[psutil.Process] = []
    for process in head:
        with contextlib.suppress(psutil.NoSuchProcess):
            found += psutil.Process(process.pid).children(recursive=True)
    return found


def end_leftovers(token: str, known: Iterable[psutil.Process]) -> None:
    """Kill what is left of a cluster: those that are known, and whoever has its secret in its environment."""
    left = [*known, *(process for process in psutil.process_iter() if _has(process, token))]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=END_S)


def _has(process: psutil.Process, token: str) -> bool:
    if process.pid == psutil.Process().pid:
        return False
    with contextlib.suppress(psutil.Error, OSError):
        return process.environ().get("RAY_AUTH_TOKEN") == token
    return False
