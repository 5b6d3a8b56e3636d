"""Drives a fleet with a clock of events."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import ceil

from reelray.proto.errors import InputError
from reelray.proto.request import RequestId
from reelray.scheduler.fleet.decision import Placed, Preempt, Refused
from reelray.scheduler.fleet.engine_state import EngineFacts
from reelray.scheduler.fleet.fleet import Fleet
from reelray.scheduler.fleet.policy import FleetPolicy
from reelray.scheduler.fleet.ticket import EngineId, Kind, Ticket
from reelray.scheduler.simulation.arrival import Arrival, Cost, Fault, Happening, Shape
from reelray.scheduler.simulation.draws import Draws
from reelray.scheduler.simulation.records import Record

Costs = Callable[[Shape], Cost]


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedFleet:
    """What is simulated.

    Args:
        engines: They are alike, or of several models.
        policy: The rules.
        error: True times differ from predicted ones by up to this share, either way.
        commit_s: Renders lose at most so many seconds of work with their engine.
        seed: Of the errors.

    Raises:
        InputError: There is no engine, or the error is not below 1.
    """

    engines: tuple[EngineFacts, ...]
    policy: FleetPolicy = field(default_factory=FleetPolicy)
    error: float = 0.0
    commit_s: float = 30.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.engines:
            raise InputError("there are no engines; a simulation needs at least one")
        if not 0 <= self.error < 1:
            raise InputError(f"error is {self.error}; it must lie in 0..1, 1 excluded")


@dataclass(kw_only=True, slots=True)
class _Run:
    record: Record
    cost: Cost
    kind: Kind
    factor: float
    placed: Placed | None = None

    def duration_s(self, placed: Placed) -> float:
        return (placed.finish_s - placed.start_s) * self.factor


class Simulation:
    """One run of a fleet.

    Args:
        simulated: What is simulated.
        costs: What requests cost.
    """

    def __init__(self, simulated: SimulatedFleet, costs: Costs) -> None:
        self._simulated = simulated
        self._costs = costs
        self._fleet = Fleet(simulated.policy)
        self._draws = Draws(simulated.seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._runs: dict[RequestId, _Run] = {}
        self._placed_on: dict[EngineId, set[RequestId]] = {}
        self._up: set[EngineId] = set()
        self._wake_s = float("inf")
        self._order = 0
        self.now = 0.0
        self.count = 0
        """Events so far: arrivals, faults, ends, stops."""
        self.records: list[Record] = []
        for engine in simulated.engines:
            self._bring_up(engine)

    def run(self, happenings: Iterable[Happening]) -> list[Record]:
        """Let all of it happen, and run until nothing more does.

        Args:
            happenings: In order of time.
        """
        coming = iter(happenings)
        following = next(coming, None)
        while following is not None or self._events:
            at_s = self._events[0][0] if self._events else float("inf")
            self.now = at_s if following is None else min(at_s, following.at_s)
            while self._events and self._events[0][0] <= self.now:
                heappop(self._events)[2]()
            while following is not None and following.at_s <= self.now:
                self._happen(following)
                following = next(coming, None)
            self._decide()
        return self.records

    def _happen(self, happening: Happening) -> None:
        self.count += 1
        if isinstance(happening, Fault):
            self._fault(happening)
            return
        cost, number = self._costs(happening.shape), len(self.records)
        deadline_s = happening.deadline_s(cost)
        record = Record(
            number=number,
            tenant=happening.tenant,
            group="stream" if happening.shape.kind is Kind.STREAM else happening.service.value,
            at_s=happening.at_s,
            alone_s=cost.seconds[min(cost.seconds)],
            deadline_s=deadline_s,
        )
        self.records.append(record)
        ticket = _ticket(happening, cost, number, deadline_s)
        factor = 1.0 + self._simulated.error * (2.0 * self._draws.uniform() - 1.0)
        answer = self._fleet.submit(ticket, self.now)
        if isinstance(answer, Refused):
            record.refused = answer.reason
        else:
            record.was_admitted = True
            self._runs[ticket.request_id] = _Run(record=record, cost=cost, kind=ticket.kind, factor=factor)

    def _decide(self) -> None:
        for decision in self._fleet.next_decisions(self.now):
            if isinstance(decision, Placed):
                self._begin(decision)
            elif isinstance(decision, Preempt):
                self._stop_later(decision)
            else:
                self._refuse(decision)
        wake_s = self._fleet.wake_s()
        if wake_s is not None and self.now < wake_s < self._wake_s:
            self._wake_s = wake_s
            self._at(wake_s, self._wake)

    def _begin(self, placed: Placed) -> None:
        run = self._runs[placed.request_id]
        run.placed = placed
        if run.record.start_s is None:
            run.record.start_s = self.now
        self._placed_on[placed.engine_id].add(placed.request_id)
        self._at(self.now + run.duration_s(placed), lambda: self._finish(placed))

    def _finish(self, placed: Placed) -> None:
        if not self._fleet.finish(placed.request_id, placed.attempt, self.now):
            return
        self.count += 1
        run = self._runs.pop(placed.request_id)
        self._leave(run, placed)
        run.record.finish_s = self.now
        run.record.engine = placed.engine_id

    def _stop_later(self, preempt: Preempt) -> None:
        run = self._runs[preempt.request_id]
        placed = run.placed
        assert placed is not None
        seconds = run.cost.seconds
        step_s = run.cost.step_s * seconds[placed.gpus] / seconds[min(seconds)] * run.factor
        steps = ceil((self.now - placed.start_s) / step_s)
        self._at(max(self.now, placed.start_s + steps * step_s), lambda: self._stop(placed))

    def _stop(self, placed: Placed) -> None:
        run = self._runs.get(placed.request_id)
        if run is None or run.placed is not placed:
            return
        self.count += 1
        self._leave(run, placed)
        run.record.stops += 1
        left = placed.left * max(0.0, 1.0 - (self.now - placed.start_s) / run.duration_s(placed))
        self._fleet.stopped(placed.request_id, placed.attempt, left, self.now)

    def _refuse(self, refused: Refused) -> None:
        run = self._runs.pop(refused.request_id)
        run.record.refused = refused.reason

    def _fault(self, fault: Fault) -> None:
        if fault.engine >= len(self._simulated.engines):
            raise InputError(
                f"a fault names engine {fault.engine}; there are engines 0 to {len(self._simulated.engines) - 1}"
            )
        facts = self._simulated.engines[fault.engine]
        if fault.is_up and facts.engine_id not in self._up:
            self._bring_up(facts)
        elif not fault.is_up and facts.engine_id in self._up:
            self._take_down(facts.engine_id)

    def _bring_up(self, facts: EngineFacts) -> None:
        self._up.add(facts.engine_id)
        self._placed_on[facts.engine_id] = set()
        self._fleet.engine_up(facts, self.now)

    def _take_down(self, engine_id: EngineId) -> None:
        self._up.remove(engine_id)
        left = {}
        for request_id in sorted(self._placed_on[engine_id]):
            run = self._runs[request_id]
            placed = run.placed
            assert placed is not None
            done_s = self.now - placed.start_s
            kept_s = done_s - done_s % self._simulated.commit_s
            self._leave(run, placed)
            run.record.lost_gpu_s += placed.gpus * (done_s - kept_s)
            left[request_id] = placed.left * (1.0 - kept_s / run.duration_s(placed))
        for refused in self._fleet.engine_down(engine_id, self.now, left):
            self._refuse(refused)

    def _leave(self, run: _Run, placed: Placed) -> None:
        run.placed = None
        run.record.gpu_s += placed.gpus * (self.now - placed.start_s)
        self._placed_on[placed.engine_id].remove(placed.request_id)

    def _wake(self) -> None:
        self._wake_s = float("inf")

    def _at(self, at_s: float, event: Callable[[], None]) -> None:
        self._order += 1
        heappush(self._events, (at_s, self._order, event))


def _ticket(arrival: Arrival, cost: Cost, number: int, deadline_s: float | None) -> Ticket:
    return Ticket(
        request_id=RequestId(f"r{number}"),
        model=arrival.shape.model,
        seconds=cost.seconds,
        tenant=arrival.tenant,
        kind=arrival.shape.kind,
        service=arrival.service,
        priority=arrival.priority,
        deadline_s=deadline_s,
        memory_bytes=cost.memory_bytes,
        session=arrival.session,
    )
