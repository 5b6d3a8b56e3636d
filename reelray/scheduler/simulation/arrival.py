"""What happens to a simulated fleet from outside."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from reelray.scheduler.fleet.ticket import DEFAULT_TENANT, Kind, Service, SessionId, TenantId


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What costs depend on.

    Args:
        model: Name of a preset; empty for the one of the simulation.
        size: Pixels, such as ``832x480``; empty for the model's default.
        frames: Pixel frames.
        kind: A stream is played while it is made: it keeps its GPUs for no less than its length.
    """

    model: str = ""
    size: str = ""
    frames: int = 81
    kind: Kind = Kind.RENDER


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a shape costs, by the measured table.

    Args:
        seconds: From first step to last frame, by number of GPUs.
        memory_bytes: On its engine.
        step_s: Of a denoise step on the fewest GPUs: so long it takes at most to stop it.
    """

    seconds: Mapping[int, float]
    memory_bytes: int = 0
    step_s: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """A request comes.

    Args:
        at_s: When.
        shape: What it wants.
        tenant: Whose it is.
        service: Whether somebody waits.
        priority: Of the tenant's own.
        within_s: Deadline, in seconds from its arrival.
        slo: Deadline, as a multiple of its time alone on the fewest GPUs.
        session: That it goes on with.
    """

    at_s: float
    shape: Shape = field(default_factory=Shape)
    tenant: TenantId = DEFAULT_TENANT
    service: Service = Service.BATCH
    priority: int = 0
    within_s: float | None = None
    slo: float | None = None
    session: SessionId | None = None

    def deadline_s(self, cost: Cost) -> float | None:
        """On the clock of the simulation; None without one."""
        if self.within_s is not None:
            return self.at_s + self.within_s
        return None if self.slo is None else self.at_s + self.slo * cost.seconds[min(cost.seconds)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """An engine goes or comes.

    Args:
        at_s: When.
        engine: Its number, from 0.
        is_up: Whether it comes.
    """

    at_s: float
    engine: int
    is_up: bool = False


Happening = Arrival | Fault
