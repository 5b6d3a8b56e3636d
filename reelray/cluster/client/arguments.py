"""What Python says of videos to a server, and what a server says of itself; for clients of both kinds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from reelray.cluster.client.deadlines import read_deadline
from reelray.cluster.client.dialogue import Dialogue
from reelray.cluster.client.requests import SessionWish, write_start
from reelray.cluster.python_api import Rendered, Wishes
from reelray.cluster.render import RenderOptions
from reelray.cluster.video_facts import VideoFacts
from reelray.cluster.video_writer import FramesArray
from reelray.proto.errors import InputError
from reelray.proto.events import Progress
from reelray.proto.request import RenderSummary
from reelray.proto.v1 import cluster_pb2

DESCRIBE_S = 10.0


class VideoArguments(Wishes, total=False):
    """Options of a video; what is missing comes from the server's model. `model` is the name of one that is served."""

    model: str


class LiveArguments(VideoArguments, total=False):
    """The same for whoever waits: by when it is to be complete, or begun where it is talked to.

    What cannot be is refused at once. A `datetime`, or text such as ``18:30``, of this machine's zone if it names none.
    """

    deadline: datetime | str


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedEngine:
    """A model on a server.

    Args:
        model: Its name.
        model_digest: Hex digest over the checkpoint's files.
        device: Such as ``cpu`` or ``NVIDIA H200``.
        dtype: Such as ``bfloat16``.
        layout: How its ranks share a video.
        ranks: How many there are.
        requests: What it has to do now.
        ready: False while it starts again after it was lost.
    """

    model: str
    model_digest: str
    device: str
    dtype: str
    layout: str
    ranks: int
    requests: int
    ready: bool


def read_engines(answer: cluster_pb2.DescribeResponse) -> list[ServedEngine]:
    """The models of a server."""
    return [
        ServedEngine(
            model=engine.model,
            model_digest=engine.model_digest,
            device=engine.device,
            dtype=engine.dtype,
            layout=engine.layout,
            ranks=engine.ranks,
            requests=engine.requests,
            ready=engine.ready,
        )
        for engine in answer.engines
    ]


class FrameStack:
    """All frames of a video, as they come.

    Args:
        facts: Of the video.
    """

    def __init__(self, facts: VideoFacts) -> None:
        self._frames_FHWC = np.empty((facts.frames, facts.height, facts.width, 3), np.uint8)
        self._fps, self._made = float(facts.fps), 0

    def add(self, batch_FHWC: FramesArray) -> None:
        """Put the next ones on."""
        self._frames_FHWC[self._made : self._made + len(batch_FHWC)] = batch_FHWC
        self._made += len(batch_FHWC)

    def rendered(self, summary: RenderSummary | None) -> Rendered:
        """The video, once it is complete."""
        assert summary is not None, "it ends with a summary or an error"
        return Rendered(frames=self._frames_FHWC, fps=self._fps, summary=summary)


def begin_dialogue(
    prompt: str, arguments: LiveArguments, *, pace: float | None, keep_s: int
) -> tuple[Dialogue, Callable[[Progress], None]]:
    """What a session begins with, and who is told how far it is.

    Raises:
        InputError: An option is wrong.
    """
    wish, how, on_progress = read_live_arguments(prompt, arguments)
    session = SessionWish(model=how.model, keep_s=keep_s, deadline=how.deadline)
    first = write_start(replace(wish, stream=True, pace=pace), session)
    return Dialogue(first, grows=True), on_progress


def read_waiting_arguments(prompt: str, arguments: VideoArguments) -> tuple[RenderOptions, str | None]:
    """Options of a render that nobody waits for, and its model.

    Raises:
        InputError: An option is wrong.
    """
    if "on_progress" in arguments:
        raise InputError("on_progress is for videos that are waited for; see watch")
    wish, model, _ = read_arguments(prompt, arguments)
    return wish, model


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveWish:
    """Who makes a video that is waited for, and by when.

    Args:
        model: Name of a served model; None takes the server's first.
        deadline: When it is to be complete or begun; None has no such time.
    """

    model: str | None
    deadline: datetime | None


def read_live_arguments(
    prompt: str, arguments: LiveArguments
) -> tuple[RenderOptions, LiveWish, Callable[[Progress], None]]:
    """Options of a video that is waited for, and who is told how far it is.

    Raises:
        InputError: An option is wrong.
    """
    said = arguments.copy()
    due = said.pop("deadline", None)
    wish, model, on_progress = read_arguments(prompt, said, LiveArguments.__annotations__)
    return wish, LiveWish(model=model, deadline=None if due is None else read_deadline(due)), on_progress


def read_arguments(
    prompt: str, arguments: VideoArguments, known: Mapping[str, object] = VideoArguments.__annotations__
) -> tuple[RenderOptions, str | None, Callable[[Progress], None]]:
    """Options of a video, its model, and who is told how far it is.

    Args:
        prompt: What it shows.
        arguments: The options.
        known: Those that there are, for the message.

    Raises:
        InputError: An option is wrong.
    """
    options = dict(arguments)
    on_progress = options.pop("on_progress", _ignore)
    if not callable(on_progress):
        raise InputError(f"on_progress is {on_progress!r}; it must be a function")
    if unknown := sorted(set(options) - set(VideoArguments.__annotations__)):
        raise InputError(f"unknown option {', '.join(unknown)}; there are {', '.join(known)}")
    model = options.pop("model", None)
    wish = RenderOptions(prompt=prompt, **options)  # type: ignore[arg-type]  # checked there
    return wish, None if model is None else str(model), on_progress


def _ignore(_progress: Progress) -> None:
    """Nobody listens."""
