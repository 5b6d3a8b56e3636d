"""The way in: a store by its address, or one of this machine."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from reelray.cluster.settings import Settings
from reelray.cluster.store.calls import Calls
from reelray.cluster.store.connection import Connection, StoreAddress
from reelray.cluster.store.embedded import EmbeddedStore
from reelray.cluster.store.events import Events
from reelray.cluster.store.jobs import Jobs
from reelray.cluster.store.leaders import Leaders
from reelray.cluster.store.leases import Leases
from reelray.cluster.store.ledger import Ledger
from reelray.cluster.store.quotas import Quotas
from reelray.cluster.store.sessions import Sessions
from reelray.proto.errors import InputError, StoreError


@dataclass(frozen=True, kw_only=True, slots=True)
class Store:
    """Everything that the store keeps, each part behind its own face.

    Args:
        connection: The line that all share.
        jobs: Submit, look up, list, cancel.
        leases: Who works on what.
        ledger: What is done for good.
        events: For watchers.
        sessions: Which engine has which live stream.
        leaders: Who leads.
        quotas: What tenants have used and hold.
        calls: Those that last, within their tenants' limits.
    """

    connection: Connection
    jobs: Jobs
    leases: Leases
    ledger: Ledger
    events: Events
    sessions: Sessions
    leaders: Leaders
    quotas: Quotas
    calls: Calls

    @classmethod
    def over(cls, connection: Connection) -> Self:
        """All parts over one connection."""
        return cls(
            connection=connection,
            jobs=Jobs(connection),
            leases=Leases(connection),
            ledger=Ledger(connection),
            events=Events(connection),
            sessions=Sessions(connection),
            leaders=Leaders(connection),
            quotas=Quotas(connection),
            calls=Calls(connection),
        )


def address_of(settings: Settings) -> StoreAddress | None:
    """The store that the environment names; None where it leaves that to this machine.

    Raises:
        InputError: The address or the prefix is not legal.
    """
    if settings.redis_url is None:
        return None
    return StoreAddress(url=settings.redis_url, prefix=settings.redis_prefix)


async def check_eviction(connection: Connection) -> None:
    """Refuse a server that forgets jobs when its memory is full.

    Raises:
        InputError: It does.
        StoreError: It does not answer.
    """
    await connection.command("PING")
    try:
        memory = await connection.command("INFO", "memory")
    except StoreError:  # this user may not ask
        return
    policy = memory.get("maxmemory_policy", "noeviction")
    if policy != "noeviction" and memory.get("maxmemory"):
        raise InputError(
            f"the store at {connection.address.shown} forgets jobs when its memory is full: its maxmemory-policy is "
            f"{policy}, and must be noeviction"
        )


@asynccontextmanager
async def open_store(address: StoreAddress | None, folder: Path) -> AsyncIterator[Store]:
    """Connect to a store for the time of a block.

    Args:
        address: Where it is; None serves `folder` on this machine, or joins who serves it.
        folder: Data of the store on this machine.

    Raises:
        InputError: It forgets jobs when its memory is full.
        StoreStartError: The store on this machine cannot be started.
        StoreError: The store does not answer.
    """
    embedded = None
    if address is None:
        embedded = EmbeddedStore(folder)
        await asyncio.to_thread(embedded.start)
        address = StoreAddress(url=embedded.url)
    connection = Connection(address)
    try:
        await check_eviction(connection)
        yield Store.over(connection)
    finally:
        await connection.close()
        if embedded is not None:
            await asyncio.to_thread(embedded.stop)
