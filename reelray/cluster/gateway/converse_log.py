"""What a session says to its client, in order, kept until the client has it."""

import threading
from collections import deque
from collections.abc import Callable

from reelray.proto.errors import InputError, ReelrayError
from reelray.proto.v1 import converse_pb2 as wire
from reelray.proto.v1 import video_spec_pb2


class ConverseLog:
    """Numbered events, and the newest progress of each stage; for any number of threads.

    Whoever appends media waits for room first, so that a client that receives nothing holds the engine back. Answers
    are not waited with: each is of a command, of which few are open at a time.

    Args:
        window_bytes: Of events that the client has not received.
    """

    def __init__(self, window_bytes: int) -> None:
        self._window_bytes = window_bytes
        self._changed = threading.Condition()
        self._events: deque[wire.ConverseEvent] = deque()
        self._bytes, self._number = 0, 0
        self._progress: dict[int, video_spec_pb2.StageProgress] = {}
        self._closed = False
        self.ended = False
        self.error: ReelrayError | None = None
        self.listen: Callable[[], None] = lambda: None
        """Called, in any thread, when there is something to be sent, or it has ended."""

    @property
    def is_full(self) -> bool:
        """Whether media waits for the client."""
        return self._bytes >= self._window_bytes

    @property
    def is_empty(self) -> bool:
        """Whether the client has received all that was said."""
        return not self._events

    @property
    def first(self) -> int:
        """Number of the first event that the client has not received."""
        with self._changed:
            return self._number - len(self._events) + 1

    @property
    def answers(self) -> int:
        """Answers that the client has not received."""
        with self._changed:
            return sum(event.HasField("answer") for event in self._events)

    def append(self, event: wire.ConverseEvent) -> None:
        """Say something; it gets its number."""
        with self._changed:
            self._number += 1
            event.number = self._number
            self._events.append(event)
            self._bytes += event.ByteSize()
            self._changed.notify_all()
        self.listen()

    def tell(self, progress: video_spec_pb2.StageProgress) -> None:
        """Say how far a stage is; takes the place of what was not sent yet."""
        with self._changed:
            self._progress[progress.stage] = progress
        self.listen()

    def take_progress(self) -> list[wire.ConverseEvent]:
        """What stages have done since this was asked for."""
        with self._changed:
            told, self._progress = self._progress, {}
        return [wire.ConverseEvent(progress=progress) for progress in told.values()]

    def next_after(self, number: int) -> wire.ConverseEvent | None:
        """The event behind the one of this number, or behind those that were received; None if there is none yet."""
        with self._changed:
            first = self._number - len(self._events) + 1
            place = max(0, number + 1 - first)
            return self._events[place] if place < len(self._events) else None

    def received(self, number: int) -> None:
        """Forget events up to this number.

        Raises:
            InputError: There is none of this number yet.
        """
        with self._changed:
            if number > self._number:
                raise InputError(f"event {number} was received, and the last one is {self._number}")
            while self._events and self._events[0].number <= number:
                self._bytes -= self._events.popleft().ByteSize()
            self._changed.notify_all()
        self.listen()

    def wait_until(self, look: Callable[[], bool]) -> bool:
        """Wait until something is so, looking when events come and go; returns False once it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or look())
            return not self._closed

    def end(self, error: ReelrayError | None = None) -> None:
        """Nothing follows, or this error only; the first end counts."""
        with self._changed:
            if not self.ended:
                self.ended, self.error = True, error
            self._closed = True
            self._changed.notify_all()
        self.listen()
