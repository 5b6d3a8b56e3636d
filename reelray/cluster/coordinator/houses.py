"""The lines to houses, and what the fleet decides in the words that they understand."""

from collections.abc import Callable

from reelray.cluster.coordinator.clock import Alarm, Clock
from reelray.cluster.coordinator.messages import Decision, Load, Turned, Waits, Word
from reelray.proto.request import RequestId
from reelray.scheduler.fleet.decision import Queued, Refused
from reelray.scheduler.fleet.fleet import Fleet
from reelray.scheduler.fleet.pool import Pressure

Hear = Callable[[Word], None]
STAND_S = 0.2
"""What is told to those who watch is so old at most."""


class Houses:
    """All houses that are there.

    Args:
        fence: Of the coordinator; goes along with every word.
    """

    def __init__(self, fence: int) -> None:
        self._fence = fence
        self._lines: dict[str, Hear] = {}
        self.is_closed = False

    def has(self, house: str, hear: Hear | None = None) -> bool:
        """Whether a house is there, on this line if one is named."""
        return house in self._lines and hear in {None, self._lines[house]}

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, house: str, hear: Hear) -> None:
        """Know a house."""
        self._lines[house] = hear

    def remove(self, house: str, hear: Hear | None = None) -> bool:
        """Forget a house, if it has this line or none is named; returns whether it was there."""
        if not self.has(house, hear):
            return False
        del self._lines[house]
        return True

    def close(self) -> None:
        """Say nothing more to anybody, and let nobody in."""
        self.is_closed = True
        self._lines.clear()

    def say(self, house: str | None, decision: Decision) -> None:
        """Tell a house, if it is there."""
        hear = None if house is None else self._lines.get(house)
        if hear is not None:
            hear(Word(fence=self._fence, decision=decision))

    def say_to_all(self, decision: Decision) -> None:
        """Tell all of them."""
        for house in list(self._lines):
            self.say(house, decision)


class Alarms:
    """Calls that come later, one of each name.

    Args:
        clock: The time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._set: dict[str, Alarm] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._set

    def set(self, name: str, at_s: float | None, action: Callable[[], None]) -> None:
        """Call something at a time, instead of what was set before; None calls nothing."""
        if name in self._set:
            self._set.pop(name).cancel()
        if at_s is not None:
            self._set[name] = self._clock.call_at(at_s, lambda: self._ring(name, action))

    def clear(self) -> None:
        """Call nothing more."""
        for alarm in self._set.values():
            alarm.cancel()
        self._set.clear()

    def _ring(self, name: str, action: Callable[[], None]) -> None:
        del self._set[name]
        action()


class Standings:
    """How renders stand, for those who watch: many, who all ask about as often.

    Args:
        fleet: Knows.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._found = dict[RequestId, Queued]()
        self._at_s = float("-inf")

    def tell(self, name: RequestId, now: float) -> Waits:
        """How something stands, or stood a moment ago."""
        if now - self._at_s >= STAND_S:
            self._at_s = now
            self._found = {queued.request_id: queued for queued in self._fleet.standings(now)}
        queued = self._found.get(name)
        return stands_nowhere(name) if queued is None else stands(queued, now)


def turned_away(refused: Refused, now: float) -> Turned:
    """Say that something gets no place."""
    return Turned(
        request_id=refused.request_id,
        reason=refused.reason,
        finish_s=None if refused.finish_s is None else max(0.0, refused.finish_s - now),
        retry_after_s=refused.retry_after_s,
    )


def stands(queued: Queued, now: float) -> Waits:
    """Say how something stands."""
    start_s = None if queued.start_s == float("inf") else max(0.0, queued.start_s - now)
    return Waits(request_id=queued.request_id, position=queued.waiting, start_s=start_s)


def stands_nowhere(request_id: RequestId) -> Waits:
    """Say that something does not wait."""
    return Waits(request_id=request_id, position=0, start_s=None)


def load_of(model: str, pressure: Pressure) -> Load:
    """Say how much a model's engines have to do."""
    queue_s = None if pressure.queue_s == float("inf") else pressure.queue_s
    return Load(model=model, queue_s=queue_s, busy=pressure.busy, waiting=pressure.waiting, gpus=pressure.gpus)
