"""Keeps a coordinator's process going beside a server, and starts it again when it was lost."""

import asyncio
import contextlib
import json
import logging
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from reelray.cluster.coordinator.office import OfficeHours
from reelray.cluster.coordinator.remote_line import NAME
from reelray.cluster.plain_json import to_plain
from reelray.cluster.store.connection import StoreAddress
from reelray.cluster.store.open import Store
from reelray.proto.errors import ResourceError, StoreError

LOG = logging.getLogger("reelray.coordinator")
AGAIN_S, LONGEST_PAUSE_S = 0.1, 10.0
STEADY_S = 10.0
"""Who has worked so long is started again at once."""
END_S = 5.0


class CoordinatorKeeper:
    """Runs until its task is cancelled; the process ends with it, however that ends.

    Args:
        house: Name of the server.
        address: Of the store.
        store: The same.
        hours: How leadership changes hands.
    """

    def __init__(self, house: str, address: StoreAddress, store: Store, hours: OfficeHours | None = None) -> None:
        self._house, self._address, self._store = house, address, store
        self._hours = hours or OfficeHours()
        self._count = 0
        self.pid: int | None = None
        """Of the process, while it runs."""

    async def run(self) -> None:
        """Start it, and start it again."""
        pause_s, loop = AGAIN_S, asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            folder = Path(tempfile.mkdtemp(prefix="reelray-"))  # nobody else may look into it
            try:
                await self._work(listen_address(self._address, folder))
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            pause_s = AGAIN_S if loop.time() - began_s > STEADY_S else min(2 * pause_s, LONGEST_PAUSE_S)
            LOG.warning("the coordinator was lost; starting it again")
            await asyncio.sleep(pause_s)

    async def _work(self, address: str) -> None:
        self._count += 1
        owner = f"{self._house}:{self._count}"
        program = (sys.executable, "-m", "reelray.cluster.coordinator")
        # In a session of its own: Ctrl-C is for the server, which ends it in good order.
        process = await asyncio.create_subprocess_exec(*program, stdin=asyncio.subprocess.PIPE, start_new_session=True)
        self.pid = process.pid
        try:
            assert process.stdin is not None, "it was asked for"
            orders = {
                "owner": owner,
                "url": self._address.url,
                "prefix": self._address.prefix,
                "address": address,
                "hours": to_plain(self._hours),
            }
            process.stdin.write(json.dumps(orders).encode() + b"\n")
            await self._wait_for(process)
        finally:
            self.pid = None
            await _end(process)
            await self._release(owner)

    async def _wait_for(self, process: asyncio.subprocess.Process) -> None:
        """Wait until it has ended; one that hangs is ended: else nobody would lead where there is no other server."""
        over, loop = asyncio.create_task(process.wait()), asyncio.get_running_loop()
        led_s = loop.time()
        try:
            while not (await asyncio.wait({over}, timeout=self._hours.lease_s))[0]:
                try:
                    leads = await self._store.leaders.observe(NAME) is not None
                except (StoreError, ResourceError):  # nobody could lead
                    leads = True
                led_s = loop.time() if leads else led_s
                if loop.time() - led_s > self._hours.hung_s:
                    LOG.warning("the coordinator hangs; ending it")
                    process.kill()
                    return
        finally:
            over.cancel()

    async def _release(self, owner: str) -> None:
        """It is gone: nobody has to wait until its lease runs out."""
        with contextlib.suppress(StoreError, ResourceError):
            held = await self._store.leaders.observe(NAME)
            if held is not None and held.owner == owner:
                await self._store.leaders.release(held)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    assert process.stdin is not None, "it was asked for"
    process.stdin.close()
    try:
        async with asyncio.timeout(END_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def listen_address(store: StoreAddress, folder: Path) -> str:
    """Where a coordinator listens: on this machine if the store is here, else where the store's network reaches it.

    Args:
        store: Where the store is.
        folder: For a socket.
    """
    parts = urlsplit(store.url)
    host = parts.hostname or "localhost"
    if parts.scheme == "unix" or host in {"localhost", "127.0.0.1", "::1"}:
        return f"unix:{folder / 'coordinator.sock'}"
    family, kind, protocol, _, there = socket.getaddrinfo(host, parts.port or 6379, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as line:
        line.connect(there)  # nothing is sent
        own = line.getsockname()[0]
    return f"[{own}]:0" if ":" in own else f"{own}:0"
