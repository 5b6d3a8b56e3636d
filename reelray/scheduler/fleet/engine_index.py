"""Finds the engine with room whose work ends first."""

from heapq import heapify, heappop, heappush

from reelray.scheduler.fleet.engine_state import EngineState
from reelray.scheduler.fleet.ticket import EngineId

Row = tuple[float, int, EngineState]
Engines = dict[EngineId, EngineState]
SLACK = 16


class EngineIndex:
    """Engines by free GPUs, and among as many by predicted work: not by how many tickets they have."""

    def __init__(self) -> None:
        self.engines = Engines()
        self.by_number: dict[int, EngineState] = {}
        self.gpus = 0
        self.sizes: tuple[tuple[int, int], ...] = ()
        """GPUs and bytes of engines, without those that another one has at least as much of both as."""
        self._free: dict[int, list[Row]] = {}

    def add(self, engine: EngineState) -> None:
        """Know an engine."""
        self.engines[engine.facts.engine_id] = engine
        self.by_number[engine.number] = engine
        self.gpus += engine.facts.gpus
        self._measure()
        self.note(engine)

    def remove(self, engine: EngineState) -> None:
        """Forget an engine."""
        del self.engines[engine.facts.engine_id], self.by_number[engine.number]
        self.gpus -= engine.facts.gpus
        self._measure()

    def note(self, engine: EngineState) -> None:
        """Sort an engine in anew, after its work or its bytes have changed."""
        heap = self._free.setdefault(engine.free_gpus, [])
        heappush(heap, (engine.finishes, engine.number, engine))
        if len(heap) > 2 * len(self.engines) + SLACK:
            heap[:] = sorted({row[1]: row for row in heap if self._is_current(row, engine.free_gpus)}.values())
            heapify(heap)

    def find(self, gpus: int, memory_bytes: int, *, spreads: bool) -> EngineState | None:
        """The engine for a ticket; None where none has room. Engines whose own line waits for room are left to it.

        Args:
            gpus: That it needs.
            memory_bytes: That it needs.
            spreads: Prefer engines with many free GPUs, as sessions do that will stay; otherwise the gaps it fits.
        """
        for count in sorted((count for count in self._free if count >= gpus), reverse=spreads):
            found = self._first(count, memory_bytes)
            if found is not None:
                return found
        return None

    def _first(self, gpus: int, memory_bytes: int) -> EngineState | None:
        heap, short, found = self._free[gpus], list[Row](), None
        while heap and found is None:
            row = heap[0]
            if not self._is_current(row, gpus):
                heappop(heap)
            elif row[2].line_count or row[2].free_bytes < memory_bytes:
                short.append(heappop(heap))
            else:
                found = row[2]
        for row in short:
            heappush(heap, row)
        return found

    def could_take(self, gpus: int, memory_bytes: int) -> bool:
        """Whether one engine that is up has enough of both when nothing else runs; yes while there is none."""
        return not self.sizes or any(gpus <= most and memory_bytes <= most_bytes for most, most_bytes in self.sizes)

    def _measure(self) -> None:
        sizes, best = list[tuple[int, int]](), -1
        for gpus, memory_bytes in sorted({(e.facts.gpus, e.facts.memory_bytes) for e in self.engines.values()})[::-1]:
            if memory_bytes > best:
                sizes.append((gpus, memory_bytes))
                best = memory_bytes
        self.sizes = tuple(sizes)

    def _is_current(self, row: Row, gpus: int) -> bool:
        engine = row[2]
        return (
            engine.free_gpus == gpus
            and engine.finishes == row[0]
            and self.engines.get(engine.facts.engine_id) is engine
        )
