"""Requests of clients that are gone are found, and no others."""

import pytest

from reelray.proto.errors import EngineError
from reelray.proto.request import RequestId
from reelray.scheduler.engine_core import EngineCore
from reelray.workers.actor import EngineActor
from reelray.workers.engine.client_watch import ClientWatch
from tests.support.fake_model import FakeModel
from tests.support.requests import make_recipe, make_request

A, B, C = (RequestId(name) for name in "abc")


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


def test_who_is_silent_for_too_long_has_abandoned_its_requests_once():
    clock = Clock()
    watch = ClientWatch(clock)
    watch.begin("one", A)
    watch.begin("one", B)
    watch.begin("two", C)
    clock.now_s += 5
    assert watch.abandoned([A, B, C], 5) == []
    clock.now_s += 1
    watch.hear("two")
    assert sorted(watch.abandoned([A, B, C], 5)) == [A, B]
    assert watch.abandoned([A, B, C], 5) == []


def test_what_ended_is_not_abandoned_and_who_begins_is_there():
    clock = Clock()
    watch = ClientWatch(clock)
    watch.begin("one", A)
    assert watch.abandoned([], 5) == []
    clock.now_s += 6
    watch.begin("one", B)
    assert watch.abandoned([A, B], 5) == []
    clock.now_s += 6
    assert watch.abandoned([A, B], 5) == [B]


def test_an_engine_that_is_about_to_go_says_so_and_refuses_later():
    clock = Clock()
    watch = ClientWatch(clock)
    assert watch.hear("one")
    watch.check_open()
    watch.retire(6)
    assert not watch.hear("one")
    watch.check_open()
    assert watch.may_ask(30)
    clock.now_s += 3
    watch.retire(6)  # asked again, it stays as it was
    clock.now_s += 3
    assert not watch.may_ask(30)
    with pytest.raises(EngineError, match="takes nothing new") as refused:
        watch.check_open()
    assert refused.value.retryable


def test_whoever_said_goodbye_or_nothing_asks_no_more():
    clock = Clock()
    watch = ClientWatch(clock)
    assert not watch.may_ask(30)
    watch.hear("one")
    watch.hear("two")
    watch.bye("one")
    assert watch.may_ask(30)
    clock.now_s += 31
    assert not watch.may_ask(30)


def test_a_retired_engine_is_needed_until_its_requests_have_ended():
    engine = EngineActor()
    assert engine.load(FakeModel, EngineCore()).digest
    try:
        assert engine.submit(make_request("a", recipe=make_recipe(steps=1_000_000)), client="gateway") is None
        engine.retire(0.0)
        assert isinstance(engine.submit(make_request("b")), EngineError)
        assert engine.is_needed(1000.0)
        assert engine.cancel(A)
        assert not engine.is_needed(1000.0)
    finally:
        engine.close()


def test_an_engine_ends_what_a_named_client_abandoned_and_nothing_else():
    engine = EngineActor()
    assert engine.load(FakeModel, EngineCore()).digest
    endless = make_recipe(steps=1_000_000)
    try:
        for name, client in (("a", "gateway"), ("b", None)):
            assert engine.submit(make_request(name, recipe=endless), client=client) is None
        assert engine.end_abandoned(1000.0) == 2
        assert engine.end_abandoned(-1.0) == 1
        assert not engine.cancel(A)
        assert engine.cancel(B)
        assert engine.end_abandoned(1000.0) == 0
    finally:
        engine.close()
