"""An engine that computes nothing: frames of zeros as fast as they are taken, or one batch every so often."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from reelray.cluster.model_catalog import ModelEntry
from reelray.proto.engine_description import EngineDescription
from reelray.proto.errors import EndedError
from reelray.proto.events import Done, Event, Frames, Progress, Stage
from reelray.proto.recipe import Defaults, Schedule
from reelray.proto.request import RenderRequest, RenderSummary, RequestId
from reelray.proto.session import Fork, Forked, Order, Standing
from reelray.proto.snapshot import Snapshot, SnapshotKind
from tests.support import fake_engine

FACTS = replace(fake_engine.FACTS, text_tokens=512, layers=30, dim=1536, parameters=1_418_996_800)
RECIPE = replace(
    fake_engine.RECIPE,
    name="nothing",
    schedule=Schedule(steps=50),
    defaults=Defaults(width=832, height=480, frames=81, fps=16),
)
DESCRIPTION = replace(fake_engine.DESCRIPTION, facts=FACTS)


def entry(number: int = 0) -> ModelEntry:
    """A model that it says it has loaded."""
    return fake_engine.fake_entry(path=Path("/") / f"nothing-{number}", recipe=RECIPE, facts=FACTS)


@dataclass
class IdleEngine:
    """Answers as an engine does.

    Args:
        batch: Frames that come at once.
        pause_s: Before each batch.
        ended: When each video was given up by its caller: id and `time.monotonic`, which is one for all processes.
        produced: Bytes of frames that were taken from it.
    """

    batch: int = 4
    pause_s: float = 0.0
    description: EngineDescription = DESCRIPTION
    ended: dict[str, float] = field(default_factory=dict)
    produced: int = 0

    def render(self, request: RenderRequest, snapshot: Snapshot | None = None) -> "Video":
        """See `Engine`."""
        assert snapshot is None, "it keeps nothing"
        return Video(self, request)

    def tell(self, request_id: RequestId, _order: Order) -> Standing:
        """See `Engine`."""
        raise EndedError(f"request {request_id} is not here")

    def snapshot(self, request_id: RequestId, _kind: SnapshotKind) -> Snapshot:
        """See `Engine`."""
        raise EndedError(f"request {request_id} is not here")

    def fork(self, request_id: RequestId, fork: Fork) -> tuple[Forked, Iterator[Event]]:  # noqa: ARG002
        """See `Engine`."""
        raise EndedError(f"request {request_id} is not here")

    def close(self) -> None:
        """See `Engine`."""


class Video:
    """One video; `close` ends a wait for its next batch at once, as that of a real engine does."""

    def __init__(self, engine: IdleEngine, request: RenderRequest) -> None:
        self._engine, self._request, self._left = engine, request, threading.Event()
        self._events = self._make()

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        return next(self._events)

    def close(self) -> None:
        """Give the video up."""
        self._engine.ended.setdefault(self._request.request_id, time.monotonic())
        self._left.set()

    def _make(self) -> Iterator[Event]:
        request, engine = self._request, self._engine
        yield Progress(request_id=request.request_id, stage=Stage.TEXT, done=1, total=1)
        data = bytes(engine.batch * request.height * request.width * 3)
        for first in range(0, request.frames, engine.batch):
            if self._left.wait(engine.pause_s) if engine.pause_s else self._left.is_set():
                return
            count = min(engine.batch, request.frames - first)
            piece = data if count == engine.batch else data[: count * request.height * request.width * 3]
            engine.produced += len(piece)
            yield Frames(
                request_id=request.request_id,
                first_frame=first,
                count=count,
                height=request.height,
                width=request.width,
                data=piece,
            )
        yield Done(request_id=request.request_id, summary=_summary(request))


def _summary(request: RenderRequest) -> RenderSummary:
    return RenderSummary(
        request_id=request.request_id,
        model=request.recipe.name,
        model_digest=DESCRIPTION.digest,
        frames=request.frames,
        width=request.width,
        height=request.height,
        seed=request.seed,
        steps=request.recipe.schedule.length,
        forwards=0,
        device="cpu",
        dtype="float32",
        stage_s={},
        peak_bytes=0,
    )
