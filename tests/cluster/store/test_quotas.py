"""Tenants get what they may have and not one more, however many ask at once."""

import asyncio
from dataclasses import replace

import pytest

from reelray.cluster.store.job import NewJob
from reelray.cluster.store.limits import RateLimit, SubmitLimits, UnitQuota
from reelray.cluster.store.quotas import SlotLimit
from reelray.proto.errors import InputError, QuotaError

SLOW = RateLimit(name="calls", per_s=0.001, burst=10)
UNITS = UnitQuota(name="gpu-seconds", limit=100, window_s=3600)
WISH = NewJob(tenant="ann", spec={"frames": 17})


async def count(calls):
    """How many went through, and the refusals."""
    said = await asyncio.gather(*calls, return_exceptions=True)
    refusals = [one for one in said if one is not None and not hasattr(one, "fresh")]
    assert all(isinstance(one, QuotaError) for one in refusals), refusals
    return len(said) - len(refusals), refusals


def test_a_bucket_gives_its_burst_and_no_more(play):
    async def case(store):
        taken, refusals = await count(store.quotas.take("ann", SLOW) for _ in range(40))
        other, _ = await count(store.quotas.take("bob", SLOW) for _ in range(3))
        return taken, refusals, other

    taken, refusals, other = play(case)
    assert (taken, other) == (10, 3)
    assert refusals[0].ids["quota"] == "calls"
    assert 0 < int(refusals[0].ids["retry_after_ms"]) <= 1_000_000


def test_a_bucket_fills_again_by_the_hint(play):
    async def case(store):
        rate = RateLimit(name="calls", per_s=5, burst=2)
        await store.quotas.take("ann", rate, 2)
        with pytest.raises(QuotaError) as refused:
            await store.quotas.take("ann", rate, 2)
        await asyncio.sleep(int(refused.value.ids["retry_after_ms"]) / 1000 + 0.005)
        await store.quotas.take("ann", rate, 2)
        with pytest.raises(InputError, match="holds 2"):
            await store.quotas.take("ann", rate, 3)

    play(case)


def test_units_are_counted_once_for_each_thing(play):
    async def case(store):
        works = [store.quotas.charge("ann", UNITS, 7, once=f"job {n % 20}") for n in range(60)]
        through, refusals = await count(works)
        return through, refusals, await store.quotas.used("ann", UNITS), await store.quotas.used("bob", UNITS)

    through, refusals, used, other = play(case)
    assert used == 98  # 14 things of 7 units fit into 100
    assert (through, len(refusals), other) == (42, 18, 0)


def test_units_come_back_by_the_hint(play):
    async def case(store):
        quota = UnitQuota(name="u", limit=10, window_s=0.6)
        await store.quotas.charge("ann", quota, 6, once="a")
        with pytest.raises(QuotaError) as refused:
            await store.quotas.charge("ann", quota, 5, once="b")
        await asyncio.sleep(int(refused.value.ids["retry_after_ms"]) / 1000 + 0.005)
        await store.quotas.charge("ann", quota, 5, once="b")
        with pytest.raises(InputError, match="quota is 10"):
            await store.quotas.charge("ann", quota, 11, once="c")
        return await store.quotas.used("ann", quota)

    assert play(case) == 5


@pytest.mark.parametrize("after_s", [3600.0 * 24, 600.0])
def test_units_count_on_when_the_window_of_a_quota_is_changed(play, after_s):
    async def case(store):
        await store.quotas.charge("ann", UNITS, 40, once="a")
        return await store.quotas.used("ann", replace(UNITS, window_s=after_s))

    assert play(case) == 40


def test_units_counted_in_a_short_window_are_forgotten_in_a_long_one(play):
    async def case(store):
        short, long = replace(UNITS, window_s=0.06), replace(UNITS, window_s=0.6)
        await store.quotas.charge("ann", short, 40, once="a")
        used = await store.quotas.used("ann", long)
        await asyncio.sleep(0.7)
        await store.quotas.charge("ann", long, 1, once="b")
        return used, await store.quotas.used("ann", long)

    assert play(case) == (40, 1)


