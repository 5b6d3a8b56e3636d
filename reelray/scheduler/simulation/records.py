"""What became of each simulated request."""

from dataclasses import dataclass

from reelray.scheduler.fleet.decision import Reason
from reelray.scheduler.fleet.ticket import TenantId


@dataclass(kw_only=True, slots=True)
class Record:
    """One request.

    Args:
        number: In order of arrival.
        tenant: Whose it is.
        group: ``stream``, ``interactive`` or ``batch``.
        at_s: When it came.
        alone_s: What it takes alone on the fewest GPUs.
        deadline_s: By when it must have begun (a stream) or be finished; None without a deadline.
        start_s: First start.
        finish_s: End.
        refused: Why it was refused.
        was_admitted: Whether it was taken on at first.
        engine: Where it ended.
        gpu_s: GPU-seconds that it took, what was lost included.
        lost_gpu_s: Of these, what had to be done again.
        stops: So often it made room.
    """

    number: int
    tenant: TenantId
    group: str
    at_s: float
    alone_s: float
    deadline_s: float | None
    start_s: float | None = None
    finish_s: float | None = None
    refused: Reason | None = None
    was_admitted: bool = False
    engine: str = ""
    gpu_s: float = 0.0
    lost_gpu_s: float = 0.0
    stops: int = 0

    @property
    def is_met(self) -> bool:
        """Whether it kept its deadline."""
        reached_s = self.start_s if self.group == "stream" else self.finish_s
        return reached_s is not None and self.deadline_s is not None and reached_s <= self.deadline_s + 1e-6
