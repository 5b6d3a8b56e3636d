"""Requests that are cancelled or fail, at whatever moment, and names that are free again."""

import itertools

import pytest

from reelray.proto.errors import InputError
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.scheduler.rollout import Phase
from tests.support.core_trace import FACTS, Trace
from tests.support.requests import make_recipe, make_request


def test_nothing_is_issued_after_a_cancel_at_any_point():
    for point in itertools.count():
        trace = Trace(EngineLimits(decode_latent_frames=2))
        trace.submit(make_request("a", recipe=make_recipe(steps=2, chunk=2)))
        trace.submit(make_request("b", recipe=make_recipe(steps=2, chunk=2)))
        taken = sum(trace.step() is not None or trace.acknowledge("a") is not None for _ in range(point))
        was_there = trace.core.phase("a") is not None
        trace.cancel("a")
        trace.run()  # Trace refuses a window or decode of an ended request
        trace.assert_complete("b")
        trace.assert_contiguous("a")
        assert sorted(trace.released) == (["a", "b"] if point else ["b"])
        assert not trace.held
        if not was_there or taken < point:
            break
    assert point > 8


def test_a_cancel_while_the_step_is_in_flight_frees_the_request():
    trace, phases = Trace(), []
    trace.submit(make_request("a"))
    trace.step()
    trace.step(during=lambda: (trace.cancel("a"), phases.append(trace.core.phase("a"))))
    assert phases == [Phase.CANCELLED]
    assert trace.core.phase("a") is None
    assert trace.step().releases == ("a",)
    assert trace.step() is None
    assert trace.finished == []


def test_a_cancel_in_the_last_step_wins_over_the_end():
    trace = Trace()
    trace.submit(make_request("a", latent_frames=1, recipe=make_recipe(steps=1)))
    trace.step()
    trace.step()
    trace.step(during=lambda: trace.cancel("a"))
    assert trace.decoded["a"][-1].last
    assert trace.finished == []
    assert trace.step().releases == ("a",)


def test_cancel_tells_whether_the_request_was_going_on():
    trace = Trace()
    trace.submit(make_request("a", latent_frames=1, recipe=make_recipe(steps=1)))
    assert not trace.core.cancel("unknown")
    trace.run()
    assert not trace.core.cancel("a")
    trace.submit(make_request("a"))
    assert trace.core.cancel("a")
    assert trace.step() is None  # no rank heard of it: nothing to release


def test_a_failed_request_is_released_and_the_others_go_on():
    trace = Trace()
    trace.submit(make_request("a"))
    trace.submit(make_request("b"))
    trace.step()
    trace.step(fail={"a"})
    assert trace.core.phase("a") is None
    trace.run()
    trace.assert_complete("b")
    assert trace.released[0] == "a"
    assert sorted(trace.released) == ["a", "b"]


def test_an_id_may_be_used_again_once_its_request_ended():
    trace = Trace()
    trace.submit(make_request("a"))
    trace.step()
    trace.step()
    trace.cancel("a")
    trace.ended.clear()
    trace.core.submit(make_request("a"), FACTS)
    plan = trace.core.next_step(0.0)
    assert plan.releases == ("a",)
    assert [a.request.request_id for a in plan.admits] == ["a"]


def test_an_id_stays_taken_while_a_step_of_it_is_in_flight():
    core = EngineCore()
    core.submit(make_request("a"), FACTS)
    core.next_step(0.0)
    core.cancel("a")
    with pytest.raises(InputError):
        core.submit(make_request("a"), FACTS)
