"""`reelray.render`, `render_stream` and `stream`: the options and checks of the command line, frames as arrays."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np

from reelray.cluster.first_frame import Picture
from reelray.cluster.prompt_changes import Times
from reelray.cluster.render import RenderJob, RenderOptions
from reelray.cluster.render_plan import Place, Target, open_engine, plan_on, plan_resumed
from reelray.cluster.render_session import RenderSession
from reelray.cluster.services import EngineKind, Services, default_services
from reelray.cluster.snapshot_file import read_snapshot
from reelray.cluster.stream_job import as_live, read_path
from reelray.cluster.stream_session import StreamSession
from reelray.cluster.video_writer import FramesArray
from reelray.proto.errors import InputError
from reelray.proto.events import Progress
from reelray.proto.layout import Layout
from reelray.proto.request import RenderSummary

OnProgress = Callable[[Progress], None]


class Wishes(TypedDict, total=False):
    """What a video shows and how it is made, here or on a server; see `reelray.cluster.render.RenderOptions`.

    `on_progress` is told whenever a stage moves on.
    """

    seconds: float | str
    frames: int
    size: str | tuple[int, int]
    seed: int
    steps: int
    guidance: float
    negative: str
    image: Picture
    fps: float
    at: Times
    decoder: str
    sparsity: str
    on_progress: OnProgress


class RenderArguments(Wishes, total=False):
    """Options of a render here; what is missing comes from the model or the settings.

    `reelray.cluster.render_plan.Place` describes those that `Wishes` does not have, but for `pace`.
    """

    model: str | Path
    device: str
    engine: EngineKind
    gpus: int
    layout: str | Layout
    patches: int
    exact_steps: int
    weights: str
    encoder: str
    decode_ranks: int | str
    pace: float
    preview_decoder: str | Path


class ResumeArguments(TypedDict, total=False):
    """Where a stream goes on; see `reelray.cluster.render_plan.Place`. The model is the one that made the snapshot."""

    model: str | Path
    device: str
    engine: EngineKind
    gpus: int
    layout: str | Layout
    weights: str
    encoder: str
    decode_ranks: int | str
    preview_decoder: str | Path
    on_progress: OnProgress


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """A finished video.

    Args:
        frames: RGB, uint8, shape F, H, W, 3.
        fps: Frames per second it is meant for.
        summary: What ran, with the seed that makes it again.
    """

    frames: FramesArray
    fps: float
    summary: RenderSummary


class LocalClient:
    """Renders with given services.

    Args:
        services: Settings, checkpoints and engines.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    def render(self, prompt: str, arguments: RenderArguments) -> Rendered:
        """Render a whole video; see `reelray.render`."""
        job, target, on_progress = self._plan(prompt, arguments)
        request = job.request
        frames_FHWC = np.empty((request.frames, request.height, request.width, 3), np.uint8)
        made = 0
        with closing(open_engine(job, target, self._services, on_progress)) as engine:
            session = RenderSession(engine, job, on_progress)
            for batch_FHWC in session:
                frames_FHWC[made : made + len(batch_FHWC)] = batch_FHWC
                made += len(batch_FHWC)
        assert session.summary is not None, "a session ends with Done or an error"
        return Rendered(frames=frames_FHWC, fps=float(job.fps), summary=session.summary)

    def render_stream(self, prompt: str, arguments: RenderArguments) -> Iterator[FramesArray]:
        """Check everything now, then yield frames; see `reelray.render_stream`."""
        job, target, on_progress = self._plan(prompt, arguments)
        return self._stream(job, target, on_progress)

    def open_stream(self, prompt: str, arguments: RenderArguments) -> StreamSession:
        """Start a stream; see `reelray.stream`."""
        job, target, on_progress = self._plan(prompt, arguments, stream=True)
        job = as_live(job, rounds="frames" not in arguments)
        engine = open_engine(job, target, self._services, on_progress)
        try:
            return StreamSession(engine, job, on_progress=on_progress, closes=engine.close)
        except BaseException:
            engine.close()
            raise

    def resume(self, path: str | Path, arguments: ResumeArguments) -> StreamSession:
        """Go on from a snapshot; see `reelray.resume`."""
        file = read_snapshot(read_path(path))
        options = dict(arguments)
        on_progress = _check_callable(options.pop("on_progress", _ignore))
        job, target = plan_resumed(file, self._services, Place(**options))  # type: ignore[arg-type]
        engine = open_engine(job, target, self._services, on_progress)
        try:
            return StreamSession(engine, job, on_progress=on_progress, closes=engine.close, snapshot=file.snapshot)
        except BaseException:
            engine.close()
            raise

    def _stream(self, job: RenderJob, target: Target, on_progress: OnProgress) -> Iterator[FramesArray]:
        with closing(open_engine(job, target, self._services, on_progress)) as engine:
            for batch_FHWC in RenderSession(engine, job, on_progress):
                yield from batch_FHWC.copy()  # the engine's own bytes are read-only

    def _plan(
        self, prompt: str, arguments: RenderArguments, *, stream: bool = False
    ) -> tuple[RenderJob, Target, OnProgress]:
        options = dict(arguments)
        on_progress = _check_callable(options.pop("on_progress", _ignore))
        where = {f.name: options.pop(f.name, None) for f in fields(Place)}
        place = Place(**where)  # type: ignore[arg-type]
        job, target = plan_on(RenderOptions(prompt=prompt, stream=stream, **options), self._services, place)  # type: ignore[arg-type]
        return job, target, on_progress


