"""What a client needs from an engine, wherever it runs."""

from collections.abc import Iterator
from typing import Protocol

from reelray.proto.engine_description import EngineDescription
from reelray.proto.events import Event
from reelray.proto.request import RenderRequest, RequestId
from reelray.proto.session import Fork, Forked, Order, Standing
from reelray.proto.snapshot import Snapshot, SnapshotKind


class Engine(Protocol):
    """Renders requests of one loaded checkpoint."""

    @property
    def description(self) -> EngineDescription:
        """What runs here."""
        ...

    def render(self, request: RenderRequest, snapshot: Snapshot | None = None) -> Iterator[Event]:
        """Run one request, or what goes on from a snapshot of it.

        Closing the iterator early cancels the request.

        Returns:
            Progress and frames in order, then `Done`.

        Raises:
            ReelrayError: The request failed; the engine may be used again unless it is an `EngineError`.
        """
        ...

    def tell(self, request_id: RequestId, order: Order) -> Standing:
        """Change a request while it runs.

        Raises:
            InputError: It is not here or has ended, or the order comes too late; it goes on as it was.
        """
        ...

    def snapshot(self, request_id: RequestId, kind: SnapshotKind) -> Snapshot:
        """Put a request down; it goes on.

        Raises:
            InputError: It is not here or has ended, or ends before.
        """
        ...

    def fork(self, request_id: RequestId, fork: Fork) -> tuple[Forked, Iterator[Event]]:
        """Begin another stream that goes its own way from where this one is, or was; that goes on.

        Returns:
            The other one, and its events.

        Raises:
            InputError: It is not here or has ended, or ends before, or the prompt comes too late.
            ResourceError: There is no room for two.
        """
        ...

    def close(self) -> None:
        """Free everything; harmless when called twice."""
        ...
