"""What keeps renders going beside the server: the store of this machine, workers, and whoever tidies up."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from reelray.cluster.assets.asset import AssetRule
from reelray.cluster.assets.sweeping import sweep_assets
from reelray.cluster.coordinator.desk import Desk, name_house
from reelray.cluster.coordinator.keeper import CoordinatorKeeper
from reelray.cluster.coordinator.office import OfficeHours
from reelray.cluster.coordinator.remote_line import RemoteLine
from reelray.cluster.gateway.archive import Archive
from reelray.cluster.gateway.served_models import ServedModels
from reelray.cluster.outbound.allow_list import Reach
from reelray.cluster.renders.artifacts import Artifacts
from reelray.cluster.renders.attempt import Surroundings
from reelray.cluster.renders.belonging import check_belonging
from reelray.cluster.renders.orders import RenderOrders
from reelray.cluster.renders.retention import RetentionRule, sweep_files
from reelray.cluster.renders.webhooks import WebhookTeller
from reelray.cluster.renders.worker import RenderWorker
from reelray.cluster.store.connection import StoreAddress
from reelray.cluster.store.embedded import EmbeddedStore
from reelray.cluster.store.open import open_store
from reelray.cluster.store.probe import Answer, ask
from reelray.proto.errors import StoreStartError

LOG = logging.getLogger("reelray.gateway")
STORE_LOOK_S = 1.0
SWEEP_S = 600.0
SETTLE_S = 15.0
AGAIN_S, LONGEST_PAUSE_S = 1.0, 60.0


class RenderHouse:
    """Engines that a coordinator gives work, and tidiers over an archive, as tasks of this event loop.

    Args:
        archive: Where renders are kept.
        models: What makes them.
        address: Of the store.
        embedded: The store of this machine, started; None for one elsewhere.
        hours: How who coordinates changes.
    """

    def __init__(
        self,
        archive: Archive,
        models: ServedModels,
        address: StoreAddress,
        embedded: EmbeddedStore | None,
        hours: OfficeHours | None = None,
    ) -> None:
        self.archive = archive
        self.desk = Desk(name_house(), models)
        around = Surroundings(store=archive.store, artifacts=archive.artifacts)
        self._orders = RenderOrders(self.desk, RenderWorker(list(models), around))
        self.desk.carry_renders(self._orders)
        self.keeper = CoordinatorKeeper(self.desk.house, address, archive.store, hours)
        self._line = RemoteLine(self.desk, archive.store)
        self._talking = _keep_doing("line", self._line.run)
        self._tasks = [
            _keep_doing("sweep", partial(_sweep, archive)),
            _keep_doing("coordinator", self.keeper.run),
        ]
        if archive.reach.webhooks.prefixes:
            teller = WebhookTeller(archive.store.connection, archive.reach)
            self._tasks.append(_keep_doing("webhooks", teller.run))
        if embedded is not None:
            self._tasks.append(_keep_doing("store", partial(_look_after, embedded)))

    async def settle(self) -> None:
        """Wait until somebody coordinates, for a while; those who come before are told to come back."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                await self._line.is_up.wait()

    async def leave_work(self) -> None:
        """Give back renders that were begun; they go on from their last commit wherever they are made next."""
        self.desk.leave_work()
        await self._orders.close()

    async def close(self) -> None:
        """End everything; harmless when called twice."""
        await self.leave_work()
        await _end([self._talking])
        await _end(self._tasks)


@asynccontextmanager
async def open_house(
    address: StoreAddress,
    embedded: EmbeddedStore | None,
    files: Path | str,
    rule: RetentionRule,
    models: ServedModels,
    *,
    reach: Reach | None = None,
    asset_rule: AssetRule | None = None,
    hours: OfficeHours | None = None,
) -> AsyncIterator[RenderHouse]:
    """Keep renders for the time of a block.

    Args:
        address: Of the store.
        embedded: The store of this machine, if it is that.
        files: Where files of renders lie: a folder, or a URL that fsspec knows.
        rule: How long they are kept.
        models: What makes them.
        reach: Whom the server speaks to by itself; nobody if it is left out.
        asset_rule: How much is kept of what callers bring along.
        hours: How who coordinates changes.

    Raises:
        StoreError: The store does not answer.
        ArtifactError: The files cannot be read or written.
        ConflictError: They belong to another store.
    """
    async with open_store(address, Path()) as store:
        archive = Archive(
            store=store,
            artifacts=Artifacts(files),
            rule=rule,
            asset_rule=asset_rule or AssetRule(),
            reach=reach or Reach(),
        )
        await check_belonging(store, archive.artifacts)
        house = RenderHouse(archive, models, address, embedded, hours)
        try:
            await house.settle()
            yield house
        finally:
            await house.close()


async def check_place(address: StoreAddress, files: Path | str) -> None:
    """Find out what `open_house` would raise, before models are loaded for minutes."""
    async with open_store(address, Path()) as store:
        await check_belonging(store, Artifacts(files))


async def _sweep(archive: Archive) -> None:
    await archive.store.leases.sweep()
    await check_belonging(archive.store, archive.artifacts)  # a store that lost its data knows none of them
    await sweep_files(archive.store, archive.artifacts, archive.rule, now_s=time.time())
    await sweep_assets(archive.store, archive.artifacts, archive.asset_rule, now_s=time.time())
    await asyncio.sleep(SWEEP_S)


async def _look_after(embedded: EmbeddedStore) -> None:
    """Start the store again where it was killed; it has what it acknowledged."""
    await asyncio.sleep(STORE_LOOK_S)
    if await asyncio.to_thread(ask, embedded.socket) is Answer.NOTHING:
        LOG.warning("the store was lost; starting it again")
        try:
            await asyncio.to_thread(embedded.start)
        except StoreStartError as error:
            LOG.warning("the store cannot be started: %s", error.message)


def _keep_doing(name: str, work: Callable[[], Awaitable[None]]) -> "asyncio.Task[None]":
    """Do it again whenever it is over, or failed."""

    async def run() -> None:
        pause_s = AGAIN_S
        while True:
            began_s = time.monotonic()
            try:
                await work()
                pause_s = AGAIN_S
            except Exception as error:  # noqa: BLE001  nobody else would do it again
                if time.monotonic() - began_s > LONGEST_PAUSE_S:  # it has worked since the last time
                    pause_s = AGAIN_S
                LOG.warning("%s of renders: %s: %s; again in %g s", name, type(error).__name__, error, pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    return asyncio.create_task(run(), name=f"{name} of renders")


async def _end(tasks: "list[asyncio.Task[None]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
