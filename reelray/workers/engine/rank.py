"""A rank: holds one loaded model and carries out step plans on it."""

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial

import torch

from reelray.proto.engine_description import EngineDescription
from reelray.proto.errors import EngineError
from reelray.proto.events import Stage
from reelray.proto.layout import Layout
from reelray.proto.step_plan import (
    Admit,
    ForkStep,
    Move,
    StepPlan,
    StepReport,
)
from reelray.workers.engine.chunk_sharer import ChunkSharer
from reelray.workers.engine.commits import restore, save
from reelray.workers.engine.desk import Desk
from reelray.workers.engine.device_memory import peak_bytes
from reelray.workers.engine.frame_box import keep_frames
from reelray.workers.engine.held_request import HeldRequest
from reelray.workers.engine.loading import describe
from reelray.workers.engine.memory_rooms import MemoryRooms
from reelray.workers.engine.put_down import add_snapshot
from reelray.workers.engine.regroup import Regrouper
from reelray.workers.engine.resting import list_rests, noting_lack
from reelray.workers.engine.run_ahead import NewEvent, find_events
from reelray.workers.engine.station import Station
from reelray.workers.engine.step_record import StepRecord
from reelray.workers.engine.work import Work
from reelray.workers.models.api import VideoModel
from reelray.workers.samplers.noise_ahead import open_noise


