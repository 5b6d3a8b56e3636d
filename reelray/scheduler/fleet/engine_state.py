"""An engine as the fleet sees it."""

from collections import deque
from dataclasses import dataclass

from reelray.scheduler.fleet.entry import Entry, State
from reelray.scheduler.fleet.ticket import EngineId, Ticket


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineFacts:
    """What an engine says when it comes up.

    Args:
        engine_id: Unique in the fleet.
        model: What it has loaded.
        gpus: That it can give to tickets, several at once.
        memory_bytes: Free for tickets and sessions, over all its GPUs.

    Raises:
        ValueError: A number is out of range.
    """

    engine_id: EngineId
    model: str
    gpus: int
    memory_bytes: int

    def __post_init__(self) -> None:
        if self.gpus < 1:
            raise ValueError(f"gpus is {self.gpus}; it must be at least 1")
        if self.memory_bytes < 0:
            raise ValueError(f"memory_bytes is {self.memory_bytes}; it must be at least 0")


class EngineState:
    """What an engine is doing.

    Args:
        facts: What it has.
        number: In order of arrival.
    """

    __slots__ = (
        "alarm_s",
        "facts",
        "finishes",
        "free_gpus",
        "held_bytes",
        "line",
        "line_count",
        "line_s",
        "number",
        "running",
        "used_bytes",
    )

    def __init__(self, facts: EngineFacts, number: int) -> None:
        self.facts = facts
        self.number = number
        self.free_gpus = facts.gpus
        self.used_bytes = 0
        self.held_bytes = 0
        """Of sessions that are not running; as it reports them."""
        self.running: dict[int, Entry] = {}
        self.finishes = 0.0
        """Sum of GPUs times predicted finish: engines as busy as each other are compared by it."""
        self.line: deque[Entry] = deque()
        """Tickets that can run nowhere else, as they came; those that have ended go when they come to its head."""
        self.line_s = 0.0
        """GPU-seconds of them."""
        self.line_count = 0
        self.alarm_s = float("-inf")
        """When it is looked at next because of its line."""

    @property
    def free_bytes(self) -> int:
        """Bytes for another ticket."""
        return self.facts.memory_bytes - self.used_bytes - self.held_bytes

    def first_promised(self) -> Entry | None:
        """The first in its line that has a promise; what goes before it must go first."""
        name = self.facts.engine_id
        return next((e for e in self.line if e.is_promised and e.state is State.WAITING and e.pinned == name), None)

    def has_room(self, entry: Entry) -> bool:
        """Whether an entry can begin."""
        return self.free_gpus >= entry.need and self.free_bytes >= entry.ticket.memory_bytes

    def could_take(self, ticket: Ticket) -> bool:
        """Whether it is large enough for a ticket, when nothing else runs."""
        return min(ticket.seconds) <= self.facts.gpus and ticket.memory_bytes <= self.facts.memory_bytes

    def remaining_s(self, now: float, *, promised: bool) -> float:
        """GPU-seconds of what runs, or of what runs and cannot be stopped for a promise."""
        runs = (entry for entry in self.running.values() if entry.is_promised or not promised)
        return sum(entry.gpus * max(0.0, entry.finish_s - now) for entry in runs)

    def begin(self, entry: Entry) -> None:
        """Give an entry its GPUs and bytes."""
        self.running[entry.number] = entry
        self.free_gpus -= entry.gpus
        self.used_bytes += entry.ticket.memory_bytes
        self.finishes += entry.gpus * entry.finish_s

    def end(self, entry: Entry) -> None:
        """Take them back."""
        del self.running[entry.number]
        self.free_gpus += entry.gpus
        self.used_bytes -= entry.ticket.memory_bytes
        self.finishes = self.finishes - entry.gpus * entry.finish_s if self.running else 0.0
