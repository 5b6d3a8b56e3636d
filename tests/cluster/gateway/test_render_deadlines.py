"""`Renders.Submit` with a deadline: promised and carried to whoever decides, or refused at once with the time."""

import threading
import time
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

import reelray
from reelray.cluster.client.deadlines import read_deadline
from reelray.cluster.coordinator.desk import Desk
from reelray.proto.errors import DeadlineError, InputError
from reelray.proto.v1 import renders_pb2
from tests.support.coordinated import serve_house
from tests.support.fake_engine import FakeEngine
from tests.support.fake_model import FakeModel
from tests.support.gateway import connect, serve
from tests.support.render_calls import Caller, refusal, submission, video
from tests.support.render_jobs import fake_model_entry, served


def timestamp(after_s):
    made = Timestamp()
    made.FromMilliseconds(round(1000 * (time.time() + after_s)))
    return made


@pytest.fixture
def here(shelf):
    entry = fake_model_entry(steps=60)
    with served(entry, FakeModel(step_s=0.01)) as (model, _), serve_house(shelf, model) as here:
        yield here


def test_a_deadline_is_kept_and_said(here):
    with connect(here.address) as channel:
        caller = Caller(channel)
        wanted = submission(deadline=timestamp(3600), idempotency_key="one", video_spec=video(model="fake"))
        first = caller.Submit(wanted)
        assert first.fresh
        assert first.render.deadline == wanted.options.deadline
        again = caller.Submit(wanted)
        assert (again.fresh, again.render.id) == (False, first.render.id)
        assert caller.get(first.render.id).deadline == wanted.options.deadline
        wanted.options.deadline.seconds += 1
        code, *_ = refusal(lambda: caller.Submit(wanted))
        assert code is grpc.StatusCode.ALREADY_EXISTS
        assert caller.watch(first.render.id)[-1].state == renders_pb2.RENDER_STATE_DONE


def test_one_that_cannot_be_kept_is_refused_at_once_and_nothing_is_kept(here):
    with connect(here.address) as channel:
        caller = Caller(channel)
        code, text, reason, ids, retry = refusal(lambda: caller.submit(deadline=timestamp(-5), idempotency_key="late"))
        assert (code, reason, retry) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "deadline_unreachable", False)
        assert "the deadline cannot be kept; it would be done in about" in text
        assert datetime.fromisoformat(ids["predicted_finish"]) > datetime.now(UTC) - timedelta(minutes=1)
        assert not list(caller.List(renders_pb2.ListRendersRequest()).renders)
        known = caller.submit(idempotency_key="late")  # the key was not used up
        caller.Cancel(renders_pb2.CancelRenderRequest(id=known.id))


def test_a_render_with_a_deadline_goes_before_those_without(here):
    with connect(here.address) as channel:
        caller = Caller(channel)
        plain = [caller.submit(video_spec=video(seed=seed, frames=81)) for seed in range(3)]
        urgent = caller.submit(video_spec=video(seed=9), deadline=timestamp(20))
        ends = []

        def follow(render):
            caller.watch(render.id)
            ends.append(render.id)

        threads = [threading.Thread(target=follow, args=(render,)) for render in (*plain, urgent)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert ends.index(urgent.id) < 2  # behind the one that ran, at most


def test_where_nobody_decides_no_deadline_is_promised(shelf, monkeypatch):
    monkeypatch.setattr("reelray.cluster.gateway.server.coordinate_alone", lambda m: Desk("h", m, patience_s=0.1))
    with serve(FakeEngine(), shelf=shelf) as address, connect(address) as channel:
        caller = Caller(channel)
        code, _, reason, _, retry = refusal(lambda: caller.submit(deadline=timestamp(60)))
        assert (code, reason, retry) == (grpc.StatusCode.UNAVAILABLE, "coordinator_lost", True)
        assert caller.submit().id


def test_python_says_deadlines(here):
    with reelray.Client(here.address) as client:
        due = datetime.now().astimezone() + timedelta(hours=1)
        render = client.submit("a disc", deadline=due)
        assert abs(client.get(render.id).deadline - due) < timedelta(seconds=1)
        assert render.to_json()["deadline"] == client.get(render.id).deadline.isoformat()
        with pytest.raises(DeadlineError, match="it would be done in about"):
            client.submit("a disc", deadline=due - timedelta(hours=2))
        client.cancel(render.id)


def test_times_for_people():
    assert read_deadline("2026-12-24T18:00+02:00") == datetime(2026, 12, 24, 16, tzinfo=UTC)
    soon = datetime.now().astimezone() + timedelta(minutes=5)
    assert read_deadline(f"{soon:%H:%M}") == soon.replace(second=0, microsecond=0)
    assert timedelta(hours=23) < read_deadline(f"{soon - timedelta(minutes=10):%H:%M}") - soon < timedelta(hours=24)
    for text in ("soon", "25:00", ""):
        with pytest.raises(InputError, match="write a time such as"):
            read_deadline(text)
