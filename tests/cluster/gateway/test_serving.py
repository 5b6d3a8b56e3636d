"""`reelray serve` as a process: what it says, where it listens, how it ends."""

import itertools
import re
import signal
import threading
import time

import grpc
import httpx2
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from reelray.cluster.assets.room import MOST_UPLOADS
from reelray.proto.v1 import cluster_pb2, cluster_pb2_grpc, video_spec_pb2, videos_pb2, videos_pb2_grpc
from tests.support.asset_calls import holding_uploads, wav
from tests.support.commands import start_process, wait_for_address
from tests.support.gateway import connect
from tests.support.waiting import wait_until

SERVE = """
from pathlib import Path
from reelray.cluster.cli import main
from tests.support.fake_engine import FakeEngine, fake_services, write_models
engine = FakeEngine(frame_delay_s=0.1)
services = fake_services(engine, write_models(Path("models")))
code = main(["serve", "--data", "data", "--http-port", "free", *sys.argv[1:]], services)
print(code, engine.closed, engine.cancelled, flush=True)
"""


@pytest.fixture
def server(tmp_path):
    with start_process(SERVE, tmp_path, "--address", "127.0.0.1:0", "--grace", "1000") as process:
        yield process, wait_for_address(process)


def generate(address, **video):
    with connect(address) as channel:
        request = videos_pb2.GenerateRequest(video=video_spec_pb2.VideoSpec(prompt="x", **video))
        return [event.WhichOneof("event") for event in videos_pb2_grpc.VideosStub(channel).Generate(request)]


def test_it_listens_on_loopback_only(server):
    process, address = server
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    listening = [c.laddr for one in family for c in one.net_connections() if c.status == psutil.CONN_LISTEN]
    http = next(found[1] for line in process.stderr if (found := re.search(r"base_url=http://(\S+)/v1", line)))
    assert {f"{at.ip.removeprefix('::ffff:')}:{at.port}" for at in listening} == {address, http}
    assert len(listening) == 2


def test_uploads_over_grpc_and_http_are_counted_together(server):
    process, address = server
    http = next(found[1] for line in process.stderr if (found := re.search(r"base_url=(http://\S+)/v1", line)))

    counts = itertools.count(5000)

    def upload():
        return httpx2.post(f"{http}/v1/assets", files={"file": ("x.wav", wav(next(counts)))}).status_code

    with connect(address) as channel:
        assert upload() == 201
        with holding_uploads(channel, MOST_UPLOADS):
            wait_until(lambda: upload() == 503)
        wait_until(lambda: upload() == 201)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_lets_videos_end_first(server, number):
    process, address = server
    kinds = []
    client = threading.Thread(target=lambda: kinds.extend(generate(address, frames=41)))
    client.start()
    with connect(address) as channel:
        stub = videos_pb2_grpc.VideosStub(channel)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        describe = cluster_pb2_grpc.ClusterStub(channel).Describe
        while not describe(cluster_pb2.DescribeRequest()).engines[0].requests:
            time.sleep(0.01)
        other = stub.Generate(videos_pb2.GenerateRequest(video=video_spec_pb2.VideoSpec(prompt="x", frames=17)))
        next(other)
        process.send_signal(number)
        client.join(20)
        assert [event.WhichOneof("event") for event in other][-1] == "done"
    assert kinds[-1] == "done"
    out, err = process.communicate(timeout=20)
    assert out.split() == ["0", "1", "0"]
    assert "ending; " in err
    with pytest.raises(grpc.RpcError):
        generate(address, frames=5)


def test_stopped_again_it_ends_what_runs(tmp_path):
    with start_process(SERVE, tmp_path, "--address", "127.0.0.1:0", "--grace", "1000") as process:
        address = wait_for_address(process)
        with connect(address) as channel:
            stub = videos_pb2_grpc.VideosStub(channel)
            call = stub.Generate(videos_pb2.GenerateRequest(video=video_spec_pb2.VideoSpec(prompt="x", frames=2001)))
            next(call)
            process.send_signal(signal.SIGINT)
            assert any("ending; 1 running" in line for line in process.stderr)
            process.send_signal(signal.SIGINT)
            with pytest.raises(grpc.RpcError):
                list(call)
        assert process.communicate(timeout=20)[0].split()[:2] == ["0", "1"]


def test_after_the_grace_it_ends_what_is_left(tmp_path):
    with start_process(SERVE, tmp_path, "--address", "127.0.0.1:0", "--grace", "0.3") as process:
        address = wait_for_address(process)
        with connect(address) as channel:
            stub = videos_pb2_grpc.VideosStub(channel)
            call = stub.Generate(videos_pb2.GenerateRequest(video=video_spec_pb2.VideoSpec(prompt="x", frames=2001)))
            next(call)
            process.send_signal(signal.SIGTERM)
            with pytest.raises(grpc.RpcError) as raised:
                list(call)
        assert raised.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert process.communicate(timeout=20)[0].split()[:2] == ["0", "1"]
