"""How the line of a conversation stands: what is done between waits, in threads and in asyncio alike."""

from collections.abc import Callable

from reelray.cluster.client.dialogue import Answer, Dialogue, Reunion
from reelray.cluster.client.orders import Order
from reelray.cluster.video_writer import FramesArray
from reelray.proto.errors import EndedError, ReelrayError
from reelray.proto.events import Progress
from reelray.proto.v1 import converse_pb2 as wire

Put = Callable[[wire.ConverseRequest | None], None]
"""Says something on a call; None says that nothing follows."""


class LineState:
    """Its users see to it that one thread is in here at a time.

    Args:
        dialogue: What is known and what is to be said.
    """

    def __init__(self, dialogue: Dialogue) -> None:
        self.dialogue = dialogue
        self.ended = self.closed = False
        self.error: ReelrayError | None = None
        self._put: Put | None = None  # of the call, once the server has answered it

    @property
    def is_over(self) -> bool:
        """Whether nothing comes any more."""
        return self.ended or self.closed

    @property
    def is_open(self) -> bool:
        """Whether the server has answered, or never will."""
        return bool(self.dialogue.session_id) or self.is_over

    @property
    def is_complete(self) -> bool:
        """Whether a call that ends now needs no other."""
        return self.dialogue.summary is not None or self.closed

    def hear(self, event: wire.ConverseEvent, put: Put, reunion: Reunion) -> None:
        """Take in what came over a call.

        Raises:
            EngineError: It was not due.
        """
        self.dialogue.take(event)
        if event.HasField("accepted"):
            reunion.heard()
            for command in self.dialogue.unanswered():
                put(command)
            self._put = None if self.closed else put
        self.acknowledge()
        if self.is_complete:
            put(None)

    def hang_up(self) -> None:
        """The call is over."""
        self._put = None

    def end(self, error: ReelrayError | None) -> None:
        """Nothing comes any more."""
        self.ended, self.error = True, error

    def leave(self) -> bool:
        """Tell the server that its client leaves; returns whether that is new."""
        if self.closed:
            return False
        self.closed = True
        if self._put is not None:
            self._put(wire.ConverseRequest(leave={}))
            self._put(None)
        return True

    def acknowledge(self) -> None:
        """Tell the server what is dealt with."""
        if self._put is not None and (received := self.dialogue.acknowledge()) is not None:
            self._put(received)

    def say(self, order: Order) -> int:
        """Say something, now or when the session is taken up again; returns its number.

        Raises:
            EndedError: Nobody would hear it.
        """
        if self.closed:
            raise EndedError("the stream was closed; nothing can be said to it any more")
        if self.error is not None:
            raise self.error
        number, said = self.dialogue.order(order)
        if self._put is not None:
            self._put(said)
        return number

    def is_answered(self, number: int) -> bool:
        """Whether an answer is there, or none will come."""
        return number in self.dialogue.answers or self.is_over

    def answer(self, number: int) -> Answer:
        """The answer.

        Raises:
            ReelrayError: It was refused, or there is none.
        """
        answer = self.dialogue.answers.pop(number, None) or self.error
        if answer is None:
            raise EndedError("the stream has ended; nothing can be said to it any more")
        if isinstance(answer, ReelrayError):
            raise answer
        return answer

    def take(self) -> tuple[FramesArray | None, list[Progress]]:
        """The next frames, if there are some, and how far it is; those before are dealt with."""
        frames_FHWC = None if self.closed else self.dialogue.take_frames()
        self.acknowledge()
        told = [*self.dialogue.progress.values()]
        self.dialogue.progress.clear()
        return frames_FHWC, told

    def check_end(self) -> None:
        """Raise what ended it, if it was not its client."""
        if self.error is not None and not self.closed:
            raise self.error
