"""What the fleet knows of a request: who wants it, by when, and what it is predicted to take."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

from reelray.proto.request import RequestId

TenantId = NewType("TenantId", str)
EngineId = NewType("EngineId", str)
SessionId = NewType("SessionId", str)
DEFAULT_TENANT = TenantId("default")


class Kind(StrEnum):
    """What is asked for."""

    STREAM = "stream"
    RENDER = "render"


class Service(StrEnum):
    """Whether somebody is waiting in front of a screen."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ticket:
    """A request that wants a place.

    Args:
        request_id: Unique in the fleet.
        model: Whose engines can take it.
        seconds: Predicted seconds from first step to last frame, by the number of GPUs.
        tenant: Whose share it uses.
        kind: A stream must have begun by its deadline, a render must be finished.
        service: Interactive tickets stop renders that nobody waits for.
        priority: Of the tenant's own tickets; a level is worth `FleetPolicy.priority_s` of waiting.
        deadline_s: On the clock of the fleet; None promises nothing, except that an interactive ticket begins within
            `FleetPolicy.patience_s`.
        memory_bytes: Predicted bytes on its engine, over all its GPUs.
        session: What it goes on with; it runs where that is held.
        engine: The only engine that may run it; None lets all of its model.

    Raises:
        ValueError: A number is out of range.
    """

    request_id: RequestId
    model: str
    seconds: Mapping[int, float]
    tenant: TenantId = DEFAULT_TENANT
    kind: Kind = Kind.RENDER
    service: Service = Service.BATCH
    priority: int = 0
    deadline_s: float | None = None
    memory_bytes: int = 0
    session: SessionId | None = None
    engine: EngineId | None = None

    def __post_init__(self) -> None:
        if not self.seconds or min(self.seconds) < 1:
            raise ValueError(f"seconds are known for {sorted(self.seconds)} GPUs; at least one number from 1 is needed")
        if not all(0 < value < float("inf") for value in self.seconds.values()):
            raise ValueError(f"seconds are {dict(self.seconds)}; they must be finite and greater than 0")
        if self.memory_bytes < 0:
            raise ValueError(f"memory_bytes is {self.memory_bytes}; it must be at least 0")

    @property
    def is_interactive(self) -> bool:
        """Whether it goes before renders, and stops them."""
        return self.service is Service.INTERACTIVE
