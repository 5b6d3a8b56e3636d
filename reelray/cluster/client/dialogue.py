"""A conversation as its client knows it: what is to be said, and what came. Nothing here waits, or speaks to anybody.

Shape legend: F pixel frames, H/W pixel height/width.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from reelray.cluster.client.answers import read_plan, read_progress, read_summary
from reelray.cluster.client.connection import REFUSED_S, NobodyListensError, error_for
from reelray.cluster.client.patience import Patience
from reelray.cluster.client.requests import check_bytes
from reelray.cluster.video_facts import VideoFacts
from reelray.cluster.video_writer import FramesArray
from reelray.proto.errors import EndedError, EngineError, ReelrayError, UnknownSessionError
from reelray.proto.request import RenderSummary, RequestId
from reelray.proto.v1 import converse_pb2 as wire

if TYPE_CHECKING:
    from reelray.proto.events import Progress, Stage

Answer = wire.ConverseEvent.Answer


@dataclass(frozen=True, kw_only=True, slots=True)
class _Batch:
    """Whole frames that came.

    Args:
        number: Of the first event that has some of them.
        frame: The first one.
        data: Their bytes.
    """

    number: int
    frame: int
    data: bytes


class Dialogue:
    """Tells what to say, and takes in what comes; its users see to it that one thread does so at a time.

    Args:
        first: With which it begins: the start of a session, or a session to go on with.
        grows: Whether the video may become longer.
    """

    def __init__(self, first: wire.ConverseRequest, *, grows: bool) -> None:
        self._first, self.grows = first, grows
        self.session_id, self.request_id, self.digest = "", RequestId(""), ""
        self.facts: VideoFacts | None = None
        self.summary: RenderSummary | None = None
        self.frames = self.position = 0
        self.answers: dict[int, Answer | ReelrayError] = {}
        self.progress: dict[Stage, Progress] = {}
        self._over: str | None = None
        self._open: dict[int, wire.ConverseRequest] = {}
        self._last = self._commands = self._acknowledged = self._offset = 0
        self._pixels, self._pixels_begin = bytearray(), (0, 0)
        self._batches: deque[_Batch] = deque()
        self._in_hands: int | None = None  # number of the event whose frames were handed out last

    @property
    def first(self) -> wire.ConverseRequest:
        """What a call says at first: the first one, or one that goes on where the last one broke."""
        if not self.session_id:
            return self._first
        return wire.ConverseRequest(go_on={"session_id": self.session_id, "after": self._last})

    def unanswered(self) -> list[wire.ConverseRequest]:
        """Commands to be said again on another call."""
        return list(self._open.values())

    def order(self, order: Mapping[str, Any]) -> tuple[int, wire.ConverseRequest]:
        """A command and its number.

        Raises:
            EndedError: The video is complete.
            InputError: It is too long to be sent.
        """
        if self._over is not None:
            raise EndedError(f"{self._over}; nothing can be said to it any more")
        said = wire.ConverseRequest(command={"number": self._commands + 1, **order})
        check_bytes(said.ByteSize())
        self._commands += 1
        self._open[self._commands] = said
        return self._commands, said

    def take(self, event: wire.ConverseEvent) -> None:
        """Take in what came.

        Raises:
            EngineError: It was not due.
        """
        if event.number:
            if event.number != self._last + 1:
                raise EngineError(f"the server sent event {event.number}; event {self._last + 1} was due")
            self._last = event.number
        match event.WhichOneof("event"):
            case "accepted":
                self._take_accepted(event.accepted)
            case "progress":
                progress = read_progress(event.progress, self.request_id)
                if progress is not None:
                    self.progress[progress.stage] = progress
            case "media":
                self._take_media(event)
            case "answer":
                self._take_answer(event.answer)
            case "done":
                self._take_done(event.done)

    def take_frames(self) -> FramesArray | None:
        """Hand out the next frames, F, H, W, 3; None while there are none. What was handed out before is dealt with."""
        self._in_hands = None
        if not self._batches:
            return None
        facts, batch = self._known_facts(), self._batches.popleft()
        self._in_hands = batch.number
        frames_FHWC = np.frombuffer(batch.data, np.uint8).reshape(-1, facts.height, facts.width, 3)
        self.position = batch.frame + len(frames_FHWC)
        return frames_FHWC

    def acknowledge(self) -> wire.ConverseRequest | None:
        """What is to be said of events that were dealt with since this was asked for; None if there are none."""
        waiting = [self._last + 1]
        waiting += [self._pixels_begin[0]] if self._pixels else []
        waiting += [self._batches[0].number] if self._batches else []
        waiting += [] if self._in_hands is None else [self._in_hands]
        done = min(waiting) - 1
        if done <= self._acknowledged:
            return None
        self._acknowledged = done
        return wire.ConverseRequest(received=done)

    def _take_accepted(self, accepted: wire.ConverseEvent.Accepted) -> None:
        begins = not self.session_id
        self.session_id, self.request_id = accepted.session_id, RequestId(accepted.request_id)
        self._know(accepted.plan)
        if begins:
            self.position, self._commands = accepted.first_frame, accepted.commands

    def _know(self, plan: Any) -> None:
        self.facts, self.frames, self.digest = (
            replace(read_plan(plan), grows=self.grows),
            plan.frames,
            plan.model_digest,
        )

    def _take_media(self, event: wire.ConverseEvent) -> None:
        media = event.media
        if media.offset != self._offset:
            raise EngineError(f"the server sent byte {media.offset}; byte {self._offset} was due")
        self._offset += len(media.data)
        if not self._pixels:
            self._pixels_begin = event.number, media.frame
        self._pixels += media.data
        facts, (number, frame) = self._known_facts(), self._pixels_begin
        size = facts.width * facts.height * 3
        if count := len(self._pixels) // size:
            self._batches.append(_Batch(number=number, frame=frame, data=bytes(self._pixels[: count * size])))
            del self._pixels[: count * size]
            self._pixels_begin = event.number, frame + count

    def _take_answer(self, answer: Answer) -> None:
        said = self._open.pop(answer.number, None)
        if said is None:
            return
        self.frames = answer.frames
        if not answer.HasField("refusal"):
            self.answers[answer.number] = answer
            if said.command.HasField("stop"):
                self._over = "the stream was stopped"
            if said.command.HasField("seek"):
                self._batches.clear()
                self.position = answer.frame
            return
        refusal = answer.refusal
        self.answers[answer.number] = error_for(refusal.reason, refusal.message, dict(refusal.metadata))

    def _take_done(self, done: wire.ConverseEvent.Done) -> None:
        self._know(done.plan)
        self._over = self._over or "the stream has ended"
        if self._pixels:
            raise EngineError("the server ended the video within a frame")
        self.summary = read_summary(done.summary, done.plan, self.request_id)

    def _known_facts(self) -> VideoFacts:  # every call begins with them
        if self.facts is None:
            raise EngineError("the server did not say what it makes; is it another version?")
        return self.facts


class Reunion:
    """Decides what follows when a call breaks: the session is taken up again, or lost.

    A server that is silent may keep the session; one whose address refuses connections for a moment has taken it along.

    Args:
        dialogue: What is known of the session.
        patience: How long to go on trying.
        clock: Monotonic seconds.
    """

    def __init__(self, dialogue: Dialogue, patience: Patience, clock: Callable[[], float] = time.monotonic) -> None:
        self._dialogue, self._patience, self._clock = dialogue, patience, clock
        self._broke: ReelrayError | None = None
        self._refused_s: float | None = None

    def heard(self) -> None:
        """The session was taken up."""
        self._broke = self._refused_s = None
        self._patience.heard()

    def pause_s(self, error: ReelrayError | None) -> float:
        """How long to wait before the session is taken up again.

        Args:
            error: How the call ended; None where it ended in peace.

        Raises:
            ReelrayError: Why it is over.
        """
        error = error or EngineError("the server ended the conversation before the video was complete")
        if not self._dialogue.session_id:
            raise error
        if isinstance(error, UnknownSessionError) and self._broke is not None:
            raise self._broke  # that is why it is gone
        if self._broke is None:
            self._broke = error
            self._patience.begin()
        pause_s = self._patience.pause_s(error)
        if not isinstance(error, NobodyListensError):
            self._refused_s = None
            return pause_s
        if self._refused_s is None:
            self._refused_s = self._clock()
        left_s = self._refused_s + REFUSED_S - self._clock()
        if left_s <= 0:
            raise self._broke
        return min(pause_s, left_s)
