"""What a caller is told who gets no place."""

from datetime import UTC, datetime, timedelta

from reelray.cluster.coordinator.messages import Turned, Wish
from reelray.proto.errors import CoordinatorError, DeadlineError, EngineError, QuotaError, ReelrayError, ResourceError
from reelray.scheduler.fleet.decision import Reason

PASSING = {Reason.NO_ENGINE, Reason.LATE, Reason.LOST}
"""Where trying again may help although nobody knows when."""


def nobody_decides() -> CoordinatorError:
    """The error while no coordinator can be reached."""
    return CoordinatorError("nobody decides here just now who gets which GPUs; try again in a second")


def refusal(turned: Turned, wish: Wish) -> ReelrayError:
    """The error for a request that gets no place; says when it could be done, and when to ask again."""
    error = _error(turned, wish)
    error.retryable = turned.retry_after_s is not None or turned.reason in PASSING
    if turned.retry_after_s is not None:
        error.ids["retry_after_ms"] = str(max(1, round(1000 * turned.retry_after_s)))
    if turned.finish_s is not None:
        done_at = datetime.now(UTC) + timedelta(seconds=min(turned.finish_s, 1e9))
        error.ids["predicted_finish"] = done_at.isoformat(timespec="milliseconds")
    return error


def _error(turned: Turned, wish: Wish) -> ReelrayError:
    told = "" if turned.finish_s is None else f"; it would be done in about {turned.finish_s:.3g} s"
    match turned.reason:
        case Reason.DEADLINE if wish.within_s is not None:
            return DeadlineError(f"the deadline cannot be kept{told}")
        case Reason.DEADLINE | Reason.QUEUE_FULL:
            return ResourceError(f"too many wait for model '{wish.model}' already{told}")
        case Reason.LATE:
            return ResourceError(f"no GPU of model '{wish.model}' was free in time{told}; try again")
        case Reason.SHARE:
            ids = {"tenant": wish.tenant, "quota": "share"}
            return QuotaError(f"'{wish.tenant}' waits for its share of the GPUs of model '{wish.model}'", ids=ids)
        case Reason.TOO_LARGE:
            return ResourceError(f"no engine of model '{wish.model}' has so much memory")
    return EngineError(f"no engine of model '{wish.model}' takes work just now; try again soon")
