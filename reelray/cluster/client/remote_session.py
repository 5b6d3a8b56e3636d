"""A stream that a server makes and that is talked to, as Python sees it: `reelray.StreamSession`, elsewhere.

Shape legend: F pixel frames, H/W pixel height/width.
"""

import weakref
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NoReturn, Self

import grpc

from reelray.cluster.client import orders
from reelray.cluster.client.connection import ServerAddress
from reelray.cluster.client.converse_line import ConverseLine
from reelray.cluster.client.dialogue import Answer, Dialogue
from reelray.cluster.client.notices import Notices
from reelray.cluster.video_facts import VideoFacts
from reelray.cluster.video_writer import FramesArray
from reelray.proto.errors import EngineError, UnsupportedError
from reelray.proto.events import Progress
from reelray.proto.request import RenderSummary
from reelray.proto.v1 import converse_pb2 as wire


class SessionFacts:
    """What is known of a session; the same for those that wait in a thread and in asyncio.

    Args:
        dialogue: What was said.
    """

    def __init__(self, dialogue: Dialogue) -> None:
        self._dialogue = dialogue

    @property
    def facts(self) -> VideoFacts:
        """The video by what was known when it began, or at its end."""
        if self._dialogue.facts is None:
            raise EngineError("the server has not said yet what it makes")
        return self._dialogue.facts

    @property
    def digest(self) -> str:
        """Hex digest over the files of the model."""
        return self._dialogue.digest

    @property
    def fps(self) -> Fraction:
        """Frames per second that the video is meant for."""
        return self.facts.fps

    @property
    def seed(self) -> int:
        """The seed that makes it again."""
        return self.facts.seed

    @property
    def frames(self) -> int:
        """Pixel frames of the whole video by now."""
        return self._dialogue.frames

    @property
    def position(self) -> int:
        """The pixel frame that comes next."""
        return self._dialogue.position

    @property
    def summary(self) -> RenderSummary | None:
        """What it took; None before the end."""
        return self._dialogue.summary

    def begin_of(self, answer: Answer) -> float:
        """Seconds of video of which an answer speaks."""
        return float(answer.frame / self.fps)

    def length_of(self, answer: Answer) -> float:
        """Seconds of the whole video after an answer."""
        return float(answer.frames / self.fps)

    def fork_of(self, answer: Answer) -> Dialogue:
        """What is known of a fork."""
        return Dialogue(wire.ConverseRequest(go_on={"session_id": answer.fork}), grows=self._dialogue.grows)


class RemoteSession(SessionFacts, Iterator[FramesArray]):
    """Iterate for frames; everything else may be called meanwhile, from any thread.

    It is what `reelray.StreamSession` is, with the same rules: every frame comes once and in order, some at a time,
    RGB, uint8, shape F, H, W, 3; whoever takes none holds the server back; leaving the `with` block ends the stream.
    Where the line breaks, the session is taken up again behind the last frames that came; where that cannot be,
    iterating and speaking raise the error, which is retryable where beginning anew can help.

    Args:
        channel: To the server.
        server: Whose it is.
        dialogue: The session.
        on_progress: Told whenever a stage moves on, while frames are waited for.
        patience_s: How long a broken line is tried again.
        beside: The sessions that are closed with the client; this one and its forks join them.
        notices: Hears how it waits, and that the line broke.

    Raises:
        ReelrayError: The server refused, or was lost.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        server: ServerAddress,
        dialogue: Dialogue,
        *,
        on_progress: Callable[[Progress], None],
        patience_s: float,
        beside: "weakref.WeakSet[RemoteSession] | None" = None,
        notices: Notices | None = None,
    ) -> None:
        super().__init__(dialogue)
        self._beside = weakref.WeakSet() if beside is None else beside
        self._channel, self._server, self._on_progress = channel, server, on_progress
        self._line = ConverseLine(channel, server, dialogue, patience_s, notices)
        self._close = weakref.finalize(self, self._line.close)
        self._beside.add(self)

    def __next__(self) -> FramesArray:
        """The next frames; see `reelray.StreamSession`."""
        frames_FHWC = self._line.take(self._on_progress)
        if frames_FHWC is None:
            raise StopIteration
        return frames_FHWC.copy()  # the caller's own

    def say(self, prompt: str, at: str | float | None = None, *, cut: bool = False) -> float:
        """Go by another prompt; see `reelray.StreamSession.say`."""
        return self.begin_of(self._line.tell(orders.order_say(prompt, at, cut=cut)))

    def extend(self, seconds: float | str) -> float:
        """Make the video longer; see `reelray.StreamSession.extend`."""
        return self.length_of(self._line.tell(orders.order_extend(seconds)))

    def pause(self) -> None:
        """Have the engine begin nothing until `resume`."""
        self._line.tell(orders.PAUSE)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._line.tell(orders.RESUME)

    def pace(self, fps: float | None) -> None:
        """Be made for another speed of playback; see `reelray.StreamSession.pace`."""
        self._line.tell(orders.order_pace(fps))

    def stop(self) -> float:
        """End with the chunks that have begun; see `reelray.StreamSession.stop`."""
        return self.length_of(self._line.tell(orders.STOP))

    def seek(self, seconds: float | str) -> float:
        """Go back; see `reelray.StreamSession.seek`."""
        return self.begin_of(self._line.tell(orders.order_seek(seconds, position=self.position, fps=self.fps)))

    def fork(self, prompt: str | None = None) -> "RemoteSession":
        """Have a second session that goes its own way; see `reelray.StreamSession.fork`. Each is closed by itself."""
        answer = self._line.tell(orders.order_fork(prompt))
        return RemoteSession(
            self._channel,
            self._server,
            self.fork_of(answer),
            on_progress=self._on_progress,
            patience_s=self._line.patience_s,
            beside=self._beside,
            notices=self._line.notices,
        )

    def snapshot(self, path: str | Path, kind: str = "exact") -> NoReturn:  # noqa: ARG002  that of a local session
        """Not there: snapshots are files of the machine that makes the video.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError("a server writes no snapshots; fork the session, or make the stream on this machine")

    def close(self) -> None:
        """End the stream where it is; may be called twice."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
