"""`reelray.Client` and renders that are kept, with a worker that the test leads."""

import threading
from datetime import UTC, datetime

import grpc
import pytest

import reelray
from reelray.cluster.client import kept_reading
from reelray.cluster.client.connection import ServerAddress
from reelray.cluster.client.kept_reading import Wanted
from reelray.cluster.client.kept_renders import connect_renders
from reelray.cluster.client.patience import Patience
from reelray.cluster.render import RenderOptions
from reelray.proto.errors import (
    CancelledError,
    ConflictError,
    EngineError,
    InputError,
    NeverError,
    QuotaError,
    RangeError,
    SizeError,
    StoreError,
    StoreStartError,
    UnknownJobError,
)
from reelray.proto.events import Stage
from tests.support.fake_engine import FakeEngine
from tests.support.gateway import serve


@pytest.fixture
def client(shelf):
    with serve(FakeEngine(), shelf=shelf) as address, reelray.Client(address) as client:
        yield client


def test_a_render_as_python_sees_it(client, hands):
    render = client.submit("a disc", seed=3, frames=9, size=(64, 48), fps=8, priority=5, key="k")
    assert (render.state, render.priority, render.tenant, render.error) == ("queued", 5, "default", "")
    facts = render.facts
    assert (facts.prompt, facts.seed, facts.frames, facts.width, facts.height, facts.fps) == ("a disc", 3, 9, 64, 48, 8)
    assert abs((render.created - datetime.now(UTC)).total_seconds()) < 600
    assert (render.started, render.ended, render.summary) == (None, None, None)
    assert client.submit("a disc", seed=3, frames=9, size=(64, 48), fps=8, priority=5, key="k").id == render.id
    hands.claim()
    hands.progress("denoise", 2, 4)
    hands.commit(b"0123456789")
    hands.finish()
    events = list(client.watch(render.id))
    assert [event.state for event in events if event.state] == ["queued", "running", "done"]
    assert [event.committed for event in events if event.committed is not None] == [0]
    assert [(e.progress.stage, e.progress.done) for e in events if e.progress] == [(Stage.DENOISE, 2)]
    assert list(client.watch(render.id, after=3)) == events[3:]
    done = client.get(render.id)
    assert (done.state, done.bytes, done.summary.device, done.summary.seed) == ("done", 10, "cpu", 3)
    assert b"".join(client.download(render.id)) == b"0123456789"
    assert b"".join(client.download(render.id, offset=3, length=4)) == b"3456"
    assert done.check_done() is None


def test_lists_go_over_pages(client, monkeypatch):
    monkeypatch.setattr(kept_reading, "PAGE", 2)
    ids = [client.submit("a disc").id for _ in range(5)]
    assert [render.id for render in client.list()] == ids[::-1]
    assert client.cancel(ids[1]).state == "cancelled"
    assert [render.id for render in client.list("cancelled")] == [ids[1]]
    with pytest.raises(InputError, match="queued, running, done"):
        client.list("lost")


def test_without_a_key_each_submit_is_another_render(client):
    assert client.submit("a disc", seed=1).id != client.submit("a disc", seed=1).id


def test_errors_are_those_of_the_server(client, hands):
    with pytest.raises(SizeError, match="18 frames"):
        client.submit("a disc", frames=18)
    with pytest.raises(InputError, match="on_progress is for"):
        client.submit("a disc", on_progress=print)
    with pytest.raises(InputError, match="-100 to 100"):
        client.submit("a disc", priority=2**40)
    client.submit("a disc", key="k")
    with pytest.raises(ConflictError):
        client.submit("another", key="k")
    for ask in (client.get, client.cancel, lambda i: list(client.watch(i)), lambda i: list(client.download(i))):
        with pytest.raises(UnknownJobError):
            ask("f" * 32)
    render = client.get(hands.claim().ref.id)
    hands.commit(b"head")
    hands.fail("no such colour")
    with pytest.raises(NeverError, match="no such colour"):
        list(client.download(render.id))
    with pytest.raises(EngineError, match="failed: no such colour"):
        client.get(render.id).check_done()
    other = client.submit("a disc")
    with pytest.raises(CancelledError):
        client.cancel(other.id).check_done()
    with pytest.raises(InputError, match="-1"):
        next(client.download(render.id, offset=-1))


def test_behind_the_end(client, hands):
    render = client.submit("a disc")
    hands.claim()
    hands.finish()
    assert list(client.download(render.id)) == []
    with pytest.raises(RangeError):
        list(client.download(render.id, offset=1))


def test_events_and_bytes_go_on_where_the_server_was_lost(shelf, hands):
    """One server goes, another comes at its address: nothing is missed and nothing comes twice."""
    with serve(FakeEngine(), shelf=shelf) as address:
        client = reelray.Client(address)
        render = client.submit("a disc")
        watching = client.watch(render.id)
        reading = client.download(render.id, follow=True)
        hands.claim()
        hands.commit(b"first ")
        seen = [next(watching) for _ in range(3)]
        data = [next(reading)]
    rest = threading.Thread(target=lambda: (seen.extend(watching), data.extend(reading)), daemon=True)
    rest.start()
    hands.commit(b"second")
    hands.finish()
    with serve(FakeEngine(), shelf=shelf, address=address), client:
        rest.join(30)
        assert [event.number for event in seen] == [1, 2, 3, 4, 5]
        assert b"".join(data) == b"first second"


def test_patience_ends_and_is_only_for_what_may_pass():
    slept, now = [], [0.0]

    def sleep(pause_s):
        slept.append(pause_s)
        now[0] += pause_s

    patience = Patience(5.0, clock=lambda: now[0], sleep=sleep)
    for _ in range(4):
        patience.wait(StoreError("away"))
    with pytest.raises(StoreError):
        patience.wait(StoreError("away"))
    assert slept == [0.2, 0.4, 0.8, 1.6]
    patience.heard()
    patience.wait(EngineError("lost"))
    for error in (StoreStartError("x"), QuotaError("x"), InputError("x")):
        with pytest.raises(type(error)):
            patience.wait(error)


class LosesTheAnswer:
    """A call whose answer is lost on its way, the first time."""

    def __init__(self, call):
        self.call, self.calls = call, 0

    def __call__(self, *said, **how):
        answer = self.call(*said, **how)
        self.calls += 1
        if self.calls == 1:
            raise Unavailable
        return answer


class Unavailable(grpc.RpcError):
    def code(self):
        return grpc.StatusCode.UNAVAILABLE

    def details(self):
        return "the line broke"

    def trailing_metadata(self):
        return ()


def test_a_submit_whose_answer_was_lost_makes_no_second_render(shelf):
    with serve(FakeEngine(), shelf=shelf) as address, connect_renders(ServerAddress(address=address)) as renders:
        renders._stub.Submit = losing = LosesTheAnswer(renders._stub.Submit)
        render, fresh = renders.submit(RenderOptions(prompt="a disc"), Wanted())
        assert (losing.calls, fresh) == (2, False)
        assert [one.id for one in renders.list()] == [render.id]
