"""A gateway on loopback over fake engines, in a thread of this process."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from reelray.cluster.gateway.served_models import ServedModel, ServedModels
from reelray.cluster.gateway.server import GatewayServer, Guard
from tests.support.fake_engine import FakeEngine, fake_entry


@contextmanager
def serve(*engines: FakeEngine, guard: Guard | None = None, entries=None) -> Iterator[str]:
    """Serve `fake`, `fake-1`, … and give the address."""
    names = ["fake", *(f"fake-{n}" for n in range(1, len(engines)))]
    entries = entries or [fake_entry(path=Path("/models") / name) for name in names]
    models = ServedModels(
        [ServedModel(entry, lambda engine=engine: engine) for entry, engine in zip(entries, engines, strict=True)]
    )
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> GatewayServer:
        return await GatewayServer(models, "127.0.0.1:0", guard).start()

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(0), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@contextmanager
def connect(address: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(address) as channel:
        yield channel
