"""A session without a network: what goes into its log, and in which order."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from reelray.cluster.gateway.conversation import Conversation, Terms
from reelray.cluster.gateway.converse_log import ConverseLog
from reelray.cluster.gateway.live_quotas import Admission
from reelray.cluster.gateway.served_models import ServedModel
from reelray.cluster.gateway.session_charges import SessionCharges
from reelray.cluster.render import RenderOptions, plan_job
from reelray.cluster.stream_flow import Taken
from reelray.proto.errors import InputError
from reelray.proto.events import Frames
from reelray.proto.v1 import converse_pb2 as wire
from reelray.proto.v1 import video_spec_pb2
from tests.support.fake_engine import FakeEngine, fake_entry
from tests.support.free_quotas import free_quotas
from tests.support.waiting import wait_until

WIDTH, HEIGHT = 32, 16


class ScriptedStream:
    """Hands out frames when it is told to, of the stream that it was when they were asked for."""

    def __init__(self):
        self.job = plan_job(
            RenderOptions(prompt="x", size=(WIDTH, HEIGHT), frames=81), fake_entry(path=Path("/m/fake"))
        )
        self.fps, self.frames = self.job.fps, 81
        self.position = self.seeks = 0
        self.summary, self.asked, self.go = None, 0, threading.Semaphore(0)
        self.closed = False

    def take(self):
        first, seeks = self.position, self.seeks
        self.asked += 1
        self.go.acquire()
        if self.closed:
            return None
        if seeks == self.seeks:
            self.position += 4
        data = bytes([first]) * (4 * WIDTH * HEIGHT * 3)
        frames = Frames(request_id="r", first_frame=first, count=4, height=HEIGHT, width=WIDTH, data=data)
        return Taken(frames=frames, seeks=seeks)

    def seek(self, seconds):
        self.position, self.seeks = round(seconds * self.fps), self.seeks + 1
        return seconds

    def close(self):
        self.closed = True
        self.go.release()


@pytest.fixture
def talk():
    stream = ScriptedStream()
    model = ServedModel(fake_entry(), FakeEngine)
    terms = Terms(
        model=model, tenant="ann", media=video_spec_pb2.MEDIA_RGB24, keep_s=9, window_bytes=4 * WIDTH * HEIGHT * 3
    )
    conversation = Conversation(stream, terms, SimpleNamespace(), SessionCharges(free_quotas(), Admission(0)))
    conversation.start()
    yield conversation, stream
    conversation.close()


def told(log):
    """Frames of media, and numbers of answers."""
    events, number = [], 0
    while (event := log.next_after(number)) is not None:
        number = event.number
        events.append(event.media.frame if event.HasField("media") else f"answer {event.answer.number}")
    return events


def test_frames_that_were_on_their_way_when_it_was_sought_in_are_not_sent(talk):
    conversation, stream = talk
    stream.position = 40
    wait_until(lambda: stream.asked == 1)
    conversation.carry_out(wire.ConverseRequest.Command(number=1, seek={"seconds": 0.5}))
    stream.go.release()  # what was asked for before
    wait_until(lambda: stream.asked == 2)
    stream.go.release()
    wait_until(lambda: len(told(conversation.log)) == 2)
    assert told(conversation.log) == ["answer 1", 8]


def test_nothing_is_asked_of_the_engine_while_the_client_has_no_room(talk):
    conversation, stream = talk
    stream.go.release()
    wait_until(lambda: conversation.log.is_full)
    conversation.carry_out(wire.ConverseRequest.Command(number=1, seek={"seconds": 1.0}))  # answers need no room
    threading.Event().wait(0.05)
    assert (stream.asked, told(conversation.log)) == (1, [0, "answer 1"])
    conversation.log.received(2)
    wait_until(lambda: stream.asked == 2)


def test_a_log_hands_on_what_was_not_received_by_its_number():
    log, heard = ConverseLog(10_000), []
    log.listen = lambda: heard.append(1)
    for data in (b"a", b"bb", b"ccc"):
        log.append(wire.ConverseEvent(media={"data": data}))
    assert [log.next_after(n).media.data for n in (0, 1, 2)] == [b"a", b"bb", b"ccc"]
    assert log.next_after(3) is None
    log.received(2)
    assert log.next_after(0).number == 3
    log.received(1)  # said before
    assert (log.is_empty, log.is_full) == (False, False)
    with pytest.raises(InputError, match="event 4 was received, and the last one is 3"):
        log.received(4)
    log.received(3)
    assert log.is_empty
    log.end(InputError("x"))
    log.end()
    assert (log.ended, log.error.message) == (True, "x")
    assert not log.wait_until(lambda: False)
    assert len(heard) == 8
