"""The engines of one model, and what waits for them."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from reelray.scheduler.fleet.balance import Balance
from reelray.scheduler.fleet.decision import Decision, Placed, Reason, Refused
from reelray.scheduler.fleet.engine_index import EngineIndex
from reelray.scheduler.fleet.engine_lines import EngineLines
from reelray.scheduler.fleet.engine_state import EngineFacts, EngineState
from reelray.scheduler.fleet.entry import Entry, State
from reelray.scheduler.fleet.fair_line import FairLine
from reelray.scheduler.fleet.policy import FleetPolicy
from reelray.scheduler.fleet.promise_line import PromiseLine
from reelray.scheduler.fleet.running import Running
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

    What is promised goes first, by latest start, where it must (see `balance`); then tenants have their turns. An
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
        self.running = Running(policy, self.index)
        self.promises = PromiseLine(self.running.horizon, now, policy)
        self.lines = EngineLines(policy)
        self.balance = Balance(policy, promises=self.promises, fair=self.fair, lines=self.lines, running=self.running)
        self._parked: dict[int, Entry] = {}
        """Tickets that are too large for any engine that is up; they hold nobody up."""

    @property
    def waiting(self) -> int:
        """Tickets in all lines."""
        return len(self.fair) + len(self.promises) + self.lines.count + len(self._parked)

    @property
    def has_waiting(self) -> bool:
        """Whether there is one; of hundreds of pools most have none."""
        return bool(self._by_tenant)

    @property
    def free_gpus(self) -> int:
        """GPUs without work."""
        return self.index.gpus - self.running.load.gpus

    def pressure(self) -> Pressure:
        """How much there is to do."""
        work_s, gpus = self.fair.work_s + self.promises.work_s + self.lines.work_s, self.index.gpus
        queue_s = work_s / gpus if gpus else (float("inf") if self.waiting else 0.0)
        return Pressure(
            queue_s=queue_s, busy=self.running.load.gpus / gpus if gpus else 0.0, waiting=self.waiting, gpus=gpus
        )

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
        self.balance.resize(self.index.gpus, now)
        parked, self._parked = self._parked, {}
        for entry in parked.values():
            self._count_out(entry)
            self.wait(entry)
        return engine

    def engine_down(self, engine: EngineState, now: float) -> None:
        """Use an engine no more; nothing may run on it or stand in its line."""
        self.index.remove(engine)
        self._touched.pop(engine.number, None)
        self.balance.resize(self.index.gpus, now)

    def wait(self, entry: Entry) -> None:
        """Put an entry into its line."""
        entry.state = State.WAITING
        self._by_tenant[entry.ticket.tenant] += 1
        if entry.pinned is not None:
            engine = self.index.engines[entry.pinned]
            self.lines.add(entry, engine)
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
            self.lines.remove(entry, engine)
            self.touch(engine)
        elif entry in self.promises:
            self.promises.remove(entry)
        elif entry in self.fair:
            self.fair.remove(entry)
        else:
            del self._parked[entry.number]

    def end(self, entry: Entry) -> None:
        """Take a running entry off its engine."""
        engine = self.running.end(entry)
        self._touched[engine.number] = engine

    def change_finish(self, entry: Entry, finish_s: float) -> None:
        """Predict a running entry's finish anew."""
        self.settle(entry, finish_s)
        self.running.change_finish(entry, finish_s)

    def settle(self, entry: Entry, end_s: float) -> None:
        """Charge a tenant for what its ticket took, in place of what was predicted."""
        self.fair.charge(entry.ticket.tenant, entry.gpus * (end_s - entry.finish_s))

    def decide(self, now: float) -> Iterator[Decision]:
        """What can be done now. Every decision is carried out in these books before the next one is made."""
        for number in self.lines.due(now):
            if (engine := self.index.by_number.get(number)) is not None:
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
            if placed is not None:
                yield placed
                continue
            engine = self._claim(entry, now)
            if engine is None:
                break
            yield from self._serve_line(engine, now)
        first, balance = self.promises.peek(), self.balance
        if first is not None:
            yield from self.running.victims.make_room(first, balance.wanted_gpus(now), balance.kept_gpus, self.index)

    def is_late(self, entry: Entry, now: float) -> bool:
        """Whether its promise is broken."""
        return entry.latest_s is not None and now >= self._policy.late_s(entry.latest_s)

    def wake_s(self, now: float) -> float:
        """When a decision is due that no event brings about; infinite where none is."""
        alarm_s = self.lines.alarm_s
        return min(self.balance.wake_s(now), alarm_s if alarm_s > now else float("inf"))

    def _next(self, now: float) -> Entry | None:
        fair = self.fair.peek(longest=len(self.fair) <= self._policy.tail_rounds * self.index.gpus)
        entry = self.promises.peek()
        if entry is None or (fair is not None and self.balance.goes_before(fair, entry, now)):
            return fair
        return entry

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
                promised = engine.first_promised()
                if promised is not None and promised.latest_s is not None:
                    yield from self.running.victims.stop_on(engine, entry, promised, now)
                    self.lines.set_alarm(engine, promised.latest_s, now)
                return

    def _place(self, entry: Entry, now: float) -> Placed | None:
        if self.free_gpus < entry.need:
            return None
        most = self._choose_gpus(entry, self.free_gpus)
        for gpus in reversed(entry.options):
            if entry.need <= gpus <= most:
                engine = self.index.find(gpus, entry.ticket.memory_bytes, spreads=entry.ticket.session is not None)
                if engine is not None:
                    return self._begin(entry, engine, gpus, now)
        return None

    def _claim(self, entry: Entry, now: float) -> EngineState | None:
        """Let what finds no room wait for one engine, where others could begin meanwhile; None if it may not."""
        if entry.is_promised:
            if entry.need == 1 or not self.promises.is_urgent(entry, now):
                return None
            for plain in self.lines.claims.plain():
                self.leave(plain)
                self.wait(plain)
        elif not self.free_gpus:
            return None
        chosen = self.lines.claims.choose(entry, self.index.engines.values(), now)
        if chosen is None:
            return None
        if entry in self.fair:
            self._count_out(entry)
            self.fair.take(entry, 0.0)
        else:
            self.leave(entry)
        entry.pinned = chosen
        self.lines.claims.add(entry)
        self.wait(entry)
        return self.index.engines[chosen]

    def _choose_gpus(self, entry: Entry, free: int) -> int:
        return self.balance.choose_gpus(entry, free, each=self.free_gpus // max(1, self.waiting))

    def _begin(self, entry: Entry, engine: EngineState, gpus: int, now: float) -> Placed:
        work_s = gpus * entry.seconds(gpus)
        if entry in self.fair:
            self._count_out(entry)
            self.fair.take(entry, work_s)
        else:
            self.leave(entry)
            self.fair.charge(entry.ticket.tenant, work_s)
        self.running.begin(entry, engine, gpus, now)
        return Placed(
            request_id=entry.ticket.request_id,
            engine_id=engine.facts.engine_id,
            gpus=gpus,
            attempt=entry.attempt,
            start_s=now,
            finish_s=entry.finish_s,
            left=entry.left,
            is_promised=entry.is_promised,
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
