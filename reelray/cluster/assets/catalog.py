"""What the store knows of assets: which there are, how long they are kept, and how much a tenant has of them.

Keys, all below the prefix, in the terms of `store.lua`:

    asset:<tenant>:<id>     hash: what it is and which file has it
    assets:<tenant>         sorted set: ids by when they came
    asset-ends:<tenant>     sorted set: ids by when their time is over
    asset-bytes:<tenant>    number: bytes of all of them
    uploads:<tenant>        sorted set: `<token>:<bytes>` of uploads that run, by when they are given up

A file is written before the store hears of it and deleted after the store has forgotten it, and no two uploads share
one, so no file that is named here is ever missing.
"""

from dataclasses import dataclass

from reelray.cluster.assets.asset import Asset, AssetRule, unknown
from reelray.cluster.renders.artifact import Artifact
from reelray.cluster.store.connection import Connection, Script
from reelray.cluster.store.limits import refused
from reelray.cluster.store.lua import CLOCK
from reelray.cluster.store.names import check_name
from reelray.proto.errors import InputError

UPLOAD_S = 3600.0
"""After so long an upload is over, whatever became of it."""
_LONGEST_PAGE = 100

# The tenant is always the first argument.
_BASE = (
    CLOCK
    + """
local T = ARGV[1]
local all, ends, sum = P .. ':assets:' .. T, P .. ':asset-ends:' .. T, P .. ':asset-bytes:' .. T
local uploads = P .. ':uploads:' .. T
local function row(id) return P .. ':asset:' .. T .. ':' .. id end
local function drop(id)
  local was = redis.call('HMGET', row(id), 'size', 'file')
  redis.call('DEL', row(id))
  redis.call('ZREM', all, id)
  redis.call('ZREM', ends, id)
  if was[1] then redis.call('DECRBY', sum, was[1]) end
  return was[2]
end
local function used() return tonumber(redis.call('GET', sum) or '0') end
local function drop_old()
  local old = redis.call('ZRANGEBYSCORE', ends, '-inf', whole(now), 'LIMIT', 0, 64)
  for _, id in ipairs(old) do drop(id) end
  return #old > 0
end
local function keep(id, keep_ms)
  local until_ms = math.max(now + keep_ms, tonumber(redis.call('HGET', row(id), 'expires_ms') or '0'))
  redis.call('HSET', row(id), 'expires_ms', whole(until_ms))
  redis.call('ZADD', ends, whole(until_ms), id)
end
"""
)

# tenant, id, bytes, how long to keep in ms, token, most bytes, most assets, most uploads, when they are over in ms
_BEGIN = Script(
    _BASE
    + """
drop_old()
local id, size = ARGV[2], tonumber(ARGV[3])
if redis.call('EXISTS', row(id)) == 1 then
  keep(id, tonumber(ARGV[4]))
  return {'same', redis.call('HGETALL', row(id))}
end
redis.call('ZREMRANGEBYSCORE', uploads, '-inf', whole(now))
redis.call('ZREM', uploads, ARGV[5] .. ':' .. ARGV[3])
local running = redis.call('ZRANGE', uploads, 0, -1)
if #running >= tonumber(ARGV[8]) then return {'uploads', 1000} end
local coming = size
for _, upload in ipairs(running) do coming = coming + tonumber(string.match(upload, ':(%d+)$')) end
local function trouble()
  if redis.call('ZCARD', all) + #running >= tonumber(ARGV[7]) then return 'assets' end
  if used() + coming > tonumber(ARGV[6]) then return 'asset-bytes' end
end
while trouble() and drop_old() do end
if trouble() then return {trouble(), -1} end
redis.call('ZADD', uploads, whole(now + tonumber(ARGV[9])), ARGV[5] .. ':' .. ARGV[3])
return {'go'}
"""
)

# tenant, upload
_GIVE_UP = Script(_BASE + "return redis.call('ZREM', uploads, ARGV[2])")

# tenant, id, upload, bytes, how long to keep in ms, media type, file
_ADD = Script(
    _BASE
    + """
local id = ARGV[2]
redis.call('ZREM', uploads, ARGV[3])
if redis.call('EXISTS', row(id)) == 0 then
  redis.call('HSET', row(id), 'size', ARGV[4], 'media_type', ARGV[6], 'file', ARGV[7], 'created_ms', whole(now))
  redis.call('ZADD', all, redis.call('INCR', P .. ':seq'), id)
  redis.call('INCRBY', sum, ARGV[4])
end
keep(id, tonumber(ARGV[5]))
return redis.call('HGETALL', row(id))
"""
)

# tenant, id
_GET = Script(
    _BASE
    + """
if tonumber(redis.call('HGET', row(ARGV[2]), 'expires_ms') or '0') <= now then return {} end
return redis.call('HGETALL', row(ARGV[2]))
"""
)

# tenant, cursor, limit
_LIST = Script(
    _BASE
    + """
local cursor, limit, rows = ARGV[2], tonumber(ARGV[3]), {}
while #rows < limit do
  local found = redis.call('ZREVRANGEBYSCORE', all, cursor, '-inf', 'WITHSCORES', 'LIMIT', 0, limit)
  if #found == 0 then return {rows, ''} end
  for i = 1, #found, 2 do
    cursor = '(' .. found[i + 1]
    local one = redis.call('HGETALL', row(found[i]))
    local until_ms = tonumber(redis.call('HGET', row(found[i]), 'expires_ms') or '0')
    if until_ms > now then table.insert(rows, {found[i], one}) end
    if #rows == limit then return {rows, cursor} end
  end
end
return {rows, cursor}
"""
)

