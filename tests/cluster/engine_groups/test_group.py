"""Several engines that look like one: who gets which request, and what a lost one costs."""

import threading

import pytest

from reelray.cluster.engine_groups.group import EngineGroup
from reelray.cluster.gateway.served_models import ServedModel, is_lost
from reelray.proto.errors import EndedError, EngineError
from reelray.proto.events import Done
from reelray.proto.session import Stop
from tests.support.fake_engine import FakeEngine, fake_entry
from tests.support.requests import make_request
from tests.support.waiting import wait_until


class Members:
    """A group of engines; each is replaced by the next of its spares when it is lost, once that is allowed."""

    def __init__(self, *engines, spares=()):
        self.engines, self.spares, self.allowed = list(engines), list(spares), threading.Event()
        waiting = list(engines)

        def open_engine():
            if waiting:
                return waiting.pop(0)
            assert self.allowed.wait(20)
            return self.spares.pop(0)

        self.members = [ServedModel(fake_entry(), open_engine) for _ in engines]
        self.group = EngineGroup(self.members)

    def counts(self):
        return [len(engine.requests) for engine in self.engines]


def test_each_request_goes_to_the_engine_with_the_least_work():
    house = Members(FakeEngine(), FakeEngine(), FakeEngine())
    long = house.group.render(make_request("long", latent_frames=21))
    middle = [house.group.render(make_request(name, latent_frames=5)) for name in ("a", "b")]
    assert house.counts() == [1, 1, 1]
    more = [house.group.render(make_request(name, latent_frames=5)) for name in ("c", "d")]
    assert (
        house.counts()[house.engines.index(next(e for e in house.engines if e.requests[0].request_id == "long"))] == 1
    )
    for stream in (*middle, *more, long):
        assert isinstance(list(stream)[-1], Done)
    after = [house.group.render(make_request(str(n))) for n in range(3)]  # all is done: each has one more
    assert sorted(house.counts()) == sorted([2, 3, 3])
    for stream in after:
        stream.close()
    assert sum(engine.cancelled for engine in house.engines) <= 3


def test_who_leaves_gives_its_work_back():
    house = Members(FakeEngine(), FakeEngine())
    stream = house.group.render(make_request("a", latent_frames=21))
    next(stream)
    stream.close()
    stream.close()
    for name in "bcde":
        list(house.group.render(make_request(name)))
    assert sorted(house.counts()) in ([2, 3], [1, 4])
    with pytest.raises(EndedError):
        house.group.tell("a", Stop())


def test_a_request_that_cannot_be_begun_leaves_no_work_whatever_was_wrong():
    class Broken(FakeEngine):
        def render(self, request, snapshot=None):
            if request.request_id == "long":
                raise RuntimeError("a fault of ours")
            return super().render(request, snapshot)

    house = Members(Broken(), Broken())
    with pytest.raises(RuntimeError):
        house.group.render(make_request("long", latent_frames=2001))
    with pytest.raises(EndedError):
        house.group.tell("long", Stop())
    streams = [house.group.render(make_request(name)) for name in "abcd"]
    assert house.counts() == [2, 2]
    for stream in streams:
        stream.close()


def test_a_lost_engine_is_replaced_while_the_others_go_on():
    lost, other, spare = FakeEngine(error=EngineError("gone"), lost=True), FakeEngine(), FakeEngine()
    house = Members(lost, other, spares=[spare])
    with pytest.raises(EngineError, match="gone"):
        list(house.group.render(make_request("a")))
    wait_until(lambda: not house.members[0].is_ready)
    for name in "cdef":
        assert isinstance(list(house.group.render(make_request(name)))[-1], Done)
    assert not is_lost(house.group)
    assert lost.closed == 1
    house.allowed.set()
    wait_until(lambda: house.members[0].is_ready)
    for name in "gh":
        list(house.group.render(make_request(name)))
    assert spare.requests
    house.group.close()
    assert (other.closed, spare.closed) == (1, 1)


def test_a_group_without_engines_is_lost():
    house = Members(FakeEngine(error=EngineError("gone"), lost=True), spares=[FakeEngine()])
    with pytest.raises(EngineError):
        list(house.group.render(make_request("a")))
    wait_until(lambda: not house.members[0].is_ready)
    assert is_lost(house.group)
    with pytest.raises(EngineError, match="starts again"):
        house.group.render(make_request("b"))
    house.allowed.set()
    wait_until(lambda: house.members[0].is_ready)
    assert isinstance(list(house.group.render(make_request("c")))[-1], Done)
