"""Bytes of files on their way to a caller: the next are read while the last are sent."""

import asyncio
from collections.abc import AsyncGenerator, Callable

from reelray.cluster.gateway.media import LARGEST_BYTES

PIECE_BYTES = LARGEST_BYTES


async def read_ahead(read: Callable[[int, int], bytes], begin: int, end: int) -> AsyncGenerator[bytes, None]:
    """Yield the bytes from `begin` up to `end` in order, and raise what reading them raises.

    Args:
        read: Reads bytes from one place up to another, all of them; called in threads, once at a time.
        begin: Of the first byte.
        end: Behind the last.
    """
    reading = None
    try:
        while begin < end:
            data = await (reading or _start(read, begin, end))
            begin += len(data)
            reading = _start(read, begin, end) if begin < end else None
            yield data
    finally:
        if reading is not None:
            reading.cancel()


def _start(read: Callable[[int, int], bytes], begin: int, end: int) -> "asyncio.Future[bytes]":
    reading = asyncio.ensure_future(asyncio.to_thread(read, begin, min(end, begin + PIECE_BYTES)))
    reading.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may ask any more
    return reading
