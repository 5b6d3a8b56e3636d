"""Which renders make room for promises, at their next denoise step."""

from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from reelray.scheduler.fleet.decision import Preempt
from reelray.scheduler.fleet.engine_index import EngineIndex
from reelray.scheduler.fleet.engine_state import EngineState
from reelray.scheduler.fleet.entry import Entry, State
from reelray.scheduler.fleet.policy import FleetPolicy
from reelray.scheduler.fleet.promise_line import PromiseLine
from reelray.scheduler.fleet.ticket import Kind

TRIES = 8
"""Of renders that free too few GPUs or bytes, so many are looked at."""
SLACK = 64
Row = tuple[float, int, Entry]


class Victims:
    """Renders that run and may be stopped; the one that would run longest first: stopping it frees most.

    Args:
        policy: Whether they are stopped, and for whom.
    """

    def __init__(self, policy: FleetPolicy) -> None:
        self._policy = policy
        self._heap: list[Row] = []
        self._members: set[int] = set()
        self._stopping: set[int] = set()
        self.gpus = 0
        """Of renders that may be stopped, or are being stopped."""

    def note(self, entry: Entry) -> None:
        """Know a render that runs, or whose finish has changed."""
        if entry.is_promised or entry.ticket.kind is Kind.STREAM or entry.state is not State.RUNNING:
            return
        if entry.number not in self._members:
            self._members.add(entry.number)
            self.gpus += entry.gpus
        heappush(self._heap, (-entry.finish_s, entry.number, entry))
        if len(self._heap) > 2 * len(self._members) + SLACK:
            self._heap = [row for row in self._heap if self._is_current(row)]
            heapify(self._heap)

    def forget(self, entry: Entry) -> None:
        """It runs no more."""
        if entry.number in self._members or entry.number in self._stopping:
            self.gpus -= entry.gpus
        self._members.discard(entry.number)
        self._stopping.discard(entry.number)

    def make_room(self, promises: PromiseLine, index: EngineIndex, now: float) -> Iterator[Preempt]:
        """Stop a render for each interactive ticket that waits, and for a deadline that comes near."""
        first = promises.peek()
        if first is None or not self._policy.preempts:
            return
        assert first.latest_s is not None
        near = not first.ticket.is_interactive and first.latest_s - now <= self._policy.urgent_s
        while len(self._stopping) < promises.interactive + near:
            victim = self._find(first, index)
            if victim is None:
                return
            yield self._stop(victim)

    def stop_on(self, engine: EngineState, entry: Entry, now: float) -> Iterator[Preempt]:
        """Stop a render for a session that waits for this engine, unless one is being stopped already."""
        near = entry.ticket.is_interactive or (entry.latest_s or 0.0) - now <= self._policy.urgent_s
        runs = [run for run in engine.running.values() if run.number in self._members]
        if not (near and runs and self._policy.preempts) or not self._stopping.isdisjoint(engine.running):
            return
        victim = max(runs, key=lambda run: run.finish_s)
        if self._frees_enough(victim, engine, entry):
            yield self._stop(victim)

    def _find(self, entry: Entry, index: EngineIndex) -> Entry | None:
        short, found = list[Row](), None
        while self._heap and found is None and len(short) < TRIES:
            row = heappop(self._heap)
            if not self._is_current(row):
                continue
            assert row[2].engine_id is not None
            engine = index.engines[row[2].engine_id]
            if self._frees_enough(row[2], engine, entry):
                found = row[2]
            else:
                short.append(row)
        for row in short:
            heappush(self._heap, row)
        return found

    def _frees_enough(self, victim: Entry, engine: EngineState, entry: Entry) -> bool:
        free_bytes = engine.free_bytes + victim.ticket.memory_bytes
        return engine.free_gpus + victim.gpus >= entry.need and free_bytes >= entry.ticket.memory_bytes

    def _stop(self, victim: Entry) -> Preempt:
        victim.state = State.STOPPING
        self._members.discard(victim.number)
        self._stopping.add(victim.number)
        assert victim.engine_id is not None
        return Preempt(request_id=victim.ticket.request_id, engine_id=victim.engine_id, attempt=victim.attempt)

    def _is_current(self, row: Row) -> bool:
        return row[1] in self._members and row[2].finish_s == -row[0]
