"""A leader and the way to its ranks in one process, reached by ids instead of by streams."""

from typing import TYPE_CHECKING, Self

import torch

from reelray.proto.engine_description import EngineDescription
from reelray.proto.errors import InputError, ReelrayError
from reelray.proto.events import Event
from reelray.proto.request import RenderRequest, RequestId
from reelray.proto.session import Fork, Forked, Order, Standing
from reelray.proto.snapshot import Snapshot, SnapshotKind
from reelray.workers.engine.cores import count_cores
from reelray.workers.engine.leader import Leader
from reelray.workers.engine.loading import open_timed
from reelray.workers.engine.rank import Rank
from reelray.workers.engine.seams import Channel, ModelLoader, StepFormer

if TYPE_CHECKING:
    from reelray.workers.engine.event_stream import EventStream


class EngineHost:
    """Serves ranks that are ready; a client that is elsewhere pulls the events of its requests.

    Args:
        channel: The way to the ranks.
        description: What runs there.
        core: Decides the steps.
    """

    def __init__(self, channel: Channel, description: EngineDescription, core: StepFormer) -> None:
        self._channel = channel
        self._leader = Leader(core, channel, description).start()
        self._streams: dict[RequestId, EventStream] = {}

    @classmethod
    def open(cls, load: ModelLoader, core: StepFormer) -> Self:
        """Open a checkpoint in this process, whose only rank it is.

        Raises:
            ReelrayError: The checkpoint cannot be opened.
        """
        torch.set_num_threads(count_cores())  # Ray sets OMP_NUM_THREADS to 1 in its workers
        model, load_s = open_timed(load)
        rank = Rank(model, load_s=load_s)
        return cls(rank, rank.describe(), core)

    @property
    def description(self) -> EngineDescription:
        """What runs here."""
        return self._leader.description

    @property
    def requests(self) -> list[RequestId]:
        """Requests whose events are not all taken yet."""
        return list(self._streams)

    def submit(self, request: RenderRequest, snapshot: Snapshot | None = None) -> None:
        """Take in a request, or what goes on from a snapshot of it.

        Raises:
            InputError: The request does not fit the model, or its id is in use.
            EngineError: The engine is lost.
        """
        self._streams[request.request_id] = self._leader.submit(request, snapshot)

    def take(self, request_id: RequestId, timeout_s: float) -> list[Event | ReelrayError]:
        """Events of a request since the last call, whose frames are thereby acknowledged; an error comes last.

        Raises:
            InputError: No such request.
        """
        stream = self._streams.get(request_id)
        if stream is None:
            raise InputError(f"request {request_id} is not here", ids={"request": str(request_id)})
        items = stream.take(timeout_s)
        if stream.ended:
            self._streams.pop(request_id, None)
        return items

    def cancel(self, request_id: RequestId) -> bool:
        """Stop a request at the next step and forget it; returns whether it was still going on."""
        self._streams.pop(request_id, None)
        return self._leader.cancel(request_id)

    def tell(self, request_id: RequestId, order: Order) -> Standing:
        """Change a request while it runs; see `Leader.tell`."""
        return self._leader.tell(request_id, order)

    def snapshot(self, request_id: RequestId, kind: SnapshotKind) -> Snapshot:
        """Put a request down; see `Leader.snapshot`."""
        return self._leader.snapshot(request_id, kind)

    def fork(self, request_id: RequestId, fork: Fork) -> Forked:
        """Begin another stream from where this one is; see `Leader.fork`."""
        forked, self._streams[fork.request_id] = self._leader.fork(request_id, fork)
        return forked

    def close(self) -> None:
        """Stop after the step in flight, and let the ranks go."""
        self._leader.close()
        self._channel.close()
