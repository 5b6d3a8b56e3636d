"""What runs and is not stopped, as the GPU-seconds that it takes until any time.

A ticket on g GPUs that ends at f takes g (min(f, s) - now) of them until s: a stream of an hour takes one GPU for that
hour, and nothing of the others. Stock is taken of all that runs now and then; what began since counts as taking all its
GPU-seconds before anything else, and what ended early as running on, which is on the safe side.
"""

from bisect import bisect_right
from itertools import accumulate

from reelray.scheduler.fleet.entry import Entry
from reelray.scheduler.fleet.load import Load

LEAST_S = 1e-6
"""Fewer GPU-seconds are an error of floats."""


class Horizon:
    """The sums over what ran when stock was taken, by end, and over what has changed."""

    def __init__(self) -> None:
        self._running: dict[int, Entry] = {}
        self._stock: dict[int, float] = {}
        self._ends: list[float] = []
        self._gpus: list[int] = [0]
        self._gpu_ends: list[float] = [0.0]
        self._began = Load()
        self._delay_s = 0.0
        self._early_s = 0.0
        self._seen_s = 0.0
        """Last time that anybody asked about."""
        self.changes = 0
        """Since stock was taken."""

    def add(self, entry: Entry) -> None:
        """Count what begins."""
        self.changes += 1
        self._running[entry.number] = entry
        self._began.add(entry)

    def remove(self, entry: Entry) -> None:
        """Forget what ends; its finish must be what it was."""
        self.changes += 1
        del self._running[entry.number]
        stock_s = self._stock.pop(entry.number, None)
        if stock_s is None:
            self._began.remove(entry)
        else:
            self._delay_s -= entry.gpus * max(0.0, entry.finish_s - stock_s)
            self._early_s += entry.gpus * max(0.0, stock_s - self._seen_s)

    def change_finish(self, entry: Entry, finish_s: float) -> None:
        """Expect another finish; the entry still has the old one, and gets the new one."""
        self.changes += 1
        stock_s = self._stock.get(entry.number)
        if stock_s is None:
            self._began.remove(entry)
            entry.finish_s = finish_s
            self._began.add(entry)
            return
        self._delay_s += entry.gpus * (max(0.0, finish_s - stock_s) - max(0.0, entry.finish_s - stock_s))
        self._early_s += entry.gpus * max(0.0, min(entry.finish_s, stock_s) - finish_s)
        entry.finish_s = finish_s

    def taken_s(self, at_s: float) -> float:
        """GPU-seconds that the stock takes until then, counted from zero of the clock; a difference tells more."""
        count = bisect_right(self._ends, at_s)
        return self._gpu_ends[count] + at_s * (self._gpus[-1] - self._gpus[count])

    def more_s(self, now: float) -> float:
        """GPU-seconds that are left besides, at the most."""
        self._seen_s = now
        return self._began.remaining_s(now) + self._delay_s

    def left_s(self, now: float) -> float:
        """GPU-seconds that are left in all, at the most."""
        return self._gpu_ends[-1] - self.taken_s(now) + self.more_s(now)

    def loose_s(self, now: float) -> float:
        """GPU-seconds by which this may be too much."""
        return self.more_s(now) + self._early_s

    def busy_gpus(self, now: float) -> int:
        """GPUs whose GPU-seconds become fewer as time goes by."""
        self._began.remaining_s(now)
        return self._gpus[-1] - self._gpus[bisect_right(self._ends, now)] + self._began.timely_gpus

    def room_at_s(self, work_s: float, gpus: float, now: float) -> float:
        """When so many GPUs have had room for so many GPU-seconds besides what runs, and one of them is free.

        The room until t is convex in t and 0 now, so it crosses `work_s` once; it may stay there for a while, as long
        as what runs takes all GPUs.
        """
        work_s += self.more_s(now)
        known_s, low = self.taken_s(now), bisect_right(self._ends, now)
        high = len(self._ends)
        while low < high:
            middle = (low + high) // 2
            at_s = self._ends[middle]
            if gpus * (at_s - now) - self.taken_s(at_s) + known_s > work_s + LEAST_S:
                high = middle
            else:
                low = middle + 1
        from_s = max(now, self._ends[low - 1]) if low else now
        room_s = gpus * (from_s - now) - self.taken_s(from_s) + known_s
        return from_s + max(0.0, work_s - room_s) / (gpus - (self._gpus[-1] - self._gpus[low]))

    def take_stock(self) -> None:
        """Count all that runs by its end; takes time in proportion."""
        rows = sorted((entry.finish_s, entry.gpus) for entry in self._running.values())
        self._stock = {number: entry.finish_s for number, entry in self._running.items()}
        self._ends = [end_s for end_s, _ in rows]
        self._gpus = [0, *accumulate(gpus for _, gpus in rows)]
        self._gpu_ends = [0.0, *accumulate(gpus * end_s for end_s, gpus in rows)]
        self._began = Load()
        self._delay_s = self._early_s = 0.0
        self.changes = 0
