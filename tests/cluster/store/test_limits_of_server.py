"""A server that is full refuses or stops; it never acknowledges what it cannot keep."""

import asyncio

import psutil
import pytest

from reelray.cluster.store.connection import Connection, StoreAddress
from reelray.cluster.store.embedded import EmbeddedStore
from reelray.cluster.store.job import NewJob
from reelray.cluster.store.open import Store, open_store
from reelray.proto.errors import InputError, ResourceError, StoreError


def wish(n):
    return NewJob(tenant="ann", spec={"n": n, "text": "x" * 20_000}, key=str(n))


async def fill(store, most=10_000):
    """Submit until an error; the jobs that were acknowledged, and the error."""
    made = []
    try:
        for n in range(most):
            acknowledged = await store.jobs.submit(wish(n))
            made.append(acknowledged.ref)
    except (ResourceError, StoreError) as error:
        return made, error
    return made, None


def test_full_memory_is_refused_and_reads_go_on(tmp_path):
    async def case():
        async with open_store(None, tmp_path) as store:
            await store.connection.command("CONFIG", "SET", "maxmemory", "8mb")
            made, error = await fill(store)
            kept = [await store.jobs.get(ref) for ref in made]
            await store.connection.command("CONFIG", "SET", "maxmemory", "0")
            again = await store.jobs.submit(wish(len(made)))
            return error, [job.spec["n"] for job in kept], again.fresh

    error, kept, fresh = asyncio.run(case())
    assert isinstance(error, ResourceError)
    assert kept == list(range(len(kept)))
    assert len(kept) > 10
    assert fresh


def test_full_memory_lets_running_jobs_end(tmp_path):
    async def case():
        async with open_store(None, tmp_path) as store:
            refs = [(await store.jobs.submit(wish(n))).ref for n in range(4)]
            leases = [await store.leases.claim("w", lease_s=60) for _ in refs]
            await store.connection.command("CONFIG", "SET", "maxmemory", "1mb")
            _, error = await fill(store)
            leader = await store.leaders.acquire("coordinator", "me", lease_s=9)
            await store.leaders.renew(leader, lease_s=9)
            for lease in leases:
                await store.leases.renew(lease)
                await store.ledger.commit(lease, 0, {})
            await store.leases.finish(leases[0], {})
            await store.leases.fail(leases[1], "broke", retry=False)
            await store.leases.release(leases[2])
            await store.leases.release(await store.leases.claim("w", lease_s=60, job=refs[2]))
            await store.jobs.cancel(refs[3])
            return error, [(await store.jobs.get(ref)).state.value for ref in refs]

    error, states = asyncio.run(case())
    assert isinstance(error, ResourceError)
    assert states == ["done", "failed", "queued", "cancelled"]


def test_a_server_that_would_forget_jobs_is_refused(tmp_path):
    with EmbeddedStore(tmp_path, memory_bytes=100 << 20) as server:

        async def opened():
            async with open_store(StoreAddress(url=server.url), tmp_path) as store:
                assert await store.connection.command("CONFIG", "GET", "maxmemory") == [b"maxmemory", b"104857600"]
                await store.connection.command("CONFIG", "SET", "maxmemory-policy", "volatile-lru")

        asyncio.run(opened())
        with pytest.raises(InputError, match="volatile-lru, and must be noeviction"):
            asyncio.run(opened())


def test_a_full_disk_loses_nothing_that_was_acknowledged(tmp_path):
    with EmbeddedStore(tmp_path) as server:

        async def case():
            connection = Connection(StoreAddress(url=server.url, patience_s=0.1))
            store = Store.over(connection)
            try:
                psutil.Process(server.pid).rlimit(psutil.RLIMIT_FSIZE, (1_000_000, 1_000_000))
                made, error = await fill(store)
                await asyncio.to_thread(server.start)  # with room again
                kept = [(await store.jobs.get(ref)).spec["n"] for ref in made]
                return error, kept, (await store.jobs.submit(wish(0))).fresh
            finally:
                await connection.close()

        error, kept, fresh = asyncio.run(case())
    assert isinstance(error, StoreError)
    assert kept == list(range(len(kept)))
    assert len(kept) > 10
    assert not fresh


def test_a_store_by_its_address_and_one_of_this_machine(tmp_path):
    async def case():
        async with open_store(None, tmp_path) as first:
            made = await first.jobs.submit(wish(0))
            address = StoreAddress(url=EmbeddedStore(tmp_path).url)
            async with open_store(address, tmp_path / "unused") as second:
                assert await second.jobs.get(made.ref) == await first.jobs.get(made.ref)
        assert not (tmp_path / "unused").exists()
        with pytest.raises(StoreError):
            async with open_store(StoreAddress(url=address.url, patience_s=0.05), tmp_path):
                pass
        async with open_store(None, tmp_path) as third:
            return (await third.jobs.get(made.ref)).spec["n"]

    assert asyncio.run(case()) == 0


def test_prefixes_part_deployments_that_share_a_server(tmp_path):
    with EmbeddedStore(tmp_path) as server:

        async def case():
            seen = []
            for prefix in ("blue", "green"):
                async with open_store(StoreAddress(url=server.url, prefix=prefix), tmp_path) as store:
                    seen.append((await store.jobs.list("ann")).jobs)
                    await store.jobs.submit(wish(0))
            return seen

        assert asyncio.run(case()) == [(), ()]


def test_crafted_prefixes_are_refused():
    for prefix in ("", "a}b", "a:b"):
        with pytest.raises(InputError):
            StoreAddress(url="redis://localhost", prefix=prefix)
