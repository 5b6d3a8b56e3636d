"""The line of a conversation: a thread that listens, and takes the session up again where a call breaks."""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import grpc

from reelray.cluster.client.connection import ServerAddress, error_of
from reelray.cluster.client.dialogue import Answer, Dialogue, Reunion
from reelray.cluster.client.line_state import LineState
from reelray.cluster.client.notices import Notices
from reelray.cluster.client.orders import Order
from reelray.cluster.client.patience import Patience
from reelray.cluster.video_writer import FramesArray
from reelray.proto.errors import ReelrayError
from reelray.proto.events import Progress
from reelray.proto.v1 import converse_pb2 as wire
from reelray.proto.v1 import videos_pb2_grpc

LEAVE_S = 2.0
"""For the server to hear that its client leaves."""


class ConverseLine:
    """Speaks with one session of a server; for any number of threads, of which one takes frames.

    Args:
        channel: To the server.
        server: Whose it is.
        dialogue: What is known and what is to be said.
        patience_s: How long a broken call is tried again.
        notices: Hears how it waits, and that the line broke.

    Raises:
        ReelrayError: The server refused, or was lost.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        server: ServerAddress,
        dialogue: Dialogue,
        patience_s: float,
        notices: Notices | None = None,
    ) -> None:
        stub = videos_pb2_grpc.VideosStub(channel)  # type: ignore[no-untyped-call]
        self._converse: Callable[..., Any] = stub.Converse
        self._metadata, self.patience_s = server.metadata, patience_s
        self._state, self.notices = LineState(dialogue), notices or Notices(what="the stream")
        self._changed = threading.Condition()
        self._call: Any = None
        self._thread = threading.Thread(target=self._run, name="conversation", daemon=True)
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._state.is_open)
            self._state.check_end()

    def take(self, on_progress: Callable[[Progress], None]) -> FramesArray | None:
        """The next frames, F, H, W, 3, read-only; waits for them. None at the end.

        Raises:
            ReelrayError: The session failed, or was lost.
        """
        while True:
            with self._changed:
                frames_FHWC, told = self._state.take()
                if frames_FHWC is None and not told:
                    if self._state.is_over:
                        self._state.check_end()
                        return None
                    self._changed.wait()
            for progress in told:
                on_progress(progress)
            if frames_FHWC is not None:
                return frames_FHWC

    def tell(self, order: Order) -> Answer:
        """Say something and wait for the answer.

        Raises:
            ReelrayError: It was refused, or the session has ended.
        """
        with self._changed:
            number = self._state.say(order)
            self._changed.wait_for(lambda: self._state.is_answered(number))
            return self._state.answer(number)

    def close(self) -> None:
        """Leave; the session ends where it is. Harmless when called twice."""
        with self._changed:
            if not self._state.leave():
                return
            self._changed.notify_all()
        self._thread.join(LEAVE_S)
        if self._call is not None:
            self._call.cancel()

    def _run(self) -> None:
        reunion, end = Reunion(self._state.dialogue, Patience(self.patience_s, notices=self.notices)), None
        try:
            while not self._state.closed:
                error = self._converse_once(reunion)
                if self._state.is_complete:
                    break
                self._pause(reunion.pause_s(error))
        except ReelrayError as error:
            end = error
        with self._changed:
            self._state.end(end)
            self._changed.notify_all()

    def _converse_once(self, reunion: Reunion) -> ReelrayError | None:
        """One call, up to its end; returns how it broke."""
        said: SimpleQueue[wire.ConverseRequest | None] = SimpleQueue()
        said.put(self._state.dialogue.first)
        self._call = call = self._converse(iter(said.get, None), metadata=self._metadata)
        call.add_callback(lambda: said.put(None))  # gRPC's thread would wait for the next word
        try:
            for event in call:
                if event.HasField("queued"):
                    self.notices.queued(event.queued)
                with self._changed:
                    self._state.hear(event, said.put, reunion)
                    self._changed.notify_all()
        except grpc.RpcError as failed:
            return error_of(failed)
        finally:
            with self._changed:
                self._state.hang_up()
            call.cancel()
        return None

    def _pause(self, pause_s: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._state.closed, pause_s)
