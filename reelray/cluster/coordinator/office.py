"""Who coordinates: of all that could, the one that holds the store's lease."""

import asyncio
import contextlib
import logging
import secrets
from dataclasses import dataclass

from reelray.cluster.coordinator.clock import LoopClock
from reelray.cluster.coordinator.coordinator import Coordinator
from reelray.cluster.coordinator.costs import CostTable
from reelray.cluster.coordinator.line_security import CERTIFICATE, LineKey, is_socket
from reelray.cluster.coordinator.remote_line import ADDRESS, NAME
from reelray.cluster.coordinator.render_line import RenderLine
from reelray.cluster.coordinator.switchboard import Switchboard
from reelray.cluster.coordinator.words import SECRET
from reelray.cluster.renders.lease_keeper import end_tasks
from reelray.cluster.store.leaders import Leadership
from reelray.cluster.store.open import Store
from reelray.proto.errors import LeaseLostError, ResourceError, StoreError

LOG = logging.getLogger("reelray.coordinator")


@dataclass(frozen=True, kw_only=True, slots=True)
class OfficeHours:
    """How leadership changes hands.

    Args:
        lease_s: After so long without a word of the leader another one leads.
        renew_s: So often the leader says that it is there.
        try_s: So often others ask whether it is.
        hung_s: A process is ended that has had nobody lead for so long, although it could.
    """

    lease_s: float = 4.0
    renew_s: float = 1.0
    try_s: float = 0.25
    hung_s: float = 15.0


class Office:
    """Leads whenever it can, until its task is cancelled.

    Args:
        owner: Its name, unlike all others.
        store: Knows who leads.
        address: Where it listens; see `Switchboard`.
        hours: How leadership changes hands.
    """

    def __init__(self, owner: str, store: Store, address: str, hours: OfficeHours | None = None) -> None:
        self._owner, self._store, self._address = owner, store, address
        self._hours = hours or OfficeHours()
        self._costs = CostTable()

    async def run(self) -> None:
        """Wait for the lease, lead, and wait again.

        Raises:
            ResourceError: The address cannot be had.
        """
        secret = secrets.token_urlsafe(24)
        key = None if is_socket(self._address) else LineKey.make()
        board = Switchboard(self._address, secret, key)
        await board.start()
        try:
            while True:
                told = {ADDRESS: board.address, SECRET: secret}
                held = await self._acquire(told if key is None else {**told, CERTIFICATE: key.certificate.decode()})
                LOG.info("%s coordinates from now on, with fence %d", self._owner, held.fence)
                await self._lead(board, held)
                LOG.info("%s coordinates no more", self._owner)
        finally:
            await board.stop()

    async def _acquire(self, data: dict[str, str]) -> Leadership:
        while True:
            with contextlib.suppress(StoreError, ResourceError):
                lease_s = self._hours.lease_s
                held = await self._store.leaders.acquire(NAME, self._owner, lease_s=lease_s, data=data)
                if held is not None:
                    return held
            await asyncio.sleep(self._hours.try_s)

    async def _lead(self, board: Switchboard, held: Leadership) -> None:
        renders = RenderLine(self._store, self._costs)
        coordinator = Coordinator(self._costs, LoopClock(), fence=held.fence, when_looked_for=renders.look_soon)
        looking = asyncio.create_task(renders.run(coordinator))
        board.lead(coordinator)
        try:
            await self._hold(held)
        finally:
            board.lead(None)
            coordinator.close()
            await end_tasks([looking])
            with contextlib.suppress(StoreError, ResourceError):
                await asyncio.shield(self._store.leaders.release(held))

    async def _hold(self, held: Leadership) -> None:
        """Renew the lease until another has it. While the store is away nobody can; houses refuse who lost it."""
        while True:
            await asyncio.sleep(self._hours.renew_s)
            try:
                await self._store.leaders.renew(held, lease_s=self._hours.lease_s)
            except LeaseLostError:
                return
            except (StoreError, ResourceError) as error:
                LOG.warning("the lease cannot be renewed now: %s", error.message)