# tenant, id
_DROP = Script(_BASE + "return drop(ARGV[2])")

# tenant, most bytes
_SWEEP = Script(
    _BASE
    + """
drop_old()
while used() > tonumber(ARGV[2]) do
  local first = redis.call('ZRANGE', ends, 0, 0)[1]
  if not first then break end
  drop(first)
end
local files = {}
for _, id in ipairs(redis.call('ZRANGE', all, 0, -1)) do
  table.insert(files, redis.call('HGET', row(id), 'file') or '')
end
return files
"""
)


@dataclass(frozen=True, kw_only=True, slots=True)
class NewAsset:
    """What comes in.

    Args:
        tenant: Whose.
        id: SHA-256 that its bytes must have; empty as long as that is not known.
        room_bytes: Most bytes that it has.
        keep_s: How long it is kept.
        token: Of this upload; nobody else has it.
    """

    tenant: str
    id: str
    room_bytes: int
    keep_s: float
    token: str

    @property
    def upload(self) -> str:
        """How the store knows this upload."""
        return f"{self.token}:{self.room_bytes}"

    @property
    def keep_ms(self) -> int:
        """How long it is kept, in milliseconds."""
        return max(1, round(self.keep_s * 1000))


@dataclass(frozen=True, kw_only=True, slots=True)
class AssetPage:
    """Assets of a tenant, the newest first.

    Args:
        assets: Some of them.
        cursor: Where the next page begins; empty at the end.
    """

    assets: tuple[Asset, ...]
    cursor: str


class Catalog:
    """The assets of all tenants. Every method raises `StoreError` where the store does not answer.

    Args:
        connection: The store.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def begin(self, new: NewAsset, rule: AssetRule) -> Asset | None:
        """Make room for an upload, or find that it is here already, and keep it longer then.

        Raises:
            QuotaError: The tenant has as much as it may, or sends as many at once as it may.
        """
        limits = rule.most_bytes, rule.most_assets, rule.most_uploads, round(UPLOAD_S * 1000)
        said = await self._connection.run(
            _BEGIN, check_name("tenant", new.tenant), new.id, new.room_bytes, new.keep_ms, new.token, *limits
        )
        if said[0] == b"same":
            return Asset.of_row(new.tenant, new.id, said[1])
        if said[0] != b"go":
            raise refused(new.tenant, said[0].decode(), int(said[1]))
        return None

    async def give_up(self, new: NewAsset) -> None:
        """Free the room of an upload that came to nothing; harmless for one that did."""
        await self._connection.run(_GIVE_UP, new.tenant, new.upload)

    async def add(self, new: NewAsset, media_type: str, file: Artifact) -> Asset:
        """Take on what was uploaded; the answer names another file where it was here already."""
        what = file.size_bytes, new.keep_ms, media_type, file.name
        row = await self._connection.run(_ADD, new.tenant, file.sha256, new.upload, *what)
        return Asset.of_row(new.tenant, file.sha256, row)

    async def get(self, tenant: str, asset_id: str) -> Asset:
        """Look an asset up.

        Raises:
            UnknownAssetError: The tenant has none of this id.
        """
        row = await self._connection.run(_GET, check_name("tenant", tenant), asset_id)
        if not row:
            raise unknown(asset_id)
        return Asset.of_row(tenant, asset_id, row)

    async def list(self, tenant: str, *, cursor: str = "", limit: int = 50) -> AssetPage:
        """A page of a tenant's assets, the newest first.

        Raises:
            InputError: The cursor is none, or the limit is out of range.
        """
        if not 1 <= limit <= _LONGEST_PAGE:
            raise InputError(f"a page of {limit} assets: allowed are 1 to {_LONGEST_PAGE}")
        if cursor and not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 16):
            raise InputError("this is not the cursor of a list of assets")
        begin = f"({cursor}" if cursor else "+inf"
        rows, last = await self._connection.run(_LIST, check_name("tenant", tenant), begin, limit)
        assets = tuple(Asset.of_row(tenant, asset_id.decode(), row) for asset_id, row in rows)
        return AssetPage(assets=assets, cursor=last.decode().removeprefix("("))

    async def cursor_behind(self, tenant: str, asset_id: str) -> str:
        """Cursor of the page behind an asset.

        Raises:
            UnknownAssetError: The tenant has none of this id.
        """
        place = await self._connection.command("ZSCORE", self._connection.key("assets", tenant), asset_id)
        if place is None:
            raise unknown(asset_id)
        return str(int(place))

    async def drop(self, tenant: str, asset_id: str) -> str:
        """Forget an asset; gives the name of its file.

        Raises:
            UnknownAssetError: The tenant has none of this id.
        """
        file = await self._connection.run(_DROP, check_name("tenant", tenant), asset_id)
        if file is None:
            raise unknown(asset_id)
        return str(file.decode())

    async def sweep(self, tenant: str, most_bytes: int) -> frozenset[str]:
        """Forget what is too old and, the next to expire first, what is too much; gives all files that are left."""
        files = await self._connection.run(_SWEEP, tenant, most_bytes)
        return frozenset(file.decode() for file in files)
