"""What one caller can hold of a server, and who may call at all."""

import asyncio

import grpc
import pytest

from reelray.cluster.gateway import boundary, renders_service, server
from reelray.cluster.gateway.callers import Callers, read_tokens
from reelray.cluster.gateway.serving import ServeOptions, make_guard
from reelray.proto.errors import InputError
from reelray.proto.v1 import video_spec_pb2, videos_pb2, videos_pb2_grpc
from tests.support.fake_engine import FakeEngine
from tests.support.gateway import connect, serve
from tests.support.render_calls import video
from tests.support.waiting import wait_until


def test_who_reads_nothing_for_long_is_given_up_and_the_engine_goes_on(monkeypatch):
    monkeypatch.setattr(boundary, "UNREAD_S", 0.5)
    monkeypatch.setattr(boundary, "LAST_WORD_S", 0.1)
    engine = FakeEngine()
    with serve(engine) as address, connect(address) as channel:
        stub = videos_pb2_grpc.VideosStub(channel)
        wanted = videos_pb2.GenerateRequest(
            video=video(frames=401, size=video_spec_pb2.Size(width=512, height=384)), media=video_spec_pb2.MEDIA_RGB24
        )
        call = stub.Generate(wanted)
        next(call)
        wait_until(lambda: engine.cancelled == 1)
        assert list(stub.Generate(videos_pb2.GenerateRequest(video=video(frames=5))))[-1].HasField("done")
        with pytest.raises(grpc.RpcError) as raised:
            list(call)
        assert raised.value.code() is grpc.StatusCode.CANCELLED


class LeftContext:
    """Of a call whose caller has gone while a message was on its way."""

    async def write(self, _message):
        raise grpc.aio.InternalError('Failed "execute_batch"')

    async def abort_with_status(self, status):
        raise grpc.aio.AbortError(status.details)


def test_who_leaves_in_the_middle_alarms_nobody(caplog):
    context = LeftContext()
    with pytest.raises(grpc.aio.AbortError, match="has left"):
        asyncio.run(boundary.or_status(context, lambda: boundary.send(context, "frames")))
    assert not caplog.records


def test_a_download_that_nobody_reads_holds_its_place_for_a_while_only(caller, hands, monkeypatch):
    monkeypatch.setattr(boundary, "UNREAD_S", 2.0)
    monkeypatch.setattr(boundary, "LAST_WORD_S", 0.1)
    monkeypatch.setattr(renders_service, "MOST_WAITING", 1)
    render = caller.submit()
    hands.claim()
    hands.commit(b"x" * 30_000_000)
    unread = caller.downloading(render.id)
    next(unread)

    def is_free():
        try:
            return len(next(caller.downloading(render.id, length=1)).data) == 1
        except grpc.RpcError:
            return False

    assert not is_free()
    wait_until(is_free)


def test_more_calls_than_are_taken_end_at_once(monkeypatch):
    monkeypatch.setattr(server, "MOST_CALLS", 2)
    with serve(FakeEngine(frame_delay_s=0.1)) as address, connect(address) as channel:
        stub = videos_pb2_grpc.VideosStub(channel)
        calls = [stub.Generate(videos_pb2.GenerateRequest(video=video(frames=401))) for _ in range(2)]
        for call in calls:
            next(call)
        with pytest.raises(grpc.RpcError) as raised:
            list(stub.Generate(videos_pb2.GenerateRequest(video=video())))
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_file_of_tokens(tmp_path):
    file = tmp_path / "tokens.txt"
    file.write_text("# who may call\nann a-token-of-ann-here\n\nbob   a-token-of-bob-here\nann another-of-ann-here\n")
    guard = make_guard(ServeOptions(address="0.0.0.0:1", tokens=file, token="a-token-of-nobody"))
    known = {
        token: guard.callers.knows([("authorization", f"Bearer {token}")])
        for token in ("a-token-of-ann-here", "another-of-ann-here", "a-token-of-bob-here", "a-token-of-nobody", "x")
    }
    assert list(known.values()) == ["ann", "ann", "bob", "default", None]
    assert guard.callers.knows(None) is None
    assert guard.callers.knows([("authorization", b"Bearer a-token-of-bob-here")]) == "bob"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no tokens"),
        ("ann\n", "line 1 .* has 1 words"),
        ("ann a-token-of-ann-here\nbob a-token-of-ann-here\n", "line 2 .* of another line"),
        ("ann short\n", "5 characters"),
        ("a:b a-token-of-ann-here\n", "tenant"),
    ],
)
def test_a_file_of_something_else(tmp_path, text, told):
    (tmp_path / "tokens.txt").write_text(text)
    with pytest.raises(InputError, match=told):
        Callers(read_tokens(tmp_path / "tokens.txt"))
    with pytest.raises(InputError, match="cannot be read"):
        read_tokens(tmp_path / "none.txt")
