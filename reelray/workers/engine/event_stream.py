"""The events of one request, between the leader's thread and the client's."""

import contextlib
import queue
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from reelray.proto.errors import ReelrayError
from reelray.proto.events import Done, Event, Frames
from reelray.proto.request import RequestId


class EventStream(Iterator[Event]):
    """Iterates over the events of one request; ends after `Done`, raises the request's error.

    Taking the next event acknowledges the frames taken before it: a client that stops taking stops the decoder. Leaving
    the `with` block early cancels the request. One thread takes; any other may close, which ends a wait.

    Args:
        request_id: The request.
        acknowledge: Called with the pixel frames that the client is done with.
        cancel: Called when the client leaves early.
    """

    def __init__(
        self, request_id: RequestId, *, acknowledge: Callable[[int], None], cancel: Callable[[], object]
    ) -> None:
        self.request_id = request_id
        self._acknowledge = acknowledge
        self._cancel = cancel
        self._queue: queue.SimpleQueue[Event | ReelrayError | None] = queue.SimpleQueue()
        self._taken_frames = 0
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether the last event, or the error, was taken."""
        return self._ended

    def put(self, item: Event | ReelrayError) -> None:
        """Leader's side: hand on an event, or the error that ends the request."""
        self._queue.put(item)

    def take(self, timeout_s: float | None = None, *, limit_bytes: int = 1 << 24) -> list[Event | ReelrayError]:
        """Wait for something, then take what there is; empty when the time is up or the stream has ended.

        Args:
            timeout_s: Longest wait; None waits for ever.
            limit_bytes: Frames beyond this are left for the next call.
        """
        if self._ended:
            return []
        self._acknowledge_taken()
        items: list[Event | ReelrayError] = []
        with contextlib.suppress(queue.Empty):
            item = self._queue.get(timeout=timeout_s)
            while item is not None:
                items.append(self._note(item))
                if self._ended or sum(len(i.data) for i in items if isinstance(i, Frames)) >= limit_bytes:
                    break
                item = self._queue.get_nowait()
        return items

    def close(self) -> None:
        """Cancel the request if it still goes on."""
        if not self._ended:
            self._ended = True
            self._cancel()
            self._queue.put(None)  # for whoever waits in another thread

    def __next__(self) -> Event:
        if self._ended:
            raise StopIteration
        self._acknowledge_taken()
        item = self._queue.get()
        if item is None:
            raise StopIteration
        self._note(item)
        if isinstance(item, ReelrayError):
            raise item
        return item

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _acknowledge_taken(self) -> None:
        if self._taken_frames:
            frames, self._taken_frames = self._taken_frames, 0
            self._acknowledge(frames)

    def _note(self, item: Event | ReelrayError) -> Event | ReelrayError:
        if isinstance(item, Frames):
            self._taken_frames += item.count
        if isinstance(item, Done | ReelrayError):
            self._ended = True
        return item
