"""A client's view of an engine actor on the Ray cluster this process is connected to."""

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from weakref import WeakValueDictionary

import ray

from reelray.cluster.lane_choice import Others, find_layouts, limits_for
from reelray.cluster.ray_head import head_is_lost
from reelray.proto.engine_description import EngineDescription
from reelray.proto.errors import EngineError, ReelrayError, ResourceError
from reelray.proto.events import Done, Event
from reelray.proto.layout import Layout
from reelray.proto.placement import Lending
from reelray.proto.request import RenderRequest, RequestId
from reelray.proto.session import Fork, Forked, Order, Standing
from reelray.proto.snapshot import Snapshot, SnapshotKind
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.workers.actor import TAKE, start_engine_actor

_PULL_S = 2.0  # longest wait inside one actor call, so that waiting calls do not pile up in the actor
_LOOK_S = 0.25  # how often a call that waits looks whether Ray is there; Ray itself would wait for a minute
_SILENCE_S = 20.0  # how much longer an answer may take that is due: an engine that is frozen gives none
_CLOSE_S = 10.0  # longest wait for a step in flight and for the ranks to end


class EngineView:
    """An engine actor that somebody else started and ends.

    Args:
        actor: Ray handle of an `EngineActor` that is loaded.
        description: What runs there.
        client: Name by which whoever renders keeps its requests going, see `EngineActor.hear`; None lets them be.
    """

    def __init__(self, actor: Any, description: EngineDescription, *, client: str | None = None) -> None:
        self._actor = actor
        self._description = description
        self._client = client
        self._streams: WeakValueDictionary[RequestId, RemoteStream] = WeakValueDictionary()

    @property
    def description(self) -> EngineDescription:
        """What runs there."""
        return self._description

    @property
    def actor(self) -> Any:
        """The Ray handle of its `EngineActor`."""
        return self._actor

    def move(self, actor: Any, description: EngineDescription) -> None:
        """Go on with another actor of the same model; streams that run stay where they are."""
        self._actor, self._description = actor, description

    def render(self, request: RenderRequest, snapshot: Snapshot | None = None) -> "RemoteStream":
        """Start a request, or go on from a snapshot of it; iterate over the result for its events.

        Raises:
            InputError: The request does not fit the model, or its id is in use.
            EngineError: The engine is lost.
        """
        actor = self._actor
        _fetch(actor.submit.remote(request, snapshot, self._client))
        return self._begin(actor, request.request_id)

    def cancel(self, request_id: RequestId) -> bool:
        """Stop a request at the next step; returns whether it was still going on."""
        return bool(_fetch(self._actor_of(request_id).cancel.remote(request_id)))

    def tell(self, request_id: RequestId, order: Order) -> Standing:
        """See `Engine`."""
        standing: Standing = _fetch(self._actor_of(request_id).tell.remote(request_id, order))
        return standing

    def snapshot(self, request_id: RequestId, kind: SnapshotKind) -> Snapshot:
        """See `Engine`."""
        snapshot: Snapshot = _fetch(self._actor_of(request_id).snapshot.remote(request_id, kind))
        return snapshot

    def fork(self, request_id: RequestId, fork: Fork) -> "tuple[Forked, RemoteStream]":
        """See `Engine`."""
        actor = self._actor_of(request_id)
        forked: Forked = _fetch(actor.fork.remote(request_id, fork, self._client))
        return forked, self._begin(actor, fork.request_id)

    def close(self) -> None:
        """Leave it as it is."""

    def _begin(self, actor: Any, request_id: RequestId) -> "RemoteStream":
        self._streams[request_id] = stream = RemoteStream(actor, request_id)
        return stream

    def _actor_of(self, request_id: RequestId) -> Any:
        """Where a request is: what runs stays where it began."""
        stream = self._streams.get(request_id)
        return self._actor if stream is None else stream.actor


