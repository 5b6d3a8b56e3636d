"""Which renders make room for promises, at their next denoise step."""

from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from reelray.scheduler.fleet.decision import Preempt
from reelray.scheduler.fleet.engine_index import EngineIndex
from reelray.scheduler.fleet.engine_state import EngineState
from reelray.scheduler.fleet.entry import Entry, State
from reelray.scheduler.fleet.policy import FleetPolicy
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
        self._stopping: dict[int, int] = {}
        """GPUs that each frees for the line of all; 0 where it frees them for the line of its engine."""
        self._stopping_gpus = 0
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
        self._stopping_gpus -= self._stopping.pop(entry.number, 0)

    def make_room(self, first: Entry, gpus: int, kept_gpus: int, index: EngineIndex) -> Iterator[Preempt]:
        """Stop renders until so many GPUs are being freed.

        Args:
            first: Of those who wait; what is freed must be room for it.
            gpus: To be freed, those that are being freed included.
            kept_gpus: That renders keep.
            index: The engines.
        """
        if not self._policy.preempts:
            return
        while self._stopping_gpus < min(gpus, self.gpus - kept_gpus):
            victim = self._find(first, index)
            if victim is None:
                return
            yield self._stop(victim, victim.gpus)

    def stop_on(self, engine: EngineState, entry: Entry, promised: Entry, now: float) -> Iterator[Preempt]:
        """Stop renders of one engine, if that makes room together with those stopping.

        Args:
            engine: Where.
            entry: First in its line.
            promised: The first there that has a promise; it asks for room when it is urgent.
            now: The time.
        """
        near = promised.ticket.is_interactive or (promised.latest_s or 0.0) - self._policy.urgent_s <= now
        if not near or not self._policy.preempts:
            return
        stopping = [run for run in engine.running.values() if run.number in self._stopping]
        runs = [run for run in engine.running.values() if run.number in self._members]
        runs.sort(key=lambda run: (-run.finish_s, run.number))
        for count in range(len(runs) + 1):
            if self._free_enough([*stopping, *runs[:count]], engine, entry):
                yield from (self._stop(run, 0) for run in runs[:count])
                return

    def _find(self, entry: Entry, index: EngineIndex) -> Entry | None:
        short, found = list[Row](), None
        while self._heap and found is None and len(short) < TRIES:
            row = heappop(self._heap)
            if not self._is_current(row):
                continue
            assert row[2].engine_id is not None
            engine = index.engines[row[2].engine_id]
            if not engine.line_count and self._free_enough([row[2]], engine, entry):
                found = row[2]
            else:
                short.append(row)
        for row in short:
            heappush(self._heap, row)
        return found

    def _free_enough(self, victims: list[Entry], engine: EngineState, entry: Entry) -> bool:
        gpus = engine.free_gpus + sum(victim.gpus for victim in victims)
        free_bytes = engine.free_bytes + sum(victim.ticket.memory_bytes for victim in victims)
        return gpus >= entry.need and free_bytes >= entry.ticket.memory_bytes

    def _stop(self, victim: Entry, gpus: int) -> Preempt:
        victim.state = State.STOPPING
        self._members.discard(victim.number)
        self._stopping[victim.number] = gpus
        self._stopping_gpus += gpus
        assert victim.engine_id is not None
        return Preempt(request_id=victim.ticket.request_id, engine_id=victim.engine_id, attempt=victim.attempt)

    def _is_current(self, row: Row) -> bool:
        return row[1] in self._members and row[2].finish_s == -row[0]
