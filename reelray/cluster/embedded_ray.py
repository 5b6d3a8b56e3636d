"""A Ray cluster inside this command: loopback only, private, and gone with the command."""

import contextlib
import logging
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from reelray.cluster.ray_head import end_leftovers, head_is_lost, head_processes, workers_of
from reelray.cluster.ray_surroundings import few_processes, loopback_only, quiet, ray_environment, reread_environment
from reelray.proto.errors import EngineError

MIB = 1 << 20
# A Unix socket path holds 107 bytes, and Ray appends up to 80 to its folder.
_LONGEST_FOLDER = 24
_LOOK_S = 0.1
# Reads its standard input, which ends with this process however it ends, and removes what is left then: of actors,
# which would keep their GPUs for as long as they look for their cluster, and of files. The input is the cluster's
# secret, which is in the environment of each of its processes.
_WATCHDOG = """
token=$(cat); sleep 1
for file in $(grep -alsF "RAY_AUTH_TOKEN=$token" /proc/[0-9]*/environ); do
    pid=${file#/proc/}; kill -9 "${pid%/environ}" 2>/dev/null
done
sleep 1; rm -rf -- "$1"
"""


class EmbeddedRay:
    """One Ray node for the time of a `with` block.

    Ray lives in a thread of its own until `stop`: the kernel ends Ray's processes together with the thread that started
    them, so neither a short-lived caller thread nor a killed process leaves anything wrong behind. Where a process of
    Ray's head node is lost, the rest of the cluster is ended at once; then this is good for `stop` alone.

    Args:
        gpus: GPUs that Ray may hand out.
        cpus: CPUs that Ray may hand out; Ray starts as many workers ahead.
        object_store_bytes: Size of the shared memory for values; mapped lazily.
        preload: Modules that workers import while the cluster starts.
    """

    def __init__(
        self, *, gpus: int = 0, cpus: int = 1, object_store_bytes: int = 80 * MIB, preload: Sequence[str] = ()
    ) -> None:
        self._gpus = gpus
        self._cpus = cpus
        self._object_store_bytes = object_store_bytes
        self._preload = tuple(preload)
        self._token = secrets.token_hex(32)
        self._folder: Path | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._ready = threading.Event()
        self._leave = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._live, name="reelray-ray", daemon=True)

    def start(self) -> Self:
        """Start Ray and connect this process to it.

        Raises:
            EngineError: Ray does not start, or this process uses another Ray already.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="rr-", dir=_short_root()))
        self._watchdog = _start_watchdog(self._folder, self._token)
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End Ray and remove its folder; harmless when called twice."""
        self._leave.set()
        if self._thread.is_alive():
            self._thread.join()
        folder, watchdog = self._folder, self._watchdog
        if folder is None or watchdog is None:
            return
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():  # else something still writes there, and the watchdog goes over it again
            watchdog.kill()
        watchdog.communicate()
        self._watchdog = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wait_until_ready(self) -> None:
        with _signals_kept():
            self._thread.start()
            self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def _live(self) -> None:
        try:
            self._run()
        except EngineError as error:
            self._failure = error
        except Exception as error:  # noqa: BLE001  a thread has no caller to raise to
            first_line = (str(error).splitlines() or [""])[0]
            self._failure = EngineError(f"Ray does not start: {type(error).__name__}: {first_line}")
        finally:
            self._ready.set()

    def _run(self) -> None:
        with ray_environment(self._token, self._preload):
            import ray  # noqa: PLC0415  Ray reads some of the variables when it is imported

            if ray.is_initialized():
                raise EngineError("this process is connected to a Ray cluster already; use the local engine instead")
            try:
                self._init(ray)
            except BaseException:
                ray.shutdown()
                raise
        known = workers_of(head_processes())
        self._ready.set()
        while not self._leave.wait(_LOOK_S) and not head_is_lost():
            pass
        if head_is_lost():
            end_leftovers(self._token, known)
            self._leave.wait()
        ray.shutdown()
        end_leftovers(self._token, known)  # an actor that is frozen does not end with its cluster

    def _init(self, ray: Any) -> None:
        reread_environment()
        with loopback_only(), few_processes(), quiet():
            ray.init(
                address="local",
                num_cpus=self._cpus,
                num_gpus=self._gpus,
                object_store_memory=self._object_store_bytes,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=str(self._folder),
            )
        if not ray.util.get_node_ip_address().startswith("127."):
            raise EngineError("Ray listens on other addresses than 127.0.0.1")


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Take SIGTERM back from Ray, whose handler prints a stack trace to the terminal."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _short_root() -> str:
    root = tempfile.gettempdir()
    return root if len(root) + len("/rr-12345678") <= _LONGEST_FOLDER else "/tmp"  # noqa: S108  mkdtemp makes it private


def _start_watchdog(folder: Path, token: str) -> "subprocess.Popen[bytes]":
    command = ["/bin/sh", "-c", _WATCHDOG, "reelray-watchdog", str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603  the folder is ours
    assert process.stdin is not None, "a pipe was asked for"
    process.stdin.write(token.encode())
    process.stdin.flush()
    return process