def render(prompt: str, **arguments: Unpack[RenderArguments]) -> Rendered:
    """Render a video and return its frames.

    Args:
        prompt: What to show.
        **arguments: See `RenderArguments`.

    Returns:
        All frames, uint8, and the summary.

    Raises:
        ReelrayError: An option is wrong, or the render failed; see `reelray.proto.errors`.
    """
    return LocalClient(default_services()).render(prompt, arguments)


def render_stream(prompt: str, **arguments: Unpack[RenderArguments]) -> Iterator[FramesArray]:
    """Render a video and yield its frames as they are decoded; memory does not grow with the length.

    Options are checked at once, the model is loaded when the first frame is asked for. Closing the iterator early
    cancels the render.

    Args:
        prompt: What to show.
        **arguments: See `RenderArguments`.

    Returns:
        Frames, RGB uint8 of shape H, W, 3, in order.

    Raises:
        ReelrayError: An option is wrong, or the render failed; see `reelray.proto.errors`.
    """
    return LocalClient(default_services()).render_stream(prompt, arguments)


def stream(prompt: str, **arguments: Unpack[RenderArguments]) -> StreamSession:
    """Start a stream that can be talked to while it runs; for models that make their video chunk by chunk.

        with reelray.stream("a cat sleeps", model=MODEL, seconds=60) as session:
            for frames in session:  # uint8, (F, H, W, 3)
                show(frames)
                if session.position > 200:
                    session.say("the cat wakes up")

    Args:
        prompt: What to show at first.
        **arguments: See `RenderArguments`. Without `frames` the length is rounded up to whole chunks, so that the
            stream can be extended until its last chunk is made.

    Returns:
        The running stream; close it, or use it in a `with` block.

    Raises:
        ReelrayError: An option is wrong, or the model cannot be loaded; see `reelray.proto.errors`.
    """
    return LocalClient(default_services()).open_stream(prompt, arguments)


def resume(path: str | Path, **arguments: Unpack[ResumeArguments]) -> StreamSession:
    """Go on with a stream that `StreamSession.snapshot` has written.

    Args:
        path: The file.
        **arguments: See `ResumeArguments`.

    Returns:
        The running stream; its `position` is where the snapshot was taken.

    Raises:
        SnapshotError: The file is damaged, or of another model or version.
        ReelrayError: An option is wrong, or the model cannot be loaded; see `reelray.proto.errors`.
    """
    return LocalClient(default_services()).resume(path, arguments)


def _check_callable(on_progress: object) -> OnProgress:
    if not callable(on_progress):
        raise InputError(f"on_progress is {on_progress!r}; it must be a function that takes a Progress")
    return on_progress


def _ignore(_progress: Progress) -> None:
    return
