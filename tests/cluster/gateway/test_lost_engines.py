"""An engine that is lost is opened again; requests until then are told to come back."""

import threading

import grpc
import pytest

from reelray.cluster.gateway import served_models
from reelray.cluster.gateway.served_models import ServedModel
from reelray.proto.errors import EngineError, ResourceError
from reelray.proto.v1 import cluster_pb2, cluster_pb2_grpc, video_spec_pb2, videos_pb2, videos_pb2_grpc
from tests.support import gateway
from tests.support.fake_engine import FakeEngine, fake_entry
from tests.support.waiting import wait_until


class Opener:
    """Opens one engine after the other; waits for `allowed` from the second on, and fails where an error is due."""

    def __init__(self, *results):
        self.results, self.opened, self.allowed = list(results), 0, threading.Event()

    def __call__(self):
        result = self.results[self.opened]
        self.opened += 1
        if self.opened > 1:
            assert self.allowed.wait(10)
        if isinstance(result, Exception):
            raise result
        return result


def test_lost_opened_again_and_refused_meanwhile(monkeypatch):
    monkeypatch.setattr(served_models, "FIRST_WAIT_S", 0.01)
    first, second = FakeEngine(error=EngineError("gone"), lost=True), FakeEngine()
    opener = Opener(first, RuntimeError("no room yet"), second)
    model, heard = ServedModel(fake_entry(), opener), []
    model.when_tried_again = lambda: heard.append(model.is_ready)
    threading.Thread(target=model.look_after).start()
    wait_until(lambda: not model.is_ready)
    with pytest.raises(EngineError, match="starts again") as raised:
        _ = model.engine
    assert raised.value.retryable
    model.look_after()  # another request that failed asks for nothing more
    opener.allowed.set()
    wait_until(lambda: model.is_ready)
    assert heard == [False, False]
    assert (model.engine, first.closed, opener.opened) == (second, 1, 3)


def test_an_engine_that_answers_is_left_alone():
    engine = FakeEngine(error=EngineError("one request failed"))
    model = ServedModel(fake_entry(), Opener(engine))
    model.look_after()
    assert (model.engine, engine.closed) == (engine, 0)


def test_closed_while_it_opens_nothing_is_left():
    first, second = FakeEngine(lost=True), FakeEngine()
    opener = Opener(first, second)
    model = ServedModel(fake_entry(), opener)
    helper = threading.Thread(target=model.look_after)
    helper.start()
    wait_until(lambda: opener.opened == 2)
    model.close()
    opener.allowed.set()
    helper.join(10)
    assert (first.closed, second.closed, model.is_ready) == (1, 1, False)


def test_clients_see_unavailable_then_their_video(monkeypatch):
    lost = FakeEngine(error=EngineError("the engine process ended unexpectedly"), fail_at_frame=8, lost=True)
    opener = Opener(lost, FakeEngine())
    monkeypatch.setattr(gateway, "ServedModel", lambda entry, _open, **_: ServedModel(entry, opener))
    request = videos_pb2.GenerateRequest(video=video_spec_pb2.VideoSpec(prompt="x"))
    with gateway.serve(lost) as address, gateway.connect(address) as channel:
        videos = videos_pb2_grpc.VideosStub(channel)

        def is_ready():
            stub = cluster_pb2_grpc.ClusterStub(channel)
            return stub.Describe(cluster_pb2.DescribeRequest()).engines[0].ready

        for text in ("ended unexpectedly", "starts again"):
            with pytest.raises(grpc.RpcError) as raised:
                list(videos.Generate(request))
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
            assert text in raised.value.details()
            wait_until(lambda: not is_ready())
        opener.allowed.set()
        wait_until(is_ready)
        assert list(videos.Generate(request))[-1].WhichOneof("event") == "done"


def test_a_real_engine_knows_whether_it_is_lost(tiny_t2v):
    from reelray.cluster.checkpoint_loader import CheckpointLoader
    from reelray.cluster.local_engine import LocalEngine

    with LocalEngine.open(CheckpointLoader(path=tiny_t2v, device="cpu")) as engine:
        assert not served_models.is_lost(engine)
    assert served_models.is_lost(engine)


@pytest.mark.parametrize("error", [ResourceError("the engine was stopped"), EngineError("gone")])
def test_an_engine_that_was_stopped_for_its_memory_is_opened_again(monkeypatch, error):
    opener = Opener(FakeEngine(error=error, lost=True), FakeEngine())
    opener.allowed.set()
    monkeypatch.setattr(gateway, "ServedModel", lambda entry, _open, **_: ServedModel(entry, opener))
    request = videos_pb2.GenerateRequest(video=video_spec_pb2.VideoSpec(prompt="x"))
    with gateway.serve(FakeEngine()) as address, gateway.connect(address) as channel:
        with pytest.raises(grpc.RpcError):
            list(videos_pb2_grpc.VideosStub(channel).Generate(request))
        wait_until(lambda: opener.opened == 2)


def test_an_engine_that_does_not_answer_is_lost_and_nobody_waits_for_it(monkeypatch):
    monkeypatch.setattr(served_models, "ANSWER_S", 0.1)
    silent, silence = FakeEngine(), threading.Event()
    silent.tell = lambda *_: silence.wait(20)
    opener = Opener(silent, FakeEngine())
    model = ServedModel(fake_entry(), opener)
    helper = threading.Thread(target=model.look_after, daemon=True)
    helper.start()
    wait_until(lambda: not model.is_ready)
    model.close()
    silence.set()
    opener.allowed.set()
    helper.join(10)
    assert not model.is_ready
