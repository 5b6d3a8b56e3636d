"""A peer that is frozen, or whose machine was lost, is given up in the time that is promised."""

import threading
import time

import grpc
import pytest

from reelray.cluster import wire
from reelray.proto.v1 import videos_pb2, videos_pb2_grpc
from tests.support.fake_engine import FakeEngine
from tests.support.frail_line import FrailLine
from tests.support.gateway import serve
from tests.support.render_calls import video

FASTER = 50


def test_a_silent_peer_is_asked_and_given_up():
    """25 s by the options; half a second here, and 45 s at most: gRPC's own minute would not shrink."""
    options = [(name, value // FASTER if name.endswith("_ms") else value) for name, value in wire.KEEPALIVE]
    with serve(FakeEngine(frame_delay_s=0.2)) as address:
        line = FrailLine(address)
        with grpc.insecure_channel(line.address, options=options) as channel:
            call = videos_pb2_grpc.VideosStub(channel).Generate(videos_pb2.GenerateRequest(video=video(frames=401)))
            next(call)
            line.freeze()
            began_s, slow = time.monotonic(), threading.Timer(45, call.cancel)
            slow.start()
            with pytest.raises(grpc.RpcError) as raised:
                list(call)
            slow.cancel()
        line.close()
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE, f"after {time.monotonic() - began_s:.1f} s"
