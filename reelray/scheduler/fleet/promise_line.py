"""Tickets whose start is promised, the earliest first; a promise is given only if it breaks no other."""

from collections import Counter
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from reelray.proto.request import RequestId
from reelray.scheduler.fleet.entry import Entry
from reelray.scheduler.fleet.horizon import Horizon
from reelray.scheduler.fleet.policy import FleetPolicy
from reelray.scheduler.fleet.slack import SlackTree
from reelray.scheduler.fleet.ticket import TenantId

FIRST = float("-inf")
SLACK = 64
"""Entries that have left may stay in a heap until they outnumber those that wait by so many."""
LOOSE_S, CHANGES = 4.0, 4
"""Stock is taken when promises could be off by so many seconds, after one change for so many that wait at least."""
EXPECTED_S = 5.0
Row = tuple[float, int, Entry]


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """What a promise would be.

    Args:
        need: GPUs.
        latest_s: Latest start that keeps it.
        start_s: Predicted start, at the latest.
        is_kept: Whether it and all others hold.
        starts_now: Whether a place is free.
    """

    need: int
    latest_s: float
    start_s: float
    is_kept: bool
    starts_now: bool = False


class PromiseLine:
    """The line.

    Args:
        horizon: What runs and is not stopped.
        now: The time.
        policy: Weights of tenants, and when a promise is urgent.
    """

    def __init__(self, horizon: Horizon, now: float, policy: FleetPolicy) -> None:
        self._horizon = horizon
        self._policy = policy
        self._weights = policy.weights
        self._weight = 0.0
        self._tree = SlackTree(0.0, now, horizon.taken_s)
        self._heap: list[Row] = []
        self._coming: list[Row] = []
        self._expected: dict[RequestId, tuple[Entry, float]] = {}
        self._urgent: set[int] = set()
        self._urgent_gpus = 0
        self._waiting: set[int] = set()
        self._by_tenant: dict[TenantId, float] = {}
        self._counts: Counter[TenantId] = Counter()
        self._now_s = 0.0
        self.starting = 0
        """Tickets for which a place was free when they came."""
        self.starting_gpus = 0
        self.gpus = 0.0
        """That may be promised."""
        self.needed_gpus = 0
        """What all that wait need."""

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, entry: Entry) -> bool:
        return entry.number in self._waiting

    @property
    def work_s(self) -> float:
        """GPU-seconds that wait."""
        return self._tree.total_s + self._now_s if self._waiting else 0.0

    def work_of(self, tenant: TenantId) -> float:
        """GPU-seconds of a tenant that wait."""
        return self._by_tenant.get(tenant, 0.0)

    def share_of(self, tenant: TenantId) -> float:
        """Part of the promises that is a tenant's by weight, among those who wait; 1 where nobody else does."""
        weight = self._weights.get(tenant, 1.0)
        return weight / (self._weight + (0.0 if tenant in self._counts else weight))

    def offer(self, need: int, seconds: float, latest_s: float, first_s: float, now: float) -> Offer:
        """What could be promised.

        Args:
            need: GPUs.
            seconds: On so many.
            latest_s: Latest start.
            first_s: GPU-seconds that go before all promises, besides what runs.
            now: The time.
        """
        self._take_stock(now)
        ahead_s, spare_s = self._tree.ahead_s(latest_s)
        breaks = self._left_s(spare_s, first_s, now) < need * seconds
        before_s = first_s + self._now_s + (self._tree.total_s if breaks else ahead_s)
        gpus = max(self.gpus, need)
        start_s = self._horizon.room_at_s(before_s, gpus, now)
        if need > 1:  # GPUs that are free on several engines are no room for it
            start_s = max(start_s, now + (before_s + self._horizon.left_s(now)) / gpus)
        return Offer(need=need, latest_s=latest_s, start_s=start_s, is_kept=not breaks and start_s <= latest_s)

    def slack_s(self, first_s: float, now: float) -> float:
        """GPU-seconds that can begin before all promises and after `first_s`, and they hold."""
        return self._left_s(self._tree.spare_s(), first_s, now)

    def _left_s(self, spare_s: float, first_s: float, now: float) -> float:
        running_s = self._horizon.more_s(now) - self._horizon.taken_s(now)
        return spare_s - self.gpus * now - running_s - first_s - self._now_s

    def _take_stock(self, now: float) -> None:
        """Count what runs anew where that could matter; not more often than pays for its cost."""
        for name in [name for name, (_, until_s) in self._expected.items() if until_s <= now]:
            self.came(name)
        self._tree.move_on(now)
        horizon = self._horizon
        if horizon.changes * CHANGES >= len(self._waiting) and horizon.loose_s(now) > LOOSE_S * self.gpus:
            horizon.take_stock()
            self._tree.recount()

    def add(self, entry: Entry) -> None:
        """Let an entry wait; its promise must be set."""
        assert entry.latest_s is not None
        if entry.starts_now:
            self._count_starting(entry, 1)
        else:
            self._tree.add(entry)
        self._waiting.add(entry.number)
        self.needed_gpus += entry.need
        urgent_s = FIRST if entry.ticket.is_interactive else entry.latest_s - self._policy.urgent_s
        self._push(self._heap, (FIRST if entry.starts_now else entry.latest_s, entry.number, entry))
        self._push(self._coming, (urgent_s, entry.number, entry))
        tenant = entry.ticket.tenant
        if tenant not in self._counts:
            self._weight += self._weights.get(tenant, 1.0)
        self._counts[tenant] += 1
        self._by_tenant[tenant] = self._by_tenant.get(tenant, 0.0) + entry.work_s

    def expect(self, entry: Entry, now: float) -> None:
        """Keep a promise for an entry that comes in a moment; nothing is kept of one that does not."""
        self._expected[entry.ticket.request_id] = entry, now + EXPECTED_S
        self._tree.add(entry)

    def came(self, request_id: RequestId) -> None:
        """What was expected is here, or will not come; harmless for others."""
        if request_id in self._expected:
            self._tree.remove(self._expected.pop(request_id)[0])

    def peek(self) -> Entry | None:
        """The earliest."""
        heap = self._heap
        while heap and (heap[0][1] not in self._waiting):
            heappop(heap)
        return heap[0][2] if heap else None

    def urgent_gpus(self, now: float) -> int:
        """What those need for which renders are stopped: interactive ones, and those whose latest start is near."""
        coming = self._coming
        while coming and (coming[0][0] <= now or coming[0][1] not in self._waiting):
            _, number, entry = heappop(coming)
            if number in self._waiting and number not in self._urgent:
                self._urgent.add(number)
                self._urgent_gpus += entry.need
        return self._urgent_gpus

    def is_urgent(self, entry: Entry, now: float) -> bool:
        """Whether renders are stopped for an entry that waits."""
        self.urgent_gpus(now)
        return entry.number in self._urgent

    def turns_urgent_s(self) -> float:
        """When the next one turns urgent; infinite where none does."""
        return self._coming[0][0] if self._coming else float("inf")

    def remove(self, entry: Entry) -> None:
        """Let an entry go to an engine, or away."""
        if entry.starts_now:
            self._count_starting(entry, -1)
        else:
            self._tree.remove(entry)
        self._waiting.remove(entry.number)
        self.needed_gpus -= entry.need
        if entry.number in self._urgent:
            self._urgent.remove(entry.number)
            self._urgent_gpus -= entry.need
        tenant = entry.ticket.tenant
        self._counts[tenant] -= 1
        self._by_tenant[tenant] -= entry.work_s
        if not self._counts[tenant]:
            del self._counts[tenant], self._by_tenant[tenant]
            self._weight = self._weight - self._weights.get(tenant, 1.0) if self._counts else 0.0

    def resize(self, gpus: float, now: float) -> None:
        """Count anew for other GPUs."""
        self.gpus = gpus
        self._horizon.take_stock()
        self._tree.resize(gpus, now)

    def _push(self, heap: list[Row], row: Row) -> None:
        heappush(heap, row)
        if len(heap) > 2 * len(self._waiting) + SLACK:
            heap[:] = [row for row in heap if row[1] in self._waiting]
            heapify(heap)

    def _count_starting(self, entry: Entry, sign: int) -> None:
        self.starting += sign
        self.starting_gpus += sign * entry.need
        self._now_s = self._now_s + sign * entry.work_s if self.starting else 0.0
