"""Ends of jobs that somebody wants to be told of: who tells it now, and what became of it.

An end waits here from the change by which its job ended on, so no crash loses it; it is told at least once.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from reelray.cluster.store.connection import Connection, Script
from reelray.cluster.store.job import Job, job_from
from reelray.cluster.store.lua import JOBS
from reelray.cluster.store.names import JobRef

_PAGE, _LOOKED_AT, _LOOKS = 500, 2_000, 20

# most, how long they are held in ms, tries of a receiver, pause of those beyond in ms, how many are read at a time and
# looked at in all; then pairs of a receiver and how many tries it has
_CLAIM = Script(
    JOBS
    + """
even_when_full()
local most, hold, share, later = tonumber(ARGV[1]), whole(now + tonumber(ARGV[2])), tonumber(ARGV[3]), tonumber(ARGV[4])
local page, looked_at = tonumber(ARGV[5]), tonumber(ARGV[6])
local due, taken, passed = {}, {}, {}
for i = 7, #ARGV, 2 do taken[ARGV[i]] = tonumber(ARGV[i + 1]) end
while true do
  -- What was taken or is gone is due no more; what was passed over stays where it is, before the next page.
  local refs = redis.call('ZRANGEBYSCORE', P .. ':hooks', '-inf', whole(now), 'LIMIT', #passed, page)
  for _, ref in ipairs(refs) do
    if #due == most then return {due, 0} end
    local url = field(ref, 'webhook')
    local receiver = url and string.match(string.lower(url), '^[^/]*//([^/?#]*)') or ''
    if is_gone(ref) then
      redis.call('ZREM', P .. ':hooks', ref)
    elseif (taken[receiver] or 0) >= share then
      table.insert(passed, ref)
    else
      taken[receiver] = (taken[receiver] or 0) + 1
      redis.call('HINCRBY', job_key(ref), 'hook_tries', 1)
      redis.call('HSET', job_key(ref), 'hook_next_ms', hold)
      redis.call('ZADD', P .. ':hooks', hold, ref)
      table.insert(due, {ref, redis.call('HGETALL', job_key(ref))})
    end
  end
  if #refs < page then return {due, 0} end
  if #passed >= looked_at then
    -- So many wait for receivers that are busy that others would never be looked at: these rest.
    for _, ref in ipairs(passed) do redis.call('ZADD', P .. ':hooks', whole(now + later), ref) end
    return {due, #passed}
  end
end
"""
)

# ref, number of the try, how it ended or empty, why it failed, pause in ms
_SETTLE = Script(
    JOBS
    + """
local ref = ARGV[1]
if is_gone(ref) or field(ref, 'hook_tries') ~= ARGV[2] or field(ref, 'hook_end') then return 0 end
even_when_full()
local next_ms = ''
if ARGV[3] == '' then
  next_ms = whole(now + tonumber(ARGV[5]))
  redis.call('ZADD', P .. ':hooks', next_ms, ref)
else
  redis.call('ZREM', P .. ':hooks', ref)
  redis.call('HSET', job_key(ref), 'hook_end', ARGV[3])
end
redis.call('HSET', job_key(ref), 'hook_next_ms', next_ms, 'hook_error', ARGV[4])
return 1
"""
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DueWebhook:
    """An end that is to be told now.

    Args:
        job: It has ended, and has a webhook.
        number: Of this try, from 1.
    """

    job: Job
    number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """How much of a server each receiver gets.

    Args:
        most: Tries at a time.
        taken: How many of them receivers have, by host and port as `receiver_of` says them.
        later_s: How long what is beyond that rests where there is very much of it.
    """

    most: int = 1 << 30
    taken: Mapping[str, int] = field(default_factory=dict)
    later_s: float = 1.0


def receiver_of(url: str) -> str:
    """Host and port of an address, as the script finds them."""
    return re.split(r"[/?#]", url.lower().partition("//")[2], maxsplit=1)[0]


class Webhooks:
    """Who is told of ends. Methods raise `StoreError`.

    Args:
        connection: The store.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def claim(self, most: int, *, hold_s: float, share: Share | None = None) -> list[DueWebhook]:
        """Take what is due; where nothing is said of it within `hold_s`, somebody else gets it.

        Args:
            most: How many.
            hold_s: See above.
            share: Of each receiver; what is beyond it is passed over.
        """
        share = share or Share()
        words = round(hold_s * 1000), share.most, round(share.later_s * 1000), _PAGE, _LOOKED_AT
        taken = [word for pair in share.taken.items() for word in pair]
        for _ in range(_LOOKS):
            rows, passed = await self._connection.run(_CLAIM, most, *words, *taken)
            if rows or not passed:
                break
        jobs = [job_from(JobRef.parse(ref), row) for ref, row in rows]
        return [DueWebhook(job=job, number=job.webhook.tries) for job in jobs if job.webhook is not None]

    async def delivered(self, due: DueWebhook) -> None:
        """It was told."""
        await self._settle(due, "delivered", "", 0.0)

    async def failed(self, due: DueWebhook, why: str, *, pause_s: float) -> None:
        """It was not told; it is due again after a pause."""
        await self._settle(due, "", why, pause_s)

    async def give_up(self, due: DueWebhook, why: str) -> None:
        """It was not told and never will be."""
        await self._settle(due, "given_up", why, 0.0)

    async def _settle(self, due: DueWebhook, end: str, why: str, pause_s: float) -> None:
        said = end, why[:500], round(pause_s * 1000)
        await self._connection.run(_SETTLE, str(due.job.ref), due.number, *said)
