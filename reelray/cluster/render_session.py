"""Runs one job on an engine and hands its frames on."""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np

from reelray.cluster.engine_api import Engine
from reelray.cluster.render import RenderJob
from reelray.cluster.video_writer import FramesArray
from reelray.proto.errors import EngineError
from reelray.proto.events import Done, Event, Frames, Progress
from reelray.proto.request import RenderRequest, RenderSummary


class RenderSession:
    """One job on one engine.

    Iterate once to receive the frames; `summary` is set afterwards. Leaving the loop early cancels the request.

    Args:
        engine: Holds the job's model.
        job: What to render.
        on_progress: Told whenever a stage moves on.
    """

    def __init__(self, engine: Engine, job: RenderJob, on_progress: Callable[[Progress], None]) -> None:
        self._engine = engine
        self._job = job
        self._on_progress = on_progress
        self.summary: RenderSummary | None = None

    def __iter__(self) -> Iterator[FramesArray]:
        """Yield batches of RGB frames, uint8, shape F, H, W, 3.

        Raises:
            ReelrayError: The engine failed, or sent other frames than were asked for.
        """
        with _closing(self._engine.render(self._job.request)) as events:
            for event in checked(events, self._job.request):
                if isinstance(event, Progress):
                    self._on_progress(event)
                elif isinstance(event, Frames):
                    yield frames_array(event)
                else:
                    self.summary = event.summary


def checked(events: Iterator[Event], request: RenderRequest) -> Iterator[Event]:
    """Hand events of a whole video on.

    Raises:
        EngineError: Frames are not due, or some are missing in the end.
    """
    made = 0
    for event in events:
        if isinstance(event, Frames):
            check_order(event, made, request)
            made += event.count
        elif isinstance(event, Done) and made != request.frames:
            raise EngineError(f"the engine made {made} of {request.frames} frames", ids={"request": request.request_id})
        yield event


def frames_array(event: Frames) -> FramesArray:
    """View an event's bytes as an array F, H, W, 3; read-only."""
    return np.frombuffer(event.data, np.uint8).reshape(event.count, event.height, event.width, 3)


def check_order(event: Frames, made: int, request: RenderRequest) -> None:
    """Refuse frames that are not due.

    Raises:
        EngineError: They are others.
    """
    if event.first_frame != made or (event.width, event.height) != (request.width, request.height):
        raise EngineError(
            f"the engine sent frame {event.first_frame} of {event.width}x{event.height}; "
            f"frame {made} of {request.width}x{request.height} was due",
            ids={"request": request.request_id},
        )


@contextlib.contextmanager
def _closing(events: Iterator[Event]) -> Iterator[Iterator[Event]]:
    try:
        yield events
    finally:
        close = getattr(events, "close", None)
        if close is not None:
            close()