class RemoteEngine(EngineView):
    """One engine actor with one checkpoint, and the ranks that it leads; ends with this.

    Args:
        open_model: A picklable `ModelLoader`; it runs in the actor.
        limits: How much the engine takes on.
        gpus: GPUs it needs, one for each rank if they are several.
        layout: How ranks share their videos; one rank by default.
        others: Further layouts of the same ranks to which they may be regrouped, so that requests run side by side on
            lanes; ``auto`` has the plan choose them, and `layout` where it is None, for as many ranks as `gpus`; the
            loader must be a `CheckpointLoader`.
        decode_ranks: Further ranks that do nothing but decode.
        lending: When those help to denoise.
        group: Placement group to lie in: the actor in its first bundle, and each of several ranks in one of its own.

    Raises:
        InputError: The plan cannot choose.
        CheckpointError: The checkpoint is not usable.
        ResourceError: It does not fit.
        EngineError: The actor was lost while it loaded, or the cluster has no room for the ranks.
        UnsupportedError: Ranks cannot be regrouped between these layouts.
    """

    def __init__(
        self,
        open_model: Any,
        *,
        limits: EngineLimits | None = None,
        gpus: float = 0,
        layout: Layout | None = None,
        others: Others = (),
        decode_ranks: int = 0,
        lending: Lending | None = None,
        group: Any = None,
    ) -> None:
        layouts = find_layouts(open_model, layout, others, ranks=int(gpus) - decode_ranks)
        self._has_gang = layouts[0].ranks + decode_ranks > 1
        if self._has_gang:
            limits = limits or limits_for(layouts)
        core = EngineCore(limits, layouts=layouts, decode_ranks=decode_ranks, lending=lending)
        actor = start_engine_actor(gpus=0 if self._has_gang else gpus, group=group)
        try:
            loading = actor.load.remote(
                open_model, core, layouts, decode_ranks=decode_ranks, lending=lending, on_gpus=gpus > 0
            )
            super().__init__(actor, _fetch(loading))
        except BaseException:
            self._end(actor)
            raise

    def close(self) -> None:
        """End the actor and whatever it runs; harmless when called twice."""
        self._end(self._actor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _end(self, actor: Any) -> None:
        if not ray.is_initialized() or head_is_lost():
            return
        if self._has_gang:
            with suppress(ray.exceptions.RayError):  # it is killed anyway, and its ranks end with it
                ray.get(actor.close.remote(), timeout=_CLOSE_S)
        ray.kill(actor)


class RemoteStream(Iterator[Event]):
    """Iterates over the events of one request; ends after `Done`, raises the request's error.

    Frames are acknowledged by the pull that follows them: a client that stops stops the decoder. Leaving the `with`
    block early, or `close`, cancels the request. One thread takes; any other may close.

    Args:
        actor: Ray handle of the engine.
        request_id: The request.
    """

    def __init__(self, actor: Any, request_id: RequestId) -> None:
        self.request_id, self.actor = request_id, actor
        self._items: deque[Event | ReelrayError] = deque()
        self._ended = False

    def close(self) -> None:
        """Cancel the request if it still goes on."""
        if not self._ended:
            self._ended = True
            self._items.clear()
            # A stream may outlive the cluster, up to the end of the interpreter; asking then would start another one.
            if ray.is_initialized() and not head_is_lost():
                _fetch(self.actor.cancel.remote(self.request_id))

    def __next__(self) -> Event:
        while not self._ended:
            try:
                item = self._items.popleft()
            except IndexError:
                self._refill()
                continue
            if isinstance(item, Done | ReelrayError):
                self._ended = True
            if isinstance(item, ReelrayError):
                raise item
            return item
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _refill(self) -> None:
        try:
            self._items.extend(self._pull())
        except ReelrayError:
            if not self._ended:  # closed meanwhile by another thread, so that the engine knows it no more
                self._ended = True
                raise

    def _pull(self) -> list[Event | ReelrayError]:
        take = self.actor.take.options(concurrency_group=TAKE)
        items: list[Event | ReelrayError] = _fetch(take.remote(self.request_id, _PULL_S), _PULL_S + _SILENCE_S)
        return items


def _fetch(reference: Any, limit_s: float = math.inf) -> Any:
    """Wait for an actor call, in the errors of this package."""
    try:
        value = _wait_for(reference, limit_s)
    except ray.exceptions.OutOfMemoryError:
        raise ResourceError(
            "the machine ran out of memory and the engine was stopped; use a smaller model or picture"
        ) from None
    except ray.exceptions.RayActorError:
        raise EngineError(
            "the engine process ended unexpectedly; if memory was short, ask for fewer frames or a smaller picture"
        ) from None
    except ray.exceptions.RayError as error:
        raise EngineError(f"the engine cannot be reached: {type(error).__name__}") from None
    if isinstance(value, ReelrayError):
        raise value
    return value


def _wait_for(reference: Any, limit_s: float) -> Any:
    until_s = time.monotonic() + limit_s
    while True:
        try:
            return ray.get(reference, timeout=_LOOK_S)
        except ray.exceptions.GetTimeoutError:
            if head_is_lost():
                raise EngineError("the engine was lost: a process of Ray's head node ended unexpectedly") from None
            if time.monotonic() > until_s:
                raise EngineError(f"the engine did not answer for {limit_s:g} s; it may be frozen") from None
