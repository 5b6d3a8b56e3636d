"""A server with the tiny stream, and a client that says what it likes over the wire."""

import queue
from contextlib import contextmanager

import numpy as np

from reelray.cluster.services import default_services
from reelray.proto.placement import Placement
from reelray.proto.residency import Residency
from reelray.proto.v1 import converse_pb2 as wire
from reelray.proto.v1 import video_spec_pb2, videos_pb2_grpc
from tests.support.gateway import connect, serve

FRAME_BYTES = 32 * 48 * 3
SILENCE = object()
Say, Request = wire.ConverseRequest.Command, wire.ConverseRequest


def open_tiny(folder):
    """Entry and engine of a tiny checkpoint, in this process."""
    services = default_services()
    entry = services.open_catalog(services.load_settings()).find(str(folder))
    return entry, services.open_engine("local", entry, "cpu", Placement(), Residency())


@contextmanager
def serve_tiny(folder, **how):
    """Serve one; gives the address and the engine."""
    entry, engine = open_tiny(folder)
    try:
        with serve(engine, entries=[entry], **how) as address:
            yield address, engine
    finally:
        engine.close()


def start_of(prompt="a red circle", *, frames=61, media=video_spec_pb2.MEDIA_RGB24, **how):
    """The first message of a session as those of `stream_sessions.WISH`."""
    video = video_spec_pb2.VideoSpec(
        prompt=prompt, frames=frames, fps=16, seed=3, size=video_spec_pb2.Size(width=48, height=32)
    )
    return Request(start=Request.Start(video=video, media=media, **how))


class Talk:
    """A call that says messages and notes what comes.

    Args:
        channel: To the server.
        first: What is said first.
        **how: Of the call.
    """

    def __init__(self, channel, first, **how):
        self._said = queue.SimpleQueue()
        if first is not SILENCE:
            self._said.put(first)
        self.call = videos_pb2_grpc.VideosStub(channel).Converse(iter(self._said.get, None), **how)
        self.call.add_callback(self.finish)  # else gRPC's thread waits for ever for the next word
        self.last, self.media, self.begins, self.answers, self.done = 0, bytearray(), [], {}, None

    def say(self, **message):
        self._said.put(Request(**message))

    def order(self, number, **order):
        self.say(command=Say(number=number, **order))

    def finish(self):
        """Say nothing more."""
        self._said.put(None)

    def next(self):
        """The next event, which is noted."""
        event = next(self.call)
        if event.number:
            assert event.number == self.last + 1, "events are numbered"
            self.last = event.number
        kind = event.WhichOneof("event")
        if kind == "media":
            self.media += event.media.data
            self.begins.append((event.media.offset, event.media.frame))
        elif kind == "answer":
            self.answers[event.answer.number] = event.answer
        elif kind == "done":
            self.done = event.done
        return event

    def until(self, kind):
        """Events up to the first of a kind, which is given."""
        while (event := self.next()).WhichOneof("event") != kind:
            pass
        return getattr(event, kind)

    def rest(self, *, receives=False):
        """Take all that follows."""
        while self.done is None:
            event = self.next()
            if receives and event.number:
                self.say(received=event.number)
        self.finish()
        assert list(self.call) == []
        return self

    @property
    def frames(self):
        return np.frombuffer(bytes(self.media), np.uint8).reshape(-1, 32, 48, 3)


__all__ = ["FRAME_BYTES", "SILENCE", "Request", "Say", "Talk", "connect", "open_tiny", "serve_tiny", "start_of"]
