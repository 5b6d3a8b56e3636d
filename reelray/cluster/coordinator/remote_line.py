"""A house's line to whoever coordinates: found through the store, and found again whenever it breaks."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc

from reelray.cluster.coordinator.desk import Desk
from reelray.cluster.coordinator.line_security import CERTIFICATE, open_channel
from reelray.cluster.coordinator.messages import Report
from reelray.cluster.coordinator.words import BEAT, HOUSE, METHOD, SECRET, SILENCE_S, pack_report, read_word
from reelray.cluster.store.leaders import Leadership
from reelray.cluster.store.open import Store
from reelray.proto.errors import FencedError, InputError, ResourceError, StoreError

LOG = logging.getLogger("reelray.coordinator")
NAME = "coordinator"
"""What is led."""
ADDRESS = "address"
LOOK_S, AGAIN_S = 1.0, 0.1


class RemoteLine:
    """Runs until its task is cancelled.

    Args:
        desk: Where the house meets the coordinator.
        store: Knows who leads.
    """

    def __init__(self, desk: Desk, store: Store) -> None:
        self._desk, self._store = desk, store
        self._leader: Leadership | None = None
        self.is_up = asyncio.Event()

    async def run(self) -> None:
        """Talk to whoever leads, one after the other."""
        while True:
            await self._look()
            if self._leader is not None:
                await self._talk(self._leader)
            self.is_up.clear()
            await asyncio.sleep(AGAIN_S)

    async def _look(self) -> None:
        """Find out who leads; while the store is away, the last one that was known is asked."""
        with contextlib.suppress(StoreError, ResourceError):
            self._leader = await self._store.leaders.observe(NAME) or self._leader

    async def _talk(self, leader: Leadership) -> None:
        reports = asyncio.Queue[Report]()
        say = reports.put_nowait
        said = ((HOUSE, self._desk.house), (SECRET, str(leader.data.get(SECRET, ""))))
        try:
            self._desk.connect(leader.fence, say)
            async with open_channel(str(leader.data.get(ADDRESS)), leader.data.get(CERTIFICATE)) as channel:
                call = channel.stream_stream(METHOD)(_packed(reports), metadata=said)
                await self._listen_while(call, leader)
        except (grpc.RpcError, TimeoutError) as error:
            LOG.info(
                "the line to the coordinator broke: %s", error if isinstance(error, TimeoutError) else error.code()
            )
        except (FencedError, InputError) as error:
            LOG.warning("the line to the coordinator is cut: %s", error.message)
        finally:
            self._desk.disconnect(say)

    async def _listen_while(self, call: Any, leader: Leadership) -> None:
        """Listen until the line ends, or another one leads.

        The call is not cancelled under whoever reads from it: that would look as if this task itself were.
        """
        listening, watching = asyncio.create_task(self._listen(call)), asyncio.create_task(self._watch(leader))
        try:
            done, _ = await asyncio.wait({listening, watching}, return_when=asyncio.FIRST_COMPLETED)
            if listening in done:
                listening.result()
        finally:
            for task in (listening, watching):
                task.cancel()
            await asyncio.gather(listening, watching, return_exceptions=True)
            call.cancel()

    async def _listen(self, call: Any) -> None:
        while True:
            async with asyncio.timeout(SILENCE_S):
                data = await call.read()
            if data is grpc.aio.EOF:
                return
            self.is_up.set()
            if data != BEAT:
                self._desk.hear(read_word(data))

    async def _watch(self, leader: Leadership) -> None:
        """Wait until another one leads, however lively this one is."""
        while self._leader is None or self._leader.fence <= leader.fence:
            await asyncio.sleep(LOOK_S)
            await self._look()


async def _packed(reports: "asyncio.Queue[Report]") -> AsyncIterator[bytes]:
    while True:
        yield pack_report(await reports.get())
