"""The directory of sessions: which engine has the memory of which live stream."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reelray.cluster.store.connection import Connection, Script
from reelray.cluster.store.job import json_bytes
from reelray.cluster.store.lua import CLOCK
from reelray.cluster.store.names import check_name
from reelray.proto.errors import EpochError, InputError

_LARGEST_DATA_BYTES = 16 << 10
_EPOCHS = """
local function next_epoch()
  local epoch = next_fence(redis.call('GET', P .. ':epochs'))
  redis.call('SET', P .. ':epochs', epoch)
  return epoch
end
"""

# key, engine, data, keep in ms. Epochs are fences of all sessions together: one made anew never has an old one's.
_OPEN = Script(
    CLOCK
    + _EPOCHS
    + """
local key = P .. ARGV[1]
if redis.call('EXISTS', key) == 0 then
  redis.call('HSET', key, 'engine', ARGV[2], 'data', ARGV[3], 'epoch', next_epoch())
end
redis.call('PEXPIRE', key, ARGV[4])
return redis.call('HMGET', key, 'engine', 'epoch', 'data')
"""
)

# key, keep in ms. Not each look-up writes, as a write waits for the disk.
_FIND = Script(
    CLOCK
    + """
local key, keep_ms = P .. ARGV[1], tonumber(ARGV[2])
local left_ms = redis.call('PTTL', key)
if left_ms == -2 then return nil end
if left_ms < keep_ms * 7 / 8 then redis.call('PEXPIRE', key, ARGV[2]) end
return redis.call('HMGET', key, 'engine', 'epoch', 'data')
"""
)

# key, epoch, engine, data, keep in ms
_MOVE = Script(
    CLOCK
    + _EPOCHS
    + """
local key = P .. ARGV[1]
local is = redis.call('HMGET', key, 'epoch', 'moved_from', 'engine', 'data')
if not is[1] then return {0, ''} end
local again = is[2] == ARGV[2] and is[3] == ARGV[3] and is[4] == ARGV[4]
if is[1] ~= ARGV[2] and not again then return {0, is[1]} end
if not again then
  redis.call('HSET', key, 'engine', ARGV[3], 'data', ARGV[4], 'epoch', next_epoch(),
    'moved_from', ARGV[2])
end
redis.call('PEXPIRE', key, ARGV[5])
return {1, redis.call('HGET', key, 'epoch')}
"""
)

# key, epoch
_CLOSE = Script(
    CLOCK
    + """
local key = P .. ARGV[1]
local epoch = redis.call('HGET', key, 'epoch')
if not epoch then return {1, ''} end
if epoch ~= ARGV[2] then return {0, epoch} end
redis.call('DEL', key)
return {1, ''}
"""
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """Where a live stream is.

    Args:
        tenant: Whose.
        id: Which.
        engine: Who has its memory.
        epoch: Number of this placing; grows with each move.
        data: What else the gateways must know, such as the last chunk.
    """

    tenant: str
    id: str
    engine: str
    epoch: int
    data: dict[str, Any]


class Sessions:
    """Which session is where; an entry that nobody looks up for a while is forgotten.

    Args:
        connection: The store.
        keep_s: For how long after it was last used, to an eighth.
    """

    def __init__(self, connection: Connection, *, keep_s: float = 600.0) -> None:
        if not 0 < keep_s <= 366 * 86_400:
            raise InputError(f"sessions are kept {keep_s} s: allowed is above 0, up to a year")
        self._connection = connection
        self._keep_ms = max(1, round(keep_s * 1000))

    async def open(self, tenant: str, session: str, engine: str, data: Mapping[str, Any] | None = None) -> Session:
        """Place a new session on an engine; one that is there already stays where it is.

        Returns:
            Where it is: look whether `engine` is the one you named.
        """
        row = await self._connection.run(_OPEN, _key(tenant, session), engine, _data(data or {}), self._keep_ms)
        return _session_from(tenant, session, row)

    async def find(self, tenant: str, session: str) -> Session | None:
        """Where a session is; None where it is not known. Counts as use."""
        row = await self._connection.run(_FIND, _key(tenant, session), self._keep_ms)
        return None if row is None else _session_from(tenant, session, row)

    async def move(self, session: Session, engine: str, data: Mapping[str, Any] | None = None) -> Session:
        """Place a session anew, if nobody has since it was looked up.

        Args:
            session: As it was looked up.
            engine: Where it goes; may be the same, to change `data` only.
            data: What replaces its data; None keeps them.

        Raises:
            EpochError: It was moved or forgotten meanwhile; look it up again.
        """
        text = _data(session.data if data is None else data)
        key = _key(session.tenant, session.id)
        moved, epoch = await self._connection.run(_MOVE, key, session.epoch, engine, text, self._keep_ms)
        if not moved:
            raise _stale(session, epoch)
        return _session_from(session.tenant, session.id, (engine.encode(), epoch, text))

    async def close(self, session: Session) -> None:
        """Forget a session; harmless for one that is forgotten.

        Raises:
            EpochError: It was moved meanwhile.
        """
        closed, epoch = await self._connection.run(_CLOSE, _key(session.tenant, session.id), session.epoch)
        if not closed:
            raise _stale(session, epoch)


def _key(tenant: str, session: str) -> str:
    return f":sess:{check_name('tenant', tenant)}:{check_name('session', session)}"


def _data(data: Mapping[str, Any]) -> bytes:
    return json_bytes("the session's data", data, largest=_LARGEST_DATA_BYTES)


def _session_from(tenant: str, session: str, row: tuple[bytes, bytes, bytes]) -> Session:
    engine, epoch, data = row
    return Session(tenant=tenant, id=session, engine=engine.decode(), epoch=int(epoch), data=json.loads(data))


def _stale(session: Session, epoch: bytes) -> EpochError:
    ids = {"tenant": session.tenant, "session": session.id, "epoch": epoch.decode()}
    now = f"is at epoch {epoch.decode()} now" if epoch else "is not known any more"
    return EpochError(f"session '{session.id}' {now}, not at {session.epoch}", ids=ids)
