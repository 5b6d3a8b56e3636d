"""By what rules a fleet decides."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from reelray.scheduler.fleet.ticket import TenantId

GRACE_S = 1e-3


class Routing(StrEnum):
    """When a ticket without a session gets its engine.

    ``late`` gives it the first engine with room, when its turn has come. ``turns`` and ``counts`` know nothing of
    cost and bind it as it comes: to the engines in turn, or to the one with the fewest tickets. They are there to be
    compared with.
    """

    LATE = "late"
    TURNS = "turns"
    COUNTS = "counts"


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetPolicy:
    """The rules.

    Args:
        routing: When tickets get their engine.
        is_fair: Whether tenants share by weight; otherwise all tickets stand in one line.
        weights: Of tenants; those not named have 1.
        keeps_deadlines: Whether deadlines are promised, or refused at once; otherwise they are not looked at.
        preempts: Whether interactive tickets stop renders.
        widens: Whether tickets get more GPUs than they need while few wait.
        wide_share: Share of the GPUs up to which tickets that cannot be stopped get more than they need.
        promise_share: Share of the GPUs that is promised to deadlines at most; the rest keeps renders moving.
        patience_s: Within which an interactive ticket without a deadline begins.
        urgent_s: So long before its latest start a ticket with a deadline stops renders without one.
        stop_s: Seconds within which a render that is stopped has made room; promises leave so much.
        priority_s: Seconds of waiting that a level of priority is worth.
        tail_rounds: With fewer tickets per GPU than this, the longest goes first: so the last ones end together.
        overtake_s: The longest goes first only if it is so much younger than the oldest at most, levels of priority
            counted as in `priority_s`: so it overtakes none of a higher level that came with it.
        most_waiting: Tickets that wait for one model, all tenants together.
        most_waiting_per_tenant: Those of one tenant.
        most_attempts: So many engines in a row are lost under a ticket that does not get on. Stops do not count.

    Raises:
        ValueError: A number is out of range.
    """

    routing: Routing = Routing.LATE
    is_fair: bool = True
    weights: Mapping[TenantId, float] = field(default_factory=dict)
    keeps_deadlines: bool = True
    preempts: bool = True
    widens: bool = True
    wide_share: float = 0.5
    promise_share: float = 0.9
    patience_s: float = 30.0
    urgent_s: float = 5.0
    stop_s: float = 3.0
    priority_s: float = 60.0
    tail_rounds: int = 4
    overtake_s: float = 30.0
    most_waiting: int = 100_000
    most_waiting_per_tenant: int = 20_000
    most_attempts: int = 5

    def late_s(self, latest_s: float) -> float:
        """When a promise is broken whose latest start this was; a bit later than that, as times are sums of floats."""
        return latest_s + self.stop_s + GRACE_S

    def __post_init__(self) -> None:
        if not 0 < self.promise_share <= 1:
            raise ValueError(f"promise_share is {self.promise_share}; it must lie in (0, 1]")
        if not 0 <= self.wide_share <= 1:
            raise ValueError(f"wide_share is {self.wide_share}; it must lie in 0..1")
        if any(weight <= 0 for weight in self.weights.values()):
            raise ValueError(f"weights are {dict(self.weights)}; they must be greater than 0")
        for name in ("patience_s", "urgent_s", "stop_s", "priority_s", "tail_rounds", "overtake_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")
        for name in ("most_waiting", "most_waiting_per_tenant", "most_attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


POLICIES: Mapping[str, FleetPolicy] = {
    "fair": FleetPolicy(),
    "fifo": FleetPolicy(is_fair=False, keeps_deadlines=False, preempts=False, tail_rounds=0),
    "turns": FleetPolicy(
        routing=Routing.TURNS, is_fair=False, keeps_deadlines=False, preempts=False, widens=False, tail_rounds=0
    ),
    "counts": FleetPolicy(
        routing=Routing.COUNTS, is_fair=False, keeps_deadlines=False, preempts=False, widens=False, tail_rounds=0
    ),
}
"""By the names that `reelray simulate` takes."""
