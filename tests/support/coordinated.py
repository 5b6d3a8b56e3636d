"""A server with a store, engines and a coordinator, in a thread of this process."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from reelray.cluster.gateway.render_house import RenderHouse, open_house
from reelray.cluster.gateway.served_models import ServedModel, ServedModels
from reelray.cluster.gateway.server import GatewayServer
from reelray.cluster.renders.retention import RetentionRule
from tests.support.archive import Shelf


@dataclass
class Served:
    address: str
    house: RenderHouse
    loop: asyncio.AbstractEventLoop

    def do(self, awaitable):
        return asyncio.run_coroutine_threadsafe(awaitable, self.loop).result(30)


@contextmanager
def serve_house(shelf: Shelf, *models: ServedModel, **rest) -> Iterator[Served]:
    """Serve models and keep renders on a shelf."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    ready, over = asyncio.run_coroutine_threadsafe(_start(shelf, models, rest), loop).result(30)
    server, house = ready
    try:
        yield Served(f"127.0.0.1:{server.port}", house, loop)
    finally:
        asyncio.run_coroutine_threadsafe(over(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _start(shelf, models, rest):
    served = ServedModels(list(models))
    opened = open_house(shelf.address, None, shelf.files, RetentionRule(), served, **rest)
    house = await opened.__aenter__()
    server = await GatewayServer(served, "127.0.0.1:0", None, house.archive, desk=house.desk).start()

    async def over():
        await house.leave_work()
        await server.stop(0)
        await opened.__aexit__(None, None, None)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    return (server, house), over
