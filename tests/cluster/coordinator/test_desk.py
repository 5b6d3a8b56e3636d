"""A house tells whoever coordinates all that it has, and hears nobody who has been followed."""

import asyncio

import pytest

from reelray.cluster.coordinator.desk import Desk
from reelray.cluster.coordinator.messages import Asked, Begin, Ended, Joined, MakeRoom, Turned, Waits, Word
from reelray.cluster.gateway import placed_relay
from reelray.cluster.gateway.served_models import ServedModel, ServedModels
from reelray.proto.errors import CoordinatorError, FencedError, ResourceError
from reelray.proto.request import RequestId
from reelray.proto.v1.videos_pb2 import GenerateEvent
from reelray.scheduler.fleet.decision import Reason
from reelray.scheduler.fleet.ticket import EngineId
from tests.support.coordinating import wish
from tests.support.fake_engine import FakeEngine, fake_entry


class Renders:
    def __init__(self):
        self.orders = []

    def begin(self, begin):
        self.orders.append(begin)

    def make_room(self, request_id, run):
        self.orders.append((request_id, run))

    def runs(self):
        return ()


def begin(name, run=1, render=None):
    return Begin(request_id=RequestId(name), engine_id=EngineId("h/fake"), gpus=1, run=run, work_s=1.0, render=render)


def on_a_loop(case):
    async def run():
        desk = Desk("h", ServedModels([ServedModel(fake_entry(), FakeEngine)]), patience_s=0.05)
        renders = Renders()
        desk.carry_renders(renders)
        await case(desk, renders)

    asyncio.run(run())


def test_decisions_of_a_predecessor_are_refused_and_nothing_is_done():
    async def case(desk, renders):
        reports = []
        desk.connect(7, reports.append)
        render = wish("film:1", render=True)
        desk.hear(Word(fence=7, decision=begin("film:1", render=render)))
        for decision in (begin("film:2", render=render), MakeRoom(request_id=RequestId("film:1"), run=1)):
            with pytest.raises(FencedError, match="fence 6 decides no more"):
                desk.hear(Word(fence=6, decision=decision))
        with pytest.raises(FencedError):
            desk.connect(6, reports.append)
        assert [order.request_id for order in renders.orders] == ["film:1"]
        desk.connect(8, reports.append)
        with pytest.raises(FencedError):
            desk.hear(Word(fence=7, decision=begin("film:3", render=render)))

    on_a_loop(case)


def test_the_next_coordinator_hears_of_what_waits_and_runs():
    async def case(desk, _renders):
        first, second = [], []
        desk.connect(1, first.append)

        async def visit(name):
            async with desk.ask(wish(name, within_s=100.0)) as one:
                async for _ in one.standings():
                    pass
                await asyncio.sleep(60)

        tasks = [asyncio.create_task(visit(name)) for name in ("runs", "waits")]
        await asyncio.sleep(0)
        desk.hear(Word(fence=1, decision=begin("runs", run=5)))
        desk.hear(Word(fence=1, decision=Waits(request_id=RequestId("waits"), position=1, start_s=3.0)))
        await asyncio.sleep(0.1)
        assert [type(report) for report in first] == [Joined, Asked, Asked]
        desk.disconnect(first.append)
        desk.connect(2, second.append)
        (joined,) = second
        assert [engine.engine_id for engine in joined.engines] == ["h/fake"]
        assert [(run.wish.request_id, run.run, run.engine_id) for run in joined.runs] == [("runs", 5, "h/fake")]
        (waiting,) = joined.waiting
        assert waiting.request_id == "waits"
        assert 0 < waiting.waited_s == pytest.approx(100.0 - waiting.within_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [(type(r).__name__, r.request_id) for r in second[1:]] == [("Ended", "runs"), ("Left", "waits")]
        desk.hear(Word(fence=2, decision=begin("waits", run=9)))  # crossed with its last word
        assert second[-1] == Ended(request_id=RequestId("waits"), run=9)

    on_a_loop(case)


def told(desk, fence, decision):
    desk.hear(Word(fence=fence, decision=decision))


def test_what_was_decided_counts_before_whoever_waits_has_looked():
    """A client that reads nothing keeps its call from looking: a successor must not hear that it waits."""

    async def case(desk, _renders):
        first, second, third = [], [], []
        desk.connect(1, first.append)
        looked = asyncio.Event()

        async def visit(name):
            async with desk.ask(wish(name)) as one:
                async for _ in one.standings():
                    await looked.wait()  # on its way to a client

        tasks = [asyncio.create_task(visit(name)) for name in ("begun", "turned")]
        await asyncio.sleep(0)
        for name in ("begun", "turned"):
            told(desk, 1, Waits(request_id=RequestId(name), position=1, start_s=3.0))
        await asyncio.sleep(0.1)
        told(desk, 1, begin("begun", run=5))
        told(desk, 1, Turned(request_id=RequestId("turned"), reason=Reason.LATE))
        desk.connect(2, second.append)
        assert [(run.wish.request_id, run.run) for run in second[0].runs] == [("begun", 5)]
        assert second[0].waiting == ()
        looked.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for one in done] == [type(None), ResourceError]
        assert second[1:] == [Ended(request_id=RequestId("begun"), run=5)]
        desk.connect(3, third.append)
        assert (third[0].runs, third[0].waiting) == ((), ())

    on_a_loop(case)


def test_a_place_for_who_goes_on_without_one_is_given_back():
    async def case(desk, _renders):
        reports = []
        desk.connect(1, reports.append)

        async def visit():
            async with desk.ask(wish("a")) as one:
                async for _ in one.standings():
                    pass
                await asyncio.sleep(60)

        task = asyncio.create_task(visit())
        await asyncio.sleep(0)
        desk.leave_work()
        told(desk, 1, begin("a", run=3))
        assert reports[-1] == Ended(request_id=RequestId("a"), run=3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    on_a_loop(case)


def test_who_reads_not_even_that_it_waits_loses_its_place(monkeypatch):
    monkeypatch.setattr(placed_relay, "UNREAD_S", 0.05)

    async def case(desk, _renders):
        reports = []
        desk.connect(1, reports.append)
        asking = asyncio.create_task(stay(desk))
        await asyncio.sleep(0)
        told(desk, 1, Waits(request_id=RequestId("a"), position=1, start_s=3.0))
        await asyncio.sleep(0.12)
        assert [type(report) for report in reports] == [Joined, Asked]  # it waits on
        told(desk, 1, begin("a", run=3))
        await asyncio.sleep(0.12)
        assert reports[-1] == Ended(request_id=RequestId("a"), run=3)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    async def stay(desk):
        async with desk.ask(wish("a")) as visit:
            relay = placed_relay.PlacedRelay(visit, desk, lambda _: asyncio.sleep(60))
            await relay.pass_on(GenerateEvent())

    on_a_loop(case)


def test_who_finds_nobody_is_told_so():
    async def case(desk, _renders):
        with pytest.raises(CoordinatorError):
            async with desk.ask(wish("a")):
                pass

    on_a_loop(case)
