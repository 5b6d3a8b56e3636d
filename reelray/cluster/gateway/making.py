"""One video that an engine makes for a client."""

import contextlib
import threading
from collections.abc import Iterator

from reelray.cluster.engine_api import Engine
from reelray.cluster.gateway.media import MediaEncoder
from reelray.cluster.gateway.video_answers import done, moved_on
from reelray.cluster.render import RenderJob
from reelray.cluster.render_session import checked
from reelray.proto.errors import ReelrayError
from reelray.proto.events import Event, Frames, Progress
from reelray.proto.v1 import video_spec_pb2 as wire
from reelray.proto.v1 import videos_pb2


class Making:
    """Iterate once, in one thread; `leave` may be called from another.

    Args:
        engine: Holds the job's model.
        job: What to make.
        media: What the client wants to receive.

    Raises:
        InputError: `media` is none that this version knows.
    """

    def __init__(self, engine: Engine, job: RenderJob, media: wire.Media) -> None:
        self._engine, self._job = engine, job
        self._encoder = MediaEncoder(media, job, engine.description.digest)
        self._lock = threading.Lock()
        self._events: Iterator[Event] | None = None
        self._left = False

    def __iter__(self) -> Iterator[videos_pb2.GenerateEvent]:
        """Yield what there is to send, in order.

        Raises:
            ReelrayError: The engine refused or failed.
        """
        with self._lock:
            if self._left:
                return
            self._events = self._engine.render(self._job.request)
        try:
            yield from self._answers(self._events)
        finally:
            self._encoder.abandon()
            _close(self._events)

    def leave(self) -> None:
        """Stop the engine at its next step."""
        with self._lock:
            self._left = True
            events = self._events
        if events is not None:
            _close(events)

    def _answers(self, events: Iterator[Event]) -> Iterator[videos_pb2.GenerateEvent]:
        for event in checked(events, self._job.request):
            if isinstance(event, Progress):
                yield videos_pb2.GenerateEvent(progress=moved_on(event))
            elif isinstance(event, Frames):
                yield from self._encoder.write(event)
            else:
                yield from self._encoder.finish()
                yield videos_pb2.GenerateEvent(done=done(event.summary))


def _close(events: Iterator[Event]) -> None:
    close = getattr(events, "close", None)
    if close is not None:
        # A generator that runs in the other thread ends there; an engine that is lost has stopped, too.
        with contextlib.suppress(ValueError, ReelrayError):
            close()
