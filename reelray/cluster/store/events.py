"""Events of a job, for those who watch it: numbered from 1, the oldest forgotten first. The job itself is the truth."""

import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from reelray.cluster.store.connection import BLOCK_S, Connection, Script
from reelray.cluster.store.job import JobState, json_bytes
from reelray.cluster.store.leases import Lease, run_fenced
from reelray.cluster.store.lua import JOBS
from reelray.cluster.store.names import JobRef, check_name
from reelray.proto.errors import InputError

_LARGEST_EVENT_BYTES = 16 << 10
_OWN_KINDS = {"state", "commit"}

# ref, fence, kind, data
_POST = Script(
    JOBS
    + """
local why = refusal(ARGV[1], ARGV[2])
if why then return {0, why} end
note(ARGV[1], ARGV[3], ARGV[4])
return {1, field(ARGV[1], 'events')}
"""
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that happened.

    Args:
        number: Place in the job's events; a cursor after it.
        kind: `state`, `commit`, or a worker's word.
        data: The new state, the commit unit's number, or a worker's JSON.
        at_ms: When, by the server's clock.
    """

    number: int
    kind: str
    data: str
    at_ms: int

    @property
    def ends(self) -> bool:
        """Whether it is the last one of its job."""
        return self.kind == "state" and JobState(self.data).ended

    @property
    def value(self) -> dict[str, Any]:
        """A worker's JSON."""
        return dict(json.loads(self.data))


class Events:
    """What happens to jobs.

    Args:
        connection: The store.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def post(self, lease: Lease, kind: str, value: Mapping[str, Any]) -> int:
        """Tell the watchers something, such as progress. A repetition after a broken line may tell it twice.

        Returns:
            Number of the event.

        Raises:
            LeaseLostError: The job belongs to another now, or has ended.
            InputError: The kind is no name or one of the store's own, the value is not JSON or above 16 KiB.
        """
        if check_name("kind of event", kind) in _OWN_KINDS:
            raise InputError(f"events of kind '{kind}' come from the store itself")
        text = json_bytes("the event", value, largest=_LARGEST_EVENT_BYTES)
        return int(await run_fenced(self._connection, _POST, lease, kind, text))

    async def read(
        self, ref: JobRef, *, after: int = 0, wait_s: float = 0.0, limit: int = 100
    ) -> tuple[tuple[Event, ...], bool]:
        """Events after a cursor, the oldest first.

        Args:
            ref: Which job.
            after: Number of the last event seen; 0 begins.
            wait_s: How long to wait for the first one.
            limit: Most events.

        Returns:
            The events, none where the wait is over; and whether some between were forgotten already: look at the job
            and the ledger then.
        """
        until = time.monotonic() + wait_s
        while True:
            block_s = min(BLOCK_S, until - time.monotonic())
            found = await self._read_once(ref, after, limit, max(0.0, block_s))
            if found or time.monotonic() >= until:
                return found, bool(found) and found[0].number > after + 1

    async def follow(self, ref: JobRef, *, after: int = 0) -> AsyncIterator[Event]:
        """All events after a cursor as they come, up to the one that ends the job.

        It also ends where the job is not there any more.
        """
        while True:
            found, _ = await self.read(ref, after=after, wait_s=BLOCK_S)
            for event in found:
                yield event
                if event.ends:
                    return
                after = event.number
            if not found and await self._over(ref, after):
                return

    async def _over(self, ref: JobRef, after: int) -> bool:
        state, newest = await self._connection.command("HMGET", self._connection.key("job", ref), "state", "events")
        return state is None or (JobState(state.decode()).ended and int(newest) <= after)

    async def _read_once(self, ref: JobRef, after: int, limit: int, block_s: float) -> tuple[Event, ...]:
        key, block_ms = self._connection.key("ev", ref), round(block_s * 1000)
        if block_ms > 0:
            told = await self._connection.wait("XREAD", "COUNT", limit, "BLOCK", block_ms, "STREAMS", key, f"{after}-0")
        else:
            told = await self._connection.command("XREAD", "COUNT", limit, "STREAMS", key, f"{after}-0")
        return tuple(_event_from(name, row) for name, row in told[0][1]) if told else ()


def _event_from(name: bytes, row: Mapping[bytes, bytes]) -> Event:
    number = int(name.split(b"-")[0])
    return Event(number=number, kind=row[b"kind"].decode(), data=row[b"data"].decode(), at_ms=int(row[b"at"]))