class Rank:
    """Executes plans in sequence. One request's failure never touches another's.

    Args:
        model: The loaded checkpoint.
        generation: Generation of the gang; plans of another one are refused.
        stations: What this rank of a gang does, by layout; the first is that of the start. Everything by default.
        regrouper: Carries out moves; a gang of one lane has none.
        sharer: Brings chunks in work to ranks that only decode and are lent; where none are, there is none.
        on_progress: Called whenever work has moved.
        load_s: Seconds it took to load the checkpoint.
        frames_land: Whether frames lie in memory that is used again, and where there is room for those of one plan.
        new_event: Makes events of the device, if it is not done at once with what it is told.
    """

    def __init__(
        self,
        model: VideoModel,
        *,
        generation: int = 0,
        stations: Mapping[Layout, Station] | None = None,
        regrouper: Regrouper | None = None,
        sharer: ChunkSharer | None = None,
        on_progress: Callable[[], None] = lambda: None,
        load_s: float = 0.0,
        frames_land: bool = False,
        new_event: NewEvent | None = None,
    ) -> None:
        self._model = model
        new_event = new_event or find_events(model.device)
        self._stations = stations or {Layout(): Station(decodes_beside=new_event is not None)}
        self._regrouper = regrouper
        self._sharer = sharer
        self._on_progress = on_progress
        self._load_s = load_s
        self._desk = Desk(model.device, next(iter(self._stations.values())), on_progress)
        self._held = self._desk.held
        self._take_station(next(iter(self._stations)))
        self._generation, self._sequence = generation, 0
        self._rooms = MemoryRooms(model, self._stations.values(), on_progress)
        self._noise = open_noise(model.device)
        self._work = Work(model, self._desk, new_event, frames_land=frames_land)
        self._issued: deque[StepPlan] = deque()
        self._reports: deque[StepReport] = deque()

    def describe(self) -> EngineDescription:
        """What this rank runs."""
        return describe(self._model, load_s=self._load_s, decodes_beside=self._station.decodes_beside)

    def issue(self, plan: StepPlan) -> None:
        """See `Channel`; a rank alone carries it out when its report is asked for, unless the device would idle."""
        self._issued.append(plan)
        if self._work.is_wanted(plan):
            self._reports.append(self.execute(self._issued.popleft()))

    def collect(self) -> StepReport | None:
        """See `Channel`."""
        if self._issued and not self._reports:
            self._reports.append(self.execute(self._issued.popleft()))
        return keep_frames(self._reports.popleft()) if self._reports else None

    def execute(self, plan: StepPlan) -> StepReport:
        """Carry out one plan: what it says of all requests, and of this rank's lane; for frames see `Channel`.

        Raises:
            EngineError: The plan is of another generation, or one before it is missing, or its layout is unknown.
        """
        _check(plan, self._generation, self._sequence)
        self._sequence += 1
        with torch.inference_mode(), self._work.main():
            return self._carry_out(plan)

    def _carry_out(self, plan: StepPlan) -> StepReport:
        # A thread that is new to torch runs oneDNN on OpenMP's default number of threads until it asks for torch's own;
        # the order of additions, and so the last bit, would depend on who calls.
        torch.get_num_threads()
        record = StepRecord(plan)
        self._work.follow(record, plan)
        for request_id in plan.releases:
            self._desk.drop(request_id)
        if plan.layout is not None:
            self._change_station(plan.layout, settles=plan.crew is not None)
        for held, act in list_rests(plan, self._held, self._station, record.waiting):
            self._desk.attempt(record, held.request, Stage.REMEMBER, act, told=False, waits=False)
        for move in plan.moves:
            self._regroup(record, move)
        for admit in plan.admits:
            told = admit.lane == self._station.lane and self._station.role.tells_denoise
            self._desk.attempt(record, admit.request, Stage.TEXT, partial(self._admit, admit), told=told)
        for amend in plan.amends:
            self._desk.try_on(record, amend, Stage.TEXT, partial(HeldRequest.amend, amend=amend))
        self._exchange(record, plan)
        self._work.carry_out(record, plan)
        self._write(record, plan)
        self._work.take_pieces(record, waits=False)
        return record.report(peak_bytes(self._model.device))

    def check(self) -> None:
        """A rank alone is well as long as its process is."""

    def _exchange(self, record: StepRecord, plan: StepPlan) -> None:
        """What goes from one crew to the other."""
        for request_id in plan.joins:
            if request_id in self._held:
                held = self._held[request_id]
                assert self._sharer is not None, "ranks of this gang are never lent"
                self._desk.attempt(record, held.request, Stage.REGROUP, partial(self._sharer.share, held), told=False)
        for delivery in plan.deliveries:
            self._desk.try_on(record, delivery, Stage.DECODE, partial(HeldRequest.deliver, delivery=delivery))

    def rebuild(self) -> int:
        """A rank alone has no gang to come back to.

        Raises:
            EngineError: Always.
        """
        raise EngineError("the only rank of this engine was lost")

    def close(self) -> None:
        """Forget every request."""
        for request_id in [*self._held]:
            self._desk.drop(request_id)
        self._rooms.close()

    def _take_station(self, layout: Layout) -> None:
        if layout not in self._stations:
            known = "; ".join(map(str, self._stations))
            raise EngineError(f"plan of layout {layout} came to a rank that has {known}")
        self._desk.station = self._station = self._stations[layout]
        self._station.take(self._model)

    def _change_station(self, layout: Layout, *, settles: bool) -> None:
        """Work as the layout says from here on; where crews lend ranks, with all that is held."""
        before = self._station
        self._take_station(layout)
        if settles and self._station is not before:
            for held in self._held.values():
                held.settle(self._station, here=True)

    def _regroup(self, record: StepRecord, move: Move) -> None:
        held, regrouper, station = self._held.get(move.request_id), self._regrouper, self._station
        if held is None:  # it failed earlier in this very plan
            return
        assert regrouper is not None, "a gang of one lane has nowhere to move a request"
        before, here = regrouper.moved_bytes, move.target.lane == station.lane

        def carry_out() -> None:
            leaving = regrouper.carry_out(move, held)
            held.settle(station, here=here)
            with noting_lack(move.request_id, record.waiting):
                regrouper.memories.carry_out(move, held, station, leaving)

        self._desk.attempt(record, held.request, Stage.REGROUP, carry_out, told=here and station.role.tells_denoise)
        record.add_moved(regrouper.moved_bytes - before)

    def _admit(self, admit: Admit) -> None:
        if admit.like is not None:
            self._split(ForkStep(source=admit.like, request=admit.request))
            return
        parts = admit.request, self._model, self._station, self._rooms
        here = admit.lane == self._station.lane
        resumes, seats = admit.resume is not None, admit.seats
        held = HeldRequest(*parts, here=here, resumes=resumes, seats=seats, noise=self._noise)
        self._held[admit.request.request_id] = held
        if here and admit.resume is not None:
            restore(held, self._station.role, admit.resume)

    def _write(self, record: StepRecord, plan: StepPlan) -> None:
        """Commits and snapshots, on every rank: they may have to put the decoder's state together."""
        role, here = self._station.role, {i: held for i, held in self._held.items() if held.here}
        for request_id in filter(here.__contains__, plan.commits):
            record.add_commit(request_id, role.choose(save(here[request_id], role)))
        for step in plan.snapshots:
            if step.request_id in here:
                held = here[step.request_id]
                write = partial(add_snapshot, record, held, role, step.kind)
                self._desk.attempt(record, held.request, Stage.REMEMBER, write, told=False)
        for fork in plan.forks:
            if fork.source in self._held:
                make: Callable[[], None] = partial(self._split, fork)
                if fork.rests:
                    make = noting_lack(fork.request.request_id, record.refused)(make)
                self._desk.attempt(record, fork.request, Stage.REMEMBER, make, told=False, waits=False)

    def _split(self, fork: ForkStep) -> None:
        held = self._held[fork.source].fork(fork.request, self._station, rests=fork.rests)
        self._held[fork.request.request_id] = held


def _check(plan: StepPlan, generation: int, sequence: int) -> None:
    if plan.generation != generation:
        raise EngineError(f"plan of generation {plan.generation} came to a rank of generation {generation}")
    if plan.sequence != sequence:
        raise EngineError(f"plan {plan.sequence} came where plan {sequence} was due")
