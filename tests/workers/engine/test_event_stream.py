"""Events of a request between two threads, one of which may leave."""

import threading

import pytest

from reelray.proto.errors import EngineError
from reelray.proto.events import Frames, Progress, Stage
from reelray.proto.request import RequestId
from reelray.workers.engine.event_stream import EventStream

NAME = RequestId("r-1")
STEP = Progress(request_id=NAME, stage=Stage.DENOISE, done=1, total=2)


def frames(count):
    return Frames(request_id=NAME, first_frame=0, count=count, height=1, width=1, data=bytes(3 * count))


@pytest.fixture
def calls():
    return []


@pytest.fixture
def stream(calls):
    return EventStream(NAME, acknowledge=calls.append, cancel=lambda: calls.append("cancel"))


def in_thread(work):
    done = []
    thread = threading.Thread(target=lambda: done.append(work()), daemon=True)
    thread.start()
    return thread, done


def test_closing_ends_a_wait_in_another_thread(stream, calls):
    reader, got = in_thread(lambda: list(stream))
    stream.put(STEP)
    stream.close()
    reader.join(10)
    assert not reader.is_alive()
    assert got[0] in ([], [STEP])
    assert calls == ["cancel"]
    assert stream.ended


def test_closing_ends_a_take_in_another_thread(stream):
    taker, got = in_thread(stream.take)
    stream.close()
    taker.join(10)
    assert got == [[]]


def test_what_arrives_after_it_was_closed_does_not_open_it_again(stream, calls):
    stream.put(frames(3))
    assert next(stream).count == 3
    stream.close()
    stream.put(frames(4))
    stream.put(EngineError("too late"))
    assert list(stream) == []
    assert stream.take(0.0) == []
    assert calls == ["cancel"]
    stream.close()
    assert calls == ["cancel"]


def test_what_is_taken_is_acknowledged_by_the_next_taking(stream, calls):
    for count in (2, 3):
        stream.put(frames(count))
    assert [item.count for item in stream.take(1.0)] == [2, 3]
    assert calls == []
    assert stream.take(0.0) == []
    assert calls == [5]


def test_a_take_has_a_limit(stream):
    for _ in range(3):
        stream.put(frames(10))
    assert len(stream.take(1.0, limit_bytes=31)) == 2
    assert len(stream.take(1.0, limit_bytes=31)) == 1


def test_an_error_ends_it(stream):
    stream.put(STEP)
    stream.put(EngineError("gone"))
    assert next(stream) == STEP
    with pytest.raises(EngineError):
        next(stream)
    assert list(stream) == []
