"""An engine in this process: one rank, no Ray. For the Python API, tests and benchmarks."""

from types import TracebackType
from typing import Self

from reelray.proto.engine_description import EngineDescription
from reelray.proto.request import RenderRequest, RequestId
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine.event_stream import EventStream
from reelray.workers.engine.leader import Leader
from reelray.workers.engine.loading import open_timed
from reelray.workers.engine.rank import Rank
from reelray.workers.engine.seams import ModelLoader
from reelray.workers.models.api import VideoModel


class LocalEngine:
    """Renders with a model that is loaded already.

    Args:
        model: The loaded checkpoint.
        limits: How much the engine takes on.
        load_s: Seconds it took to load the model, for the summaries.
    """

    def __init__(self, model: VideoModel, *, limits: EngineLimits | None = None, load_s: float = 0.0) -> None:
        rank = Rank(model)
        self._leader = Leader(EngineCore(limits), rank, rank.describe(load_s=load_s)).start()

    @classmethod
    def open(cls, load: ModelLoader, *, limits: EngineLimits | None = None) -> Self:
        """Open a checkpoint and serve it.

        Raises:
            CheckpointError: It is not usable.
            ResourceError: It does not fit into memory.
        """
        model, load_s = open_timed(load)
        return cls(model, limits=limits, load_s=load_s)

    @property
    def description(self) -> EngineDescription:
        """What runs here."""
        return self._leader.description

    def render(self, request: RenderRequest) -> EventStream:
        """Start a request; iterate over the result for its events.

        Raises:
            InputError: The request does not fit the model, or its id is in use.
        """
        return self._leader.submit(request)

    def cancel(self, request_id: RequestId) -> bool:
        """Stop a request at the next step; returns whether it was still going on."""
        return self._leader.cancel(request_id)

    def close(self) -> None:
        """Stop after the step in flight."""
        self._leader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
