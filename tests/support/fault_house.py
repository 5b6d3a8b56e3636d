"""A real server that tests do harm to, and clients that follow their renders whatever happens."""

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import psutil

import reelray
from reelray.cluster.gateway.tenant_quotas import TenantQuota
from reelray.cluster.store.connection import Connection, StoreAddress
from reelray.cluster.store.embedded import EmbeddedStore
from reelray.cluster.store.quotas import Quotas
from tests.support.commands import ROOT, is_there
from tests.support.shared_memory import left_in_memory
from tests.support.waiting import wait_until

STEPS_OF_UNIT = 2
"""At least; see `BY_UNIT`, and the steps of a tiny stream's chunk."""

QUOTA = TenantQuota(frames_per_day=10**9)
"""Of everybody in `fault_server`: nothing is refused, and all is counted."""


def free_port() -> int:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return int(line.getsockname()[1])


class House:
    """`reelray serve` in a folder, at one address however often it is started."""

    def __init__(self, folder: Path, *options: object, **variables: str) -> None:
        self.folder, self.address = folder, f"127.0.0.1:{free_port()}"
        self._options = [str(option) for option in options]
        self.to_charge = 0
        """Frames of all renders that were submitted, each once."""
        self._variables, self.said = variables, []
        self.family: set[psutil.Process] = set()
        self._shared_memory = set(Path("/dev/shm").iterdir())
        self._temporary = Path(tempfile.mkdtemp(prefix="h-"))  # a short path: sockets may lie there

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.end()
        finally:
            self.process.kill()
            self.process.wait()
            shutil.rmtree(self._temporary)

    def start(self) -> None:
        """Start it, and wait until it serves."""
        words = ["--data", "data", "--address", self.address, "--http-port", "off", "--device", "cpu", *self._options]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fault_server", *words],
            cwd=self.folder,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
                "TMPDIR": str(self._temporary),
                **self._variables,
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        self._listener = threading.Thread(target=self._listen, args=(self.process.stderr,), daemon=True)
        self._listener.start()
        self.wait_for(r"serving .* \(gRPC\)", self.times(r"serving .* \(gRPC\)") + 1)
        self.server()

    def _listen(self, lines) -> None:
        with lines:
            self.said.extend(lines)

    def times(self, pattern: str) -> int:
        """How often it has said this."""
        return sum(bool(re.search(pattern, line)) for line in list(self.said))

    def wait_for(self, pattern: str, times: int = 1) -> None:
        """Wait until it has said this so often."""

        def look() -> bool:
            assert self.process.poll() is None or self.times(pattern) >= times, "".join(self.said)
            return self.times(pattern) >= times

        wait_until(look)

    def server(self) -> psutil.Process:
        """The process that serves; remembers everybody."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.family |= set(children)
        (found,) = (child for child in children if _is_server(child, self.process.pid))
        return found

    def processes(self, *names: str) -> list[psutil.Process]:
        """Those whose command has one of these words, by their age."""
        found = [child for child in self.server().children(recursive=True) if is_there(child)]
        named = [child for child in found if any(name in " ".join(child.cmdline()) for name in names)]
        return sorted(named, key=lambda child: child.create_time())

    def who_does(self, kind: str) -> list[psutil.Process]:
        """Processes that do this now, or have done it and are there; see `Slowly`."""
        pids = [int(trace.name.removeprefix(f"{kind}-")) for trace in self.folder.glob(f"{kind}-*")]
        found = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
        return [process for process in found if is_there(process)]

    def store(self) -> psutil.Process:
        """The process of its store."""
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(EmbeddedStore(self.folder / "data" / "store").socket))
            line.sendall(b"INFO server\r\n")
            return psutil.Process(int(re.search(rb"process_id:(\d+)", line.recv(8192))[1]))

    def charged(self) -> int:
        """Frames that were counted against the quota."""

        async def ask() -> int:
            connection = Connection(StoreAddress(url=EmbeddedStore(self.folder / "data" / "store").url))
            try:
                return await Quotas(connection).used("default", QUOTA.frames)
            finally:
                await connection.close()

        return asyncio.run(ask())

    @contextmanager
    def gate(self, **forwards: int) -> Iterator[None]:
        """Let each model make so many forwards in each process, then have it stand still until the end of the block."""
        for model, most in forwards.items():
            (self.folder / f"gate-{model.replace('_', '-')}").write_text(str(most))
        try:
            yield
        finally:
            self.open_gates()

    def open_gates(self) -> None:
        """Let everybody through."""
        for file in (*self.folder.glob("gate-*"), *self.folder.glob("at-gate-*")):
            file.unlink()

    def end(self) -> None:
        """Stop it in good order; every render of it is done, and nothing is left."""
        with reelray.Client(self.address) as client:
            assert {render.state for render in client.list()} <= {"done"}
            assert sum(engine.requests for engine in client.describe()) == 0
        assert self.charged() == self.to_charge
        with suppress(psutil.NoSuchProcess):
            self.server()
        self.process.terminate()
        assert self.process.wait(60) == 0, "".join(self.said)
        self._listener.join()
        self.check_empty()

    def check_empty(self) -> None:
        """Nobody of it is left, and nothing in shared memory or among temporary files."""
        wait_until(lambda: not any(map(is_there, self.family)))
        wait_until(lambda: not left_in_memory(self._shared_memory))
        wait_until(lambda: not list(self._temporary.iterdir()))


def _is_server(child: psutil.Process, supervisor: int) -> bool:
    """Whether it is that and not one that lost its parent, whom the supervisor has adopted."""
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        leads = child.ppid() == supervisor and os.getpgid(child.pid) == child.pid
        return leads and "tests.support.fault_server" in child.cmdline()
    return False


class Following:
    """A render whose events and bytes a client takes as they come."""

    def __init__(self, house: House, model: str, *, prompt: str = "a red circle", **wish: object) -> None:
        self._client = reelray.Client(house.address)
        self._house, self._model = house, model
        self._wish = {"prompt": prompt, "model": model, "key": uuid.uuid4().hex, **wish}
        self.id = self._client.submit(**self._wish).id
        house.to_charge += wish["frames"]
        self.events, self.data, self._errors = [], [], []
        self._threads = [threading.Thread(target=self._take, args=way, daemon=True) for way in self._ways()]
        for thread in self._threads:
            thread.start()

    def _ways(self):
        return [
            (self.events, self._client.watch(self.id)),
            (self.data, self._client.download(self.id, follow=True)),
        ]

    def _take(self, into, items) -> None:
        try:
            into.extend(items)
        except Exception as error:  # noqa: BLE001  raised again where it is waited for
            self._errors.append(error)

    def wait_at_gate(self) -> "Following":
        """Until its model stands still, and a unit is durable."""

        def look() -> bool:
            assert not self._errors, self._errors
            stands = any(self._house.folder.glob(f"at-gate-{self._model}-*"))
            return stands and any(event.committed is not None for event in list(self.events))

        wait_until(look)
        assert not self.ended
        return self

    @property
    def ended(self) -> bool:
        return any(event.state in {"done", "failed", "cancelled"} for event in list(self.events))

    @property
    def states(self) -> list[str]:
        return [event.state for event in list(self.events) if event.state]

    def finish(self) -> bytes:
        """Wait for its end; gives its bytes. It was charged once, also when it is asked for once more."""
        for thread in self._threads:
            thread.join(90)
            assert not thread.is_alive(), (self.states, self._house.said)
        assert not self._errors, self._errors
        assert self.states[-1] == "done", (self.events, self._house.said)
        # Its place in the queue is told beside the events, with the number of the last one.
        kept = [event for event in self.events if event.state or event.progress or event.committed is not None]
        numbers = [event.number for event in kept]
        assert numbers == sorted(set(numbers)), numbers
        assert self._client.submit(**self._wish).id == self.id
        assert self._house.charged() == self._house.to_charge
        self._client.close()
        return b"".join(self.data)


def check_each_unit_once(render: Following) -> None:
    """Each unit is committed once, in order, and every attempt begins behind the last one: what was durable is kept."""
    units, begins = 0, False
    for event in render.events:
        if event.committed is not None:
            assert event.committed == units
            units += 1
        elif event.state == "running":
            begins = True
        elif event.progress and event.progress.stage == "denoise":
            assert event.progress.done > STEPS_OF_UNIT * units or not begins
            begins = False
    assert units > 1
