"""A worker that makes no videos, for `benchmarks.service`: it finishes a render with a file, or tells of progress."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

from benchmarks.service_gateway import Gateway
from reelray.cluster.plain_json import to_plain
from reelray.cluster.renders.artifact import Artifact, folder_of
from reelray.cluster.renders.artifacts import Artifacts
from reelray.cluster.store.connection import Connection, StoreAddress
from reelray.cluster.store.job import NewJob
from reelray.cluster.store.leases import Lease
from reelray.cluster.store.open import Store

TENANT, QUEUE = "tenant-0", "worker"


def finish_render(gateway: Gateway, size_bytes: int) -> str:
    """A render that is done, with a file of zeros; returns its id."""
    return str(asyncio.run(_over(gateway.store, lambda store: _finish(store, gateway.files, size_bytes))))


@contextmanager
def telling(
    gateway: Gateway, renders: int, events: int, pause_s: float
) -> Iterator[tuple[list[str], Callable[[], None]]]:
    """Renders that are running: their ids, and what begins to tell of their progress, in a thread."""
    leases: list[Lease] = asyncio.run(_over(gateway.store, lambda store: _claim(store, renders)))
    work = lambda: asyncio.run(_over(gateway.store, lambda store: _tell(store, leases, events, pause_s)))  # noqa: E731
    thread = Thread(target=work, daemon=True)
    yield [lease.ref.id for lease in leases], thread.start
    thread.join()


async def _over(address: StoreAddress, work: Callable[[Store], Awaitable[Any]]) -> Any:
    async with _store(address) as store:
        return await work(store)


@asynccontextmanager
async def _store(address: StoreAddress) -> AsyncIterator[Store]:
    connection = Connection(address)
    try:
        yield Store.over(connection)
    finally:
        await connection.close()


async def _claim(store: Store, renders: int) -> list[Lease]:
    leases = []
    for _ in range(renders):
        await store.jobs.submit(NewJob(tenant=TENANT, spec={}, queue=QUEUE))
        lease = await store.leases.claim("a benchmark", lease_s=3600, queues=[QUEUE])
        assert lease is not None
        leases.append(lease)
    return leases


async def _finish(store: Store, files: Path, size_bytes: int) -> str:
    (lease,) = await _claim(store, 1)
    video: Artifact = Artifacts(files).write(TENANT, folder_of(lease.ref), "video", ".mp4", bytes(size_bytes))
    await store.leases.finish(lease, {"video": to_plain(video)})
    return lease.ref.id


async def _tell(store: Store, leases: list[Lease], events: int, pause_s: float) -> None:
    """Each render moves on once in each pause, one after another."""
    start = time.monotonic()
    for number in range(events):
        for place, lease in enumerate(leases):
            due = start + pause_s * (number + place / len(leases))
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            value = {"stage": "denoise", "done": number + 1, "total": events}
            await store.events.post(lease, "progress", value)
