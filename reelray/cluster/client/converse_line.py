"""The line of a conversation: a thread that listens, and takes the session up again where a call breaks."""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import grpc

from reelray.cluster.client.connection import ServerAddress, error_of
from reelray.cluster.client.dialogue import Answer, Dialogue, Reunion
from reelray.cluster.client.orders import Order
from reelray.cluster.client.patience import Patience
from reelray.cluster.video_writer import FramesArray
from reelray.proto.errors import EndedError, ReelrayError
from reelray.proto.events import Progress
from reelray.proto.v1 import converse_pb2 as wire
from reelray.proto.v1 import videos_pb2_grpc

LEAVE_S = 2.0
"""For the server to hear that its client leaves."""
Said = SimpleQueue[wire.ConverseRequest | None]


class ConverseLine:
    """Speaks with one session of a server; for any number of threads, of which one takes frames.

    Args:
        channel: To the server.
        server: Whose it is.
        dialogue: What is known and what is to be said.
        patience_s: How long a broken call is tried again.

    Raises:
        ReelrayError: The server refused, or was lost.
    """

    def __init__(self, channel: grpc.Channel, server: ServerAddress, dialogue: Dialogue, patience_s: float) -> None:
        stub = videos_pb2_grpc.VideosStub(channel)  # type: ignore[no-untyped-call]
        self._converse: Callable[..., Any] = stub.Converse
        self._metadata, self.patience_s = server.metadata, patience_s
        self.dialogue = dialogue
        self._changed = threading.Condition()
        self._said: Said | None = None
        self._call: Any = None
        self._ended = self._closed = False
        self._error: ReelrayError | None = None
        self._thread = threading.Thread(target=self._run, name="conversation", daemon=True)
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: dialogue.session_id or self._ended)
            if self._error is not None:
                raise self._error

    def take(self, on_progress: Callable[[Progress], None]) -> FramesArray | None:
        """The next frames, F, H, W, 3, read-only; waits for them. None at the end.

        Raises:
            ReelrayError: The session failed, or was lost.
        """
        while True:
            with self._changed:
                frames_FHWC = None if self._closed else self.dialogue.take_frames()
                self._acknowledge()
                told = [*self.dialogue.progress.values()]
                self.dialogue.progress.clear()
                if frames_FHWC is None and not told:
                    if self._ended or self._closed:
                        self._check_end()
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
            if self._closed:
                raise EndedError("the stream was closed; nothing can be said to it any more")
            number, said = self.dialogue.order(order)
            if self._said is not None:  # else it is said when the session is taken up again
                self._said.put(said)
            self._changed.wait_for(lambda: number in self.dialogue.answers or self._ended or self._closed)
            answer = self.dialogue.answers.pop(number, None) or self._error
        if answer is None:
            raise EndedError("the stream has ended; nothing can be said to it any more")
        if isinstance(answer, ReelrayError):
            raise answer
        return answer

    def close(self) -> None:
        """Leave; the session ends where it is. Harmless when called twice."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            if self._said is not None:
                self._said.put(wire.ConverseRequest(leave={}))
                self._said.put(None)
            self._changed.notify_all()
        self._thread.join(LEAVE_S)
        if self._call is not None:
            self._call.cancel()

    def _check_end(self) -> None:
        if self._error is not None and not self._closed:
            raise self._error

    def _run(self) -> None:
        reunion = Reunion(self.dialogue, Patience(self.patience_s))
        try:
            while not self._closed:
                error = self._converse_once(reunion)
                if self.dialogue.summary is not None or self._closed:
                    break
                self._pause(reunion.pause_s(error))
        except ReelrayError as error:
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _converse_once(self, reunion: Reunion) -> ReelrayError | None:
        said: Said = SimpleQueue()
        said.put(self.dialogue.first)
        call = self._converse(iter(said.get, None), metadata=self._metadata)
        call.add_callback(lambda: said.put(None))  # gRPC's thread would wait for the next word
        self._call = call
        try:
            for event in call:
                self._hear(event, said, reunion)
        except grpc.RpcError as failed:
            return error_of(failed)
        finally:
            self._said = None
            call.cancel()
        return None

    def _hear(self, event: wire.ConverseEvent, said: Said, reunion: Reunion) -> None:
        with self._changed:
            self.dialogue.take(event)
            if event.HasField("accepted"):
                reunion.heard()
                for command in self.dialogue.unanswered():
                    said.put(command)
                if not self._closed:
                    self._said = said
            self._acknowledge()
            if event.HasField("done") or self._closed:
                said.put(None)
            self._changed.notify_all()

    def _acknowledge(self) -> None:
        if self._said is not None and (received := self.dialogue.acknowledge()) is not None:
            self._said.put(received)

    def _pause(self, pause_s: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed, pause_s)
