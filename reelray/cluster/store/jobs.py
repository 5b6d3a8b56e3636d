"""Jobs: submitted once, looked up, listed, cancelled."""

from dataclasses import dataclass

from reelray.cluster.store.connection import Connection, Script
from reelray.cluster.store.job import Job, JobState, NewJob, job_from, json_bytes
from reelray.cluster.store.limits import NO_LIMITS, SubmitLimits, refused
from reelray.cluster.store.lua import JOBS, LIMITS
from reelray.cluster.store.names import JobRef, check_name, digest_of
from reelray.proto.errors import ConflictError, InputError, UnknownJobError

_LONGEST_PAGE, _LARGEST_PAGE_BYTES = 200, 4 << 20

# tenant, id, key hash, spec, digest, queue, priority, max attempts, retention; then the limits as `SubmitLimits.words`;
# then webhook, what it is a remix of, and its deadline.
_SUBMIT = Script(
    JOBS
    + LIMITS
    + """
local tenant, id, key_hash, spec, digest = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local keyed = P .. ':key:' .. tenant .. ':' .. key_hash
local known = id
if key_hash ~= '' then known = redis.call('GET', keyed) or id end
local had = field(tenant .. ':' .. known, 'digest')
if had then
  if had == digest then return {'same', known} end
  return {'conflict', known}
end

local rate, per_s, burst = ARGV[10], tonumber(ARGV[11]), tonumber(ARGV[12])
local units, limit, width, charge = ARGV[13], tonumber(ARGV[14]), tonumber(ARGV[15]), tonumber(ARGV[16])
local most = tonumber(ARGV[17])
local rate_key, units_key = P .. ':rate:' .. tenant .. ':' .. rate, P .. ':units:' .. tenant .. ':' .. units
local level
if most >= 0 then
  local open = redis.call('ZCARD', index(tenant, 'queued')) + redis.call('ZCARD', index(tenant, 'running'))
  if open >= most then return {'refused', 'open jobs', -1} end
end
if rate ~= '' then
  level = bucket_level(rate_key, per_s, burst)
  local wait = bucket_wait_ms(level, 1, per_s)
  if wait > 0 then return {'refused', rate, wait} end
end
if units ~= '' then
  local wait = window_wait_ms(units_key, charge, limit, width)
  if wait > 0 then return {'refused', units, wait} end
  window_add(units_key, charge, width)
end
if rate ~= '' then bucket_set(rate_key, level - 1, per_s, burst) end

local ref = tenant .. ':' .. id
local seq = redis.call('INCR', P .. ':seq')
redis.call('HSET', job_key(ref), 'spec', spec, 'digest', digest, 'queue', ARGV[6], 'priority', ARGV[7],
  'max_attempts', ARGV[8], 'retention_ms', ARGV[9], 'key', key_hash, 'seq', seq, 'fence', 0, 'claims', 0, 'attempts', 0,
  'order', whole((100 - tonumber(ARGV[7])) * 17592186044416 + seq), 'created_ms', whole(now), 'state', 'queued')
if ARGV[18] ~= '' then redis.call('HSET', job_key(ref), 'webhook', ARGV[18]) end
if ARGV[19] ~= '' then redis.call('HSET', job_key(ref), 'remixed_from', ARGV[19]) end
if ARGV[20] ~= '' then redis.call('HSET', job_key(ref), 'deadline_ms', ARGV[20]) end
if key_hash ~= '' then redis.call('SET', keyed, id) end
redis.call('ZADD', index(tenant, 'all'), seq, id)
redis.call('ZADD', index(tenant, 'queued'), seq, id)
enqueue(ref)
note(ref, 'state', 'queued')
return {'new', id, whole(now)}
"""
)

