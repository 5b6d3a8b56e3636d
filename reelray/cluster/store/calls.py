"""Calls of a tenant that last: let in within all of its limits at once, and paid for once."""

from dataclasses import dataclass

from reelray.cluster.store.connection import Connection, Script
from reelray.cluster.store.limits import Charge, refused
from reelray.cluster.store.lua import CLOCK, LIMITS
from reelray.cluster.store.names import check_name, digest_of
from reelray.cluster.store.quotas import SlotLimit

KEPT_MS = 86_400_000
"""How long a call is remembered that nobody ended: until then it can give units back."""

# tenant, hash of the call; rate, per s, burst; units, limit, window in ms, charge; slots, most, hold in ms; kept for ms
_ENTER = Script(
    CLOCK
    + LIMITS
    + """
local tenant, id = ARGV[1], ARGV[2]
local call = P .. ':call:' .. tenant .. ':' .. id
if redis.call('EXISTS', call) == 1 then return {'', 0} end

local rate, per_s, burst = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local units, limit, width, charge = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local slots, most, hold = ARGV[10], tonumber(ARGV[11]), tonumber(ARGV[12])
local rate_key, units_key = P .. ':rate:' .. tenant .. ':' .. rate, P .. ':units:' .. tenant .. ':' .. units
local slots_key = P .. ':slots:' .. tenant .. ':' .. slots
local level, slice
if slots ~= '' then
  redis.call('ZREMRANGEBYSCORE', slots_key, '-inf', whole(now))
  if redis.call('ZCARD', slots_key) >= most then
    local first = redis.call('ZRANGE', slots_key, 0, 0, 'WITHSCORES')
    return {slots, first[2] and math.ceil(tonumber(first[2]) - now) or hold}
  end
end
if rate ~= '' then
  level = bucket_level(rate_key, per_s, burst)
  local wait = bucket_wait_ms(level, 1, per_s)
  if wait > 0 then return {rate, wait} end
end
if units ~= '' then
  local wait = window_wait_ms(units_key, charge, limit, width)
  if wait > 0 then return {units, wait} end
  slice = window_add(units_key, charge, width)
end
if rate ~= '' then bucket_set(rate_key, level - 1, per_s, burst) end
if slots ~= '' then
  redis.call('ZADD', slots_key, whole(now + hold), id)
  redis.call('PEXPIRE', slots_key, hold + 1000)
end
redis.call('HSET', call, 'units', units, 'slice', slice or '', 'charge', charge)
redis.call('PEXPIRE', call, ARGV[13])
return {'', 0}
"""
)

# tenant, hash of the call, most units that stay charged (below 0: all), slots that it leaves (or '')
_LEAVE = Script(
    CLOCK
    + """
even_when_full()
local tenant, id, most, slots = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local call = P .. ':call:' .. tenant .. ':' .. id
local was = redis.call('HMGET', call, 'units', 'slice', 'charge')
if was[1] and was[1] ~= '' and most >= 0 and most < tonumber(was[3]) then
  local key = P .. ':units:' .. tenant .. ':' .. was[1]
  if redis.call('HEXISTS', key, was[2]) == 1 then redis.call('HINCRBY', key, was[2], most - tonumber(was[3])) end
  redis.call('HSET', call, 'charge', most)
end
if slots ~= '' then
  redis.call('ZREM', P .. ':slots:' .. tenant .. ':' .. slots, id)
  redis.call('DEL', call)
end
return 0
"""
)

# tenant, hash of the call, slots, hold in ms
_STAY = Script(
    CLOCK
    + """
if redis.call('EXISTS', P .. ':call:' .. ARGV[1] .. ':' .. ARGV[2]) == 0 then return 0 end
even_when_full()
local key = P .. ':slots:' .. ARGV[1] .. ':' .. ARGV[3]
redis.call('ZADD', key, whole(now + tonumber(ARGV[4])), ARGV[2])
redis.call('PEXPIRE', key, tonumber(ARGV[4]) + 1000)
return 0
"""
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CallLimits(Charge):
    """What a call must fit into.

    Args:
        slots: Takes one, for as long as it lasts; None is no limit.
    """

    slots: SlotLimit | None = None

    @property
    def words(self) -> tuple[str | int, ...]:
        """Arguments of the script that lets in."""
        slots = ("", 0, 1) if self.slots is None else (self.slots.name, self.slots.limit, self.slots.hold_ms)
        return (*self.paid, *slots)


class Calls:
    """The calls of all tenants.

    Args:
        connection: The store.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def enter(self, tenant: str, call: str, limits: CallLimits) -> None:
        """Let a call in, within all limits, in one change. One that is in takes nothing for being said again.

        Args:
            tenant: Whose.
            call: Its name, any text.
            limits: What it must fit into.

        Raises:
            QuotaError: A limit is reached, and nothing was taken; `ids` says which and when to try again.
        """
        words = check_name("tenant", tenant), digest_of(call), *limits.words, KEPT_MS
        name, wait_ms = await self._connection.run(_ENTER, *words)
        if name:
            raise refused(tenant, name.decode(), int(wait_ms))

    async def keep_charged(self, tenant: str, call: str, units: int) -> None:
        """Give back what a call was charged beyond so many units; harmless when said twice."""
        await self._connection.run(_LEAVE, check_name("tenant", tenant), digest_of(call), units, "")

    async def stay(self, tenant: str, call: str, slots: SlotLimit) -> None:
        """Keep the slot of a call that is in; say it again well within `hold_s`."""
        words = check_name("tenant", tenant), digest_of(call), slots.name, slots.hold_ms
        await self._connection.run(_STAY, *words)

    async def leave(self, tenant: str, call: str, slots: SlotLimit, units: int | None = None) -> None:
        """A call is over: its slot is free; harmless when said twice.

        Args:
            tenant: Whose.
            call: Its name.
            slots: What it held, or would have.
            units: Most that stay charged; None keeps all.
        """
        words = check_name("tenant", tenant), digest_of(call), -1 if units is None else units, slots.name
        await self._connection.run(_LEAVE, *words)
