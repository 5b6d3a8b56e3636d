"""The engines of one model, and what waits for them."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

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

    What is promised goes first, by latest start; then tenants have their turns. An engine with a line of its own, for
    sessions that it holds, serves that before anything else.

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
        self.promises = PromiseLine(0.0, now, policy.weights)
        self.victims = Victims(policy)
        self.load = Load()
        self.promised_load = Load()
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
        touched, self._touched = self._touched, {}
        for engine in touched.values():
            yield from self._serve_line(engine, now)
        while (entry := self._next()) is not None:
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
        yield from self.victims.make_room(self.promises, self.index, now)

    def is_late(self, entry: Entry, now: float) -> bool:
        """Whether its promise is broken."""
        return entry.latest_s is not None and now > entry.latest_s + self._policy.stop_s

    def _next(self) -> Entry | None:
        entry = self.promises.peek()
        if entry is not None:
            return entry
        return self.fair.peek(longest=len(self.fair) <= self._policy.tail_rounds * self.index.gpus)

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
                if entry.is_promised:
                    yield from self.victims.stop_on(engine, entry, now)
                return

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
        self.promises.resize(self._policy.promise_share * self.index.gpus, now)
