"""A rank: holds one loaded model and carries out step plans on it."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from reelray.proto.engine_description import EngineDescription
from reelray.proto.errors import EngineError
from reelray.proto.events import Stage
from reelray.proto.layout import Layout
from reelray.proto.request import RenderRequest, RequestId
from reelray.proto.step_plan import (
    Admit,
    Amend,
    DecodeStep,
    Delivery,
    ForkStep,
    Move,
    StepPlan,
    StepReport,
    WindowStep,
)
from reelray.workers.engine.chunk_sharer import ChunkSharer
from reelray.workers.engine.commits import restore, save
from reelray.workers.engine.device_memory import peak_bytes, synchronize
from reelray.workers.engine.failure import as_reelray_error
from reelray.workers.engine.frame_box import keep_frames
from reelray.workers.engine.held_request import HeldRequest
from reelray.workers.engine.joint_step import JointStep
from reelray.workers.engine.loading import describe
from reelray.workers.engine.memory_rooms import MemoryRooms
from reelray.workers.engine.put_down import add_snapshot
from reelray.workers.engine.regroup import Regrouper
from reelray.workers.engine.resting import list_rests, noting_lack
from reelray.workers.engine.station import Station
from reelray.workers.engine.step_record import StepRecord
from reelray.workers.engine.window_line import WindowLine
from reelray.workers.models.api import VideoModel


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
    ) -> None:
        self._model = model
        self._stations = stations or {Layout(): Station()}
        self._regrouper = regrouper
        self._sharer = sharer
        self._on_progress = on_progress
        self._load_s = load_s
        self._take_station(next(iter(self._stations)))
        self._generation, self._sequence = generation, 0
        self._held: dict[RequestId, HeldRequest] = {}
        self._rooms = MemoryRooms(model, self._stations.values(), on_progress)
        self._issued: deque[StepPlan] = deque()

    def describe(self) -> EngineDescription:
        """What this rank runs."""
        return describe(self._model, load_s=self._load_s)

    def issue(self, plan: StepPlan) -> None:
        """See `Channel`; a rank alone carries it out when its report is asked for."""
        self._issued.append(plan)

    def collect(self) -> StepReport | None:
        """See `Channel`."""
        return keep_frames(self.execute(self._issued.popleft())) if self._issued else None

    def execute(self, plan: StepPlan) -> StepReport:
        """Carry out one plan: what it says of all requests, and of this rank's lane; for frames see `Channel`.

        Raises:
            EngineError: The plan is of another generation, or one before it is missing, or its layout is unknown.
        """
        _check(plan, self._generation, self._sequence)
        self._sequence += 1
        # A thread that is new to torch runs oneDNN on OpenMP's default number of threads until it asks for torch's own;
        # the order of additions, and so the last bit, would depend on who calls.
        torch.get_num_threads()
        record = StepRecord(plan)
        for request_id in plan.releases:
            self._drop(request_id)
        with torch.inference_mode():
            if plan.layout is not None:
                self._change_station(plan.layout, settles=plan.crew is not None)
            for held, act in list_rests(plan, self._held, self._station, record.waiting):
                self._attempt(record, held.request, Stage.REMEMBER, act, told=False, waits=False)
            for move in plan.moves:
                self._regroup(record, move)
            for admit in plan.admits:
                told = admit.lane == self._station.lane and self._station.role.tells_denoise
                self._attempt(record, admit.request, Stage.TEXT, partial(self._admit, admit), told=told)
            for amend in plan.amends:
                self._on_held(record, amend, Stage.TEXT, partial(HeldRequest.amend, amend=amend))
            self._exchange(record, plan)
            self._work(record, plan)
            self._write(record, plan)
        return record.report(peak_bytes(self._model.device))

    def check(self) -> None:
        """A rank alone is well as long as its process is."""

    def _exchange(self, record: StepRecord, plan: StepPlan) -> None:
        """What goes from one crew to the other."""
        for request_id in plan.joins:
            if request_id in self._held:
                held = self._held[request_id]
                assert self._sharer is not None, "ranks of this gang are never lent"
                self._attempt(record, held.request, Stage.REGROUP, partial(self._sharer.share, held), told=False)
        for delivery in plan.deliveries:
            self._on_held(record, delivery, Stage.DECODE, partial(HeldRequest.deliver, delivery=delivery))

    def _work(self, record: StepRecord, plan: StepPlan) -> None:
        role, lane = self._station.role, self._station.lane
        if role.denoises:
            self._move_windows(record, [window for window in plan.windows if window.lane == lane], in_step=plan.in_step)
        for decode in plan.decodes if role.decodes else ():
            if decode.lane == lane:
                self._on_held(record, decode, Stage.DECODE, partial(self._decode, record, decode))

    def rebuild(self) -> int:
        """A rank alone has no gang to come back to.

        Raises:
            EngineError: Always.
        """
        raise EngineError("the only rank of this engine was lost")

    def close(self) -> None:
        """Forget every request."""
        for request_id in [*self._held]:
            self._drop(request_id)
        self._rooms.close()

    def _take_station(self, layout: Layout) -> None:
        if layout not in self._stations:
            known = "; ".join(map(str, self._stations))
            raise EngineError(f"plan of layout {layout} came to a rank that has {known}")
        self._station = self._stations[layout]
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

        self._attempt(record, held.request, Stage.REGROUP, carry_out, told=here and station.role.tells_denoise)
        record.add_moved(regrouper.moved_bytes - before)

    def _admit(self, admit: Admit) -> None:
        if admit.like is not None:
            self._split(ForkStep(source=admit.like, request=admit.request))
            return
        parts = admit.request, self._model, self._station, self._rooms
        here = admit.lane == self._station.lane
        held = HeldRequest(*parts, here=here, resumes=admit.resume is not None, seats=admit.seats)
        self._held[admit.request.request_id] = held
        if here and admit.resume is not None:
            restore(held, self._station.role, admit.resume)

    def _move_windows(self, record: StepRecord, windows: Sequence[WindowStep], *, in_step: bool) -> None:
        """Let the forwards of several follow each other through the ranks of the lane, or be one."""
        if len(windows) == 1:
            self._on_held(record, windows[0], _stage_of(windows[0]), partial(HeldRequest.move, window=windows[0]))
        if len(windows) <= 1:
            return
        pipeline = self._station.pipeline
        together = JointStep(self._model, in_step=in_step) if pipeline is None else WindowLine(pipeline)
        started = time.perf_counter()
        for window in windows:
            self._on_held(record, window, _stage_of(window), partial(together.add, window), silent=True)
        for request, error in together.run(partial(synchronize, self._model.device)):
            record.add_failure(request.request_id, error)
            self._forget(request.request_id)
        share_s = (time.perf_counter() - started) / max(1, len(together.windows))
        for window in together.windows:
            self._on_held(record, window, _stage_of(window), partial(together.close, window), spent_s=share_s)

    def _decode(self, record: StepRecord, step: DecodeStep, held: HeldRequest) -> None:
        frames = held.decode(step)
        if self._station.role.tells_decode and not step.silent:
            record.add_frames(frames)

    def _write(self, record: StepRecord, plan: StepPlan) -> None:
        """Commits and snapshots, on every rank: they may have to put the decoder's state together."""
        role, here = self._station.role, {i: held for i, held in self._held.items() if held.here}
        for request_id in filter(here.__contains__, plan.commits):
            record.add_commit(request_id, role.choose(save(here[request_id], role)))
        for step in plan.snapshots:
            if step.request_id in here:
                held = here[step.request_id]
                write = partial(add_snapshot, record, held, role, step.kind)
                self._attempt(record, held.request, Stage.REMEMBER, write, told=False)
        for fork in plan.forks:
            if fork.source in self._held:
                make: Callable[[], None] = partial(self._split, fork)
                if fork.rests:
                    make = noting_lack(fork.request.request_id, record.refused)(make)
                self._attempt(record, fork.request, Stage.REMEMBER, make, told=False, waits=False)

    def _split(self, fork: ForkStep) -> None:
        held = self._held[fork.source].fork(fork.request, self._station, rests=fork.rests)
        self._held[fork.request.request_id] = held

    def _on_held(
        self,
        record: StepRecord,
        step: WindowStep | DecodeStep | Delivery | Amend,
        stage: Stage,
        action: Callable[[HeldRequest], int | None],
        *,
        silent: bool = False,
        spent_s: float = 0.0,
    ) -> None:
        held, role = self._held.get(step.request_id), self._station.role
        tells = role.tells_decode if stage is Stage.DECODE else role.tells_denoise
        if held is not None and step.request_id not in record.waiting:  # else it failed earlier in this very plan
            told, act = tells and held.here and not silent, partial(action, held)
            self._attempt(record, held.request, stage, act, told=told, spent_s=spent_s)

    def _attempt(
        self,
        record: StepRecord,
        request: RenderRequest,
        stage: Stage,
        action: Callable[[], int | None],
        *,
        told: bool,
        spent_s: float = 0.0,
        waits: bool = True,
    ) -> None:
        started = time.perf_counter() - spent_s
        try:
            forwards = action() or 0
            # A report means done: stage times are honest and an error is blamed on its own request.
            if waits:
                synchronize(self._model.device)
        except Exception as error:  # noqa: BLE001  the request boundary
            record.add_failure(request.request_id, as_reelray_error(error, request))
        else:
            self._on_progress()
            if told:
                record.add_cost(request.request_id, stage, time.perf_counter() - started, forwards)
            return
        # Only here: up there the traceback still holds the tensors of the frames that failed.
        self._forget(request.request_id)

    def _drop(self, request_id: RequestId) -> None:
        if request_id in self._held:
            self._held.pop(request_id).release()

    def _forget(self, request_id: RequestId) -> None:
        self._drop(request_id)
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()


def _stage_of(window: WindowStep) -> Stage:
    return Stage.REMEMBER if window.is_clean_pass or window.recaches else Stage.DENOISE


def _check(plan: StepPlan, generation: int, sequence: int) -> None:
    if plan.generation != generation:
        raise EngineError(f"plan of generation {plan.generation} came to a rank of generation {generation}")
    if plan.sequence != sequence:
        raise EngineError(f"plan {plan.sequence} came where plan {sequence} was due")
