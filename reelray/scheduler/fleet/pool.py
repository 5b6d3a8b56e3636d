"""The engines of one model, and what waits for them."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from math import ceil

from reelray.scheduler.fleet.decision import Decision, Placed, Reason, Refused
from reelray.scheduler.fleet.engine_index import EngineIndex
from reelray.scheduler.fleet.engine_state import EngineFacts, EngineState
from reelray.scheduler.fleet.entry import Entry, State
from reelray.scheduler.fleet.fair_line import FairLine
from reelray.scheduler.fleet.load import Load
from reelray.scheduler.fleet.policy import FleetPolicy
from reelray.scheduler.fleet.preemption import Victims
from reelray.scheduler.fleet.promise_line import PromiseLine
from reelray.scheduler.fleet.ticket import TenantId

LOOK_S = 0.05
"""Time that promises have to spare is looked at no more often than that."""
GRACE_S = 1e-3
"""So much later than promised is not late: times are sums of floats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pressure:
    """How much a pool has to do; what a fleet is grown and shrunk by.

    Args:
        queue_s: Seconds that all its GPUs would work on what waits; infinite where it has none.
        busy: Share of its GPUs that work.
        waiting: Tickets that wait.
        gpus: It has.
    """

    queue_s: float
    busy: float
    waiting: int
    gpus: int


