"""Whether one more promise breaks an older one, in logarithmic time.

Work that must have begun by t is served in the order of these times. If, of such work, W(s) GPU-seconds go before a
start promised for s, and what runs already takes R(s) until s, then it has begun by s where these are fewer than the
C (s - now) GPU-seconds of all C GPUs: until it begins, every GPU works on what runs or goes before (Graham 1966, list
scheduling). So all promises hold while

    R(s) + W(s) - C (s - now) <= 0   for every promised s.

A tree over ticks of time keeps, for each of its nodes, the work below it and the largest R(s) + W(s) - C s below it.
"""

from collections.abc import Callable

from reelray.scheduler.fleet.entry import Entry

TICK_S, FAR_TICK_S = 0.25, 60.0
TICKS = 1 << 15
FINE = TICKS >> 1
"""So many ticks are short, the others long: starts soon are told apart finely, those of the next eleven days too."""
NONE = float("-inf")


class SlackTree:
    """Promised work by latest start.

    A start counts as at the beginning of its tick, and one beyond the window of eleven days as at its end; both are on
    the safe side. The window moves on.

    Args:
        gpus: C, GPUs that may be promised.
        now: Where the window begins.
        taken_s: R, GPU-seconds that running work takes until a time; when it changes, `recount` is due.
    """

    def __init__(self, gpus: float, now: float, taken_s: Callable[[float], float] = lambda _: 0.0) -> None:
        self._taken_s = taken_s
        self._entries: dict[int, dict[int, Entry]] = {}
        self._last_s: dict[int, float] = {}
        """Latest of the starts in a tick, of those that have left too."""
        self._clear(gpus, now)

    @property
    def total_s(self) -> float:
        """GPU-seconds that are promised and wait."""
        return self._work[1]

    def add(self, entry: Entry) -> None:
        """Count an entry; its promise must be set."""
        assert entry.latest_s is not None
        if not self._is_full:
            self._fill()
        entry.promise_tick = tick = self._tick(entry.latest_s)
        self._entries.setdefault(tick, {})[entry.number] = entry
        self._last_s[tick] = max(entry.latest_s, self._last_s.get(tick, NONE))
        self._update(tick, entry.work_s)

    def remove(self, entry: Entry) -> None:
        """Forget an entry; its work must be what it was."""
        tick = entry.promise_tick
        there = self._entries[tick]
        del there[entry.number]
        if not there:
            del self._entries[tick], self._last_s[tick]
        self._update(tick, -entry.work_s)

    def ahead_s(self, latest_s: float) -> tuple[float, float]:
        """What one more promise meets: GPU-seconds that go before it, and the most that a later promise can wait more.

        The second is without now: the least C s - R(s) - W(s) of the promises that follow.
        """
        if not self._is_full:
            return 0.0, -NONE
        work, need = self._work, self._need
        tick, node, before, worst = self._tick(latest_s), 1, 0.0, NONE
        half = TICKS >> 1
        while half:
            left = 2 * node
            if tick & half:
                before += work[left]
                node = left + 1
            else:
                worst = max(worst, before + work[left] + need[left + 1])
                node = left
            half >>= 1
        if self._last_s.get(tick, NONE) > latest_s:
            worst = max(worst, before + need[node])
        return before + work[node], -worst

    def spare_s(self) -> float:
        """The least C s - R(s) - W(s) of all promises: what one that goes before them all meets."""
        return -self._need[1]

    def resize(self, gpus: float, now: float) -> None:
        """Count anew, for other GPUs or a window that begins now; linear, and rare."""
        entries = [entry for there in self._entries.values() for entry in there.values()]
        self._entries = {}
        self._last_s = {}
        self._clear(gpus, now)
        for entry in entries:
            self.add(entry)

    def recount(self) -> None:
        """Count anew what running work takes; linear in the ticks that promises lie in."""
        need, work, nodes = self._need, self._work, {(TICKS + tick) >> 1 for tick in self._entries}
        for tick in self._entries:
            self._set_need(tick)
        while nodes:
            for node in nodes:
                below, after = need[2 * node], work[2 * node] + need[2 * node + 1]
                need[node] = below if below > after else after  # noqa: FURB136  much faster than max()
            nodes = {node >> 1 for node in nodes if node > 1}

    def move_on(self, now: float) -> None:
        """Move the window once half of its short ticks have gone by."""
        if now - self._base_s > FINE * TICK_S / 2:
            self.resize(self._gpus, now)

    def _clear(self, gpus: float, now: float) -> None:
        self._gpus = gpus
        self._base_s = now
        self._is_full = False
        self._work, self._need = [0.0, 0.0], [NONE, NONE]

    def _fill(self) -> None:
        """Have all nodes, a megabyte of them: only where something is promised."""
        self._is_full = True
        self._work = [0.0] * (2 * TICKS)
        self._need = [NONE] * (2 * TICKS)

    def _tick(self, at_s: float) -> int:
        tick = int((at_s - self._base_s) / TICK_S)
        if tick >= FINE:
            tick = FINE + int((at_s - self._base_s - FINE * TICK_S) / FAR_TICK_S)
        return min(max(tick, 0), TICKS - 1)

    def _begin_s(self, tick: int) -> float:
        return self._base_s + min(tick, FINE) * TICK_S + max(tick - FINE, 0) * FAR_TICK_S

    def _update(self, tick: int, change: float) -> None:
        work, need, node = self._work, self._need, TICKS + tick
        if tick in self._entries:
            work[node] += change
            self._set_need(tick)
        else:
            work[node], need[node] = 0.0, NONE
        node >>= 1
        while node:
            left = 2 * node
            work[node] = work[left] + work[left + 1]
            below, after = need[left], work[left] + need[left + 1]
            need[node] = below if below > after else after  # noqa: FURB136  much faster than max()
            node >>= 1

    def _set_need(self, tick: int) -> None:
        node, begin_s = TICKS + tick, self._begin_s(tick)
        # The last of several in one tick waits for the others.
        others = 0.0 if len(self._entries[tick]) == 1 else self._work[node]
        self._need[node] = others + self._taken_s(begin_s) - self._gpus * begin_s
