"""Lines of single engines: sessions that go on where their memory is, and tickets that keep an engine to themselves."""

from collections.abc import Iterator
from heapq import heappop, heappush

from reelray.scheduler.fleet.claims import Claims
from reelray.scheduler.fleet.engine_state import EngineState
from reelray.scheduler.fleet.entry import Entry
from reelray.scheduler.fleet.policy import FleetPolicy


class EngineLines:
    """What all these lines hold together, and when to look at them.

    Args:
        policy: When promises are urgent.
    """

    def __init__(self, policy: FleetPolicy) -> None:
        self._policy = policy
        self._alarms: list[tuple[float, int]] = []
        self.claims = Claims(policy.stop_s if policy.preempts else None)
        self.count = 0
        self.work_s = 0.0

    @property
    def promised_s(self) -> float:
        """GPU-seconds that promises must wait for; claims without a promise give way."""
        return self.work_s - sum(entry.work_s for entry in self.claims.plain())

    @property
    def alarm_s(self) -> float:
        """When to look at a line although nothing has happened; infinite where there is no need."""
        return self._alarms[0][0] if self._alarms else float("inf")

    def add(self, entry: Entry, engine: EngineState) -> None:
        """Let an entry wait for its engine."""
        engine.line.append(entry)
        engine.line_s += entry.work_s
        engine.line_count += 1
        self.count += 1
        self.work_s += entry.work_s

    def remove(self, entry: Entry, engine: EngineState) -> None:
        """Take an entry out of the line of its engine; a claim ends with that."""
        engine.line_count -= 1
        engine.line_s = engine.line_s - entry.work_s if engine.line_count else 0.0
        if not engine.line_count:
            engine.line.clear()
        self.count -= 1
        self.work_s = self.work_s - entry.work_s if self.count else 0.0
        if entry in self.claims:
            self.claims.remove(entry)
            entry.pinned = None

    def set_alarm(self, engine: EngineState, latest_s: float, now: float) -> None:
        """See to it that a line is looked at when the promise of its first becomes urgent, and when it is broken."""
        urgent_s = latest_s - self._policy.urgent_s
        at_s = urgent_s if urgent_s > now else self._policy.late_s(latest_s)
        if at_s > now and (engine.alarm_s <= now or at_s < engine.alarm_s):
            engine.alarm_s = at_s
            heappush(self._alarms, (at_s, engine.number))

    def due(self, now: float) -> Iterator[int]:
        """Numbers of engines to look at now; each is told once."""
        while self._alarms and self._alarms[0][0] <= now:
            yield heappop(self._alarms)[1]
