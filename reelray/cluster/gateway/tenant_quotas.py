"""How much each tenant may ask for."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from reelray.cluster.store.calls import CallLimits
from reelray.cluster.store.limits import RateLimit, SubmitLimits, UnitQuota
from reelray.cluster.store.quotas import SlotLimit

DAY_S = 86_400.0
LIVE_HOLD_S = 30.0
"""How long live videos of a server that was lost count as open."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TenantQuota:
    """Of one tenant; None leaves out.

    Args:
        renders_per_minute: How many it may submit, after as many at once.
        open_renders: Most that are queued or running.
        frames_per_day: Of all that it asks for within any 24 hours.
        live_per_minute: How many live videos it may begin, after as many at once.
        open_live: Most live videos that wait or are made.
    """

    renders_per_minute: float | None = None
    open_renders: int | None = None
    frames_per_day: int | None = None
    live_per_minute: float | None = None
    open_live: int | None = None

    @property
    def rate(self) -> RateLimit | None:
        """Submissions in the words of the store."""
        return _rate("renders", self.renders_per_minute)

    @property
    def frames(self) -> UnitQuota | None:
        """Frames in the words of the store."""
        most = self.frames_per_day
        return None if most is None else UnitQuota(name="frames", limit=most, window_s=DAY_S)

    @property
    def limits_live(self) -> bool:
        """Whether live videos have any limit."""
        return any(most is not None for most in (self.live_per_minute, self.open_live, self.frames_per_day))

    def live_limits(self, frames: int) -> CallLimits:
        """What a live video must fit into.

        Args:
            frames: How many it has.

        Raises:
            InputError: More than its tenant may ever ask for.
        """
        most = self.open_live
        slots = None if most is None else SlotLimit(name="live-open", limit=most, hold_s=LIVE_HOLD_S)
        return replace(self.frames_limit(frames), rate=_rate("live", self.live_per_minute), slots=slots)

    def frames_limit(self, frames: int) -> CallLimits:
        """The same of what is added to one."""
        return CallLimits(units=self.frames, charge=frames)


@dataclass(frozen=True, kw_only=True, slots=True)
class TenantQuotas:
    """Of all tenants.

    Args:
        everybody: Of each that is not named.
        tenants: Of those that are.
    """

    everybody: TenantQuota = field(default_factory=TenantQuota)
    tenants: Mapping[str, TenantQuota] = field(default_factory=dict)

    def of(self, tenant: str) -> TenantQuota:
        """What holds for a tenant."""
        return self.tenants.get(tenant, self.everybody)

    def limits_of(self, tenant: str, *, frames: int) -> SubmitLimits:
        """What a render must fit into.

        Args:
            tenant: Whose.
            frames: How many it has.

        Raises:
            InputError: It has more than its tenant may ever ask for.
        """
        quota = self.of(tenant)
        return SubmitLimits(rate=quota.rate, units=quota.frames, charge=frames, open_jobs=quota.open_renders)


def _rate(name: str, per_minute: float | None) -> RateLimit | None:
    if per_minute is None:
        return None
    return RateLimit(name=name, per_s=per_minute / 60, burst=max(1, math.ceil(per_minute)))
