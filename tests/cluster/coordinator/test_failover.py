"""Who coordinates is killed, stands still, or is followed, while a real store, real servers and renders go on."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from reelray.cluster.coordinator import keeper
from reelray.cluster.coordinator.line_security import CERTIFICATE
from reelray.cluster.coordinator.office import OfficeHours
from reelray.cluster.gateway.served_models import ServedModel
from reelray.proto.v1 import renders_pb2, videos_pb2, videos_pb2_grpc
from tests.support.coordinated import serve_house
from tests.support.fake_engine import FakeEngine, fake_entry
from tests.support.fake_model import FakeModel
from tests.support.gateway import connect
from tests.support.render_calls import Caller, video
from tests.support.render_jobs import fake_model_entry, plan, served, undisturbed
from tests.support.waiting import wait_until

QUICK = OfficeHours(lease_s=1.0, renew_s=0.2, try_s=0.05)
RUNNING, DONE = renders_pb2.RENDER_STATE_RUNNING, renders_pb2.RENDER_STATE_DONE
AGAIN = [renders_pb2.RENDER_STATE_QUEUED, RUNNING]


class CountingEngine(FakeEngine):
    now = most = 0

    def _events(self, request):
        self.now += 1
        self.most = max(self.most, self.now)
        yield from super()._events(request)
        self.now -= 1


def asking(channel, model, frames):
    wanted = videos_pb2.GenerateRequest(video=video(model=model, frames=frames))
    return videos_pb2_grpc.VideosStub(channel).Generate(wanted)


def in_background(call):
    events = []
    thread = threading.Thread(target=lambda: events.extend(call), daemon=True)
    thread.start()
    return thread, events


def leader_of(house):
    return house.do(house.house.archive.store.leaders.observe("coordinator"))


def test_a_killed_coordinator_disturbs_nothing_and_is_followed(shelf, monkeypatch):
    monkeypatch.setattr(keeper, "listen_address", lambda *_: "127.0.0.1:0")  # as over a network
    entry, engine = fake_model_entry(steps=80), CountingEngine(frame_delay_s=0.4)
    calls = ServedModel(fake_entry(path=Path("/models/calls")), lambda: engine)
    with (
        served(entry, FakeModel(step_s=0.05)) as (model, engines),
        serve_house(shelf, model, calls, hours=QUICK) as here,
        connect(here.address) as channel,
    ):
        caller = Caller(channel)
        render = caller.submit(video_spec=video(model="fake", seed=5))
        states = []
        watching = threading.Thread(
            target=lambda: states.extend(
                e.state for e in caller.watching(render.id) if e.WhichOneof("event") == "state"
            )
        )
        watching.start()
        runs = asking(channel, "calls", 41)
        next(event for event in runs if event.WhichOneof("event") == "media")
        waits, heard = in_background(asking(channel, "calls", 5))
        wait_until(lambda: any(event.HasField("queued") for event in heard))
        wait_until(lambda: engines[0].steps and len(engines[0].steps[0]) > 5)
        before, killed = leader_of(here), here.house.keeper.pid
        assert "BEGIN CERTIFICATE" in before.data[CERTIFICATE]
        os.kill(killed, signal.SIGKILL)
        after = wait_until(lambda: (now := leader_of(here)) is not None and now.fence > before.fence and now)
        assert after.owner != before.owner
        assert list(runs)[-1].HasField("done")
        waits.join(60)
        assert heard[-1].HasField("done")
        watching.join(60)
        data = caller.download(render.id)
        assert list(asking(channel, "calls", 5))[-1].HasField("done")
        made = [len(steps) for steps in engines[0].steps]
        assert data == undisturbed(plan(entry, seed=5), model)
    assert engine.most == 1  # who waited did not begin beside who ran, though another decided
    assert len(engine.requests) == 3
    assert states == [renders_pb2.RENDER_STATE_QUEUED, RUNNING, renders_pb2.RENDER_STATE_DONE]
    assert made == [80]


@pytest.mark.parametrize("promised", [True, False])
def test_a_render_in_work_keeps_its_deadline_through_a_change_of_coordinator(shelf, promised):
    """A call that comes afterwards waits for it, and stops one that nothing was promised to."""
    entry = fake_model_entry(steps=80)
    with (
        served(entry, FakeModel(step_s=0.05)) as (model, engines),
        serve_house(shelf, model, hours=QUICK) as here,
        connect(here.address) as channel,
    ):
        caller = Caller(channel)
        due = Timestamp(seconds=int(time.time()) + 3600)
        render = caller.submit(video_spec=video(model="fake", seed=5), **({"deadline": due} if promised else {}))
        wait_until(lambda: engines[0].steps and len(engines[0].steps[0]) > 5)
        before = leader_of(here)
        os.kill(here.house.keeper.pid, signal.SIGKILL)
        wait_until(lambda: (now := leader_of(here)) is not None and now.fence > before.fence)
        wait_until(lambda: here.house.desk._line is not None and here.house.desk._fence > before.fence)
        heard = list(asking(channel, "fake", 5))
        assert heard[-1].HasField("done")
        assert any(event.HasField("queued") for event in heard) or not promised
        states = [event.state for event in caller.watch(render.id) if event.WhichOneof("event") == "state"]
        made = [len(steps) for steps in engines[0].steps]
    assert states == [renders_pb2.RENDER_STATE_QUEUED, RUNNING, *([] if promised else AGAIN), DONE]
    assert len(made) == (2 if promised else 3)


def test_a_coordinator_that_hangs_is_started_anew_where_there_is_no_other(shelf):
    hours = OfficeHours(lease_s=0.5, renew_s=0.1, try_s=0.05, hung_s=3.0)
    engine = ServedModel(fake_entry(), FakeEngine)
    with serve_house(shelf, engine, hours=hours) as here, connect(here.address) as channel:
        before, hung = leader_of(here), here.house.keeper.pid
        os.kill(hung, signal.SIGSTOP)
        wait_until(lambda: leader_of(here) is None)
        after = wait_until(lambda: leader_of(here))
        assert after.fence > before.fence
        assert here.house.keeper.pid not in {None, hung}
        wait_until(lambda: reaches(channel))


def reaches(channel):
    with contextlib.suppress(grpc.RpcError):
        return list(asking(channel, "fake", 5))[-1].HasField("done")
    return False


@contextlib.contextmanager
def two_servers(shelf, step_s):
    entry = fake_model_entry(steps=30)
    with (
        served(entry, FakeModel(step_s=step_s)) as (one, first),
        served(entry, FakeModel(step_s=step_s)) as (two, second),
        serve_house(shelf, one, hours=QUICK) as here,
        serve_house(shelf, two, hours=QUICK) as there,
        connect(here.address) as channel,
    ):
        yield Caller(channel), (here, there), (first, second)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_servers_over_one_store_have_one_coordinator_together(shelf, number):
    with two_servers(shelf, 0.03) as (caller, houses, engines):
        pids = {house.house.keeper.pid for house in houses}
        before = leader_of(houses[0])
        leading = next(house for house in houses if before.owner.startswith(house.house.desk.house)).house.keeper.pid
        renders = [caller.submit(video_spec=video(seed=seed)) for seed in range(6)]
        wait_until(lambda: all(made and made[0].steps for made in engines))  # both work on them
        os.kill(leading, number)
        after = wait_until(lambda: (now := leader_of(houses[0])) and now.fence > before.fence and now)
        assert after.owner != before.owner
        if number == signal.SIGSTOP:
            os.kill(leading, signal.SIGCONT)
        for render in renders:
            states = [event.state for event in caller.watch(render.id) if event.WhichOneof("event") == "state"]
            assert states == [renders_pb2.RENDER_STATE_QUEUED, RUNNING, renders_pb2.RENDER_STATE_DONE]
        made = [len(steps) for watched in engines for steps in watched[0].steps]
        assert made == [30] * 6  # each by one engine, once
        assert all(watched[0].steps for watched in engines)
        assert pids
