"""How much a tenant may ask for."""

from dataclasses import dataclass

from reelray.cluster.store.names import check_name
from reelray.proto.errors import InputError, QuotaError


@dataclass(frozen=True, kw_only=True, slots=True)
class RateLimit:
    """A token bucket.

    Args:
        name: Of the bucket, one per tenant and name.
        per_s: Tokens that come back each second.
        burst: Tokens that it holds when it is full.
    """

    name: str
    per_s: float
    burst: int

    def __post_init__(self) -> None:
        check_name("rate limit", self.name)
        if not 1e-6 <= self.per_s <= 1e6 or not 1 <= self.burst <= 1e6:
            raise InputError(f"rate limit '{self.name}': per_s must be 1e-6 to 1e6, burst 1 to 1e6")


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitQuota:
    """Units within a window that slides in sixtieths of its width.

    Args:
        name: Of what is counted, such as `gpu-seconds`.
        limit: Most units within the window.
        window_s: Its width.
    """

    name: str
    limit: int
    window_s: float

    def __post_init__(self) -> None:
        check_name("quota", self.name)
        if not 0 < self.limit <= 10**15 or not 0.06 <= self.window_s <= 366 * 86_400:
            raise InputError(f"quota '{self.name}': limit must be above 0, window_s 0.06 up to a year")

    @property
    def window_ms(self) -> int:
        """Width in milliseconds."""
        return round(self.window_s * 1000)

    def check(self, units: int) -> None:
        """Refuse what no waiting can help.

        Raises:
            InputError: The units are negative or more than the limit.
        """
        if not 0 <= units <= self.limit:
            raise InputError(f"{units} units of '{self.name}': the quota is {self.limit} in {self.window_s:g} s")


@dataclass(frozen=True, kw_only=True, slots=True)
class Charge:
    """What a tenant pays for something; None leaves out.

    Args:
        rate: Takes one token.
        units: Takes `charge` units.
        charge: Units of this one.
    """

    rate: RateLimit | None = None
    units: UnitQuota | None = None
    charge: int = 0

    def __post_init__(self) -> None:
        if self.units is not None:
            self.units.check(self.charge)

    @property
    def paid(self) -> tuple[str | int, ...]:
        """Arguments of the scripts that charge."""
        rate = ("", 1, 1) if self.rate is None else (self.rate.name, repr(self.rate.per_s), self.rate.burst)
        units = ("", 1, 1) if self.units is None else (self.units.name, self.units.limit, self.units.window_ms)
        return (*rate, *units, self.charge)


@dataclass(frozen=True, kw_only=True, slots=True)
class SubmitLimits(Charge):
    """What a submit must fit into.

    Args:
        open_jobs: Most jobs of the tenant that are queued or running; None is no limit.
    """

    open_jobs: int | None = None

    @property
    def words(self) -> tuple[str | int, ...]:
        """Arguments of the script that submits."""
        return (*self.paid, -1 if self.open_jobs is None else self.open_jobs)


NO_LIMITS = SubmitLimits()


def refused(tenant: str, quota: str, wait_ms: int) -> QuotaError:
    """The error for a limit that is reached.

    Args:
        tenant: Who asked.
        quota: Name of the limit.
        wait_ms: When to try again; negative where time alone does not help.
    """
    hint = f"; try again in {wait_ms / 1000:.3g} s" if wait_ms >= 0 else ""
    ids = {"tenant": tenant, "quota": quota} | ({"retry_after_ms": str(wait_ms)} if wait_ms >= 0 else {})
    return QuotaError(f"'{tenant}' has used up '{quota}'{hint}", ids=ids)
