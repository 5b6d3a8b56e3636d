"""Leases: who works on a job, for how long, and under which fence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reelray.cluster.store.connection import Connection, Script
from reelray.cluster.store.job import Job, JobState, job_from, json_bytes
from reelray.cluster.store.lua import JOBS
from reelray.cluster.store.names import JobRef, check_name
from reelray.proto.errors import InputError, LeaseLostError

# Most changes by time that one claim makes up for.
_CATCH_UP = 64


def _closing(step: str) -> str:
    """How a script begins that ends a lease, given as ref and fence: a repetition is only told what came of it."""
    return f"""
local ref, fence = ARGV[1], ARGV[2]
if closed(ref, '{step}', fence) then return {{1, field(ref, 'state')}} end
local why = refusal(ref, fence)
if why then return {{0, why}} end
even_when_full()
close(ref, '{step}', fence)
"""


# owner, lease in ms, ref or empty, queues...
_CLAIM = Script(
    JOBS
    + f"catch_up({_CATCH_UP})"
    + """
local owner, lease_ms, wanted = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local best, order
local function first(ready)
  while true do
    local head = redis.call('ZRANGE', ready, 0, 0, 'WITHSCORES')
    if not head[1] or not is_gone(head[1]) then return head end
    redis.call('ZREM', ready, head[1])
  end
end
for i = 4, #ARGV do
  local ready = P .. ':ready:' .. ARGV[i]
  local head = first(ready)
  if wanted ~= '' then
    local score = redis.call('ZSCORE', ready, wanted)
    head = score and {wanted, score} or {}
  end
  if head[1] and (not best or tonumber(head[2]) < order) then best, order = head[1], tonumber(head[2]) end
end
if not best then return nil end

withdraw(best)
local key = job_key(best)
local fence = next_fence(redis.call('HGET', key, 'fence'))
redis.call('HINCRBY', key, 'claims', 1)
redis.call('HINCRBY', key, 'attempts', 1)
redis.call('HSET', key, 'owner', owner, 'fence', fence)
redis.call('HSETNX', key, 'started_ms', whole(now))
redis.call('ZADD', P .. ':leases', whole(now + lease_ms), best)
move(best, 'running')
return {best, fence, whole(now + lease_ms), redis.call('HLEN', P .. ':led:' .. best), redis.call('HGETALL', key)}
"""
)

# ref, fence, lease in ms
_RENEW = Script(
    JOBS
    + """
local why = refusal(ARGV[1], ARGV[2])
if why then return {0, why} end
even_when_full()
redis.call('ZADD', P .. ':leases', whole(now + tonumber(ARGV[3])), ARGV[1])
return {1, whole(now + tonumber(ARGV[3]))}
"""
)

# ref, fence
_RELEASE = Script(
    JOBS
    + _closing("release")
    + """
if tonumber(field(ref, 'attempts')) > 0 then redis.call('HINCRBY', job_key(ref), 'attempts', -1) end
return {1, give_up(ref, '', 0)}
"""
)

# ref, fence, result
_FINISH = Script(
    JOBS
    + _closing("finish")
    + """
redis.call('HDEL', job_key(ref), 'error')
settle(ref, 'done', 'result', ARGV[3])
return {1, 'done'}
"""
)

# ref, fence, why, 1 to try again, pause in ms
_FAIL = Script(
    JOBS
    + _closing("fail")
    + """
