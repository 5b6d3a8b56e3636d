"""What finds no room claims an engine: no other begins there until it can, and all others go on elsewhere."""

from collections.abc import Iterable

from reelray.scheduler.fleet.engine_state import EngineState
from reelray.scheduler.fleet.entry import Entry, State
from reelray.scheduler.fleet.ticket import EngineId, Kind

MOST_PROMISED, MOST_PLAIN = 4, 1
"""Engines that are kept for tickets with and without a promise, at a time."""


class Claims:
    """Tickets that wait for an engine of their own.

    Args:
        stop_s: Seconds until a render that is stopped has made room; None where none is stopped.
    """

    def __init__(self, stop_s: float | None) -> None:
        self._stop_s = stop_s
        self._waiting: dict[int, Entry] = {}

    def __contains__(self, entry: Entry) -> bool:
        return entry.number in self._waiting

    def plain(self) -> list[Entry]:
        """Those without a promise."""
        return [entry for entry in self._waiting.values() if not entry.is_promised]

    def choose(self, entry: Entry, engines: Iterable[EngineState], now: float) -> EngineId | None:
        """The engine that has room first; None where none will have, or enough are kept already."""
        count = sum(one.is_promised is entry.is_promised for one in self._waiting.values())
        if count >= (MOST_PROMISED if entry.is_promised else MOST_PLAIN):
            return None
        rooms = [
            (at_s, engine.number, engine.facts.engine_id)
            for engine in engines
            if not engine.line_count and (at_s := self._room_s(engine, entry, now)) is not None
        ]
        return min(rooms)[2] if rooms else None

    def add(self, entry: Entry) -> None:
        """Know a claim."""
        self._waiting[entry.number] = entry

    def remove(self, entry: Entry) -> None:
        """Forget a claim."""
        del self._waiting[entry.number]

    def _room_s(self, engine: EngineState, entry: Entry, now: float) -> float | None:
        """When what runs has made room; None if it never will, because of sessions that rest there."""
        gpus, free_bytes, at_s = engine.free_gpus, engine.free_bytes, now
        ends = sorted((self._end_s(run, entry, now), run.number, run) for run in engine.running.values())
        for end_s, _, run in ends:
            if gpus >= entry.need and free_bytes >= entry.ticket.memory_bytes:
                break
            gpus, free_bytes, at_s = gpus + run.gpus, free_bytes + run.ticket.memory_bytes, end_s
        return at_s if gpus >= entry.need and free_bytes >= entry.ticket.memory_bytes else None

    def _end_s(self, run: Entry, entry: Entry, now: float) -> float:
        is_stopped = run.state is State.STOPPING or (
            entry.is_promised and not run.is_promised and run.ticket.kind is Kind.RENDER
        )
        ends_s = max(now, run.finish_s)
        return min(ends_s, now + self._stop_s) if is_stopped and self._stop_s is not None else ends_s
