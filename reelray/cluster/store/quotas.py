"""Rates, counted units and slots of a tenant, outside of `Jobs.submit`."""

from dataclasses import dataclass

from reelray.cluster.store.connection import Connection, Script
from reelray.cluster.store.limits import RateLimit, UnitQuota, refused
from reelray.cluster.store.lua import CLOCK, LIMITS
from reelray.cluster.store.names import check_name, digest_of
from reelray.proto.errors import InputError

# key, tokens, per s, burst
_TAKE = Script(
    CLOCK
    + LIMITS
    + """
local key, n, per_s, burst = P .. ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local level = bucket_level(key, per_s, burst)
local wait = bucket_wait_ms(level, n, per_s)
if wait == 0 then bucket_set(key, level - n, per_s, burst) end
return wait
"""
)

# key of the units, key of the charge, units, limit, window in ms
_CHARGE = Script(
    CLOCK
    + LIMITS
    + """
local key, once, n = P .. ARGV[1], P .. ARGV[2], tonumber(ARGV[3])
if redis.call('EXISTS', once) == 1 then return 0 end
local wait = window_wait_ms(key, n, tonumber(ARGV[4]), tonumber(ARGV[5]))
if wait == 0 then
  window_add(key, n, tonumber(ARGV[5]))
  redis.call('SET', once, n, 'PX', ARGV[5])
end
return wait
"""
)

# key, window in ms
_USED = Script(CLOCK + LIMITS + "return (window_used(P .. ARGV[1], tonumber(ARGV[2])))")

# key, holder, limit, hold in ms
_HOLD = Script(
    CLOCK
    + """
local key = P .. ARGV[1]
redis.call('ZREMRANGEBYSCORE', key, '-inf', whole(now))
if not redis.call('ZSCORE', key, ARGV[2]) and redis.call('ZCARD', key) >= tonumber(ARGV[3]) then
  local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  return first[2] and math.ceil(tonumber(first[2]) - now) or tonumber(ARGV[4])
end
redis.call('ZADD', key, whole(now + tonumber(ARGV[4])), ARGV[2])
local last = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')
redis.call('PEXPIREAT', key, whole(tonumber(last[2]) + 1000))
return 0
"""
)

# key
_HELD = Script(
    CLOCK
    + """
redis.call('ZREMRANGEBYSCORE', P .. ARGV[1], '-inf', whole(now))
return redis.call('ZCARD', P .. ARGV[1])
"""
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotLimit:
    """How many may be held at a time.

    Args:
        name: Of what is held, such as `streams`.
        limit: Most holders.
        hold_s: A holder that says nothing for so long has lost its slot.
    """

    name: str
    limit: int
    hold_s: float

    def __post_init__(self) -> None:
        check_name("slots", self.name)
        if not 0 <= self.limit <= 10**6 or not 0 < self.hold_s <= 86_400:
            raise InputError(f"slots '{self.name}': limit must be 0 or more, hold_s above 0 and up to a day")

    @property
    def hold_ms(self) -> int:
        """How long a slot is held without a word, in milliseconds."""
        return max(1, round(self.hold_s * 1000))


class Quotas:
    """What a tenant has used and holds.

    Args:
        connection: The store.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def take(self, tenant: str, rate: RateLimit, tokens: int = 1) -> None:
        """Take tokens from the tenant's bucket.

        Raises:
            QuotaError: Too few are in it; nothing was taken.
            InputError: More than it ever holds.
        """
        if not 0 <= tokens <= rate.burst:
            raise InputError(f"{tokens} tokens of '{rate.name}', which holds {rate.burst}")
        key = _key("rate", tenant, rate.name)
        wait_ms = await self._connection.run(_TAKE, key, tokens, repr(rate.per_s), rate.burst)
        if wait_ms:
            raise refused(tenant, rate.name, wait_ms)

    async def charge(self, tenant: str, quota: UnitQuota, units: int, *, once: str) -> None:
        """Count units against the tenant's quota.

        Args:
            tenant: Who pays.
            quota: Which quota.
            units: How many.
            once: What it is for, any text: it is counted once within a window, however often it is asked.

        Raises:
            QuotaError: They do not fit now; nothing was counted.
            InputError: They never fit.
        """
        quota.check(units)
        keys = _key("units", tenant, quota.name), _key("once", tenant, quota.name) + ":" + digest_of(once)
        wait_ms = await self._connection.run(_CHARGE, *keys, units, quota.limit, quota.window_ms)
        if wait_ms:
            raise refused(tenant, quota.name, wait_ms)

    async def used(self, tenant: str, quota: UnitQuota) -> int:
        """Units that were counted within the window that ends now."""
        return int(await self._connection.run(_USED, _key("units", tenant, quota.name), quota.window_ms))

    async def hold(self, tenant: str, slots: SlotLimit, holder: str) -> None:
        """Take a slot, or keep the one that this holder has; call it again well within `hold_s`.

        Args:
            tenant: Whose slots.
            slots: Which.
            holder: Who holds, any text.

        Raises:
            QuotaError: All are held by others.
        """
        words = _key("slots", tenant, slots.name), digest_of(holder), slots.limit, slots.hold_ms
        wait_ms = await self._connection.run(_HOLD, *words)
        if wait_ms:
            raise refused(tenant, slots.name, wait_ms)

    async def give_back(self, tenant: str, slots: SlotLimit, holder: str) -> None:
        """Free a slot; harmless for one that is not held."""
        key = self._connection.key(*_key("slots", tenant, slots.name).split(":")[1:])
        await self._connection.command("ZREM", key, digest_of(holder))

    async def held(self, tenant: str, slots: SlotLimit) -> int:
        """How many slots are held now."""
        return int(await self._connection.run(_HELD, _key("slots", tenant, slots.name)))


def _key(what: str, tenant: str, name: str) -> str:
    return f":{what}:{check_name('tenant', tenant)}:{name}"
