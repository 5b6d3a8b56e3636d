"""Events of a request on another process, closed by another thread than the one that reads them."""

import threading

import pytest

from reelray.cluster import remote_engine
from reelray.cluster.remote_engine import EngineView, RemoteStream
from reelray.proto.errors import EndedError, EngineError
from reelray.proto.events import Progress, Stage
from reelray.proto.request import RequestId
from reelray.proto.session import Fork, Pause
from tests.support.fake_engine import DESCRIPTION
from tests.support.requests import make_request

NAME = RequestId("r-1")
STEP = Progress(request_id=NAME, stage=Stage.DENOISE, done=1, total=2)


class FakeActor:
    """Answers pulls from a list; a callable is called for its answer."""

    def __init__(self, *answers):
        self.answers, self.cancelled = list(answers), 0

    @property
    def take(self):
        return self

    @property
    def cancel(self):
        return self

    def options(self, **_):
        return self

    def remote(self, *said):
        if len(said) == 1:
            self.cancelled += 1
            return True
        answer = self.answers.pop(0)
        answer = answer() if callable(answer) else answer
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch):
    monkeypatch.setattr(remote_engine, "_fetch", lambda value, _within_s=None: value)
    monkeypatch.setattr(remote_engine.ray, "is_initialized", lambda: True)


@pytest.mark.parametrize("last", [[], [STEP, STEP], EndedError("not here")], ids=["nothing", "more", "gone"])
def test_closing_ends_a_pull_in_another_thread(last):
    pulled, closed = threading.Event(), threading.Event()

    def slow():
        pulled.set()
        assert closed.wait(10)
        return last

    actor = FakeActor([STEP], slow)
    stream, got = RemoteStream(actor, NAME), []
    reader = threading.Thread(target=lambda: got.extend(stream), daemon=True)
    reader.start()
    assert pulled.wait(10)
    stream.close()
    closed.set()
    reader.join(10)
    assert not reader.is_alive()
    assert (got, actor.cancelled) == ([STEP], 1)
    stream.close()
    assert actor.cancelled == 1


def test_a_pull_that_brings_nothing_is_made_again():
    stream = RemoteStream(FakeActor([], [], [STEP]), NAME)
    assert next(stream) == STEP


def test_a_lost_engine_is_told_once_and_not_asked_any_more():
    actor = FakeActor(EngineError("gone"))
    stream = RemoteStream(actor, NAME)
    with pytest.raises(EngineError):
        next(stream)
    assert list(stream) == []
    stream.close()
    assert actor.cancelled == 0


class Orders:
    """An actor that notes what it is asked."""

    def __init__(self):
        self.asked = []

    def __getattr__(self, name):
        return type("Method", (), {"remote": lambda _, *said: self.asked.append((name, *said))})()


def test_what_runs_is_spoken_to_where_it_began_and_forks_have_its_client():
    """Also once the model has moved to another actor."""
    old, new = Orders(), Orders()
    view = EngineView(old, DESCRIPTION, client="gateway-1")
    request, fork = make_request("r-1"), Fork(request_id=RequestId("r-2"))
    stream = view.render(request)
    view.move(new, DESCRIPTION)
    _, other = view.fork(NAME, fork)
    view.tell(other.request_id, Pause())
    view.tell(RequestId("r-3"), Pause())
    assert old.asked == [
        ("submit", request, None, "gateway-1"),
        ("fork", "r-1", fork, "gateway-1"),
        ("tell", "r-2", Pause()),
    ]
    assert new.asked == [("tell", "r-3", Pause())]
    assert stream.actor is other.actor is old
