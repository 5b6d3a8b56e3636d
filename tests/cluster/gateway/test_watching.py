"""`Renders.Watch`: from any event on, by many at once, and what is said when the store goes."""

import threading
import time

import grpc

from reelray.cluster.gateway import renders_service
from reelray.proto.v1 import renders_pb2
from tests.support.archive import fresh_shelf, in_background, start_store
from tests.support.fake_engine import FakeEngine
from tests.support.gateway import connect, serve
from tests.support.render_calls import Caller, refusal


def test_events_come_while_they_happen_and_from_any_cursor_on(caller, hands):
    render = caller.submit()
    live = caller.watching(render.id)
    assert next(live).state == renders_pb2.RENDER_STATE_QUEUED
    hands.claim()
    assert next(live).state == renders_pb2.RENDER_STATE_RUNNING
    for step in range(3):
        hands.progress("denoise", step + 1, 3)
        assert next(live).progress.done == step + 1
    hands.commit(b"data")
    hands.finish()
    rest = list(live)
    assert [event.WhichOneof("event") for event in rest] == ["committed", "state"]
    whole = caller.watch(render.id)
    for after in range(len(whole) + 1):
        assert caller.watch(render.id, after) == whole[after:]


def test_a_cursor_of_the_future_is_refused(caller):
    render = caller.submit()
    code, text, *_ = refusal(lambda: caller.watching(render.id, after=2**63))
    assert (code, "newest event of this render is 1" in text) == (grpc.StatusCode.INVALID_ARGUMENT, True)


def test_who_comes_too_late_gets_the_render_for_what_was_forgotten(caller, hands):
    render = caller.submit()
    hands.claim()
    for step in range(600):
        hands.progress("denoise", step, 600)
    hands.finish()
    told = caller.watch(render.id)
    first, second = told[:2]
    assert first.WhichOneof("event") == "skipped_to"
    assert (first.skipped_to.id, first.skipped_to.state) == (render.id, renders_pb2.RENDER_STATE_DONE)
    assert second.number == first.number + 1 == 603 - 511
    assert [event.number for event in told] == list(range(first.number, 604))
    assert caller.watch(render.id, first.number) == told[1:]


def test_what_only_newer_workers_say_is_passed_over(caller, hands):
    render = caller.submit()
    lease = hands.claim()
    hands.do(hands.store.events.post(lease, "dream", {"of": "sheep"}))
    hands.progress("dreaming", 1, 2)
    hands.finish()
    assert [event.number for event in caller.watch(render.id)] == [1, 2, 5]


def test_an_interruption_is_told(caller, hands):
    render = caller.submit()
    hands.claim()
    hands.fail("the machine was wanted", retry=True)
    again = caller.get(render.id)
    assert (again.state, again.error) == (renders_pb2.RENDER_STATE_QUEUED, "the machine was wanted")
    hands.claim()
    hands.fail("no such colour")
    states = [event.state for event in caller.watch(render.id)]
    assert states == [1, 2, 1, 2, renders_pb2.RENDER_STATE_FAILED]
    assert caller.get(render.id).error == "no such colour"


def test_five_hundred_idle_watchers_need_no_threads(caller, hands):
    render = caller.submit()
    watchers = [caller.watching(render.id) for _ in range(500)]
    assert {next(watcher).number for watcher in watchers} == {1}
    assert threading.active_count() < 40
    hands.claim()
    assert {next(watcher).state for watcher in watchers} == {renders_pb2.RENDER_STATE_RUNNING}
    for watcher in watchers:
        watcher.cancel()


def test_more_watchers_than_there_are_lines_are_told_to_come_back(caller, monkeypatch):
    monkeypatch.setattr(renders_service, "MOST_WAITING", 2)
    render = caller.submit()
    watchers = [caller.watching(render.id) for _ in range(2)]
    for watcher in watchers:
        next(watcher)
    code, _, reason, _, retry = refusal(lambda: caller.watching(render.id))
    assert (code, reason, retry) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "out_of_resources", True)
    watchers[0].cancel()
    end = time.monotonic() + 10
    while True:  # the place is free when the server has heard of it
        again = caller.watching(render.id)
        try:
            assert next(again).number == 1
            break
        except grpc.RpcError:
            assert time.monotonic() < end


def test_a_store_that_goes_and_comes_back(tmp_path):
    with start_store() as store:
        shelf = fresh_shelf(store, tmp_path)
        with serve(FakeEngine(), shelf=shelf) as address, connect(address) as channel:
            caller = Caller(channel)
            render, live = caller.submit(), None
            live = caller.watching(render.id)
            seen = next(live).number
            folder = store.folder
            store.stop()
            calls = [
                lambda: live,
                lambda: caller.get(render.id),
                caller.submit,
                lambda: caller.List(renders_pb2.ListRendersRequest()),
                lambda: caller.downloading(render.id),
            ]
            for call in calls:
                code, text, reason, _, retry = refusal(call)
                assert (code, reason, retry) == (grpc.StatusCode.UNAVAILABLE, "store_lost", True)
                assert not any(word in text for word in (str(folder), "unix", "sock", "redis"))
            store.start()
            resumed = caller.watching(render.id, seen)
            with shelf.opened() as hands:
                in_background(hands.claim).join(10)
            assert next(resumed).state == renders_pb2.RENDER_STATE_RUNNING
            assert caller.get(render.id).state == renders_pb2.RENDER_STATE_RUNNING
