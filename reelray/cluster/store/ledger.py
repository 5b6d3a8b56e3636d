"""The ledger: which commit units of a job are durable, and where they lie."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reelray.cluster.store.connection import Connection, Script
from reelray.cluster.store.job import json_bytes
from reelray.cluster.store.leases import Lease, run_fenced
from reelray.cluster.store.lua import JOBS
from reelray.cluster.store.names import JobRef
from reelray.proto.errors import InputError

_LARGEST_RECORD_BYTES = 64 << 10

# ref, fence, unit, record
_COMMIT = Script(
    JOBS
    + """
local ref, fence, unit = ARGV[1], ARGV[2], ARGV[3]
local why = refusal(ref, fence)
if why then return {0, why} end
even_when_full()
local row = fence .. '|' .. whole(now) .. '|' .. ARGV[4]
local fresh = redis.call('HSETNX', P .. ':led:' .. ref, unit, row)
if fresh == 1 then
  redis.call('HSET', job_key(ref), 'attempts', 0)
  note(ref, 'commit', unit)
else
  row = redis.call('HGET', P .. ':led:' .. ref, unit)
end
return {1, {fresh, row}}
"""
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """A durable unit.

    Args:
        unit: Number of the chunk, or of the denoise step.
        fence: Lease under which it was committed.
        at_ms: When, by the server's clock.
        record: Where its latents and segments lie.
    """

    unit: int
    fence: int
    at_ms: int
    record: dict[str, Any]


class Ledger:
    """What of each job is done for good. Write the bytes first, under a name of their content, then commit.

    Args:
        connection: The store.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def commit(self, lease: Lease, unit: int, record: Mapping[str, Any]) -> tuple[Commit, bool]:
        """Make a unit durable, unless it is already: the first record of a unit is its only one.

        A commit also shows that the job gets on: its attempts count anew.

        Returns:
            The unit's record, and whether it is the one given here.

        Raises:
            LeaseLostError: The job belongs to another now, or was cancelled; nothing was written.
            InputError: The unit is negative, or the record is not JSON or above 64 KiB.
        """
        if not 0 <= unit < 1 << 53:
            raise InputError(f"commit unit {unit} is out of range")
        text = json_bytes("the record", record, largest=_LARGEST_RECORD_BYTES)
        fresh, row = await run_fenced(self._connection, _COMMIT, lease, unit, text)
        return _commit_from(unit, row), fresh == 1

    async def commits(self, ref: JobRef) -> tuple[Commit, ...]:
        """All durable units of a job, by number; none for an unknown job."""
        rows = await self._connection.command("HGETALL", self._connection.key("led", ref))
        return tuple(_commit_from(unit, row) for unit, row in sorted((int(unit), row) for unit, row in rows.items()))


def _commit_from(unit: int, row: bytes) -> Commit:
    fence, at_ms, record = row.split(b"|", 2)
    return Commit(unit=unit, fence=int(fence), at_ms=int(at_ms), record=json.loads(record))
