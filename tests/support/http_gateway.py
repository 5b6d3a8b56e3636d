"""The HTTP side on loopback over fake engines, in a thread of this process."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from reelray.cluster.assets.room import AssetRoom
from reelray.cluster.coordinator.local_line import coordinate_alone
from reelray.cluster.gateway.callers import Callers
from reelray.cluster.gateway.served_models import ServedModel, ServedModels
from reelray.cluster.gateway.tenant_quotas import TenantQuotas
from reelray.cluster.http_api.server import HttpPlace, HttpServer
from reelray.cluster.http_api.videos import House
from reelray.cluster.renders.retention import RetentionRule
from reelray.cluster.store.connection import Connection
from tests.support.archive import Shelf
from tests.support.fake_engine import FACTS, RECIPE, FakeEngine, fake_entry

RULE = RetentionRule()


def picture_entry():
    """A model that begins with a picture."""
    return fake_entry(recipe=replace(RECIPE, task="i2v"), facts=replace(FACTS, task="i2v"))


class Served:
    """A server that a test may stop itself."""

    def __init__(self, shelf: Shelf, callers: Callers | None, entry, rule: RetentionRule, quotas: TenantQuotas) -> None:
        self._quotas = quotas
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self._connection = Connection(shelf.address)
        archive = replace(shelf.archive(self._connection), rule=rule)
        models = ServedModels([ServedModel(entry or fake_entry(path=Path("/models/fake")), FakeEngine)])
        self.server = self.run(self._start(models, archive, callers))
        self.url = f"http://127.0.0.1:{self.server.port}"

    def run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    async def _start(self, models, archive, callers) -> HttpServer:
        place = HttpPlace(host="127.0.0.1", port=0, on_loopback=True)
        return await HttpServer(self.house(models, archive), place, callers).start()

    def house(self, models, archive) -> House:
        self.desk = coordinate_alone(models)
        return House(models=models, archive=archive, room=AssetRoom(archive), desk=self.desk, quotas=self._quotas)

    def close(self) -> None:
        self.run(self._end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    async def _end(self) -> None:
        await self.server.stop(0)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._connection.close()


@contextmanager
def serve_http(shelf: Shelf, *, callers: Callers | None = None, entry=None, rule=RULE, quotas=None) -> Iterator[Served]:
    served = Served(shelf, callers, entry, rule, quotas or TenantQuotas())
    try:
        yield served
    finally:
        served.close()
