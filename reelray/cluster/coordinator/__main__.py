"""`python -m reelray.cluster.coordinator`: a coordinator, for as long as its standard input is open.

The first line of that is JSON: where the store is and where to listen. It holds passwords, which no argument may.
"""

import asyncio
import contextlib
import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

import uvloop

from reelray.cluster.coordinator.line_security import is_socket
from reelray.cluster.coordinator.office import Office, OfficeHours
from reelray.cluster.plain_json import from_plain
from reelray.cluster.store.connection import Connection, StoreAddress
from reelray.cluster.store.open import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Orders:
    """The first line.

    Args:
        owner: Name of this one, unlike all others.
        url: Of the store.
        prefix: Of its keys.
        address: Where to listen.
        hours: How leadership changes hands.
    """

    owner: str
    url: str
    prefix: str
    address: str
    hours: OfficeHours


async def work(orders: Orders) -> None:
    """Coordinate whenever nobody else does, until standard input ends."""
    connection = Connection(StoreAddress(url=orders.url, prefix=orders.prefix))
    office = asyncio.create_task(Office(orders.owner, Store.over(connection), orders.address, orders.hours).run())
    over = asyncio.create_task(_input_ended())
    try:
        await asyncio.wait({office, over}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        office.cancel()
        (result,) = await asyncio.gather(office, return_exceptions=True)
        await connection.close()
    if isinstance(result, Exception):
        raise result


async def _input_ended() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


def main() -> None:
    """Read the first line, and work."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    orders = from_plain(Orders, json.loads(sys.stdin.readline()))
    try:
        uvloop.run(work(orders))
    finally:
        if is_socket(orders.address):
            _remove(Path(orders.address.removeprefix("unix:")))


def _remove(socket: Path) -> None:
    """Remove the socket and its folder, which a server that was killed cannot."""
    with contextlib.suppress(OSError):
        socket.unlink(missing_ok=True)
        socket.parent.rmdir()


if __name__ == "__main__":
    main()
