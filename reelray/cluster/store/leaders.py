"""Leadership: one holder at a time of a name, with a fence."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reelray.cluster.store.connection import Connection, Script
from reelray.cluster.store.job import json_bytes
from reelray.cluster.store.leases import lease_milliseconds
from reelray.cluster.store.lua import CLOCK
from reelray.cluster.store.names import check_name
from reelray.proto.errors import InputError, LeaseLostError

_HEAD = (
    CLOCK
    + """
local key = P .. ':lead:' .. ARGV[1]
local is = redis.call('HMGET', key, 'owner', 'fence', 'until_ms', 'data')
local held = is[1] and is[1] ~= '' and tonumber(is[3]) > now
"""
)

# name, owner, lease in ms, data. The key never expires: fences must go on growing.
_ACQUIRE = Script(
    _HEAD
    + """
if held and is[1] ~= ARGV[2] then return nil end
even_when_full()
local fence = is[2]
if not held then fence = next_fence(is[2]) end
redis.call('HSET', key, 'fence', fence, 'owner', ARGV[2], 'until_ms', whole(now + tonumber(ARGV[3])), 'data', ARGV[4])
return redis.call('HMGET', key, 'owner', 'fence', 'until_ms', 'data')
"""
)

# name, owner, fence, lease in ms. One that ran out may be renewed as long as nobody else came.
_RENEW = Script(
    _HEAD
    + """
if is[1] ~= ARGV[2] or is[2] ~= ARGV[3] then return nil end
even_when_full()
redis.call('HSET', key, 'until_ms', whole(now + tonumber(ARGV[4])))
return redis.call('HMGET', key, 'owner', 'fence', 'until_ms', 'data')
"""
)

# name, owner, fence
_RELEASE = Script(
    _HEAD
    + """
if is[1] == ARGV[2] and is[2] == ARGV[3] then redis.call('HSET', key, 'owner', '', 'until_ms', 0) end
"""
)

# name
_OBSERVE = Script(_HEAD + "if held then return is end")


@dataclass(frozen=True, kw_only=True, slots=True)
class Leadership:
    """Who leads.

    Args:
        name: What is led.
        owner: Who leads; each process chooses one of its own.
        fence: Number of this leadership; grows with each change of hands.
        until_ms: When it is over unless it is renewed, by the server's clock.
        data: What the leader tells all, such as its address.
    """

    name: str
    owner: str
    fence: int
    until_ms: int
    data: dict[str, Any]


class Leaders:
    """Elects one process for each name.

    Args:
        connection: The store.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def acquire(
        self, name: str, owner: str, *, lease_s: float, data: Mapping[str, Any] | None = None
    ) -> Leadership | None:
        """Become the leader if nobody is; None where another is. The leader itself keeps its fence.

        Raises:
            InputError: No owner, or a lease that is not above zero.
        """
        if not owner:
            raise InputError("a leader needs an owner's name")
        text = json_bytes("the leader's data", data or {}, largest=4096)
        row = await self._connection.run(_ACQUIRE, check_name("leader", name), owner, lease_milliseconds(lease_s), text)
        return _leadership(name, row)

    async def renew(self, held: Leadership, *, lease_s: float) -> Leadership:
        """Lead for longer, counted from now.

        Raises:
            LeaseLostError: Another leads; stop at once.
        """
        row = await self._connection.run(_RENEW, held.name, held.owner, held.fence, lease_milliseconds(lease_s))
        found = _leadership(held.name, row)
        if found is None:
            raise LeaseLostError(
                f"'{held.owner}' does not lead '{held.name}' with fence {held.fence} any more",
                ids={"leader": held.name, "fence": str(held.fence)},
            )
        return found

    async def release(self, held: Leadership) -> None:
        """Lead no more, so that another need not wait; harmless where another leads already."""
        await self._connection.run(_RELEASE, held.name, held.owner, held.fence)

    async def observe(self, name: str) -> Leadership | None:
        """Who leads; None where nobody does."""
        return _leadership(name, await self._connection.run(_OBSERVE, check_name("leader", name)))


def _leadership(name: str, row: tuple[bytes, bytes, bytes, bytes] | None) -> Leadership | None:
    if row is None:
        return None
    owner, fence, until_ms, data = row
    return Leadership(name=name, owner=owner.decode(), fence=int(fence), until_ms=int(until_ms), data=json.loads(data))