# tenant, state or 'all', cursor or where that order begins, limit, command of the order, where it ends
_LIST = Script(
    JOBS
    + f"local LARGEST_PAGE = {_LARGEST_PAGE_BYTES}"
    + """
local name, cursor, limit = index(ARGV[1], ARGV[2]), ARGV[3], tonumber(ARGV[4])
local jobs, bytes = {}, 0
while #jobs < limit do
  local found = redis.call(ARGV[5], name, cursor, ARGV[6], 'WITHSCORES', 'LIMIT', 0, limit)
  if #found == 0 then return {jobs, ''} end
  for i = 1, #found, 2 do
    local row = redis.call('HGETALL', job_key(ARGV[1] .. ':' .. found[i]))
    cursor = '(' .. found[i + 1]
    if #row > 0 then
      table.insert(jobs, {found[i], row})
      for _, part in ipairs(row) do bytes = bytes + #part end
      if #jobs == limit or bytes > LARGEST_PAGE then return {jobs, cursor} end
    else
      redis.call('ZREM', name, found[i])
    end
  end
end
"""
)

# ref, why
_CANCEL = Script(
    JOBS
    + """
local state = field(ARGV[1], 'state')
if not state then return nil end
if not ENDED[state] then settle(ARGV[1], 'cancelled', 'error', ARGV[2]) end
return redis.call('HGETALL', job_key(ARGV[1]))
"""
)

# ref, why, how long its place in lists is remembered
_FORGET = Script(
    JOBS
    + """
local ref = ARGV[1]
local state = field(ref, 'state')
if not state then return 0 end
if not ENDED[state] then settle(ref, 'cancelled', 'error', ARGV[2]) end
local job = redis.call('HMGET', job_key(ref), 'key', 'seq')
local tenant, id = split(ref)
if job[1] ~= '' then redis.call('DEL', P .. ':key:' .. tenant .. ':' .. job[1]) end
redis.call('SET', P .. ':place:' .. ref, job[2], 'PX', ARGV[3])
redis.call('DEL', job_key(ref), P .. ':led:' .. ref, P .. ':ev:' .. ref)
redis.call('ZREM', P .. ':ends', ref)
redis.call('ZREM', P .. ':hooks', ref)
for _, name in ipairs({'all', 'done', 'failed', 'cancelled'}) do redis.call('ZREM', index(tenant, name), id) end
return 1
"""
)
_PLACE_MS = 3_600_000
NEWEST_FIRST, OLDEST_FIRST = ("ZREVRANGEBYSCORE", "+inf", "-inf"), ("ZRANGEBYSCORE", "-inf", "+inf")


@dataclass(frozen=True, kw_only=True, slots=True)
class Submitted:
    """What a submit came to.

    Args:
        ref: The job.
        fresh: Whether it was made now; else the client's key had made it before.
        created_ms: When, by the server's clock; None where it was made before, or by a call whose answer was lost.
    """

    ref: JobRef
    fresh: bool
    created_ms: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class JobPage:
    """Jobs of a tenant, the newest first.

    Args:
        jobs: Some of them.
        cursor: Where the next page begins; empty at the end.
    """

    jobs: tuple[Job, ...]
    cursor: str


