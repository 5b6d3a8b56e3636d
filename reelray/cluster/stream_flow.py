"""What comes of a stream, which may be exchanged for another while somebody takes it."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from reelray.cluster.render import RenderJob
from reelray.cluster.render_session import check_order
from reelray.proto.errors import CancelledError, EndedError, ReelrayError
from reelray.proto.events import Event, Frames, Progress
from reelray.proto.request import RenderRequest, RenderSummary, RequestId


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """Frames, and where they belong.

    Args:
        frames: As the engine made them.
        seeks: How often the stream had been sought in.
    """

    frames: Frames
    seeks: int


class StreamFlow:
    """One thread takes; everything else may be called from any.

    Args:
        job: What is made.
        events: What comes of it.
        frame: The first pixel frame that comes.
    """

    def __init__(self, job: RenderJob, events: Iterator[Event], frame: int) -> None:
        self.job, self.position, self.seeks = job, frame, 0
        self.summary: RenderSummary | None = None
        self._events = events
        self._over: str | None = None
        self._closed = False
        self._turn = threading.Lock()  # held while the stream is exchanged for another

    def take(self, on_progress: Callable[[Progress], None]) -> Taken | None:
        """The next frames; None at the end.

        Raises:
            ReelrayError: The stream failed.
        """
        while (told := self._next_event()) is not None:
            event, seeks = told
            if isinstance(event, Progress):
                on_progress(event)
            elif isinstance(event, Frames):
                return Taken(frames=event, seeks=seeks)
            else:
                self.summary = event.summary
        return None

    def check_open(self) -> None:
        """Refuse what is said too late.

        Raises:
            EndedError: Nothing can be said to the stream any more.
        """
        if self._over is not None:
            raise EndedError(f"{self._over}; nothing can be said to it any more")

    def end(self, told: str) -> None:
        """Nothing can be said to it from now on; the first reason counts."""
        self._over = self._over or told

    def amend(self, request_id: RequestId, **said: Any) -> None:
        """Note what the engine was told, if the stream was not exchanged meanwhile."""
        with self._turn:
            if self.job.request.request_id == request_id:
                self.job = replace(self.job, request=replace(self.job.request, **said))

    def exchange(self, begin: Callable[[RenderJob, int], tuple[RenderRequest, Iterator[Event], int]]) -> int:
        """Go on with another stream.

        Args:
            begin: Of the job and the position now makes the other request, its events, and its first frame.

        Returns:
            That frame.

        Raises:
            EndedError: It is over.
        """
        with self._turn:
            self.check_open()
            request, events, frame = begin(self.job, self.position)
            old, self._events = self._events, events
            self.job, self.position = replace(self.job, request=request), frame
            self.seeks += 1
        _close(old)
        return frame

    def close(self) -> None:
        """End it where it is; harmless when called twice."""
        self._closed = True
        self.end("the stream was closed")
        _close(self._events)

    def _next_event(self) -> tuple[Event, int] | None:
        """The next event, of the stream that is the one by then, and how often it was sought in; None at the end."""
        while True:
            events = self._events
            try:
                event = next(events, None)
            except ReelrayError as error:
                event = None
                left = isinstance(error, CancelledError) and events is not self._events
                if not self._closed and not left:
                    raise
            with self._turn:
                if events is self._events:
                    if isinstance(event, Frames):
                        check_order(event, self.position, self.job.request)
                        self.position += event.count
                    if event is None:
                        self.end("the stream has ended")
                        return None
                    return event, self.seeks


def _close(events: Iterator[Event]) -> None:
    close = getattr(events, "close", None)
    if close is not None:
        close()
