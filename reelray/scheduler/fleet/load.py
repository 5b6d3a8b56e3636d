"""Work that runs, as sums that are kept rather than counted."""

from heapq import heapify, heappop, heappush

from reelray.scheduler.fleet.entry import Entry

SLACK = 64
"""Rows that no longer hold may stay in the heap until they outnumber those that do by so many."""
Row = tuple[float, int, int]


class Load:
    """GPU-seconds of running work, from two sums: of GPUs, and of GPUs times predicted finish.

    What runs longer than predicted leaves these sums when its time is over; otherwise it would hide the work of others.
    """

    __slots__ = ("_due", "_finishes", "_heap", "gpus", "timely_gpus")

    def __init__(self) -> None:
        self.gpus = 0
        """Of all that runs."""
        self._due: dict[int, float] = {}
        self._heap: list[Row] = []
        self.timely_gpus = 0
        """Of what has not run over its time, as of the last look at what remains."""
        self._finishes = 0.0

    def add(self, entry: Entry) -> None:
        """Count what begins."""
        self.gpus += entry.gpus
        self.timely_gpus += entry.gpus
        self._finishes += entry.gpus * entry.finish_s
        self._due[entry.number] = entry.finish_s
        heappush(self._heap, (entry.finish_s, entry.number, entry.gpus))
        if len(self._heap) > 2 * len(self._due) + SLACK:
            self._heap = [row for row in self._heap if self._due.get(row[1]) == row[0]]
            heapify(self._heap)

    def remove(self, entry: Entry) -> None:
        """Forget what ends; GPUs and finish must be what they were."""
        self.gpus -= entry.gpus
        if entry.number in self._due:
            self._leave(entry.number, entry.gpus, entry.finish_s)

    def remaining_s(self, now: float) -> float:
        """GPU-seconds that are left."""
        while self._heap and self._heap[0][0] <= now:
            finish_s, number, gpus = heappop(self._heap)
            if self._due.get(number) == finish_s:
                self._leave(number, gpus, finish_s)
        return max(0.0, self._finishes - self.timely_gpus * now)

    def _leave(self, number: int, gpus: int, finish_s: float) -> None:
        del self._due[number]
        self.timely_gpus -= gpus
        self._finishes = self._finishes - gpus * finish_s if self._due else 0.0