class Pool:
    """Lines, engines, and the sums that decisions need.

    What is promised goes first, by latest start; then tenants have their turns. But while all promises hold with time to
    spare, a tenant that was given less goes before one that has promises; and renders keep a share of the GPUs. An
    engine with a line of its own, for sessions that it holds, serves that before anything else.

    Args:
        policy: The rules.
        now: The time.
    """

    def __init__(self, policy: FleetPolicy, now: float) -> None:
        self._policy = policy
        self._touched: dict[int, EngineState] = {}
        self._by_tenant: Counter[TenantId] = Counter()
        self.index = EngineIndex()
        self.fair = FairLine(policy)
        self.promises = PromiseLine(0.0, now, policy)
        self.victims = Victims(policy)
        self.load = Load()
        self.promised_load = Load()
        self._render_gpus = 0
        self._alarms: list[tuple[float, int]] = []
        """When to look at the lines of engines again, by their numbers."""
        self._parked: dict[int, Entry] = {}
        """Tickets that are too large for any engine that is up; they hold nobody up."""
        self.pinned = 0
        """Tickets in lines of engines."""
        self.pinned_s = 0.0

    @property
    def waiting(self) -> int:
        """Tickets in all lines."""
        return len(self.fair) + len(self.promises) + self.pinned + len(self._parked)

    @property
    def free_gpus(self) -> int:
        """GPUs without work."""
        return self.index.gpus - self.load.gpus

    def pressure(self) -> Pressure:
        """How much there is to do."""
        work_s, gpus = self.fair.work_s + self.promises.work_s + self.pinned_s, self.index.gpus
        queue_s = work_s / gpus if gpus else (float("inf") if self.waiting else 0.0)
        return Pressure(queue_s=queue_s, busy=self.load.gpus / gpus if gpus else 0.0, waiting=self.waiting, gpus=gpus)

    def waiting_of(self, tenant: TenantId) -> int:
        """Tickets of a tenant that wait, in lines of engines too."""
        return self._by_tenant[tenant]

    def touch(self, engine: EngineState) -> None:
        """Look at an engine anew, because its bytes have changed."""
        self.index.note(engine)
        self._touched[engine.number] = engine

    def engine_up(self, facts: EngineFacts, number: int, now: float) -> EngineState:
        """Use an engine."""
        engine = EngineState(facts, number)
        self.index.add(engine)
        self._touched[number] = engine
        self._resize(now)
        parked, self._parked = self._parked, {}
        for entry in parked.values():
            self._count_out(entry)
            self.wait(entry)
        return engine

    def engine_down(self, engine: EngineState, now: float) -> None:
        """Use an engine no more; nothing may run on it or stand in its line."""
        self.index.remove(engine)
        self._touched.pop(engine.number, None)
        self._resize(now)

    def wait(self, entry: Entry) -> None:
        """Put an entry into its line."""
        entry.state = State.WAITING
        self._by_tenant[entry.ticket.tenant] += 1
        if entry.pinned is not None:
            engine = self.index.engines[entry.pinned]
            engine.line.append(entry)
            engine.line_s += entry.work_s
            engine.line_count += 1
            self.pinned += 1
            self.pinned_s += entry.work_s
            self._touched[engine.number] = engine
        elif entry.is_promised:
            self.promises.add(entry)
        else:
            self.fair.add(entry)

    def leave(self, entry: Entry) -> None:
        """Take a waiting entry out of its line."""
        self._count_out(entry)
        if entry.pinned is not None:
            engine = self.index.engines[entry.pinned]
            engine.line_s -= entry.work_s
            engine.line_count -= 1
            self.pinned -= 1
            self.pinned_s = self.pinned_s - entry.work_s if self.pinned else 0.0
            self._touched[engine.number] = engine
            if not engine.line_count:
                engine.line.clear()
                self.index.note(engine)
        elif entry in self.promises:
            self.promises.remove(entry)
        elif entry in self.fair:
            self.fair.remove(entry)
        else:
            del self._parked[entry.number]

    def end(self, entry: Entry) -> None:
        """Take a running entry off its engine."""
        assert entry.engine_id is not None
        engine = self.index.engines[entry.engine_id]
        engine.end(entry)
        self.index.note(engine)
        self._touched[engine.number] = engine
        self.load.remove(entry)
        if entry.is_promised:
            self.promised_load.remove(entry)
        self.victims.forget(entry)

    def change_finish(self, entry: Entry, finish_s: float) -> None:
        """Predict a running entry's finish anew."""
        assert entry.engine_id is not None
        engine = self.index.engines[entry.engine_id]
        loads = (self.load, self.promised_load) if entry.is_promised else (self.load,)
        for load in loads:
            load.remove(entry)
        engine.finishes += entry.gpus * (finish_s - entry.finish_s)
        self.settle(entry, finish_s)
        entry.finish_s = finish_s
        for load in loads:
            load.add(entry)
        self.victims.note(entry)
        self.index.note(engine)

    def settle(self, entry: Entry, end_s: float) -> None:
        """Charge a tenant for what its ticket took, in place of what was predicted."""
        self.fair.charge(entry.ticket.tenant, entry.gpus * (end_s - entry.finish_s))

    def decide(self, now: float) -> Iterator[Decision]:
        """What can be done now. Every decision is carried out in these books before the next one is made."""
        while self._alarms and self._alarms[0][0] <= now:
            engine = self.index.by_number.get(heappop(self._alarms)[1])
            if engine is not None:
                self._touched[engine.number] = engine
        touched, self._touched = self._touched, {}
        for engine in touched.values():
            yield from self._serve_line(engine, now)
        while (entry := self._next(now)) is not None:
            if not self.index.could_take(entry.need, entry.ticket.memory_bytes):
                yield from self._give_up(entry, Reason.NO_ENGINE, self._park)
                continue
            if self.is_late(entry, now):
                yield from self._give_up(entry, Reason.LATE, self.wait)
                continue
            placed = self._place(entry, now)
            if placed is None:
                break
            yield placed
        first = self.promises.peek()
        if first is not None:
            yield from self.victims.make_room(first, self._wanted_gpus(now), self._kept_gpus(), self.index)

    def is_late(self, entry: Entry, now: float) -> bool:
        """Whether its promise is broken."""
        return entry.latest_s is not None and now >= self._late_s(entry)

    def _late_s(self, entry: Entry) -> float:
        assert entry.latest_s is not None
        return entry.latest_s + self._policy.stop_s + GRACE_S

    def wake_s(self, now: float) -> float:
        """When a decision is due that no event brings about; infinite where none is."""
        due = [self._alarms[0][0]] if self._alarms else []
        first = self.promises.peek()
        if first is not None:
            assert first.latest_s is not None
            due += [self.promises.turns_urgent_s(), self._late_s(first)]
            slack_s, idle = self._slack_s(now), self.promises.gpus - self.promised_load.timely_gpus
            if slack_s > 0.0 and idle > 0.0:
                due.append(now + max(slack_s / idle, LOOK_S))
        return min((at_s for at_s in due if at_s > now), default=float("inf"))

    @property
    def stoppable_gpus(self) -> int:
        """GPUs of renders that make room for people, those included that are doing so."""
        return max(0, self.victims.gpus - self._kept_gpus())

    def _kept_gpus(self) -> int:
        """GPUs that renders keep while there are some; on fewer than five GPUs none."""
        return self._render_gpus if len(self.fair) or self.victims.gpus else 0

    def _slack_s(self, now: float) -> float:
        """GPU-seconds until every GPU that is promised must work on promises, with time to stop renders before."""
        running_s = self.promised_load.remaining_s(now) + self.pinned_s
        return self.promises.slack_s(running_s, now) - self._policy.urgent_s * self.promises.gpus

    def _wanted_gpus(self, now: float) -> int:
        """GPUs to be freed for promises that wait."""
        wanted = self.promises.urgent_gpus(now)
        if self._slack_s(now) <= 0.0:
            idle = ceil(self.promises.gpus) - self.promised_load.gpus
            wanted = max(wanted, min(idle, self.promises.needed_gpus))
        return wanted

    def _next(self, now: float) -> Entry | None:
        fair = self.fair.peek(longest=len(self.fair) <= self._policy.tail_rounds * self.index.gpus)
        entry = self.promises.peek()
        if entry is None or (fair is not None and self._goes_before(fair, entry, now)):
            return fair
        return entry

    def _goes_before(self, fair: Entry, entry: Entry, now: float) -> bool:
        """Whether an entry without a promise goes before the first that has one."""
        if self.promised_load.gpus + entry.need > self.index.gpus - self._kept_gpus():
            return True
        if entry.ticket.is_interactive or not self.fair.has_turn_before(fair, entry.ticket.tenant):
            return False
        spare_s = fair.work_s + (1.0 - self._policy.promise_share) * self.promises.work_s
        return self._slack_s(now) >= spare_s

    def _serve_line(self, engine: EngineState, now: float) -> Iterator[Decision]:
        while engine.line:
            entry = engine.line[0]
            if entry.state is not State.WAITING or entry.pinned != engine.facts.engine_id:
                engine.line.popleft()
            elif entry.ticket.is_interactive and self.is_late(entry, now):
                yield from self._give_up(entry, Reason.LATE, self.wait)
            elif engine.has_room(entry):
                engine.line.popleft()
                yield self._begin(entry, engine, self._choose_gpus(entry, engine.free_gpus), now)
            else:
                if entry.latest_s is not None:
                    yield from self.victims.stop_on(engine, entry, now)
                    self._set_alarm(engine, entry.latest_s, now)
                return

    def _set_alarm(self, engine: EngineState, latest_s: float, now: float) -> None:
        """See to it that a line is looked at when the promise of its first becomes urgent, and when it is broken."""
        urgent_s = latest_s - self._policy.urgent_s
        at_s = urgent_s if urgent_s > now else latest_s + self._policy.stop_s + GRACE_S
        if at_s > now and (engine.alarm_s <= now or at_s < engine.alarm_s):
            engine.alarm_s = at_s
            heappush(self._alarms, (at_s, engine.number))

    def _place(self, entry: Entry, now: float) -> Placed | None:
        most = self._choose_gpus(entry, self.free_gpus)
        for gpus in reversed(entry.options):
            if entry.need <= gpus <= most:
                engine = self.index.find(gpus, entry.ticket.memory_bytes, spreads=entry.ticket.session is not None)
                if engine is not None:
                    return self._begin(entry, engine, gpus, now)
        return None

    def _choose_gpus(self, entry: Entry, free: int) -> int:
        """Few GPUs each while many wait, many while few do; never more than make it faster."""
        if not self._policy.widens:
            return entry.need
        share = min(free, max(entry.need, self.free_gpus // max(1, self.waiting)))
        if entry.is_promised:  # it cannot be stopped: others who wait in front of a screen find room beside it
            room = int(self._policy.wide_share * self.index.gpus) - self.promised_load.gpus
            share = min(share, max(entry.need, room))
        allowed = [gpus for gpus in entry.options if entry.need <= gpus <= share]
        return min(allowed, key=lambda gpus: (entry.ticket.seconds[gpus], gpus), default=entry.need)

    def _begin(self, entry: Entry, engine: EngineState, gpus: int, now: float) -> Placed:
        work_s = gpus * entry.seconds(gpus)
        if entry in self.fair:
            self._count_out(entry)
            self.fair.take(entry, work_s)
        else:
            self.leave(entry)
            self.fair.charge(entry.ticket.tenant, work_s)
        entry.state, entry.engine_id, entry.gpus = State.RUNNING, engine.facts.engine_id, gpus
        entry.attempt += 1
        entry.started_s, entry.finish_s = now, now + entry.seconds(gpus)
        engine.begin(entry)
        self.index.note(engine)
        self.load.add(entry)
        if entry.is_promised:
            self.promised_load.add(entry)
        self.victims.note(entry)
        return Placed(
            request_id=entry.ticket.request_id,
            engine_id=engine.facts.engine_id,
            gpus=gpus,
            attempt=entry.attempt,
            start_s=now,
            finish_s=entry.finish_s,
            left=entry.left,
        )

    def _give_up(self, entry: Entry, reason: Reason, instead: Callable[[Entry], None]) -> Iterator[Refused]:
        """Break a promise: people are told, and what nobody waits for runs all the same, later."""
        self.leave(entry)
        if entry.ticket.is_interactive:
            entry.state = State.ENDED
            yield Refused(request_id=entry.ticket.request_id, reason=reason)
        else:
            entry.latest_s = None
            instead(entry)

    def _park(self, entry: Entry) -> None:
        self._by_tenant[entry.ticket.tenant] += 1
        self._parked[entry.number] = entry

    def _count_out(self, entry: Entry) -> None:
        tenant = entry.ticket.tenant
        self._by_tenant[tenant] -= 1
        if not self._by_tenant[tenant]:
            del self._by_tenant[tenant]

    def _resize(self, now: float) -> None:
        promised = self._policy.promise_share * self.index.gpus
        self._render_gpus = round(self.index.gpus - promised)
        self.promises.resize(min(promised, self.index.gpus - self._render_gpus), now)
