"""How much each tenant may ask of renders."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from reelray.cluster.store.limits import RateLimit, SubmitLimits, UnitQuota

DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True, slots=True)
class TenantQuota:
    """Of one tenant; None leaves out.

    Args:
        renders_per_minute: How many it may submit, after as many at once.
        open_renders: Most that are queued or running.
        frames_per_day: Of all that it submits within any 24 hours.
    """

    renders_per_minute: float | None = None
    open_renders: int | None = None
    frames_per_day: int | None = None

    @property
    def rate(self) -> RateLimit | None:
        """Submissions in the words of the store."""
        per_minute = self.renders_per_minute
        if per_minute is None:
            return None
        return RateLimit(name="renders", per_s=per_minute / 60, burst=max(1, math.ceil(per_minute)))

    @property
    def frames(self) -> UnitQuota | None:
        """Frames in the words of the store."""
        most = self.frames_per_day
        return None if most is None else UnitQuota(name="frames", limit=most, window_s=DAY_S)


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
