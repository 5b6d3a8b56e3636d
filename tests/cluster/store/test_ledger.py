"""The first record of a unit is its only one, and only who holds the job writes it."""

import asyncio

import pytest

from reelray.cluster.store.job import NewJob
from reelray.proto.errors import InputError, LeaseLostError

WISH = NewJob(tenant="ann", spec={"frames": 17})


async def begin(store):
    await store.jobs.submit(WISH)
    return await store.leases.claim("w", lease_s=9)


def test_commits_are_read_back_in_order(play):
    async def case(store):
        lease = await begin(store)
        for unit in (0, 1, 10, 2):
            await store.ledger.commit(lease, unit, {"latents": f"sha256-{unit}", "bar|bar": "a|b"})
        return lease, await store.ledger.commits(lease.ref)

    lease, commits = play(case)
    assert [commit.unit for commit in commits] == [0, 1, 2, 10]
    assert [commit.record["latents"] for commit in commits] == [f"sha256-{unit}" for unit in (0, 1, 2, 10)]
    assert commits[0].record["bar|bar"] == "a|b"
    assert {commit.fence for commit in commits} == {lease.fence}
    assert all(commit.at_ms >= lease.job.created_ms for commit in commits)


def test_of_many_commits_of_a_unit_one_counts(play):
    async def case(store):
        lease = await begin(store)
        said = await asyncio.gather(*(store.ledger.commit(lease, 3, {"n": n}) for n in range(40)))
        return said, await store.ledger.commits(lease.ref), await store.jobs.get(lease.ref)

    said, commits, job = play(case)
    assert sum(fresh for _, fresh in said) == 1
    assert {commit.record["n"] for commit, _ in said} == {commits[0].record["n"]}
    assert len(commits) == 1
    assert job.events == 3  # queued, running, one commit


def test_commits_of_a_zombie_and_its_heir_never_mix(play):
    async def case(store):
        zombie = await begin(store)
        await store.ledger.commit(zombie, 0, {"by": "zombie"})
        connection = store.connection
        await connection.command("ZADD", connection.key("leases"), "XX", 1, str(zombie.ref))
        heir = await store.leases.claim("heir", lease_s=9)
        works = [store.ledger.commit(lease, unit, {"by": lease.fence}) for unit in range(6) for lease in (zombie, heir)]
        said = await asyncio.gather(*works, return_exceptions=True)
        return zombie.fence, heir.fence, said, await store.ledger.commits(heir.ref)

    zombie, heir, said, commits = play(case)
    assert all(isinstance(one, LeaseLostError) for one in said[::2])
    assert [fresh for _, fresh in said[1::2]] == [False, True, True, True, True, True]
    assert [commit.record["by"] for commit in commits] == ["zombie", *[heir] * 5]
    assert [commit.fence for commit in commits] == [zombie, *[heir] * 5]


@pytest.mark.parametrize(("unit", "record"), [(-1, {}), (1 << 53, {}), (0, {"x": "x" * 70_000}), (0, {"x": object()})])
def test_records_out_of_range_are_refused(play, unit, record):
    async def case(store):
        lease = await begin(store)
        with pytest.raises(InputError):
            await store.ledger.commit(lease, unit, record)
        return await store.ledger.commits(lease.ref)

    assert play(case) == ()
