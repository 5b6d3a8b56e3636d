"""A stream that runs, as Python sees it: frames come out, prompts go in.

Shape legend: F pixel frames, H/W pixel height/width.
"""

import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from reelray.cluster.engine_api import Engine
from reelray.cluster.prompt_changes import read_seconds
from reelray.cluster.render import RenderJob, choose_pace, new_request_id
from reelray.cluster.render_session import frames_array
from reelray.cluster.snapshot_file import SnapshotFile, write_snapshot
from reelray.cluster.stream_flow import StreamFlow, Taken
from reelray.cluster.stream_job import (
    read_extension,
    read_kind,
    read_path,
    read_prompt,
    read_saying,
    rewind_request,
    speaking_of,
)
from reelray.cluster.video_facts import VideoFacts, facts_of
from reelray.cluster.video_writer import FramesArray
from reelray.proto.errors import InputError
from reelray.proto.events import Event, Progress
from reelray.proto.session import Fork, Order, Pace, Pause, Resume, Standing, Stop
from reelray.proto.snapshot import Snapshot

if TYPE_CHECKING:
    from reelray.proto.request import RenderRequest, RenderSummary


class StreamSession(Iterator[FramesArray]):
    """Iterate for frames; everything else may be called meanwhile, from any thread.

    Every frame comes once and in order, some at a time: RGB, uint8, shape F, H, W, 3, in an array that is the caller's.
    Whoever takes no frames holds the engine back: it makes a few chunks ahead and waits. A loop over the session ends
    when the video is complete (`summary` is set then), or when any thread has called `close`.

    Leaving the `with` block ends the stream, complete or not: after `break`, an error or Ctrl-C its request is
    cancelled, what it remembered is free, and so is the engine that was opened for it. A session that nobody holds any
    more is closed too, and so is one that is left at the interpreter's end.

    Args:
        engine: Holds the job's model.
        job: What to make.
        on_progress: Told whenever a stage moves on.
        closes: What to do once the session is closed.
        snapshot: What it goes on from.
        begun: Its events and its first frame, where it has begun already.

    Raises:
        SnapshotError: The engine cannot go on from it.
    """

    def __init__(
        self,
        engine: Engine,
        job: RenderJob,
        *,
        on_progress: Callable[[Progress], None] = lambda _progress: None,
        closes: Callable[[], None] = lambda: None,
        snapshot: Snapshot | None = None,
        begun: tuple[Iterator[Event], int] | None = None,
    ) -> None:
        self._engine, self.on_progress = engine, on_progress
        self._closes = weakref.finalize(self, closes)
        self._paused = False
        first = 0 if snapshot is None else snapshot.frame
        self._flow = StreamFlow(job, *(begun or (engine.render(job.request, snapshot), first)))

    @property
    def summary(self) -> "RenderSummary | None":
        """What it took; None before the end."""
        return self._flow.summary

    @property
    def fps(self) -> Fraction:
        """Frames per second that the video is meant for."""
        return self.job.fps

    @property
    def seed(self) -> int:
        """The seed that makes it again."""
        return self.job.request.seed

    @property
    def job(self) -> RenderJob:
        """What is made, by what was said until now."""
        return self._flow.job

    @property
    def facts(self) -> VideoFacts:
        """What is made, for whoever writes it."""
        return facts_of(self.job)

    @property
    def frames(self) -> int:
        """Pixel frames of the whole video by now."""
        return self.job.request.frames

    @property
    def position(self) -> int:
        """The pixel frame that comes next."""
        return self._flow.position

    @property
    def seeks(self) -> int:
        """How often it was sought in."""
        return self._flow.seeks

    def __next__(self) -> FramesArray:
        """The next frames, RGB uint8, shape F, H, W, 3; waits for them, also while the stream is paused.

        Raises:
            StopIteration: The video is complete; `summary` says what it took.
            ReelrayError: The stream failed.
        """
        if (taken := self.take()) is None:
            raise StopIteration
        return frames_array(taken.frames).copy()  # the engine's own bytes are read-only

    def take(self) -> Taken | None:
        """The next frames for whoever sends them on; None at the end.

        Raises:
            ReelrayError: The stream failed.
        """
        return self._flow.take(self.on_progress)

    def say(self, prompt: str, at: str | float | None = None, *, cut: bool = False) -> float:
        """Go by another prompt.

        Args:
            prompt: What to show.
            at: Seconds of video after which it holds, such as ``6.5`` or ``"1:30"``; None means as soon as possible,
                which is the next chunk that has not begun. A prompt that was to hold from the same chunk is replaced.
            cut: Whether another scene begins there, for recipes that can cut; ``at="8s,cut"`` says the same.

        Returns:
            Seconds of video after which it holds.

        Raises:
            PromptError: It is empty or too long.
            UnsupportedError: The model makes one scene of all prompts.
            LateError: It comes too late, or after the end; the stream goes on as it was.
            InputError: `at` is no time, or the stream has ended.
        """
        return float(self._tell(read_saying(self.job, prompt, at, cut=cut)).frame / self.fps)

    def extend(self, seconds: float | str) -> float:
        """Make the video longer, by whole chunks.

        Returns:
            Seconds of the whole video by then.

        Raises:
            InputError: It comes too late, or no such length can be made; the stream goes on as it was.
        """
        return float(self._tell(read_extension(self.job, seconds)).frames / self.fps)

    def pause(self) -> None:
        """Have the engine begin nothing until `resume`; others have its room, and frames that are made can be taken."""
        self._paused = self._tell(Pause()).paused

    def resume(self) -> None:
        """Go on after `pause`, as soon as there is room: others may have it."""
        self._paused = self._tell(Resume()).paused

    def pace(self, fps: float | None) -> None:
        """Be made for another speed of playback: among others on the engine, its turns come when its frames are due.

        Args:
            fps: Frames per second; None takes what others leave, in turn.

        Raises:
            InputError: It is no such speed, or the stream has ended.
        """
        if isinstance(fps, bool) or not isinstance(fps, Real | None):
            raise InputError(f"pace is {fps!r}; it must be a number, or None")
        chosen = choose_pace(None if fps is None else float(fps))
        self._tell(Pace(fps=chosen))
        self._flow.amend(self.job.request.request_id, pace_fps=chosen)

    def stop(self) -> float:
        """End with the chunks that have begun: their frames still come, and the video is then complete.

        Returns:
            Seconds of the whole video.
        """
        standing = self._tell(Stop())
        self._flow.end("the stream was stopped")
        return float(standing.frames / self.fps)

    def snapshot(self, path: str | Path, kind: str = "exact") -> float:
        """Write the stream into a file from which `reelray.resume` goes on; this one goes on too.

        Args:
            path: The file; one that is there is replaced.
            kind: ``exact`` goes on with the same bits and at once, and is large; ``replay`` goes on with the same bits
                and is small, but all forwards that were remembered are repeated; ``quick`` repeats those of the chunks
                in memory only, and does not go on with the same bits.

        Returns:
            Seconds of video after which the other one begins: the engine is ahead of the frames that were taken.

        Raises:
            InputError: The stream has ended, or there is no such kind.
            OutputError: The file cannot be written.
        """
        file, wanted = read_path(path), read_kind(kind)
        self._flow.check_open()
        with speaking_of(self):
            snapshot = self._engine.snapshot(self.job.request.request_id, wanted)
        write_snapshot(file, SnapshotFile(snapshot=snapshot, model=str(self.job.model.path.absolute()), fps=self.fps))
        return float(snapshot.frame / self.fps)

    def fork(self, prompt: str | None = None) -> "StreamSession":
        """Have a second stream that goes its own way from here, on the same engine; that of a paused one is paused.

        Args:
            prompt: What it shows from its next chunk on; None means what this one shows.

        Returns:
            The other one. It begins where the engine is, ahead of the frames that were taken: see its `position`. The
            engine closes with the session that opened it, and so do all others.

        Raises:
            InputError: The stream has ended, or the prompt comes too late.
            PromptError: The prompt is empty or too long.
            ResourceError: There is no room for two; this one goes on.
        """
        self._flow.check_open()
        text = None if prompt is None else read_prompt(self.job, prompt)
        wish = Fork(request_id=new_request_id(), prompt=text)
        with speaking_of(self):
            forked, events = self._engine.fork(self.job.request.request_id, wish)
        job = replace(self.job, request=forked.request)
        other = StreamSession(self._engine, job, on_progress=self.on_progress, begun=(events, forked.frame))
        other._paused = self._paused
        return other

    def seek(self, seconds: float | str) -> float:
        """Go back to the last beginning of a chunk before a time; what followed is forgotten, prompts included.

        What comes before is made again and not shown, from the newest mark that the engine has, or from the beginning.

        Returns:
            Seconds of video at which it goes on.

        Raises:
            InputError: The stream has ended, or has not come so far.
        """
        back_s = read_seconds(seconds, "the time to go back to", zero=True)
        frame = self._flow.exchange(partial(_go_back, self._engine, back_s))
        if self._paused:
            self._tell(Pause())
        return float(frame / self.fps)

    def close(self) -> None:
        """End the stream where it is; may be called twice."""
        try:
            self._flow.close()
        finally:
            self._closes()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tell(self, order: Order) -> Standing:
        self._flow.check_open()
        request_id = self.job.request.request_id
        with speaking_of(self):
            standing = self._engine.tell(request_id, order)
        said: dict[str, Any] = {"prompt": standing.prompt, "changes": standing.changes, "frames": standing.frames}
        self._flow.amend(request_id, **said)
        return standing


def _go_back(
    engine: Engine, seconds: float, job: RenderJob, before: int
) -> "tuple[RenderRequest, Iterator[Event], int]":
    request, snapshot = rewind_request(job, seconds, before=before)
    request = replace(request, request_id=new_request_id())
    wish = Fork(request_id=request.request_id, back_to=snapshot.chunks_begun)
    try:
        events: Iterator[Event] = engine.fork(job.request.request_id, wish)[1]
    except InputError:  # all of it is made, and the engine has forgotten it
        events = engine.render(request, replace(snapshot, request=request, digest=engine.description.digest))
    return request, events, snapshot.frame