class Jobs:
    """The jobs of all tenants.

    Args:
        connection: The store.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def submit(self, new: NewJob, limits: SubmitLimits = NO_LIMITS) -> Submitted:
        """Put a job into the queue, within the tenant's limits, in one change. A repetition takes nothing from them.

        Raises:
            ConflictError: The client's key belongs to a job with another spec.
            QuotaError: A limit is reached; `ids` says which and when to try again.
            InputError: The spec is not JSON, or above 1 MiB.
        """
        ref = JobRef.fresh(new.tenant) if new.id is None else JobRef(tenant=new.tenant, id=new.id)
        spec = json_bytes("the job", new.spec)
        retention_ms = max(1, round(new.retention_s * 1000))
        wish = (
            new.key_hash,
            spec,
            digest_of(spec + new.beside),
            new.queue,
            new.priority,
            new.max_attempts,
            retention_ms,
        )
        beside = (new.webhook, new.remixed_from, "" if new.deadline_ms is None else new.deadline_ms)
        said = await self._connection.run(_SUBMIT, ref.tenant, ref.id, *wish, *limits.words, *beside)
        if said[0] == b"refused":
            raise refused(new.tenant, said[1].decode(), int(said[2]))
        found = JobRef(tenant=new.tenant, id=said[1].decode())
        if said[0] == b"conflict":
            raise ConflictError("this key was used for a job with another request: choose a new key", ids=found.ids)
        created_ms = int(said[2]) if said[0] == b"new" else None
        fresh = created_ms is not None or found == ref  # made by a call whose answer was lost
        return Submitted(ref=found, fresh=fresh, created_ms=created_ms)

    async def has_key(self, tenant: str, key: str) -> bool:
        """Whether a tenant's key belongs to a job."""
        return bool(await self._connection.command("EXISTS", self._connection.key("key", tenant, digest_of(key))))

    async def get(self, ref: JobRef) -> Job:
        """Look a job up.

        Raises:
            UnknownJobError: The tenant has none of that id.
        """
        row = await self._connection.command("HGETALL", self._connection.key("job", ref))
        if not row:
            raise unknown(ref)
        return job_from(ref, [part for pair in row.items() for part in pair])

    async def list(
        self,
        tenant: str,
        *,
        state: JobState | None = None,
        cursor: str = "",
        limit: int = 50,
        oldest_first: bool = False,
    ) -> JobPage:
        """A page of a tenant's jobs, the newest first. Jobs that come or go meanwhile shift no page.

        A page of large specs ends after some MiB, with fewer jobs than `limit`: what is last is what has no cursor.

        Args:
            tenant: Whose jobs.
            state: Only those in this state.
            cursor: Of the page before; empty begins.
            limit: Most jobs, 1 to 200.
            oldest_first: The other order, with cursors of its own.

        Raises:
            InputError: The cursor is none, or the limit is out of range.
        """
        check_name("tenant", tenant)
        if not 1 <= limit <= _LONGEST_PAGE:
            raise InputError(f"a page of {limit} jobs: allowed are 1 to {_LONGEST_PAGE}")
        if cursor and not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 16):
            raise InputError("this is not the cursor of a list of jobs")
        command, begin, end = OLDEST_FIRST if oldest_first else NEWEST_FIRST
        place = (state.value if state else "all", f"({cursor}" if cursor else begin)
        rows, last = await self._connection.run(_LIST, tenant, *place, limit, command, end)
        jobs = tuple(job_from(JobRef(tenant=tenant, id=job_id.decode()), row) for job_id, row in rows)
        return JobPage(jobs=jobs, cursor=last.decode().removeprefix("("))

    async def cursor_behind(self, ref: JobRef) -> str:
        """Cursor of the page behind a job, in either order; known for an hour longer than a job that was forgotten.

        Raises:
            UnknownJobError: The tenant has none of that id.
        """
        place = await self._connection.command("HGET", self._connection.key("job", ref), "seq")
        place = place or await self._connection.command("GET", self._connection.key("place", ref))
        if place is None:
            raise unknown(ref)
        return str(place.decode())

    async def forget(self, ref: JobRef) -> None:
        """Delete a job; one that has not ended is cancelled. Its key is free again, and its files are for the sweep.

        Raises:
            UnknownJobError: The tenant has none of that id.
        """
        if not await self._connection.run(_FORGET, str(ref), "deleted by its owner", _PLACE_MS):
            raise unknown(ref)

    async def cancel(self, ref: JobRef, why: str = "cancelled") -> Job:
        """End a job that has not ended: from now on its worker's lease is lost. Harmless for one that has.

        Raises:
            UnknownJobError: The tenant has none of that id.
        """
        row = await self._connection.run(_CANCEL, str(ref), why[:1000])
        if not row:
            raise unknown(ref)
        return job_from(ref, row)


def unknown(ref: JobRef) -> UnknownJobError:
    """The error for a job that is not there; the same for one of another tenant."""
    return UnknownJobError(f"no job '{ref.id}'", ids=ref.ids)
