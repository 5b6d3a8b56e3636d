"""Who begins is told soon that nobody answers; who has been answered once is waited with, and told that."""

import asyncio
import socket
import threading
from types import SimpleNamespace

import grpc
import pytest

import reelray
from reelray.cluster.client import connection
from reelray.cluster.client.connection import CONNECT_S, REFUSED_S, FirstTry, NobodyListensError, ServerAddress
from reelray.cluster.client.converse_line import ConverseLine
from reelray.cluster.client.dialogue import Dialogue, Reunion
from reelray.cluster.client.kept_renders import connect_renders
from reelray.cluster.client.notices import Notices
from reelray.cluster.client.orders import PAUSE
from reelray.cluster.client.patience import Patience
from reelray.cluster.client.requests import SessionWish, write_start
from reelray.cluster.render import RenderOptions
from reelray.proto.errors import EngineError
from tests.support.conversing import serve_tiny
from tests.support.cut_line import cut_line
from tests.support.fake_engine import FakeEngine
from tests.support.gateway import serve
from tests.support.waiting import wait_until

STATE = grpc.ChannelConnectivity


def test_a_server_that_refuses_is_not_waited_for_as_long_as_one_that_is_silent():
    now = 100.0
    first = FirstTry(lambda: now)
    assert first.left_s(STATE.CONNECTING) == CONNECT_S
    now += 1.0
    assert first.left_s(STATE.TRANSIENT_FAILURE) == REFUSED_S <= 2.0
    now += 1.0
    assert first.left_s(STATE.TRANSIENT_FAILURE) == REFUSED_S - 1.0  # tried once more
    now += 1.0
    assert first.left_s(STATE.CONNECTING) == 0


@pytest.fixture
def nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    return ServerAddress(address=f"127.0.0.1:{port}")


def test_whatever_begins_ends_soon_where_nobody_listens(nobody_there, monkeypatch):
    """Long before the time for which a server that is silent would be waited for."""
    monkeypatch.setattr(connection, "CONNECT_S", 1e6)
    with pytest.raises(EngineError, match="no server answers") as raised, connect_renders(nobody_there):
        pass
    assert raised.value.retryable
    with pytest.raises(EngineError, match="no server answers"):
        asyncio.run(connection.open_async_channel(nobody_there))


def test_a_server_that_comes_while_it_is_tried_is_found(nobody_there, monkeypatch):
    monkeypatch.setattr(connection, "REFUSED_S", 1e6)
    monkeypatch.setattr(connection, "CONNECT_S", 60.0)
    found = []

    def come():
        with connection.open_channel(nobody_there):
            found.append(1)

    thread = threading.Thread(target=come)
    thread.start()
    with serve(FakeEngine(), address=nobody_there.target):
        thread.join(60)
    assert found


def test_people_hear_that_a_call_is_tried_again_and_went_on(shelf):
    told = []
    with (
        serve(FakeEngine(), shelf=shelf) as address,
        cut_line(address) as line,
        connect_renders(ServerAddress(address=line.address), told.append) as renders,
    ):
        list(renders.list())
        line.lets_in = False
        line.cut()
        asking = threading.Thread(target=lambda: list(renders.list()))
        asking.start()
        wait_until(lambda: told)
        line.lets_in = True
        asking.join(60)
    assert [("trying again for up to 60 s" in line, line == "the server answers again; going on") for line in told] == [
        (True, False),
        (False, True),
    ]


def test_people_hear_that_a_stream_is_tried_again_and_lost(tiny_address):
    told = []
    with cut_line(tiny_address) as line, grpc.insecure_channel(line.address) as channel:
        wish = RenderOptions(prompt="a red circle", frames=253, size=(48, 32), stream=True)
        dialogue = Dialogue(write_start(wish, SessionWish(keep_s=1)), grows=True)
        server = ServerAddress(address=line.address)
        talk = ConverseLine(channel, server, dialogue, 1.0, Notices(told.append, "the stream"))
        assert talk.take(lambda _: None) is not None
        line.lets_in = False
        line.cut()
        with pytest.raises(EngineError, match="the server was lost") as raised:
            list(iter(lambda: talk.take(lambda _: None), None))
        talk.close()
    assert raised.value.retryable
    assert len(told) == 1
    assert told[0].endswith("; trying again for up to 1 s")


def begin_session(line):
    """A session that is kept for long, and that its client would wait for for days."""
    wish = RenderOptions(prompt="a red circle", frames=253, size=(48, 32), stream=True)
    return Dialogue(write_start(wish, SessionWish(keep_s=300)), grows=True), ServerAddress(address=line.address)


def test_a_session_whose_server_is_gone_ends_soon_with_a_hint(tiny_address):
    with cut_line(tiny_address) as line, grpc.insecure_channel(line.address) as channel:
        dialogue, server = begin_session(line)
        talk = ConverseLine(channel, server, dialogue, 1e6)
        assert talk.take(lambda _: None) is not None
        line.close()
        with pytest.raises(EngineError, match="the server was lost") as raised:
            list(iter(lambda: talk.take(lambda _: None), None))
        with pytest.raises(EngineError, match="the server was lost"):
            talk.tell(PAUSE)
        talk.close()
    assert raised.value.retryable
    assert raised.value.retry_after_ms > 0


def test_a_session_in_asyncio_whose_server_is_gone_ends_soon(tiny_address):
    async def case(line):
        how = {"frames": 253, "size": (48, 32), "keep_s": 300}
        async with reelray.AsyncClient(line.address) as client, client.converse("a red circle", **how) as session:
            await anext(session)
            line.close()
            with pytest.raises(EngineError, match="the server was lost"):
                [frames async for frames in session]

    with cut_line(tiny_address) as line:
        asyncio.run(asyncio.wait_for(case(line), 60))


def lost(kind=EngineError):
    return kind("the server was lost: somehow")


def test_a_server_that_refuses_is_given_up_and_one_that_is_silent_is_waited_for():
    now, dialogue = 100.0, SimpleNamespace(session_id="s")
    reunion = Reunion(dialogue, Patience(300.0, lambda: now), lambda: now)
    broke = lost()
    now += reunion.pause_s(broke)
    while now < 200.0:
        now += reunion.pause_s(lost())
    began = now

    def go_on():
        nonlocal now
        now += reunion.pause_s(lost(NobodyListensError))

    with pytest.raises(EngineError) as raised:
        list(iter(go_on, "for ever"))
    assert raised.value is broke
    assert now - began == pytest.approx(REFUSED_S)


def test_a_server_that_refuses_for_a_moment_only_is_not_given_up():
    now, dialogue = 100.0, SimpleNamespace(session_id="s")
    reunion = Reunion(dialogue, Patience(300.0, lambda: now), lambda: now)
    for _ in range(5):
        now += reunion.pause_s(lost(NobodyListensError))
        now += reunion.pause_s(lost(NobodyListensError))
        now += 1.0
        reunion.heard()
    for _ in range(5):
        now += reunion.pause_s(lost(NobodyListensError))
        now += 1.0
        now += reunion.pause_s(lost())  # something listens there, and does not answer


@pytest.fixture
def tiny_address(tiny_stream):
    with serve_tiny(tiny_stream) as (address, _):
        yield address