def test_slots_are_held_by_so_many_and_freed(play):
    async def case(store):
        slots = SlotLimit(name="streams", limit=3, hold_s=9)
        held, refusals = await count(store.quotas.hold("ann", slots, f"s{n % 6}") for n in range(30))
        in_use = await store.quotas.held("ann", slots)
        for n in range(6):
            await store.quotas.give_back("ann", slots, f"s{n}")
        return held, len(refusals), in_use, await store.quotas.held("ann", slots)

    assert play(case) == (15, 15, 3, 0)


def test_slots_of_a_dead_holder_come_back(play):
    async def case(store):
        slots = SlotLimit(name="streams", limit=2, hold_s=0.5)
        for holder in ("dead", "alive"):
            await store.quotas.hold("ann", slots, holder)
        for _ in range(4):
            await asyncio.sleep(0.15)
            await store.quotas.hold("ann", slots, "alive")
        await store.quotas.hold("ann", slots, "new")
        with pytest.raises(QuotaError) as refused:
            await store.quotas.hold("ann", slots, "dead")
        return refused.value

    assert 0 < int(play(case).ids["retry_after_ms"]) <= 500


@pytest.mark.parametrize(
    ("limits", "fits", "name"),
    [
        (SubmitLimits(rate=SLOW), 10, "calls"),
        (SubmitLimits(units=UNITS, charge=30), 3, "gpu-seconds"),
        (SubmitLimits(open_jobs=4), 4, "open jobs"),
        (SubmitLimits(rate=SLOW, units=UNITS, charge=20, open_jobs=7), 5, "gpu-seconds"),
    ],
)
def test_submits_stay_within_their_limits(play, limits, fits, name):
    async def case(store):
        made, refusals = await count(store.jobs.submit(WISH, limits) for _ in range(25))
        await store.jobs.submit(replace(WISH, tenant="bob"), limits)
        return made, refusals, len((await store.jobs.list("ann")).jobs)

    made, refusals, listed = play(case)
    assert made == listed == fits
    assert {one.ids["quota"] for one in refusals} == {name}


def test_a_refused_or_repeated_submit_takes_nothing(play):
    async def case(store):
        limits = SubmitLimits(rate=SLOW, units=UNITS, charge=50, open_jobs=10)
        keyed = replace(WISH, key="k")
        for _ in range(5):
            await store.jobs.submit(keyed, limits)
        await store.jobs.submit(WISH, limits)
        for _ in range(30):  # the units are used up, so the bucket must stay as it is
            with pytest.raises(QuotaError):
                await store.jobs.submit(WISH, limits)
        left, _ = await count(store.quotas.take("ann", SLOW) for _ in range(20))
        return left, await store.quotas.used("ann", UNITS)

    assert play(case) == (8, 100)


def test_a_job_that_ends_makes_room(play):
    async def case(store):
        limits = SubmitLimits(open_jobs=1)
        first = await store.jobs.submit(WISH, limits)
        with pytest.raises(QuotaError) as refused:
            await store.jobs.submit(WISH, limits)
        await store.jobs.cancel(first.ref)
        await store.jobs.submit(WISH, limits)
        return refused.value.ids

    assert "retry_after_ms" not in play(case)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RateLimit(name="a:b", per_s=1, burst=1),
        lambda: RateLimit(name="a", per_s=0, burst=1),
        lambda: UnitQuota(name="a", limit=0, window_s=1),
        lambda: UnitQuota(name="a", limit=1, window_s=float("nan")),
        lambda: SlotLimit(name="a", limit=1, hold_s=0),
        lambda: SubmitLimits(units=UNITS, charge=101),
        lambda: SubmitLimits(units=UNITS, charge=-1),
    ],
)
def test_limits_out_of_range_are_refused(make):
    with pytest.raises(InputError):
        make()
