"""An engine that comes when it is asked for, and goes when nobody asks."""

import pytest

from reelray.cluster.engine_groups.on_demand import OnDemandEngine
from reelray.cluster.gateway.served_models import is_lost
from reelray.proto.errors import CheckpointError, EndedError
from reelray.proto.events import Done
from reelray.proto.session import Stop
from tests.support.fake_engine import FakeEngine
from tests.support.requests import make_request
from tests.support.waiting import wait_until


class Opener:
    def __init__(self, *results):
        self.results, self.opened = list(results), []

    def __call__(self):
        result = self.results[len(self.opened)]
        self.opened.append(result)
        if isinstance(result, Exception):
            raise result
        return result


def test_it_is_tried_at_the_start_and_loaded_when_asked_for():
    first, second = FakeEngine(), FakeEngine()
    opener = Opener(first, second)
    engine = OnDemandEngine(opener, 3600.0, "fake")
    assert (engine.is_loaded, first.closed, engine.description) == (False, 1, first.description)
    assert not is_lost(engine)
    one, other = engine.render(make_request("a")), engine.render(make_request("b"))
    assert isinstance(list(one)[-1], Done)
    assert isinstance(list(other)[-1], Done)
    assert (engine.is_loaded, opener.opened, second.closed) == (True, [first, second], 0)
    engine.close()
    engine.close()
    assert second.closed == 1
    with pytest.raises(EndedError):
        engine.render(make_request("c"))


def test_it_goes_when_nobody_asks_and_never_under_a_request():
    engines = [FakeEngine() for _ in range(3)]
    engine = OnDemandEngine(Opener(*engines), 0.05, "fake")
    long = engine.render(make_request("a"))
    next(long)
    list(engine.render(make_request("b")))
    assert not wait_for_absence(engine, within_s=0.3)
    long.close()
    long.close()  # gives itself back once
    assert wait_for_absence(engine, within_s=20)
    assert engines[1].closed == 1
    with pytest.raises(EndedError):
        engine.tell("a", Stop())
    assert isinstance(list(engine.render(make_request("c")))[-1], Done)
    assert engines[2].requests
    engine.close()


def test_an_engine_that_cannot_be_loaded_says_so_and_may_be_asked_again():
    with pytest.raises(CheckpointError):
        OnDemandEngine(Opener(CheckpointError("no weights")), 1.0, "fake")
    good = FakeEngine()
    engine = OnDemandEngine(Opener(FakeEngine(), CheckpointError("gone"), good), 3600.0, "fake")
    with pytest.raises(CheckpointError):
        engine.render(make_request("a"))
    assert isinstance(list(engine.render(make_request("b")))[-1], Done)
    engine.close()


def wait_for_absence(engine, within_s):
    try:
        wait_until(lambda: not engine.is_loaded, within_s=within_s)
    except AssertionError:
        return False
    return True
