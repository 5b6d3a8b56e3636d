"""What a house says of renders that it makes holds for whoever coordinates next."""

import asyncio
from types import SimpleNamespace

import pytest

from reelray.cluster.coordinator.messages import Begin, MadeRoom
from reelray.cluster.renders.orders import RenderOrders
from reelray.proto.request import RequestId
from reelray.scheduler.fleet.ticket import EngineId
from tests.support.coordinating import FakeHouse, a_coordinator, offer, wish


class Worker:
    """Has every render, and makes none of them further than it was."""

    async def claim(self, ref):
        return SimpleNamespace(ref=ref)

    def attempt(self, _lease):
        return SimpleNamespace(share=0.75, own_share=0.25, left=0.25, make_room=lambda: None)

    async def work_on(self, _lease, _attempt):
        await asyncio.Event().wait()


@pytest.mark.parametrize(("passed_s", "left_s"), [(20.0, 40.0), (60.0, None)])
def test_a_house_says_what_is_left_until_a_promised_deadline(passed_s, left_s):
    async def case():
        now = [100.0]
        orders = RenderOrders(SimpleNamespace(say=lambda _: None), Worker(), clock=lambda: now[0])
        rest = {"engine_id": EngineId("h/m"), "gpus": 1, "run": 1, "work_s": 25.0}
        for name, within_s in (("t:film", 60.0), ("t:plain", None)):
            render = wish(name, 81, render=True, within_s=within_s)
            orders.begin(Begin(request_id=RequestId(name), render=render, **rest))
        now[0] += passed_s
        runs = orders.runs()
        await orders.close()
        return [run.wish.within_s for run in runs]

    assert asyncio.run(case()) == [left_s, None]


def test_what_is_left_of_a_render_that_went_on_is_counted_once():
    """It was half made when this house began it, and is three quarters made when another one coordinates."""

    async def case():
        orders = RenderOrders(SimpleNamespace(say=lambda _: None), Worker())
        begun = Begin(
            request_id=RequestId("t:film"),
            engine_id=EngineId("h/m"),
            gpus=1,
            run=1,
            work_s=25.0,
            render=wish("t:film", 81, render=True, left=0.5),
        )
        orders.begin(begun)
        await asyncio.sleep(0.01)
        (run,) = orders.runs()
        await orders.close()
        return run

    run = asyncio.run(case())
    coordinator, _ = a_coordinator()
    house = FakeHouse("h", coordinator, offer("h/m"), runs=[run])
    house.say(MadeRoom(request_id=run.wish.request_id, run=run.run, left=0.25 / 0.5))  # as `RenderOrders` says it
    assert house.begun["t:film"].work_s == pytest.approx(0.25 * 50.0)
