"""Calls wait for an engine, know how they stand, keep deadlines, and go before renders."""

import threading
import time
from datetime import UTC, datetime

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from reelray.cluster.coordinator.desk import Desk
from reelray.cluster.gateway import placed_relay, server
from reelray.proto.v1 import cluster_pb2, cluster_pb2_grpc, renders_pb2, videos_pb2, videos_pb2_grpc
from tests.support.coordinated import serve_house
from tests.support.fake_engine import FakeEngine
from tests.support.fake_model import FakeModel
from tests.support.gateway import connect, serve
from tests.support.render_calls import Caller, refusal, video
from tests.support.render_jobs import fake_model_entry, plan, served, undisturbed
from tests.support.waiting import wait_until


class CountingEngine(FakeEngine):
    """Knows how many requests it works on at once."""

    now = most = 0
    order = ()

    def _events(self, request):
        self.now += 1
        self.most = max(self.most, self.now)
        self.order = (*self.order, request.prompt)
        try:
            yield from super()._events(request)
        finally:
            self.now -= 1


def asking(channel, prompt="a disc", frames=17, **options):
    wanted = videos_pb2.GenerateRequest(video=video(prompt=prompt, frames=frames), options=options)
    return videos_pb2_grpc.VideosStub(channel).Generate(wanted)


def until_it_moves(call):
    return next(event for event in call if event.WhichOneof("event") == "progress")


def test_one_lane_works_on_one_call_and_the_others_hear_how_they_stand():
    engine = CountingEngine(frame_delay_s=0.2)
    with serve(engine) as address, connect(address) as channel:
        first = asking(channel, "first", frames=41)
        until_it_moves(first)
        asked = [asking(channel, "second"), asking(channel, "third")]
        told = [[], []]
        threads = [
            threading.Thread(target=lambda heard=heard, call=call: heard.extend(call))
            for heard, call in zip(told, asked, strict=True)
        ]
        for thread in threads:
            thread.start()
        assert list(first)[-1].HasField("done")
        for thread in threads:
            thread.join(20)
    for events in told:
        kinds = [event.WhichOneof("event") for event in events]
        assert (kinds[0], kinds[1], kinds[-1]) == ("accepted", "queued", "done")
        assert "queued" not in kinds[kinds.index("progress") :]
    positions = sorted(events[1].queued.position for events in told)
    assert positions == [1, 2]
    for events in told:
        start = events[1].queued.predicted_start.ToDatetime(tzinfo=UTC)
        assert start.year == datetime.now(UTC).year
    assert engine.most == 1


def test_priorities_change_the_order():
    engine = CountingEngine(frame_delay_s=0.2)
    with serve(engine) as address, connect(address) as channel:
        first = asking(channel, "first")
        until_it_moves(first)
        calls = []
        for name, priority in (("low", -5), ("plain", 0), ("high", 5)):
            calls.append(asking(channel, name, frames=5, priority=priority))
            next(calls[-1])
        for call in (first, *calls):
            assert list(call)[-1].HasField("done")
    assert engine.order == ("first", "high", "plain", "low")


def timestamp(after_s):
    made = Timestamp()
    made.FromMilliseconds(round(1000 * (time.time() + after_s)))
    return made


def test_a_deadline_that_cannot_be_kept_is_refused_at_once_and_says_when_it_would_be_done():
    engine = FakeEngine()
    with serve(engine) as address, connect(address) as channel:
        code, text, reason, ids, retry = refusal(lambda: asking(channel, deadline=timestamp(-60)))
        assert (code, reason, retry) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "deadline_unreachable", False)
        assert "the deadline cannot be kept; it would be done in about" in text
        assert abs(datetime.fromisoformat(ids["predicted_finish"]).timestamp() - time.time()) < 60
        assert not engine.requests
        assert list(asking(channel, deadline=timestamp(60)))[-1].HasField("done")


@pytest.mark.parametrize(
    ("options", "text"),
    [({"deadline": Timestamp(seconds=-5)}, "deadline is no time"), ({"priority": 101}, "allowed are -100 to 100")],
)
def test_options_out_of_range(options, text):
    with serve(FakeEngine()) as address, connect(address) as channel:
        code, said, *_ = refusal(lambda: asking(channel, **options))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text in said


