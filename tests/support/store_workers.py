"""Processes that share a store: run as `python -m tests.support.store_workers ROLE URL PREFIX ...`."""

import asyncio
import json
import sys

from reelray.cluster.store.connection import Connection, StoreAddress
from reelray.cluster.store.job import NewJob
from reelray.cluster.store.open import Store
from reelray.proto.errors import LeaseLostError, StoreError


async def claim_all(store: Store, owner: str) -> None:
    """Claim until nothing waits; print what was claimed."""
    claimed = []

    async def one(n: int) -> None:
        while lease := await store.leases.claim(f"{owner}-{n}", lease_s=60):
            claimed.append([str(lease.ref), lease.job.claims])

    await asyncio.gather(*(one(n) for n in range(8)))
    print(json.dumps(claimed), flush=True)


async def work(store: Store, owner: str) -> None:
    """Claim, commit ten units and finish, for ever; a lost lease is given up."""
    while True:
        lease = await store.leases.claim(owner, lease_s=0.3)
        if lease is None:
            await asyncio.sleep(0.02)
            continue
        try:
            done = {commit.unit for commit in await store.ledger.commits(lease.ref)}
            for unit in range(10):
                if unit not in done:
                    await store.leases.renew(lease)
                    await asyncio.sleep(0.005)
                    await store.ledger.commit(lease, unit, {"owner": owner})
            await store.leases.finish(lease, {"units": 10})
        except LeaseLostError:
            continue


async def submit_until_lost(store: Store, owner: str) -> None:
    """Submit and print each job that was acknowledged, until the store is gone."""

    async def one(n: int) -> None:
        for i in range(10**6):
            key = f"{owner}-{n}-{i}"
            made = await store.jobs.submit(NewJob(tenant="ann", spec={"key": key}, key=key))
            print(json.dumps([key, made.ref.id]), flush=True)

    try:
        await asyncio.gather(*(one(n) for n in range(8)))
    except StoreError:
        print("lost", flush=True)


ROLES = {"claim": claim_all, "work": work, "submit": submit_until_lost}


async def main(role: str, url: str, prefix: str, owner: str) -> None:
    """Play a role."""
    connection = Connection(StoreAddress(url=url, prefix=prefix, patience_s=0.2 if role == "submit" else 5.0))
    try:
        await ROLES[role](Store.over(connection), owner)
    finally:
        await connection.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
