"""Calls that last: within all limits or not at all, paid for once, and what they do not use given back once."""

import asyncio

import pytest

from reelray.cluster.store.calls import CallLimits
from reelray.cluster.store.limits import RateLimit, UnitQuota
from reelray.cluster.store.quotas import SlotLimit
from reelray.proto.errors import InputError, QuotaError

RATE = RateLimit(name="live", per_s=0.001, burst=8)
UNITS = UnitQuota(name="frames", limit=100, window_s=3600)
SLOTS = SlotLimit(name="open-live", limit=3, hold_s=30)
ALL = CallLimits(rate=RATE, units=UNITS, charge=30, slots=SLOTS)


async def refusal(awaitable):
    with pytest.raises(QuotaError) as raised:
        await awaitable
    return raised.value.ids


async def standing(store, tenant="ann"):
    return await store.quotas.used(tenant, UNITS), await store.quotas.held(tenant, SLOTS)


def test_a_call_is_let_in_and_charged_once(play):
    async def case(store):
        await asyncio.gather(*(store.calls.enter("ann", "a", ALL) for _ in range(9)))
        once = await standing(store)
        for name in "bc":
            await store.calls.enter("ann", name, ALL)
        return once, await standing(store), await standing(store, "bob")

    assert play(case) == ((30, 1), (90, 3), (0, 0))


@pytest.mark.parametrize(
    ("limits", "fits", "name"),
    [
        (CallLimits(rate=RATE), 8, "live"),
        (CallLimits(units=UNITS, charge=30), 3, "frames"),
        (CallLimits(slots=SLOTS), 3, "open-live"),
        (CallLimits(rate=RATE, units=UNITS, charge=60, slots=SLOTS), 1, "frames"),
    ],
)
def test_calls_stay_within_their_limits_however_many_come(play, limits, fits, name):
    async def case(store):
        calls = (store.calls.enter("ann", str(n), limits) for n in range(25))
        return await asyncio.gather(*calls, return_exceptions=True)

    said = play(case)
    refused = [error for error in said if error is not None]
    assert len(said) - len(refused) == fits
    assert {error.ids["quota"] for error in refused} == {name}
    assert all(int(error.ids["retry_after_ms"]) > 0 for error in refused)


def test_a_refused_call_takes_nothing(play):
    async def case(store):
        for name in "abc":
            await store.calls.enter("ann", name, CallLimits(rate=RATE, units=UNITS, charge=20, slots=SLOTS))
        for n in range(20):
            await refusal(store.calls.enter("ann", f"d{n}", CallLimits(rate=RATE, units=UNITS, charge=20, slots=SLOTS)))
        for n in range(20):
            await refusal(store.calls.enter("ann", f"e{n}", CallLimits(rate=RATE, units=UNITS, charge=50)))
        await store.quotas.take("ann", RATE, 5)  # what three calls have left
        return await standing(store)

    assert play(case) == (60, 3)


def test_who_leaves_frees_its_slot_and_gets_back_what_it_did_not_use(play):
    async def case(store):
        for name in "abc":
            await store.calls.enter("ann", name, ALL)
        told = []
        for units in (None, 12, 0):
            for _ in range(2):  # as a line that broke has it said again
                await store.calls.leave("ann", "abc"[len(told)], SLOTS, units)
            told.append(await standing(store))
        return told

    assert play(case) == [(90, 2), (72, 1), (42, 0)]


def test_units_are_given_back_down_to_a_number_and_the_call_goes_on(play):
    async def case(store):
        await store.calls.enter("ann", "a", ALL)
        for units in (20, 25, 20):
            await store.calls.keep_charged("ann", "a", units)
        between = await standing(store)
        await store.calls.leave("ann", "a", SLOTS, 5)
        await store.calls.leave("ann", "never was", SLOTS, 0)
        return between, await standing(store)

    assert play(case) == ((20, 1), (5, 0))


def test_slots_of_a_lost_server_come_back_and_others_are_kept(play):
    async def case(store):
        slots = SlotLimit(name="live", limit=2, hold_s=0.5)
        for name in ("lost", "kept"):
            await store.calls.enter("ann", name, CallLimits(slots=slots))
        for _ in range(4):
            await asyncio.sleep(0.15)
            await store.calls.stay("ann", "kept", slots)
        await store.calls.enter("ann", "new", CallLimits(slots=slots))
        return await refusal(store.calls.enter("ann", "late", CallLimits(slots=slots)))

    assert 0 < int(play(case)["retry_after_ms"]) <= 500


def test_what_never_fits_is_refused():
    with pytest.raises(InputError, match="the quota is 100"):
        CallLimits(units=UNITS, charge=101)