if ARGV[4] == '1' then return {1, give_up(ref, ARGV[3], tonumber(ARGV[5]))} end
settle(ref, 'failed', 'error', ARGV[3])
return {1, 'failed'}
"""
)

_SWEEP = Script(JOBS + "catch_up(tonumber(ARGV[1]))")


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """The right to work on a job, until another gets it.

    Args:
        job: The job as claimed.
        fence: Number of this lease; every claim's is larger than those before it.
        lease_s: For how long it was given.
        until_ms: When it is over unless it is renewed, by the server's clock.
        commits: Commit units in the ledger.
    """

    job: Job
    fence: int
    lease_s: float
    until_ms: int
    commits: int

    @property
    def ref(self) -> JobRef:
        """Which job."""
        return self.job.ref


class Leases:
    """Gives jobs to workers, each to one at a time.

    A lease that is over is given to another only by a `claim` or a `sweep` thereafter; until then its holder may still
    renew it. All but `claim` may run twice without harm; a claim whose answer was lost leaves a lease that runs out.

    Args:
        connection: The store.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def claim(
        self, owner: str, *, lease_s: float, queues: Sequence[str] = ("default",), job: JobRef | None = None
    ) -> Lease | None:
        """Take the job with the highest priority, of those the one that was submitted first; None where none waits.

        Args:
            owner: Who takes it, any text.
            lease_s: For how long, unless renewed.
            queues: Where to look.
            job: Take this one, if it waits in one of the queues.

        Raises:
            InputError: No queue, or a lease that is not above zero.
        """
        names, lease_ms = [check_name("queue", queue) for queue in queues], lease_milliseconds(lease_s)
        if not names:
            raise InputError("a claim needs a queue")
        found = await self._connection.run(_CLAIM, owner[:200], lease_ms, str(job or ""), *names)
        if found is None:
            return None
        ref, fence, until_ms, commits, row = found
        claimed = job_from(JobRef.parse(ref), row)
        return Lease(job=claimed, fence=int(fence), lease_s=lease_s, until_ms=int(until_ms), commits=commits)

    async def renew(self, lease: Lease, *, lease_s: float | None = None) -> int:
        """Hold the job for longer, counted from now.

        Returns:
            When the lease is over, by the server's clock in milliseconds.

        Raises:
            LeaseLostError: It belongs to another, or was cancelled; stop at once.
        """
        lease_ms = lease_milliseconds(lease.lease_s if lease_s is None else lease_s)
        return int(await run_fenced(self._connection, _RENEW, lease, lease_ms))

    async def release(self, lease: Lease) -> None:
        """Give the job back unharmed, such as to make room: this attempt does not count.

        Raises:
            LeaseLostError: As for `renew`.
        """
        await run_fenced(self._connection, _RELEASE, lease)

    async def finish(self, lease: Lease, result: Mapping[str, Any]) -> None:
        """End the job as done.

        Raises:
            LeaseLostError: As for `renew`.
            InputError: The result is not JSON, or too large.
        """
        await run_fenced(self._connection, _FINISH, lease, json_bytes("the result", result))

    async def fail(self, lease: Lease, why: str, *, retry: bool = True, retry_after_s: float = 0.0) -> JobState:
        """Report that this attempt failed.

        Args:
            lease: The attempt.
            why: What happened, for people.
            retry: Let it be claimed again if attempts are left.
            retry_after_s: Not before that.

        Returns:
            QUEUED, or FAILED where no attempt is left.

        Raises:
            LeaseLostError: As for `renew`.
        """
        pause_ms = max(0, round(retry_after_s * 1000))
        said = await run_fenced(self._connection, _FAIL, lease, why[:4000], int(retry), pause_ms)
        return JobState(said.decode())

    async def sweep(self, *, most: int = 1000) -> None:
        """Take back leases that are over and forget what was kept long enough; each claim does so for a few."""
        await self._connection.run(_SWEEP, most)


async def run_fenced(connection: Connection, script: Script, lease: Lease, *args: str | bytes | int) -> Any:
    """Run a script that answers {1, value}, or {0, why} where the lease is lost.

    Raises:
        LeaseLostError: It is.
    """
    held, value = await connection.run(script, str(lease.ref), lease.fence, *args)
    if held:
        return value
    raise LeaseLostError(
        f"the lease of job '{lease.ref.id}' with fence {lease.fence} is lost: {value.decode()}",
        ids=lease.ref.ids | {"fence": str(lease.fence)},
    )


def lease_milliseconds(lease_s: float) -> int:
    """Length of a lease as scripts take it.

    Raises:
        InputError: It is not above zero, or longer than a day.
    """
    if not 0 < lease_s <= 86_400:
        raise InputError(f"a lease of {lease_s} s: allowed is above 0, up to a day")
    return max(1, round(lease_s * 1000))
