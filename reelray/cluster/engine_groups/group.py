"""Several engines of one model that look like one: each request goes to the one with the least work."""

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence

from reelray.cluster.engine_api import Engine
from reelray.cluster.engine_groups.watched_stream import WatchedStream
from reelray.cluster.gateway.served_models import ServedModel
from reelray.proto.errors import EndedError, EngineError, ResourceError
from reelray.proto.events import Event
from reelray.proto.request import RenderRequest, RequestId
from reelray.proto.session import Fork, Forked, Order, Standing
from reelray.proto.snapshot import Snapshot, SnapshotKind


def work_of(request: RenderRequest) -> float:
    """How long a request takes an engine, in a unit that is the same for all requests of a model."""
    return float(request.frames * request.width * request.height * request.recipe.schedule.steps)


class EngineGroup:
    """Implements `Engine`; engines that are lost are opened again while the others go on.

    Args:
        members: The engines, each with the means to be opened again.
    """

    def __init__(self, members: Sequence[ServedModel]) -> None:
        self._members = tuple(members)
        self.description = members[0].description
        self._lock = threading.Lock()
        self._work = dict.fromkeys(members, 0.0)
        self._where: dict[RequestId, tuple[ServedModel, float]] = {}
        self._turn = itertools.cycle(range(len(members)))

    def render(self, request: RenderRequest, snapshot: Snapshot | None = None) -> Iterator[Event]:
        """See `Engine`.

        Raises:
            EngineError: All engines were lost and are being opened again.
        """
        member = self._begin(request.request_id, None, work_of(request))
        return self._watched(request.request_id, member, lambda engine: engine.render(request, snapshot))

    def tell(self, request_id: RequestId, order: Order) -> Standing:
        """See `Engine`; of a request that is nowhere, this says whether anybody is there."""
        return self._engine_of(request_id).tell(request_id, order)

    def snapshot(self, request_id: RequestId, kind: SnapshotKind) -> Snapshot:
        """See `Engine`."""
        return self._engine_of(request_id).snapshot(request_id, kind)

    def fork(self, request_id: RequestId, fork: Fork) -> tuple[Forked, Iterator[Event]]:
        """See `Engine`; the other one is made by the same engine, which has the memory."""
        member, work = self._place_of(request_id)
        forked, events = member.engine.fork(request_id, fork)
        self._begin(fork.request_id, member, work)
        return forked, WatchedStream(events, lambda error: self._end(fork.request_id, error))

    def close(self) -> None:
        """Free everything; harmless when called twice."""
        for member in self._members:
            member.close()

    def _begin(self, request_id: RequestId, member: ServedModel | None, work: float) -> ServedModel:
        with self._lock:
            member = member or self._least_loaded()
            self._work[member] += work
            self._where[request_id] = member, work
            return member

    def _least_loaded(self) -> ServedModel:
        ready = [member for member in self._members if member.is_ready] or list(self._members)
        first = next(self._turn)  # of equals each has its turn
        return min(ready, key=lambda member: (self._work[member], (self._members.index(member) - first) % len(ready)))

    def _watched(
        self, request_id: RequestId, member: ServedModel, start: Callable[[Engine], Iterator[Event]]
    ) -> Iterator[Event]:
        try:
            events = start(member.engine)
        except BaseException as error:
            self._end(request_id, error)
            raise
        return WatchedStream(events, lambda error: self._end(request_id, error))

    def _end(self, request_id: RequestId, error: BaseException | None) -> None:
        with self._lock:
            member, work = self._where.pop(request_id)
            self._work[member] -= work
        if isinstance(error, EngineError | ResourceError):
            name = f"look after one of {member.entry.name}"
            threading.Thread(target=member.look_after, name=name, daemon=True).start()

    def _engine_of(self, request_id: RequestId) -> Engine:
        return self._place_of(request_id)[0].engine

    def _place_of(self, request_id: RequestId) -> tuple[ServedModel, float]:
        with self._lock:
            found = self._where.get(request_id)
        if found is not None:
            return found
        if not any(member.is_ready for member in self._members):
            raise EngineError("all engines of the model were lost and start again; try again soon")
        raise EndedError(f"request {request_id} is not here")