def test_where_nobody_decides_new_calls_are_told_to_come_back(monkeypatch):
    monkeypatch.setattr(server, "coordinate_alone", lambda models: Desk("alone", models, patience_s=0.1))
    engine = FakeEngine()
    with serve(engine) as address, connect(address) as channel:
        code, text, reason, _, retry = refusal(lambda: asking(channel))
    assert (code, reason, retry) == (grpc.StatusCode.UNAVAILABLE, "coordinator_lost", True)
    assert "try again" in text
    assert not engine.requests


def test_who_reads_nothing_loses_its_place_and_not_its_video(monkeypatch):
    monkeypatch.setattr(placed_relay, "UNREAD_S", 0.2)
    engine = CountingEngine()
    with serve(engine) as address, connect(address) as channel:
        slow = videos_pb2_grpc.VideosStub(channel).Generate(
            videos_pb2.GenerateRequest(video=video(frames=401, size={"width": 512, "height": 384}), media=2)
        )
        until_it_moves(slow)
        assert list(asking(channel, frames=5))[-1].HasField("done")
        assert engine.most == 2
        assert list(slow)[-1].HasField("done")


def test_who_leaves_while_waiting_leaves_no_trace():
    engine = CountingEngine(frame_delay_s=0.2)
    with serve(engine) as address, connect(address) as channel:
        first = asking(channel, "first")
        until_it_moves(first)
        gone, last = asking(channel, "gone"), asking(channel, "last")
        for call in (gone, last):
            next(call)
        gone.cancel()
        for call in (first, last):
            assert list(call)[-1].HasField("done")
    assert engine.order == ("first", "last")


def test_a_call_stops_a_render_which_goes_on_afterwards_with_the_same_bytes(shelf):
    entry = fake_model_entry(steps=40)
    with served(entry, FakeModel(step_s=0.02)) as (model, engines), serve_house(shelf, model) as here:
        with connect(here.address) as channel:
            caller = Caller(channel)
            wanted = {"prompt": "a film", "seed": 5, "frames": 17}
            render = caller.submit(video_spec=video(**wanted))
            watching = caller.watching(render.id)
            next(event for event in watching if event.state == renders_pb2.RENDER_STATE_RUNNING)
            wait_until(lambda: engines[0].steps and len(engines[0].steps[0]) > 5)
            assert list(asking(channel, "a person", frames=5))[-1].HasField("done")
            assert caller.get(render.id).state != renders_pb2.RENDER_STATE_DONE
            rest = list(watching)
            data = caller.download(render.id)
        states = [event.state for event in rest if event.WhichOneof("event") == "state"]
        assert states == [
            renders_pb2.RENDER_STATE_QUEUED,
            renders_pb2.RENDER_STATE_RUNNING,
            renders_pb2.RENDER_STATE_DONE,
        ]
        before, person, after = engines[0].steps
        assert len(person) == 40
        assert after[0] > before[0]
        assert after[-1] == 40
        assert len(before) + len(after) <= 40 + 3  # a step in flight, and what a snapshot takes
        assert data == undisturbed(plan(entry, prompt="a film", seed=5), model)


def test_who_watches_a_render_that_waits_hears_how_it_stands(shelf):
    entry = fake_model_entry(steps=900)
    with (
        served(entry, FakeModel(step_s=0.02)) as (model, _),
        serve_house(shelf, model) as here,
        connect(here.address) as channel,
    ):
        caller = Caller(channel)
        renders = [caller.submit(video_spec=video(seed=seed)) for seed in range(3)]
        told = []
        for render in renders[1:]:
            told += [next(event for event in caller.watching(render.id) if event.WhichOneof("event") == "queued")]
        describe = cluster_pb2_grpc.ClusterStub(channel).Describe
        here_now = wait_until(lambda: (one := describe(cluster_pb2.DescribeRequest()).engines[0]).waiting and one)
        for render in renders:
            caller.Cancel(renders_pb2.CancelRenderRequest(id=render.id))
    assert (here_now.waiting, here_now.busy) == (2, 1.0)
    assert here_now.queue_seconds > 0
    assert [event.queued.position for event in told] == [1, 2]
    assert [event.number for event in told] == [1, 1]  # of the event before
    assert told[1].queued.HasField("predicted_start")
