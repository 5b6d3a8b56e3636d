"""An engine without Ray: one rank in this process, or a gang of processes on this machine."""

import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from reelray.cluster.checkpoint_loader import CheckpointLoader
from reelray.cluster.lane_choice import AUTO, find_layouts, limits_for
from reelray.proto.engine_description import EngineDescription
from reelray.proto.layout import Layout
from reelray.proto.placement import Lending
from reelray.proto.request import RenderRequest, RequestId
from reelray.proto.session import Fork, Forked, Order, Standing
from reelray.proto.snapshot import Snapshot, SnapshotKind
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine.cores import share_cores
from reelray.workers.engine.event_stream import EventStream
from reelray.workers.engine.gang import Gang, GangSpec
from reelray.workers.engine.leader import Leader
from reelray.workers.engine.loading import open_timed
from reelray.workers.engine.local_launcher import LocalLauncher
from reelray.workers.engine.rank import Rank
from reelray.workers.engine.seams import Channel, ModelLoader
from reelray.workers.models.api import VideoModel


class LocalEngine:
    """Renders with ranks that are ready.

    Args:
        channel: The way to the ranks.
        description: What runs there.
        limits: How much the engine takes on.
        layouts: Layouts between which the ranks may be regrouped, the one of their start first.
        decode_ranks: Ranks beside those of the layouts that do nothing but decode.
        lending: When those help to denoise.
    """

    def __init__(
        self,
        channel: Channel,
        description: EngineDescription,
        *,
        limits: EngineLimits | None = None,
        layouts: Sequence[Layout] = (Layout(),),
        decode_ranks: int = 0,
        lending: Lending | None = None,
    ) -> None:
        self._channel = channel
        core = EngineCore(limits, layouts=layouts, decode_ranks=decode_ranks, lending=lending)
        self._leader = Leader(core, channel, description).start()
        # Also when nobody holds it, and at the interpreter's end: a thread that computes cannot be stopped later.
        self._end = weakref.finalize(self, _end, self._leader, channel)

    @classmethod
    def open(cls, load: ModelLoader, *, limits: EngineLimits | None = None) -> Self:
        """Open a checkpoint and serve it.

        Raises:
            CheckpointError: It is not usable.
            ResourceError: It does not fit into memory.
        """
        model, load_s = open_timed(load)
        return cls.of_model(model, limits=limits, load_s=load_s)

    @classmethod
    def of_model(cls, model: VideoModel, *, limits: EngineLimits | None = None, load_s: float = 0.0) -> Self:
        """Serve a model that is loaded already."""
        rank = Rank(model, load_s=load_s)
        return cls(rank, rank.describe(), limits=limits)

    @classmethod
    def open_gang(cls, spec: GangSpec, *, limits: EngineLimits | None = None) -> Self:
        """Open a checkpoint in several processes of this machine and serve it.

        With several layouts, or one of several lanes, requests that are there at once run side by side on lanes.

        Raises:
            EngineError: The ranks are not all ready in time.
            CheckpointError: The checkpoint is not usable.
        """
        gang = Gang(LocalLauncher(), spec)
        try:
            gang.start()
        except BaseException:
            gang.close()
            raise
        return cls(
            gang,
            gang.description,
            limits=limits or limits_for(spec.layouts),
            layouts=spec.layouts,
            decode_ranks=spec.decode_ranks,
            lending=spec.lending,
        )

    @classmethod
    def open_lanes(cls, load: CheckpointLoader, *, ranks: int, limits: EngineLimits | None = None) -> Self:
        """Open a checkpoint in processes of this machine that serve one request together, or several on lanes.

        The layouts between which they are regrouped are those that the plan finds best.

        Raises:
            EngineError: The ranks are not all ready in time.
            CheckpointError: The checkpoint is not usable.
            ResourceError: By the plan nothing fits.
        """
        layout, *others = find_layouts(load, None, AUTO, ranks=ranks)
        if layout.ranks == 1:
            return cls.open(load, limits=limits)
        spec = GangSpec(load=load, layout=layout, others=tuple(others), threads=share_cores(layout.ranks))
        return cls.open_gang(spec, limits=limits)

    @property
    def description(self) -> EngineDescription:
        """What runs here."""
        return self._leader.description

    def render(self, request: RenderRequest, snapshot: Snapshot | None = None) -> EventStream:
        """Start a request, or go on from a snapshot of it; iterate over the result for its events.

        Raises:
            InputError: The request does not fit the model, or its id is in use.
        """
        return self._leader.submit(request, snapshot)

    def cancel(self, request_id: RequestId) -> bool:
        """Stop a request at the next step; returns whether it was still going on."""
        return self._leader.cancel(request_id)

    def tell(self, request_id: RequestId, order: Order) -> Standing:
        """See `Engine`."""
        return self._leader.tell(request_id, order)

    def snapshot(self, request_id: RequestId, kind: SnapshotKind) -> Snapshot:
        """See `Engine`."""
        return self._leader.snapshot(request_id, kind)

    def fork(self, request_id: RequestId, fork: Fork) -> tuple[Forked, EventStream]:
        """See `Engine`."""
        return self._leader.fork(request_id, fork)

    def close(self) -> None:
        """Stop after the step in flight; harmless when called twice."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _end(leader: Leader, channel: Channel) -> None:
    leader.close()
    channel.close()
