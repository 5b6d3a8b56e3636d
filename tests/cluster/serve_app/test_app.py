"""The application on a real Ray with Serve: gateways, an engine, and what happens when one of them dies."""

import socket
import threading
import time
from contextlib import suppress
from functools import partial

import grpc
import numpy as np
import psutil
import pytest
import ray
from grpc_health.v1 import health_pb2, health_pb2_grpc

import reelray
from reelray.cluster.serve_app.app import END_S, build
from reelray.cluster.serve_app.arguments import AppArguments
from reelray.cluster.serve_app.leave import leave
from reelray.cluster.store.job import JobState
from reelray.proto.errors import EngineError, InputError, ReelrayError
from tests.support.waiting import wait_until

TOKEN = "a-token-of-length"
GRACE_S = 60
LEAVE_S = GRACE_S + END_S + 0.3  # what is over is for a replacement, for which there is no other machine
WISH = {"seed": 3, "frames": 9, "steps": 4}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def processes(title):
    """Processes below this one whose title begins so; Ray names its actors' processes after them.

    One that they have just forked has their title until it becomes what it is to run.
    """
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            found += [process] if process.cmdline()[:1] and process.cmdline()[0].startswith(title) else []
    pids = {process.pid for process in found}
    return [process for process in found if process.ppid() not in pids]


def again_and_again(render):
    """What a client does that is told to try again."""
    while True:
        try:
            return render()
        except ReelrayError as error:
            if not error.retryable:
                raise
            time.sleep(0.2)


def is_same(found, wanted):
    """Equal but for rounding: the engine's process has more threads than this one."""
    apart = np.abs(found.astype(int) - wanted)
    return apart.max() <= 1 and (apart > 0).mean() <= 0.001


def application(address, token_file, **model):
    """The application, with gateways that Serve keeps while an engine changes."""
    arguments = {
        "models": [{"model": "tiny-t2v", "device": "cpu", "spare": True, **model}],
        "gateway": {
            "address": address,
            "replicas": 2,
            "cpus": 0.1,
            "token_file": str(token_file),
            "files": str(token_file.parent / "files"),
        },
        "grace_s": GRACE_S,
    }
    app = build(AppArguments.model_validate(arguments))
    app._bound_deployment._version = "always the same"
    return app


@pytest.fixture(scope="module")
def token_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("secret") / "token"
    file.write_text(TOKEN + "\n")
    return file


@pytest.fixture(scope="module")
def address(serving, token_file):
    place = f"127.0.0.1:{free_port()}"
    serving.run(application(place, token_file), name="reelray", route_prefix=None)
    return place


@pytest.fixture
def client(address):
    with reelray.Client(address, token=TOKEN) as client:
        yield client


@pytest.fixture(scope="module")
def wanted(tiny_t2v):
    return reelray.render("a red circle", model=tiny_t2v, engine="local", device="cpu", **WISH).frames


def test_a_video_is_the_one_of_the_plain_engine(client, wanted):
    assert is_same(client.render("a red circle", **WISH).frames, wanted)
    assert not is_same(client.render("a red circle", **(WISH | {"seed": 4})).frames, wanted)
    assert [(engine.model, engine.ready) for engine in client.describe()] == [("tiny-t2v", True)]


def test_a_render_is_kept_whichever_gateway_is_asked(client, address):
    render = client.submit("a red circle", **WISH)
    assert [event.state for event in client.watch(render.id) if event.state][-1] is JobState.DONE
    fetched = set()
    for _ in range(4):  # each line goes to one of the two
        with reelray.Client(address, token=TOKEN) as other:
            fetched.add(b"".join(other.download(render.id)))
    assert [data[4:8] for data in fetched] == [b"ftyp"]


def test_who_does_not_say_the_token_stays_outside(address):
    with reelray.Client(address, token="another-token-of-length") as stranger, pytest.raises(InputError, match="token"):
        stranger.describe()


def test_a_killed_gateway_is_replaced_and_the_other_serves_meanwhile(address, wanted):
    gateways = processes("ray::ServeReplica:reelray:gateway")
    assert len(gateways) == 2
    gateways[0].kill()

    def render():
        with reelray.Client(address, token=TOKEN) as other:
            return other.render("a red circle", **WISH).frames

    assert is_same(again_and_again(render), wanted)
    wait_until(lambda: len(processes("ray::ServeReplica:reelray:gateway")) == 2)
    assert is_same(again_and_again(render), wanted)


def test_a_video_whose_gateway_is_not_heard_any_more_is_ended(serving, client):
    video = client.render_stream("a red circle", **(WISH | {"steps": 1000}))
    card = serving.get_deployment_handle("engine-tiny-t2v", "reelray").card.remote().result()
    assert (card.entry.name, card.description.device) == ("tiny-t2v", "cpu")
    assert ray.get(card.actor.end_abandoned.remote(1000.0)) == 1
    assert ray.get(card.actor.end_abandoned.remote(-1.0)) == 0
    with pytest.raises(ReelrayError):
        list(video)


def test_an_engine_that_is_replaced_ends_its_videos_first_and_nobody_is_refused(serving, client, address, token_file):
    (old,), gateways = processes("ray::EngineActor"), processes("ray::ServeReplica:reelray:gateway")
    long = threading.Thread(target=lambda: frames.extend(client.render_stream("a star", **(WISH | {"steps": 600}))))
    changed, frames, made = application(address, token_file, encoder="resident"), [], 0
    updating = threading.Thread(target=lambda: serving.run(changed, name="reelray", route_prefix=None))
    long.start()
    updating.start()
    while old.is_running():
        made += client.render("a red circle", **WISH).summary.frames
        time.sleep(0.2)
    long.join(60)
    updating.join(60)
    assert len(frames) == 9
    assert made >= 9
    (new,) = processes("ray::EngineActor")
    assert new != old
    assert client.render("a red circle", **WISH).summary.frames == 9
    assert processes("ray::ServeReplica:reelray:gateway") == gateways


def test_a_killed_engine_is_replaced_behind_the_same_gateways(client, wanted):
    gateways = processes("ray::ServeReplica:reelray:gateway")
    video = client.render_stream("a red circle", **(WISH | {"steps": 1000}))
    (engine,) = processes("ray::EngineActor")
    engine.kill()
    with pytest.raises(EngineError):
        list(video)
    assert is_same(again_and_again(lambda: client.render("a red circle", **WISH).frames), wanted)
    assert processes("ray::ServeReplica:reelray:gateway") == gateways


def test_asked_to_leave_the_machine_lets_videos_end_first(address):
    with grpc.insecure_channel(address) as channel, reelray.Client(address, token=TOKEN) as client:
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        frames, went = [], []
        again_and_again(lambda: client.render("a red circle", **WISH))
        video = client.render_stream("a red circle", **(WISH | {"steps": 600}))
        taking = threading.Thread(target=lambda: frames.extend(video))
        taking.start()
        leaving = threading.Thread(
            target=lambda: went.append(leave(LEAVE_S, partial(psutil.Process().children, recursive=True)))
        )
        leaving.start()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        was_running = taking.is_alive()
        taking.join(60)
        leaving.join(60)
    assert len(frames) == 9
    assert was_running
    assert went == [True]
    assert processes("ray::EngineActor") == []
