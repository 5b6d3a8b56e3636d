"""A stream that runs, as Python sees it: frames come out, prompts go in.

Shape legend: F pixel frames, H/W pixel height/width.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from reelray.cluster.engine_api import Engine
from reelray.cluster.prompt_changes import latent_frame_at, read_seconds
from reelray.cluster.render import RenderJob, check_text
from reelray.cluster.render_session import check_order, frames_array
from reelray.cluster.video_writer import FramesArray
from reelray.proto.errors import InputError, PromptError
from reelray.proto.events import Frames, Progress
from reelray.proto.session import Extend, Order, Pause, Resume, Say, Standing, Stop

if TYPE_CHECKING:
    from reelray.proto.request import RenderSummary


class StreamSession(Iterator[FramesArray]):
    """Iterate for frames; everything else may be called meanwhile, from any thread.

    Whoever takes no frames holds the engine back: it makes a few chunks ahead and waits. Leaving the `with` block ends
    the stream, complete or not.

    Args:
        engine: Holds the job's model.
        job: What to make.
        on_progress: Told whenever a stage moves on.
        closes: What to do once the session is closed.
    """

    def __init__(
        self,
        engine: Engine,
        job: RenderJob,
        *,
        on_progress: Callable[[Progress], None] = lambda _progress: None,
        closes: Callable[[], None] = lambda: None,
    ) -> None:
        self.summary: RenderSummary | None = None
        self._engine, self._job, self._on_progress, self._closes = engine, job, on_progress, closes
        self._made = 0
        self._over: str | None = None
        self._events = engine.render(job.request)

    @property
    def fps(self) -> Fraction:
        """Frames per second that the video is meant for."""
        return self._job.fps

    @property
    def seed(self) -> int:
        """The seed that makes it again."""
        return self._job.request.seed

    @property
    def job(self) -> RenderJob:
        """What is made, by what was said until now."""
        return self._job

    @property
    def frames(self) -> int:
        """Pixel frames of the whole video by now."""
        return self._job.request.frames

    @property
    def position(self) -> int:
        """Pixel frames that were taken."""
        return self._made

    def __next__(self) -> FramesArray:
        """The next frames, RGB uint8, shape F, H, W, 3; waits for them, also while the stream is paused.

        Raises:
            StopIteration: The video is complete; `summary` says what it took.
            ReelrayError: The stream failed.
        """
        for event in self._events:
            if isinstance(event, Progress):
                self._on_progress(event)
            elif isinstance(event, Frames):
                check_order(event, self._made, self._job.request)
                self._made += event.count
                return frames_array(event).copy()  # the engine's own bytes are read-only
            else:
                self.summary = event.summary
        self._over = self._over or "the stream has ended"
        raise StopIteration

    def say(self, prompt: str, at: str | float | None = None) -> float:
        """Go by another prompt.

        Args:
            prompt: What to show.
            at: Seconds of video after which it holds, such as ``6.5`` or ``"1:30"``; None means as soon as possible,
                which is the next chunk that has not begun. A prompt that was to hold from the same chunk is replaced.

        Returns:
            Seconds of video after which it holds.

        Raises:
            PromptError: It is empty or too long.
            InputError: It comes too late; the stream goes on as it was.
        """
        facts = self._job.model.facts
        text = check_text("prompt", prompt, facts)
        if not text:
            raise PromptError("the prompt is empty; say what the video shows from then on")
        latent_frame = None if at is None else latent_frame_at(read_seconds(at), self.fps, facts)
        return float(self._tell(Say(prompt=text, latent_frame=latent_frame)).frame / self.fps)

    def extend(self, seconds: float | str) -> float:
        """Make the video longer, by whole chunks.

        Returns:
            Seconds of the whole video by then.

        Raises:
            InputError: It comes too late, or no such length can be made; the stream goes on as it was.
        """
        facts, chunk = self._job.model.facts, self._job.request.recipe.chunking.latent_frames or 1
        latent_frames = math.ceil(Fraction(str(read_seconds(seconds))) * self.fps / facts.temporal_stride)
        standing = self._tell(Extend(latent_frames=-(-latent_frames // chunk) * chunk))
        return float(standing.frames / self.fps)

    def pause(self) -> None:
        """Have the engine begin nothing until `resume`; frames that are made already can still be taken."""
        self._tell(Pause())

    def resume(self) -> None:
        """Go on after `pause`."""
        self._tell(Resume())

    def stop(self) -> float:
        """End with the chunks that have begun: their frames still come, and the video is then complete.

        Returns:
            Seconds of the whole video.
        """
        standing = self._tell(Stop())
        self._over = self._over or "the stream was stopped"
        return float(standing.frames / self.fps)

    def close(self) -> None:
        """End the stream where it is; may be called twice."""
        self._over = self._over or "the stream was closed"
        closes, self._closes = self._closes, lambda: None
        try:
            close = getattr(self._events, "close", None)
            if close is not None:
                close()
        finally:
            closes()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tell(self, order: Order) -> Standing:
        if self._over is not None:
            raise InputError(f"{self._over}; nothing can be said to it any more")
        standing = self._engine.tell(self._job.request.request_id, order)
        said: dict[str, Any] = {"prompt": standing.prompt, "changes": standing.changes, "frames": standing.frames}
        self._job = replace(self._job, request=replace(self._job.request, **said))
        return standing
