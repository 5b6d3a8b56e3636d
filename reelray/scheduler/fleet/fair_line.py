"""Tickets without a promise, by weighted fair turns of their tenants.

Start-time fair queueing (Goyal, Vin, Cheng 1996): a tenant's virtual time grows by the GPU-seconds it is given, over
its weight; the tenant whose time is least comes next; who comes back begins where the others are. While two tenants
wait, what they were given over their weights differs by one ticket of each at most. What a tenant is given while nobody
waits is not held against it.

Within a tenant the line is kept by arrival, where a level of priority counts as some seconds of waiting: so what waits
ages, and nothing starves. When few tickets are left, the longest goes first: the last ones then end together. It goes
before older ones only if it came little later than the oldest, so these wait for no more than what came meanwhile.
"""

from heapq import heapify, heappop, heappush

from reelray.scheduler.fleet.entry import Entry
from reelray.scheduler.fleet.policy import FleetPolicy
from reelray.scheduler.fleet.ticket import TenantId

EVERYBODY = TenantId("")
"""All tickets are this tenant's where nobody asks for fairness."""
SLACK = 64
"""What has left may stay in a heap or a dict until it outnumbers what waits by so many."""


class _Tenant:
    __slots__ = ("by_age", "by_work", "count", "name", "time", "weight", "work_s")

    def __init__(self, name: TenantId, weight: float) -> None:
        self.name = name
        self.weight = weight
        self.time = 0.0
        self.count = 0
        self.work_s = 0.0
        self.by_age: list[tuple[float, int, Entry]] = []
        self.by_work: list[tuple[float, int, Entry]] = []


class FairLine:
    """The line.

    Args:
        policy: Weights, and how tickets age.
    """

    def __init__(self, policy: FleetPolicy) -> None:
        self._policy = policy
        self._tenants: dict[TenantId, _Tenant] = {}
        self._turns: list[tuple[float, TenantId]] = []
        self._time = 0.0
        self._most_tenants = SLACK
        self._members: set[int] = set()
        self._weights = 0.0
        self.work_s = 0.0

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, entry: Entry) -> bool:
        return entry.number in self._members

    def ahead_s(self, tenant: TenantId) -> float:
        """GPU-seconds that are given away before a ticket that `tenant` would add now, predicted."""
        own = self._tenant(tenant)
        weights = self._weights + (0.0 if own.count else own.weight)
        return min(self.work_s, own.work_s * weights / own.weight)

    def add(self, entry: Entry) -> None:
        """Let an entry wait."""
        tenant = self._tenant(entry.ticket.tenant)
        if tenant.count == 0:
            tenant.time = max(tenant.time, self._time)
            self._weights += tenant.weight
            heappush(self._turns, (tenant.time, tenant.name))
        tenant.count += 1
        tenant.work_s += entry.work_s
        self.work_s += entry.work_s
        self._members.add(entry.number)
        heappush(tenant.by_age, (self._age_s(entry), entry.number, entry))
        if self._policy.tail_rounds:
            heappush(tenant.by_work, (-entry.work_s, entry.number, entry))
        self._compact(tenant)

    def peek(self, *, longest: bool = False) -> Entry | None:
        """Whose turn it is.

        Args:
            longest: Take the tenant's longest in place of its oldest, if it is little younger.
        """
        turns = self._turns
        while turns:
            tenant = self._tenants.get(turns[0][1])
            if tenant is not None and tenant.count and turns[0][0] == tenant.time:
                break
            heappop(turns)
        else:
            return None
        age_s, _, oldest = self._head(tenant.by_age)
        if not longest or not self._policy.tail_rounds:
            return oldest
        candidate = self._head(tenant.by_work)[2]
        return candidate if self._age_s(candidate) - age_s <= self._policy.overtake_s else oldest

    def _head(self, heap: list[tuple[float, int, Entry]]) -> tuple[float, int, Entry]:
        while heap[0][1] not in self._members:
            heappop(heap)
        return heap[0]

    def _age_s(self, entry: Entry) -> float:
        return entry.submitted_s - self._policy.priority_s * entry.ticket.priority

    def has_turn_before(self, entry: Entry, tenant_id: TenantId) -> bool:
        """Whether the turn of an entry's tenant comes before that of another tenant."""
        other = self._tenant(tenant_id)
        time = other.time if other.count else max(other.time, self._time)
        return self._tenant(entry.ticket.tenant).time < time

    def take(self, entry: Entry, work_s: float) -> None:
        """Let an entry go to an engine, and charge its tenant."""
        tenant = self._tenant(entry.ticket.tenant)
        self._time = max(self._time, tenant.time)
        self._drop(entry)
        self.charge(tenant.name, work_s)

    def charge(self, tenant_id: TenantId, work_s: float) -> None:
        """Count GPU-seconds that a tenant is given, in this line or past it, or gives back (less than 0)."""
        tenant = self._tenant(tenant_id)
        if not tenant.count:
            tenant.time = max(tenant.time, self._time)
        tenant.time += work_s / tenant.weight
        if tenant.count:
            heappush(self._turns, (tenant.time, tenant.name))
        if not self._members:
            self._time = max(self._time, tenant.time)

    def remove(self, entry: Entry) -> None:
        """Forget an entry that will not go on."""
        self._drop(entry)

    def _drop(self, entry: Entry) -> None:
        tenant = self._tenant(entry.ticket.tenant)
        self._members.remove(entry.number)
        tenant.count -= 1
        tenant.work_s -= entry.work_s
        self.work_s -= entry.work_s
        if tenant.count == 0:
            self._weights -= tenant.weight
            tenant.work_s = 0.0
            tenant.by_age.clear()
            tenant.by_work.clear()
        if not self._members:
            self.work_s = self._weights = 0.0

    def _tenant(self, name: TenantId) -> _Tenant:
        if not self._policy.is_fair:
            name = EVERYBODY
        tenant = self._tenants.get(name)
        if tenant is None:
            self._forget()
            tenant = self._tenants[name] = _Tenant(name, self._policy.weights.get(name, 1.0))
        return tenant

    def _forget(self) -> None:
        """Drop tenants that would begin where the others are if they came back, once they are many."""
        if len(self._tenants) < self._most_tenants:
            return
        self._tenants = {name: one for name, one in self._tenants.items() if one.count or one.time > self._time}
        self._most_tenants = 2 * len(self._tenants) + SLACK

    def _compact(self, tenant: _Tenant) -> None:
        for heap in (tenant.by_age, tenant.by_work):
            if len(heap) > 2 * tenant.count + SLACK:
                heap[:] = [row for row in heap if row[1] in self._members]
                heapify(heap)
