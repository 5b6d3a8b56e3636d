"""The network between clients and the server is cut or says nothing any more."""

import threading

import grpc
import pytest

import reelray
from reelray.cluster.gateway import server
from reelray.proto.v1 import videos_pb2, videos_pb2_grpc
from tests.support.fake_engine import FakeEngine
from tests.support.frail_line import FrailLine
from tests.support.gateway import connect, serve
from tests.support.render_calls import video
from tests.support.waiting import wait_until


@pytest.fixture
def engine():
    return FakeEngine(frame_delay_s=0.02)


@pytest.fixture
def line(engine, shelf, monkeypatch):
    quick = {"grpc.keepalive_time_ms": 1000, "grpc.keepalive_timeout_ms": 500}
    monkeypatch.setattr(server, "OPTIONS", tuple((name, quick.get(name, value)) for name, value in server.OPTIONS))
    with serve(engine, shelf=shelf) as address:
        line = FrailLine(address)
        yield line
        line.close()


@pytest.mark.parametrize("fault", ["cut", "freeze"])
def test_a_live_video_ends_on_both_sides(engine, line, fault):
    with connect(line.address) as channel:
        stub = videos_pb2_grpc.VideosStub(channel)
        call = stub.Generate(videos_pb2.GenerateRequest(video=video(frames=4001)), timeout=30)
        while not next(call).HasField("media"):  # a video that the engine has not begun is not cancelled there
            pass
        getattr(line, fault)()
        wait_until(lambda: engine.cancelled == 1)
        if fault == "cut":
            with pytest.raises(grpc.RpcError) as raised:
                list(call)
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        call.cancel()
        line.close()


def test_followers_go_on_behind_what_they_have(line, hands):
    with reelray.Client(line.address) as client:
        render = client.submit("a disc", key="k")
        watching, reading = client.watch(render.id), client.download(render.id, follow=True)
        hands.claim()
        hands.commit(b"first ")
        seen, data = [next(watching) for _ in range(3)], [next(reading)]
        line.cut()
        rest = threading.Thread(target=lambda: (seen.extend(watching), data.extend(reading)), daemon=True)
        rest.start()
        hands.commit(b"second")
        hands.finish()
        line.mend()
        rest.join(30)
        assert [event.number for event in seen] == [1, 2, 3, 4, 5]
        assert b"".join(data) == b"first second"
        assert client.submit("a disc", key="k").id == render.id
        assert len(list(client.list())) == 1
