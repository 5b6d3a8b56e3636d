"""A task that is cancelled while it calls the store ends, also where the client loses the cancellation."""

import asyncio
import contextlib

import pytest

from reelray.cluster.store.names import JobRef

REF = JobRef(tenant="t", id="j")


@pytest.mark.parametrize("losses", [1, 2])
def test_a_long_read_ends(play, losses):
    async def case(store):
        left = asyncio.Event()

        async def deaf(*_command):
            """Loses as many cancellations as come at once, as the client does in the moment in which it sends."""
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(30)
            try:
                await asyncio.sleep(30)
            finally:
                left.set()

        store.connection._wait = deaf
        reading = asyncio.ensure_future(store.events.read(REF, wait_s=30))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for _ in range(losses):
            reading.cancel()
        done, _ = await asyncio.wait({reading}, timeout=10)
        assert done
        assert reading.cancelled()
        async with asyncio.timeout(10):
            await left.wait()

    play(case)


def test_a_short_call_ends_its_task(play):
    async def case(store):
        async def deaf(*_command):
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                return {}

        store.connection._call = deaf
        asking = asyncio.ensure_future(store.jobs.get(REF))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait({asking})
        assert asking.cancelled()

    play(case)
