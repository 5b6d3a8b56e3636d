"""Watchers see what happens in order, from any cursor, and are told where something was forgotten."""

import asyncio

import pytest

from reelray.cluster.store.job import NewJob
from reelray.cluster.store.names import JobRef
from reelray.proto.errors import InputError

WISH = NewJob(tenant="ann", spec={"frames": 17})


async def live_through(store, ref, *, pause_s=0.0):
    lease = await store.leases.claim("w", lease_s=9, job=ref)
    for unit in range(3):
        await asyncio.sleep(pause_s)
        await store.events.post(lease, "progress", {"unit": unit})
        await store.ledger.commit(lease, unit, {})
    await store.leases.finish(lease, {})


LIFE = [
    ("state", "queued"),
    ("state", "running"),
    *[row for unit in range(3) for row in (("progress", f'{{"unit":{unit}}}'), ("commit", str(unit)))],
    ("state", "done"),
]


def test_watchers_from_any_cursor_see_the_rest(play):
    async def case(store):
        ref = (await store.jobs.submit(WISH)).ref

        async def watch(after):
            return [event async for event in store.events.follow(ref, after=after)]

        watchers = [asyncio.create_task(watch(after)) for after in range(5)]
        await asyncio.sleep(0.05)
        await live_through(store, ref, pause_s=0.02)
        late = [asyncio.create_task(watch(after)) for after in range(len(LIFE))]
        return await asyncio.gather(*watchers), await asyncio.gather(*late), await store.jobs.get(ref)

    early, late, job = play(case)
    assert job.events == len(LIFE)
    for after, seen in (*enumerate(early), *enumerate(late)):
        assert [(event.kind, event.data) for event in seen] == LIFE[after:]
        assert [event.number for event in seen] == list(range(after + 1, len(LIFE) + 1))
        assert [event.at_ms for event in seen] == sorted(event.at_ms for event in seen)
    assert early[0][2].value == {"unit": 0}


def test_a_reader_waits_until_something_comes(play):
    async def case(store):
        ref = (await store.jobs.submit(WISH)).ref
        nothing = await store.events.read(ref, after=1, wait_s=0.05)
        waiting = asyncio.create_task(store.events.read(ref, after=1, wait_s=30))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await store.jobs.cancel(ref)
        return nothing, await waiting

    nothing, (events, missed) = play(case)
    assert nothing == ((), False)
    assert [event.data for event in events] == ["cancelled"]
    assert events[0].ends
    assert not missed


def test_the_oldest_are_forgotten_and_the_reader_is_told(play):
    async def case(store):
        ref = (await store.jobs.submit(WISH)).ref
        lease = await store.leases.claim("w", lease_s=9)
        for n in range(600):
            await store.events.post(lease, "progress", {"n": n})
        return await store.events.read(ref, after=2, limit=1000), await store.events.read(ref, after=300, limit=3)

    (events, missed), (later, nothing_missed) = play(case)
    assert [event.number for event in events] == list(range(91, 603))
    assert missed
    assert [event.number for event in later] == [301, 302, 303]
    assert not nothing_missed


def test_following_ends_where_there_is_nothing_to_wait_for(play, monkeypatch):
    monkeypatch.setattr("reelray.cluster.store.events.BLOCK_S", 0.05)

    async def case(store):
        ref = (await store.jobs.submit(WISH)).ref
        await live_through(store, ref)
        past = [event async for event in store.events.follow(ref, after=len(LIFE))]
        nowhere = [event async for event in store.events.follow(JobRef(tenant="ann", id="none"))]
        return past, nowhere

    assert play(case) == ([], [])


def test_workers_do_not_speak_for_the_store(play):
    async def case(store):
        await store.jobs.submit(WISH)
        lease = await store.leases.claim("w", lease_s=9)
        for kind in ("state", "commit", "a b"):
            with pytest.raises(InputError):
                await store.events.post(lease, kind, {})
        with pytest.raises(InputError):
            await store.events.post(lease, "progress", {"x": "x" * 20_000})

    play(case)
