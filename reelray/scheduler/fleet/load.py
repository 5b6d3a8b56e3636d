"""Work that runs, as sums that are kept rather than counted."""

from reelray.scheduler.fleet.entry import Entry


class Load:
    """GPU-seconds of running work, from two sums: of GPUs, and of GPUs times predicted finish."""

    __slots__ = ("count", "finishes", "gpus")

    def __init__(self) -> None:
        self.count = 0
        self.gpus = 0
        self.finishes = 0.0

    def add(self, entry: Entry) -> None:
        """Count what begins."""
        self.count += 1
        self.gpus += entry.gpus
        self.finishes += entry.gpus * entry.finish_s

    def remove(self, entry: Entry) -> None:
        """Forget what ends; GPUs and finish must be what they were."""
        self.count -= 1
        self.gpus -= entry.gpus
        self.finishes = self.finishes - entry.gpus * entry.finish_s if self.count else 0.0

    def remaining_s(self, now: float) -> float:
        """GPU-seconds that are left."""
        return max(0.0, self.finishes - self.gpus * now)
