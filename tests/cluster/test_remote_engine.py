"""The engine behind a real Ray actor; one embedded cluster serves the whole file."""

import os
import threading
from dataclasses import replace
from functools import partial

import psutil
import pytest

from reelray.cluster.embedded_ray import EmbeddedRay
from reelray.cluster.remote_engine import RemoteEngine, RemoteStream
from reelray.proto.errors import (
    CancelledError,
    EngineError,
    InputError,
    ReelrayError,
    ResourceError,
    SizeError,
    SnapshotError,
    WeightsError,
)
from reelray.proto.events import Done, Frames, Progress, Stage
from reelray.proto.request import PromptChange, RequestId
from reelray.proto.session import Extend, Pause, Resume, Say, Stop
from reelray.proto.snapshot import SnapshotKind
from reelray.scheduler.limits import EngineLimits
from tests.support.fake_model import FakeModel
from tests.support.plain_loop import render_plainly
from tests.support.requests import make_recipe, make_request


def video(events):
    return b"".join(event.data for event in events if isinstance(event, Frames))


@pytest.fixture(scope="module")
def cluster():
    before = dict(os.environ)
    with EmbeddedRay(preload=("torch",)) as ray:
        assert dict(os.environ) == before
        yield ray


@pytest.fixture(scope="module")
def engine(cluster):  # noqa: ARG001
    limits = EngineLimits(frame_credit=8, decode_latent_frames=1)
    with RemoteEngine(partial(FakeModel, step_s=0.002), limits=limits) as remote:
        yield remote


def test_a_stream_in_the_actor_is_talked_to_and_put_down(engine):
    request = make_request("talk", latent_frames=24, recipe=make_recipe(steps=2, chunk=2), live=True)
    stream = engine.render(request)
    events = [next(stream)]
    while not isinstance(events[-1], Frames):  # then its first chunk has begun, and keeps its prompt
        events.append(next(stream))
    assert engine.tell(RequestId("talk"), Pause()).paused
    held_from = engine.tell(RequestId("talk"), Say(prompt="another")).frame
    assert engine.tell(RequestId("talk"), Extend(latent_frames=2)).frames == request.frames + 8
    snapshot = engine.snapshot(RequestId("talk"), SnapshotKind.EXACT)
    with pytest.raises(InputError, match="after the end"):
        engine.tell(RequestId("talk"), Say(prompt="x", latent_frame=99))
    engine.tell(RequestId("talk"), Resume())
    change = PromptChange(latent_frame=(held_from - 1) // 4 + 1, prompt="another")
    wanted = render_plainly(FakeModel(), replace(request, frames=request.frames + 8, changes=(change,)))
    assert video([*events, *stream]) == wanted
    with pytest.raises(SnapshotError, match="is not the one of its snapshot"):
        engine.render(request, snapshot)
    other = replace(snapshot.request, request_id=RequestId("again"))
    assert video(engine.render(other, snapshot)) == wanted[snapshot.frame * 16 * 32 * 3 :]
    with pytest.raises(SnapshotError, match="another model"):
        engine.render(other, replace(snapshot, digest="other"))
    with pytest.raises(InputError, match="not here"):
        engine.tell(RequestId("talk"), Stop())
    with pytest.raises(InputError, match="not here"):
        engine.snapshot(RequestId("talk"), SnapshotKind.EXACT)


def test_a_render_through_the_actor_has_the_bytes_of_the_plain_loop(engine):
    request = make_request("a", latent_frames=9, recipe=make_recipe(steps=3, chunk=2))
    events = list(engine.render(request))
    assert video(events) == render_plainly(FakeModel(), request)
    assert isinstance(events[-1], Done)
    assert events[-1].summary.forwards == 30
    assert engine.description.digest == "fa4e"


def test_two_clients_at_once_get_their_own_videos(engine):
    requests = [make_request(name, seed=seed) for seed, name in enumerate("bc")]
    videos = {}
    threads = [
        threading.Thread(target=lambda r=request: videos.update({r.request_id: video(engine.render(r))}))
        for request in requests
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert videos == {r.request_id: render_plainly(FakeModel(), r) for r in requests}


def test_errors_cross_as_they_are(engine):
    with pytest.raises(SizeError, match="width 33") as size:
        engine.render(make_request("d", width=33))
    assert size.value.__cause__ is None
    with pytest.raises(ReelrayError, match=r"^the model failed with RuntimeError: the transformer broke$") as failure:
        list(engine.render(make_request("e", prompt="boom")))
    assert failure.value.ids == {"request": "e"}
    with pytest.raises(ResourceError, match="ask for fewer frames"):
        list(engine.render(make_request("f", prompt="oom")))


def test_closing_a_stream_cancels_its_request(engine):
    endless = make_request("g", recipe=make_recipe(steps=1_000_000))
    with engine.render(endless) as stream:
        for event in stream:
            if isinstance(event, Progress) and event.stage is Stage.DENOISE:
                break
    assert list(stream) == []
    assert not engine.cancel("g")
    assert video(engine.render(make_request("g2")))


def test_a_stream_that_outlives_the_cluster_asks_nobody(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    RemoteStream(None, RequestId("h")).close()  # without an actor, a call would fail


def test_a_cancel_from_elsewhere_ends_the_stream(engine):
    stream = engine.render(make_request("h", recipe=make_recipe(steps=1_000_000)))
    next(stream)
    assert engine.cancel("h")
    with pytest.raises((CancelledError, InputError)):
        list(stream)


def test_ray_listens_on_loopback_only(engine):
    assert engine.description
    here = psutil.Process()
    listeners = [
        connection.laddr.ip.removeprefix("::ffff:")
        for process in [here, *here.children(recursive=True)]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listeners) >= 4
    assert {ip for ip in listeners if not ip.startswith("127.") and ip != "::1"} == set()


def test_a_second_ray_in_the_process_is_refused(cluster):
    assert cluster
    with pytest.raises(EngineError, match="connected to a Ray cluster already"):
        EmbeddedRay().start()


@pytest.mark.usefixtures("cluster")
class TestOtherEngines:
    @pytest.fixture(autouse=True)
    def _room(self, engine):
        engine.close()  # the cluster has room for one engine; runs after the tests above

    def test_a_checkpoint_that_does_not_open_is_reported(self):
        with pytest.raises(WeightsError, match="shard 2 is missing"):
            RemoteEngine(partial(fail, WeightsError("shard 2 is missing")))
        with pytest.raises(ResourceError, match="out of memory while the checkpoint was opened"):
            RemoteEngine(partial(fail, MemoryError()))

    def test_a_dying_engine_is_an_engine_error(self):
        with RemoteEngine(partial(FakeModel, step_s=0.2)) as engine:
            stream = engine.render(make_request("a", prompt="exit"))
            with pytest.raises(EngineError, match="ended unexpectedly") as lost:
                list(stream)
            assert lost.value.__cause__ is None
            stream.close()
            with pytest.raises(EngineError, match="ended unexpectedly"):
                engine.render(make_request("b"))


def fail(error):
    raise error
