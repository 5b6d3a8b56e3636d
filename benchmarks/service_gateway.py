"""A gateway in a process of its own over an engine that computes nothing, for `benchmarks.service`."""

import asyncio
import multiprocessing
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import psutil
import uvloop

from benchmarks.service_engine import IdleEngine, entry
from reelray.cluster.gateway.archive import Archive
from reelray.cluster.gateway.callers import Callers
from reelray.cluster.gateway.served_models import ServedModel, ServedModels
from reelray.cluster.gateway.server import GatewayServer, Guard
from reelray.cluster.gateway.tenant_quotas import TenantQuota, TenantQuotas
from reelray.cluster.renders.artifacts import Artifacts
from reelray.cluster.store.connection import Connection, StoreAddress
from reelray.cluster.store.embedded import EmbeddedStore
from reelray.cluster.store.open import Store

TENANTS = {f"a-token-of-tenant-{number}": f"tenant-{number}" for number in range(8)}
QUOTAS = TenantQuotas(
    everybody=TenantQuota(renders_per_minute=1e6, open_renders=10**9, frames_per_day=10**12),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How the engine makes videos.

    Args:
        batch: Frames that come at once.
        pause_s: Before each batch.
        models: How many there are.
    """

    batch: int = 4
    pause_s: float = 0.0
    models: int = 1


class Gateway:
    """The process, from outside.

    Args:
        pipe: To it.
        process: It.
        store: Address of its store.
        files: Folder of its renders' files.
    """

    def __init__(self, pipe: Pipe, process: psutil.Process, store: StoreAddress, files: Path) -> None:
        self._pipe, self._process, self.store, self.files = pipe, process, store, files
        self.address = f"127.0.0.1:{pipe.recv()}"

    def ended(self) -> dict[str, float]:
        """When each video was given up by its caller: see `IdleEngine`."""
        self._pipe.send("ended")
        return dict(self._pipe.recv())

    def produced(self) -> int:
        """Bytes of frames that were taken from the engine."""
        self._pipe.send("produced")
        return int(self._pipe.recv())

    def used_bytes(self) -> int:
        """Memory that is its own."""
        return int(self._process.memory_full_info().uss)

    def cpu_s(self) -> float:
        """Seconds of processors that it took."""
        times = self._process.cpu_times()
        return float(times.user + times.system)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid


@contextmanager
def start_gateway(pace: Pace | None = None) -> Iterator[Gateway]:
    """Store and gateway for the time of a block."""
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        store = opened.enter_context(EmbeddedStore(folder / "store"))
        ours, theirs = multiprocessing.Pipe()
        address = StoreAddress(url=store.url)
        job = (theirs, address, folder / "files", pace or Pace())
        process = multiprocessing.get_context("spawn").Process(target=run_gateway, args=job, daemon=True)
        process.start()
        theirs.close()
        try:
            yield Gateway(ours, psutil.Process(process.pid), address, folder / "files")
        finally:
            ours.close()
            process.join(20)
            process.kill()


def run_gateway(pipe: Pipe, store: StoreAddress, files: Path, pace: Pace) -> None:
    """Serve until the other end of the pipe is closed."""
    uvloop.run(_serve(pipe, store, files, pace))


async def _serve(pipe: Pipe, address: StoreAddress, files: Path, pace: Pace) -> None:
    engine = IdleEngine(batch=pace.batch, pause_s=pace.pause_s)
    models = ServedModels([ServedModel(entry(number), lambda: engine) for number in range(pace.models)])
    connection = Connection(address)
    archive = Archive(store=Store.over(connection), artifacts=Artifacts(files))
    guard = Guard(callers=Callers(TENANTS), quotas=QUOTAS)
    server = await GatewayServer(models, "127.0.0.1:0", guard, archive).start()
    pipe.send(server.port)
    try:
        while True:
            asked = await asyncio.to_thread(pipe.recv)
            pipe.send(getattr(engine, asked))
    except (EOFError, OSError):
        await server.stop(0)
        await connection.close()
