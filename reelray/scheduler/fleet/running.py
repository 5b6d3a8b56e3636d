"""What runs on the engines of one model, in all the books that count it."""

from reelray.scheduler.fleet.engine_index import EngineIndex
from reelray.scheduler.fleet.engine_state import EngineState
from reelray.scheduler.fleet.entry import Entry, State
from reelray.scheduler.fleet.horizon import Horizon
from reelray.scheduler.fleet.load import Load
from reelray.scheduler.fleet.policy import FleetPolicy
from reelray.scheduler.fleet.preemption import Victims


class Running:
    """The books.

    Args:
        policy: Whether renders are stopped.
        index: The engines.
    """

    def __init__(self, policy: FleetPolicy, index: EngineIndex) -> None:
        self._policy = policy
        self._index = index
        self.load = Load()
        self.horizon = Horizon()
        """Of what is not stopped."""
        self.promised_gpus = 0
        self.victims = Victims(policy)

    def begin(self, entry: Entry, engine: EngineState, gpus: int, now: float) -> None:
        """Give an entry its GPUs."""
        entry.state, entry.engine_id, entry.gpus = State.RUNNING, engine.facts.engine_id, gpus
        entry.attempt += 1
        entry.started_s, entry.finish_s = now, now + entry.seconds(gpus)
        engine.begin(entry)
        self.load.add(entry)
        if self._stays(entry):
            self.horizon.add(entry)
        self.promised_gpus += entry.gpus if entry.is_promised else 0
        self.victims.note(entry)
        self._index.note(engine)

    def end(self, entry: Entry) -> EngineState:
        """Take an entry off its engine."""
        engine = self._engine_of(entry)
        engine.end(entry)
        self.load.remove(entry)
        if self._stays(entry):
            self.horizon.remove(entry)
        self.promised_gpus -= entry.gpus if entry.is_promised else 0
        self.victims.forget(entry)
        self._index.note(engine)
        return engine

    def change_finish(self, entry: Entry, finish_s: float) -> None:
        """Predict an entry's finish anew."""
        engine = self._engine_of(entry)
        engine.finishes += entry.gpus * (finish_s - entry.finish_s)
        self.load.remove(entry)
        if self._stays(entry):
            self.horizon.change_finish(entry, finish_s)
        entry.finish_s = finish_s
        self.load.add(entry)
        self.victims.note(entry)
        self._index.note(engine)

    def _engine_of(self, entry: Entry) -> EngineState:
        assert entry.engine_id is not None
        return self._index.engines[entry.engine_id]

    def _stays(self, entry: Entry) -> bool:
        return entry.is_promised or not self._policy.preempts
