"""One leads, its fence grows with each change of hands, and who lost leadership is told."""

import asyncio

import pytest

from reelray.proto.errors import InputError, LeaseLostError


def test_of_many_one_leads(play):
    async def case(store):
        said = await asyncio.gather(*(store.leaders.acquire("c", f"p{n}", lease_s=9) for n in range(30)))
        return [one for one in said if one], await store.leaders.observe("c"), await store.leaders.observe("d")

    leading, seen, nobody = play(case)
    assert leading == [seen]
    assert seen.fence > 0
    assert nobody is None


def test_leadership_that_runs_out_goes_on_with_a_higher_fence(play):
    async def case(store):
        first = await store.leaders.acquire("c", "a", lease_s=0.3, data={"address": "one"})
        assert await store.leaders.acquire("c", "b", lease_s=9) is None
        await asyncio.sleep(0.35)
        assert await store.leaders.observe("c") is None
        second = await store.leaders.acquire("c", "b", lease_s=9, data={"address": "two"})
        with pytest.raises(LeaseLostError):
            await store.leaders.renew(first, lease_s=9)
        await store.leaders.release(first)
        return first, second, await store.leaders.observe("c")

    first, second, seen = play(case)
    assert second.fence > first.fence
    assert seen == second
    assert seen.data == {"address": "two"}


def test_renewals_keep_leadership(play):
    async def case(store):
        held = await store.leaders.acquire("c", "a", lease_s=0.6)
        for _ in range(4):
            await asyncio.sleep(0.2)
            held = await store.leaders.renew(held, lease_s=0.6)
            assert await store.leaders.acquire("c", "b", lease_s=9) is None
        again = await store.leaders.acquire("c", "a", lease_s=9)
        return held.fence, again.fence

    fence, again = play(case)
    assert fence == again


def test_release_lets_another_lead_at_once(play):
    async def case(store):
        held = await store.leaders.acquire("c", "a", lease_s=9)
        await store.leaders.release(held)
        with pytest.raises(LeaseLostError):
            await store.leaders.renew(held, lease_s=9)
        mine = await store.leaders.acquire("c", "a", lease_s=9)
        with pytest.raises(LeaseLostError):  # the same process, but of an earlier time
            await store.leaders.renew(held, lease_s=9)
        return mine.fence > held.fence

    assert play(case)


def test_a_leader_needs_a_name(play):
    async def case(store):
        for name, owner in (("a:b", "x"), ("c", "")):
            with pytest.raises(InputError):
                await store.leaders.acquire(name, owner, lease_s=9)

    play(case)


def test_fences_go_on_growing_when_the_store_has_lost_its_data(play):
    """Else nobody would follow the next leader: servers refuse fences lower than the highest that they have heard."""

    async def case(store):
        fences = []
        for name in ("a", "b", "c"):
            held = await store.leaders.acquire("c", name, lease_s=9)
            fences.append(held.fence)
            await store.leaders.release(held)
        await store.connection.command("FLUSHDB")
        after = await store.leaders.acquire("c", "d", lease_s=9)
        with pytest.raises(LeaseLostError):
            await store.leaders.renew(held, lease_s=9)
        return [*fences, after.fence]

    fences = play(case)
    assert fences == sorted(set(fences))
