"""A ticket and how far it has come."""

from enum import StrEnum

from reelray.scheduler.fleet.ticket import EngineId, Ticket


class State(StrEnum):
    """Of an entry."""

    WAITING = "waiting"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


class Entry:
    """A ticket in the fleet; whoever changes one of its fields also changes the sums that count it.

    Args:
        ticket: The ticket.
        number: In order of arrival.
        submitted_s: When it came.
    """

    __slots__ = (
        "attempt",
        "engine_id",
        "finish_s",
        "gpus",
        "latest_s",
        "left",
        "losses",
        "need",
        "number",
        "options",
        "pinned",
        "promise_tick",
        "started_s",
        "starts_now",
        "state",
        "submitted_s",
        "ticket",
        "work_s",
    )

    def __init__(self, ticket: Ticket, number: int, submitted_s: float) -> None:
        self.ticket = ticket
        self.number = number
        self.submitted_s = submitted_s
        self.state = State.WAITING
        self.options = sorted(ticket.seconds)
        self.left = 1.0
        self.attempt = 0
        self.losses = 0
        """Engines in a row that were lost under it before it got on."""
        self.latest_s: float | None = None
        """Latest start that keeps the promise; None where nothing is promised."""
        self.need = self.options[0]
        """GPUs that it needs at least."""
        self.work_s = 0.0
        """GPU-seconds on so many; what sums count."""
        self.starts_now = False
        """Whether a place was free when it came: it has no slack to be counted."""
        self.promise_tick = 0
        self.pinned: EngineId | None = None
        self.engine_id: EngineId | None = None
        self.gpus = 0
        self.started_s = 0.0
        self.finish_s = 0.0
        self.measure()

    def seconds(self, gpus: int) -> float:
        """Predicted seconds of what is left."""
        return self.ticket.seconds[gpus] * self.left

    def measure(self) -> None:
        """Count the work that is left."""
        self.work_s = self.need * self.seconds(self.need)

    @property
    def is_promised(self) -> bool:
        """Whether its start is promised."""
        return self.latest_s is not None
