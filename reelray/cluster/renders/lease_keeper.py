"""Work under a lease: it is renewed meanwhile, and the work ends as soon as it is lost."""

import asyncio
import time
from collections.abc import Collection, Coroutine
from typing import Any, NoReturn, TypeVar

from reelray.cluster.store.leases import Lease
from reelray.cluster.store.open import Store
from reelray.proto.errors import LeaseLostError, ResourceError, StoreError

Result = TypeVar("Result")
AWAY = (StoreError, ResourceError)
"""What the store says when it is away, or full; it may come back."""
_PAUSE_S = 0.2


async def hold(store: Store, lease: Lease, work: Coroutine[Any, Any, Result]) -> Result:
    """Do work as long as the lease is held.

    A store that is away for less than the lease does not disturb it. Who cancels the job, or claims it after its lease
    ran out, ends the work at once: the job's events tell.

    Args:
        store: Gave the lease.
        lease: The right to work.
        work: Cancelled when it is lost.

    Raises:
        LeaseLostError: It was; the work has ended.
    """
    tasks = [asyncio.create_task(one) for one in (work, _renew(store, lease), _watch(store, lease))]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        first = tasks[0] if tasks[0] in done else done.pop()
        return await first
    finally:
        await end_tasks(tasks)


async def end_tasks(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended: calls to the store lose a cancellation now and then."""
    while left := [task for task in tasks if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=_PAUSE_S)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # heard of, so that nobody warns


async def _renew(store: Store, lease: Lease) -> NoReturn:
    until_s = time.monotonic() + lease.lease_s
    pause_s = lease.lease_s / 3
    while True:
        await asyncio.sleep(pause_s)
        asked_s = time.monotonic()
        try:
            await store.leases.renew(lease)
            until_s, pause_s = asked_s + lease.lease_s, lease.lease_s / 3
        except AWAY as error:
            if time.monotonic() >= until_s:
                raise _lost(lease, f"it could not be renewed in time: {error}") from error
            pause_s = min(_PAUSE_S, lease.lease_s / 10)


async def _watch(store: Store, lease: Lease) -> NoReturn:
    after = lease.job.events
    while True:
        try:
            async for event in store.events.follow(lease.ref, after=after):
                after = event.number
                if event.kind == "state":
                    raise _lost(lease, f"it is {event.data} now")
            raise _lost(lease, "it is gone")
        except AWAY:
            await asyncio.sleep(_PAUSE_S)


def _lost(lease: Lease, why: str) -> LeaseLostError:
    return LeaseLostError(
        f"the lease of job '{lease.ref.id}' with fence {lease.fence} is lost: {why}",
        ids=lease.ref.ids | {"fence": str(lease.fence)},
    )
