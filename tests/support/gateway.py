"""A gateway on loopback over fake engines, in a thread of this process."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from reelray.cluster.gateway.served_models import ServedModel, ServedModels
from reelray.cluster.gateway.server import GatewayServer, Guard
from reelray.cluster.store.connection import Connection
from tests.support.archive import Shelf
from tests.support.fake_engine import FakeEngine, fake_entry


@contextmanager
def serve(
    *engines: FakeEngine,
    guard: Guard | None = None,
    entries=None,
    shelf: Shelf | None = None,
    address: str = "127.0.0.1:0",
    grace_s: float = 0,
    together: int = 1,
) -> Iterator[str]:
    """Serve `fake`, `fake-1`, … and give the address; with a shelf it keeps renders there.

    In the end calls that run have `grace_s`. Each engine makes so many together.
    """
    names = ["fake", *(f"fake-{n}" for n in range(1, len(engines)))]
    entries = entries or [fake_entry(path=Path("/models") / name) for name in names]
    models = ServedModels(
        [
            ServedModel(entry, lambda engine=engine: engine, together=together)
            for entry, engine in zip(entries, engines, strict=True)
        ]
    )
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    connection = Connection(shelf.address) if shelf else None
    archive = shelf.archive(connection) if shelf else None

    async def start() -> GatewayServer:
        return await GatewayServer(models, address, guard, archive).start()

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        asyncio.run_coroutine_threadsafe(_end(server, connection, grace_s), loop).result(10 + grace_s)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _end(server: GatewayServer, connection: Connection | None, grace_s: float) -> None:
    """Stop, and wait for what ends with it, as `asyncio.run` does."""
    await server.stop(grace_s)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    if connection is not None:
        await connection.close()


@contextmanager
def connect(address: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(address) as channel:
        yield channel
