"""A store on this machine: a child process that keeps its data in a folder and listens on a Unix socket only."""

import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote

from reelray.cluster.store.binary import find_server
from reelray.cluster.store.probe import Answer, ask
from reelray.proto.errors import StoreStartError

# A Unix socket's path holds 107 bytes on Linux, 103 on macOS.
_LONGEST_SOCKET = 100
_STOP_S = 10.0
_POLL_S = 0.01


class EmbeddedStore:
    """Serves a data folder, or joins the process that serves it already.

    The server inherits a lock on `<folder>/lock`, which the kernel frees when the server ends, however it ends: two
    servers can never write one folder, and no file left behind is taken for a living server. A second `start` on the
    folder joins the first: it uses the same socket, does not own the server and does not stop it. A server that was
    started here ends with this process, also with a killed one: a guardian process waits for that.

    Each change is on disk (`appendfsync always`) before it is acknowledged: neither a killed server nor a power cut
    loses it. Where the disk is full the server stops rather than acknowledge what it cannot keep.

    Args:
        folder: Where data and log are kept; made where it is missing.
        start_s: How long to wait for the first answer, which a long log of changes delays.
        memory_bytes: Of all that it keeps; above that new jobs are refused. None takes a quarter of the machine's.
        find: Finds the server's program.
    """

    def __init__(
        self,
        folder: Path,
        *,
        start_s: float = 30.0,
        memory_bytes: int | None = None,
        find: Callable[[], Path] = find_server,
    ) -> None:
        self.folder = folder.expanduser().absolute()
        self._memory_bytes = _quarter_of_memory() if memory_bytes is None else memory_bytes
        self._start_s = start_s
        self._find = find
        self._server: subprocess.Popen[bytes] | None = None
        self._guardian: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        """Where the server of this folder listens; elsewhere, in a folder of this user, if the path is too long."""
        own = self.folder / "store.sock"
        if len(os.fsencode(own)) <= _LONGEST_SOCKET:
            return own
        return _short_folder() / f"{sha256(os.fsencode(self.folder)).hexdigest()[:24]}.sock"

    @property
    def url(self) -> str:
        """For a client on this machine."""
        return f"unix://{quote(str(self.socket))}"

    @property
    def owned(self) -> bool:
        """Whether the server was started here and lives."""
        return self._server is not None and self._server.poll() is None

    @property
    def pid(self) -> int | None:
        """Process of the server, where it was started here."""
        return self._server.pid if self._server is not None else None

    def start(self) -> Self:
        """Serve the folder, or join who serves it; also after the server of an earlier `start` has died.

        Raises:
            StoreStartError: No program, a folder that is not writable, a server that ends at once or never answers.
        """
        until = time.monotonic() + self._start_s
        while self.owned:  # a server that was just killed may seem alive for a moment
            if ask(self.socket) is Answer.READY:
                return self
            self._pause(until, "has a server that does not answer")
        self._forget()
        lock = self._open_lock()
        with lock:
            while not _try_lock(lock):
                if ask(self.socket) is Answer.READY:
                    return self
                self._pause(until, "is served by another process that does not answer")
            self._launch(lock, until)
        return self

    def stop(self) -> None:
        """End the server if it was started here, keeping what it acknowledged; harmless when called twice."""
        if self._server is not None and self._server.poll() is None:
            self._server.terminate()
            try:
                self._server.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._server.kill()
        self._forget()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _open_lock(self) -> IO[bytes]:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return (self.folder / "lock").open("ab")
        except OSError as error:
            raise StoreStartError(f"the store's folder '{self.folder}' is not writable: {error.strerror}") from error

    def _launch(self, lock: IO[bytes], until: float) -> None:
        command = self._command()
        self.socket.unlink(missing_ok=True)  # of a server that was killed: whoever holds the lock is the only one
        try:
            log = (self.folder / "server.log").open("ab")
        except OSError as error:
            raise StoreStartError(f"the store's folder '{self.folder}' is not writable: {error.strerror}") from error
        with log:
            self._server = subprocess.Popen(  # noqa: S603 - our own command
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                pass_fds=(lock.fileno(),),
                start_new_session=True,
            )
        try:
            self._guardian = _guard(self._server.pid)
            self._await_answer(self._server, until)
        except BaseException:
            self.stop()
            raise

    def _command(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory": str(self._memory_bytes),
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "databases": "1",
            "loglevel": "notice",
        }
        return [str(self._find()), *(part for name, value in options.items() for part in (f"--{name}", value))]

    def _await_answer(self, server: subprocess.Popen[bytes], until: float) -> None:
        while ask(self.socket) is not Answer.READY:
            if server.poll() is not None:
                raise StoreStartError(
                    self._trouble(f"cannot be served: the server ended with code {server.returncode}")
                )
            self._pause(until, f"is not ready after {self._start_s:g} s")

    def _pause(self, until: float, what: str) -> None:
        if time.monotonic() > until:
            raise StoreStartError(self._trouble(what))
        time.sleep(_POLL_S)

    def _trouble(self, what: str) -> str:
        try:
            lines = (self.folder / "server.log").read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        last = f"; its last word in server.log: {lines[-1][-200:]}" if lines else ""
        return f"the store's folder '{self.folder}' {what}{last}"

    def _forget(self) -> None:
        if self._guardian is not None:
            self._guardian.kill()
            self._guardian.communicate()
        if self._server is not None:
            self._server.wait()
        self._server = self._guardian = None


def _quarter_of_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


def _try_lock(lock: IO[bytes]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _guard(server: int) -> subprocess.Popen[bytes]:
    """Start the process that ends the server when this process is gone."""
    # A descriptor of the process, not its number, which another process may have by then.
    handle = os.pidfd_open(server) if hasattr(os, "pidfd_open") else -1
    try:
        return subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("guardian.py")), str(server), str(handle)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(handle,) if handle >= 0 else (),
            start_new_session=True,
        )
    finally:
        if handle >= 0:
            os.close(handle)


def _short_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"reelray-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    facts = folder.lstat()
    if facts.st_uid != os.getuid() or facts.st_mode & 0o077:
        raise StoreStartError(f"'{folder}' must belong to this user alone: it holds the store's socket")
    return folder
