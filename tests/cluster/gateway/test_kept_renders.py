"""Renders outlive `reelray serve`: stopped, killed, or with its store killed."""

import io
import os
import re
import signal
import socket
from contextlib import ExitStack

import av
import grpc
import pytest

from reelray.cluster.gateway.serving import start_store
from reelray.cluster.settings import Settings
from reelray.cluster.store.embedded import EmbeddedStore
from reelray.proto.v1 import renders_pb2
from tests.support.commands import start_process, wait_for_address
from tests.support.gateway import connect
from tests.support.render_calls import Caller, refusal, video
from tests.support.waiting import wait_until

SERVE = """
from pathlib import Path
from reelray.cluster.cli import main
from reelray.cluster.gateway import render_house
from reelray.cluster.renders.worker import RenderWorker, WorkerHabits
from tests.support.fake_engine import FakeEngine, fake_services, write_models
render_house.RenderWorker = lambda models, around: RenderWorker(models, around, WorkerHabits(lease_s=1.5))
render_house.STORE_LOOK_S = 0.05
models = Path("models")
engine = FakeEngine(frame_delay_s=float(sys.argv[1]))
services = fake_services(engine, models if models.exists() else write_models(models))
code = main(["serve", "--data", "data", "--address", "127.0.0.1:0", "--http-port", "off", *sys.argv[2:]], services)
print(code, engine.closed, flush=True)
"""


def frames_in(data):
    with av.open(io.BytesIO(data)) as file:
        return sum(1 for _ in file.decode(video=0))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_renders_go_on_when_it_is_started_again(tmp_path, number):
    with start_process(SERVE, tmp_path, "0.2") as process, connect(wait_for_address(process)) as channel:
        caller = Caller(channel)
        first = caller.submit(video_spec=video(frames=401, seed=1), idempotency_key="k")
        second = caller.submit(video_spec=video(frames=5, seed=2, sparsity="sub_block,density=0.50"))
        for event in caller.watching(first.id):
            if event.state == renders_pb2.RENDER_STATE_RUNNING:
                break
        process.send_signal(number)
        out = process.communicate(timeout=20)[0]
        assert number == signal.SIGKILL or out.split() == ["0", "1"]
    with start_process(SERVE, tmp_path, "0") as process, connect(wait_for_address(process)) as channel:
        caller = Caller(channel)
        assert not caller.Submit(
            renders_pb2.SubmitRenderRequest(
                video=video(frames=401, seed=1), options={"idempotency_key": "k", "request_id": "again"}
            )
        ).fresh
        for render, frames in ((first, 401), (second, 5)):
            states = [event.state for event in caller.watch(render.id) if event.WhichOneof("event") == "state"]
            assert states[-1] == renders_pb2.RENDER_STATE_DONE
            assert states.count(renders_pb2.RENDER_STATE_RUNNING) == (2 if render is first else 1)
            data = caller.download(render.id)
            assert frames_in(data) == frames
            done = caller.get(render.id)
            assert (done.bytes, done.summary.frames, done.summary.device) == (len(data), frames, "cpu")
            assert done.plan.sparsity == ("" if render is first else "sub_block,density=0.5")
            assert done.summary.HasField("sparsity") == (render is second)
            assert done.summary.sparsity.density == (0.0 if render is first else 0.5)


def test_a_store_that_is_killed_is_started_again(tmp_path):
    with start_process(SERVE, tmp_path, "0") as process, connect(wait_for_address(process)) as channel:
        caller = Caller(channel)
        render = caller.submit(video_spec=video(frames=5))
        assert caller.watch(render.id)[-1].state == renders_pb2.RENDER_STATE_DONE
        store = EmbeddedStore(tmp_path / "data" / "store")
        os.kill(pid_of(store), signal.SIGKILL)
        again = caller.submit(video_spec=video(frames=5))
        assert caller.watch(again.id)[-1].state == renders_pb2.RENDER_STATE_DONE
        assert caller.get(render.id).state == renders_pb2.RENDER_STATE_DONE


def pid_of(store):
    """Process of a store that another has started."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(store.socket))
        line.sendall(b"INFO server\r\n")
        return int(re.search(rb"process_id:(\d+)", line.recv(8192))[1])


def files_below(folder):
    return sorted(path for path in folder.rglob("*.mp4"))


def test_ended_renders_are_kept_as_long_as_was_said_and_only_their_store_takes_them_away(tmp_path, monkeypatch):
    with start_process(SERVE, tmp_path, "0") as process, connect(wait_for_address(process)) as channel:
        caller = Caller(channel)
        render = caller.submit(video_spec=video(frames=5))
        assert caller.watch(render.id)[-1].state == renders_pb2.RENDER_STATE_DONE
    kept = files_below(tmp_path / "data")
    assert len(kept) == 1
    with monkeypatch.context() as patch, EmbeddedStore(tmp_path / "other") as other:
        patch.setenv("REELRAY_REDIS_URL", other.url)
        with start_process(SERVE, tmp_path, "0") as process:
            out, err = process.communicate(timeout=20)
    assert out.split() == ["2", "0"]  # no model was loaded
    assert "belong to jobs of another store" in err
    assert files_below(tmp_path / "data") == kept
    with (
        start_process(SERVE, tmp_path, "0", "--keep-gb", "0") as process,
        connect(wait_for_address(process)) as channel,
    ):
        wait_until(lambda: not files_below(tmp_path / "data"))
        code, text, *_ = refusal(lambda: Caller(channel).download(render.id))
        assert (code, "files of this render are not there any more" in text) == (grpc.StatusCode.NOT_FOUND, True)
        assert Caller(channel).get(render.id).state == renders_pb2.RENDER_STATE_DONE


def test_a_folder_that_cannot_be_is_one_clear_error(tmp_path):
    (tmp_path / "data").touch()
    with start_process(SERVE, tmp_path, "0") as process:
        out, err = process.communicate(timeout=20)
    assert out.split() == ["4", "0"]
    assert "name another folder (--data DIR)" in err


def test_a_store_that_the_environment_names_is_taken(tmp_path):
    with ExitStack() as opened:
        address, embedded = start_store(Settings(redis_url="redis://there:6379/0"), tmp_path / "store", opened)
    assert (address.url, embedded) == ("redis://there:6379/0", None)
    assert not (tmp_path / "store").exists()
