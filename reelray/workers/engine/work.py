"""Windows and pieces of a plan on one rank: one after the other, or beside each other, waited for or not."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial

from reelray.proto.events import Frames, Stage
from reelray.proto.residency import Blocks
from reelray.proto.step_plan import DecodeStep, StepPlan, WindowStep
from reelray.workers.engine.beside import Beside
from reelray.workers.engine.desk import Desk
from reelray.workers.engine.held_request import HeldRequest
from reelray.workers.engine.joint_step import JointStep
from reelray.workers.engine.run_ahead import AHEAD, Event, NewEvent, RunAhead
from reelray.workers.engine.step_record import StepRecord
from reelray.workers.engine.window_line import WindowLine
from reelray.workers.models.api import VideoModel


class Work:
    """Moves windows and decodes pieces.

    Args:
        model: The loaded checkpoint.
        desk: The requests.
        new_event: Makes events of the device; None means that it is done at once with what it is told.
        frames_land: Whether frames lie in memory that is used again, and where there is room for those of one plan.
    """

    def __init__(self, model: VideoModel, desk: Desk, new_event: NewEvent | None, *, frames_land: bool) -> None:
        self._model, self._desk, self._frames_land = model, desk, frames_land
        self._beside = Beside(model.device, new_event)
        self._ahead, self._is_ahead = RunAhead(new_event, desk.on_progress), False
        self._late: set[DecodeStep] = set()

    def main(self) -> AbstractContextManager[object]:
        """See `Beside.main`."""
        return self._beside.main()

    def is_wanted(self, plan: StepPlan) -> bool:
        """Whether the device has nothing to do until it is told of this plan, which may be done right away."""
        return self._ahead.may_follow(plan) and not plan.decodes and self._ahead.is_idle

    def follow(self, record: StepRecord, plan: StepPlan) -> None:
        """Wait for what the device was told in the plans before, unless this one may go without."""
        plain = self._desk.station.pipeline is None and self._model.residency.blocks is Blocks.RESIDENT
        self._is_ahead = plain and self._ahead.may_follow(plan) and not (plan.decodes and not self._goes_beside(plan))
        self._ahead.settle(record, leave=AHEAD if self._is_ahead else 0)
        # Who has failed is left out of a plan, so all ranks know of it or none: not those alone whose piece is there.
        if not self._is_ahead or (self._frames_land and plan.decodes):
            self.take_pieces(record, waits=True)
        for held in [] if self._is_ahead else [*self._desk.held.values()]:
            self._desk.attempt(record, held.request, Stage.DENOISE, held.check_clean, told=False)

    def carry_out(self, record: StepRecord, plan: StepPlan) -> None:
        """Do what a plan says of this rank's lane."""
        role, lane = self._desk.station.role, self._desk.station.lane
        windows = [window for window in plan.windows if role.denoises and window.lane == lane]
        decodes = [decode for decode in plan.decodes if role.decodes and decode.lane == lane]
        if windows and decodes and self._goes_beside(plan):
            self._work_beside(record, windows, decodes, in_step=plan.in_step)
            return
        self._move_windows(record, windows, in_step=plan.in_step)
        for decode in decodes:
            self._desk.try_on(record, decode, Stage.DECODE, partial(self._decode, record, decode))

    def _goes_beside(self, plan: StepPlan) -> bool:
        """Whether decodes go beside the windows: of streams, for which memory was measured so."""
        names = {window.request_id for window in plan.windows} | {decode.request_id for decode in plan.decodes}
        here = [self._desk.held[name] for name in names if name in self._desk.held]
        return self._desk.station.decodes_beside and all(held.forwards.memory is not None for held in here)

    def _work_beside(
        self, record: StepRecord, windows: Sequence[WindowStep], decodes: Sequence[DecodeStep], *, in_step: bool
    ) -> None:
        """Decode while the windows move."""
        for decode in decodes:
            begin = partial(self._beside.begin, decode)
            self._desk.try_on(record, decode, Stage.DECODE, begin, silent=True, waits=False)
        waits_for_all, self._desk.wait = self._desk.wait, self._beside.wait
        try:
            self._move_windows(record, windows, in_step=in_step)
        finally:
            self._desk.wait = waits_for_all
        has_room = len(self._desk.held) == 1 or not self._frames_land
        comes_late = self._is_ahead and has_room and not any(one.last or one.silent for one in decodes)
        if not comes_late:
            self.take_pieces(record, waits=True)
            self._ahead.settle(record, leave=AHEAD)  # whose last piece that was is asked no more what its steps cost
            return
        begun = [decode for decode in decodes if decode.request_id in self._desk.held]
        self._late.update(begun)
        if self._desk.station.role.tells_decode:
            record.late += [decode.request_id for decode in begun]

    def take_pieces(self, record: StepRecord, *, waits: bool) -> None:
        """Tell what was decoded beside windows."""
        for piece in self._beside.take(waits=waits):
            add = partial(self._add_frames, record, piece.step, piece.frames)
            self._desk.try_on(record, piece.step, Stage.DECODE, add, spent_s=piece.cost_s, waits=False)
            if piece.step in self._late and self._desk.station.role.tells_decode:
                record.arrive(piece.step.request_id)
            self._late.discard(piece.step)

    def _move_windows(self, record: StepRecord, windows: Sequence[WindowStep], *, in_step: bool) -> None:
        """Let the forwards of several follow each other through the ranks of the lane, or be one."""
        if len(windows) == 1:
            self._move_window(record, windows[0])
        if len(windows) <= 1:
            return
        pipeline = self._desk.station.pipeline
        together = JointStep(self._model, in_step=in_step) if pipeline is None else WindowLine(pipeline)
        started = time.perf_counter()
        for window in windows:
            self._desk.try_on(record, window, _stage_of(window), partial(together.add, window), silent=True)
        for request, error in together.run(self._desk.wait):
            record.add_failure(request.request_id, error)
            self._desk.forget(request.request_id)
        share_s = (time.perf_counter() - started) / max(1, len(together.windows))
        for window in together.windows:
            close = partial(_check_after, partial(together.close, window))
            self._desk.try_on(record, window, _stage_of(window), close, spent_s=share_s)
            self._tell_use(record, window)

    def _move_window(self, record: StepRecord, window: WindowStep) -> None:
        stage = _stage_of(window)
        if not self._is_ahead:
            self._desk.try_on(record, window, stage, partial(_check_after, partial(HeldRequest.move, window=window)))
        else:
            move = partial(self._move_ahead, window, self._ahead.mark())
            self._desk.try_on(record, window, stage, move, silent=True, waits=False)
        self._tell_use(record, window)

    def _tell_use(self, record: StepRecord, window: WindowStep) -> None:
        """Tell how much of self-attention was left out here: every rank has heads, layers or a branch of its own."""
        held = self._desk.held.get(window.request_id)
        if held is None or held.forwards.sparse is None:
            return
        if self._desk.station.role.denoises and held.here:
            record.add_use(window.request_id, held.forwards.sparse.take_use())

    def _move_ahead(self, window: WindowStep, begin: Event, held: HeldRequest) -> int:
        """Tell the device to move a window."""
        forwards, counts = held.move(window), self._desk.station.role.tells_denoise and held.here
        self._ahead.tell(window.request_id, _stage_of(window), begin, forwards=forwards, counts=counts)
        return forwards

    def _decode(self, record: StepRecord, step: DecodeStep, held: HeldRequest) -> None:
        self._add_frames(record, step, held.decode(step), held)

    def _add_frames(self, record: StepRecord, step: DecodeStep, frames: Frames, held: HeldRequest) -> None:
        held.check_clean()
        if self._desk.station.role.tells_decode and not step.silent:
            record.add_frames(frames)


def _check_after(act: Callable[[HeldRequest], int], held: HeldRequest) -> int:
    forwards = act(held)
    held.check_clean()
    return forwards


def _stage_of(window: WindowStep) -> Stage:
    return Stage.REMEMBER if window.is_clean_pass or window.recaches else Stage.DENOISE
