"""An engine in a Ray cluster that lives and dies with this command."""

from types import TracebackType
from typing import Any, Self

from reelray.cluster.embedded_ray import EmbeddedRay
from reelray.cluster.lane_choice import Others, find_layouts
from reelray.cluster.remote_engine import RemoteEngine, RemoteStream
from reelray.proto.engine_description import EngineDescription
from reelray.proto.layout import Layout
from reelray.proto.placement import Lending
from reelray.proto.request import RenderRequest, RequestId
from reelray.proto.session import Fork, Forked, Order, Standing
from reelray.proto.snapshot import Snapshot, SnapshotKind
from reelray.scheduler.limits import EngineLimits


class EmbeddedEngine:
    """Starts Ray and an engine in it, of one actor or of a leader and its ranks.

    Args:
        open_model: A picklable `ModelLoader`; it runs in the actor of each rank.
        limits: How much the engine takes on.
        gpus: GPUs the engine needs, one for each rank if they are several.
        layout: How ranks share their videos; one rank by default.
        others: Layouts of the same ranks to which they may be regrouped; see `RemoteEngine`.
        decode_ranks: Further ranks that do nothing but decode.
        lending: When those help to denoise.
        preload: Modules the actor's process imports while Ray starts.

    Raises:
        CheckpointError: The checkpoint is not usable.
        ResourceError: It does not fit.
        EngineError: Ray does not start, or the actor was lost.
    """

    def __init__(
        self,
        open_model: Any,
        *,
        limits: EngineLimits | None = None,
        gpus: int = 0,
        layout: Layout | None = None,
        others: Others = (),
        decode_ranks: int = 0,
        lending: Lending | None = None,
        preload: tuple[str, ...] = ("torch",),
    ) -> None:
        layout, *rest = find_layouts(open_model, layout, others, ranks=gpus - decode_ranks)
        ranks = layout.ranks + decode_ranks
        self._ray = EmbeddedRay(gpus=gpus, cpus=1 if ranks == 1 else 1 + ranks, preload=preload).start()
        try:
            self._engine = RemoteEngine(
                open_model,
                limits=limits,
                gpus=gpus,
                layout=layout,
                others=rest,
                decode_ranks=decode_ranks,
                lending=lending,
            )
        except BaseException:
            self._ray.stop()
            raise

    @property
    def description(self) -> EngineDescription:
        """What runs there."""
        return self._engine.description

    def render(self, request: RenderRequest, snapshot: Snapshot | None = None) -> RemoteStream:
        """Start a request, or go on from a snapshot of it; iterate over the result for its events.

        Raises:
            InputError: The request does not fit the model, or its id is in use.
            EngineError: The engine is lost.
        """
        return self._engine.render(request, snapshot)

    def cancel(self, request_id: RequestId) -> bool:
        """Stop a request at the next step; returns whether it was still going on."""
        return self._engine.cancel(request_id)

    def tell(self, request_id: RequestId, order: Order) -> Standing:
        """See `Engine`."""
        return self._engine.tell(request_id, order)

    def snapshot(self, request_id: RequestId, kind: SnapshotKind) -> Snapshot:
        """See `Engine`."""
        return self._engine.snapshot(request_id, kind)

    def fork(self, request_id: RequestId, fork: Fork) -> tuple[Forked, RemoteStream]:
        """See `Engine`."""
        return self._engine.fork(request_id, fork)

    def close(self) -> None:
        """End the actor and Ray; harmless when called twice."""
        self._engine.close()
        self._ray.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
