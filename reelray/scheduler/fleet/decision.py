"""What the fleet tells its driver."""

from dataclasses import dataclass
from enum import StrEnum

from reelray.proto.request import RequestId
from reelray.scheduler.fleet.ticket import EngineId


class Reason(StrEnum):
    """Why a ticket is refused."""

    NO_ENGINE = "no_engine"
    TOO_LARGE = "too_large"
    QUEUE_FULL = "queue_full"
    DEADLINE = "deadline"
    SHARE = "share"
    LATE = "late"
    LOST = "lost"


@dataclass(frozen=True, kw_only=True, slots=True)
class Queued:
    """It waits.

    Args:
        request_id: The ticket.
        start_s: Predicted start, on the clock of the fleet.
        waiting: Tickets that wait for this model, itself included.
    """

    request_id: RequestId
    start_s: float
    waiting: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """It gets no place.

    Args:
        request_id: The ticket.
        reason: Why.
        finish_s: When it would have been finished; None where nobody can say.
        retry_after_s: Seconds after which to ask again; None where that would not help.
    """

    request_id: RequestId
    reason: Reason
    finish_s: float | None = None
    retry_after_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """An engine is to begin it, or to go on with what is left.

    Args:
        request_id: The ticket.
        engine_id: Where.
        gpus: On how many GPUs.
        attempt: Fences reports of earlier attempts out; counts from 1.
        start_s: Now.
        finish_s: Predicted.
        left: Share of the work that is left.
        is_promised: Whether it is to keep its deadline, and is stopped for nobody.
    """

    request_id: RequestId
    engine_id: EngineId
    gpus: int
    attempt: int
    start_s: float
    finish_s: float
    left: float = 1.0
    is_promised: bool = False

    @property
    def whole_s(self) -> float:
        """Predicted seconds of all of it."""
        return (self.finish_s - self.start_s) / self.left


@dataclass(frozen=True, kw_only=True, slots=True)
class Preempt:
    """An engine is to stop it at the next denoise step, and to say so.

    Args:
        request_id: Of the render that makes room.
        engine_id: Where it runs.
        attempt: Of its start.
    """

    request_id: RequestId
    engine_id: EngineId
    attempt: int


Decision = Placed | Preempt | Refused
