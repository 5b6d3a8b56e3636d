"""The requests that a rank holds, and how anything is tried on them: the request boundary."""

import time
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch

from reelray.proto.events import Stage
from reelray.proto.request import RenderRequest, RequestId
from reelray.proto.step_plan import Amend, DecodeStep, Delivery, WindowStep
from reelray.workers.engine.device_memory import synchronize
from reelray.workers.engine.failure import as_reelray_error
from reelray.workers.engine.held_request import HeldRequest
from reelray.workers.engine.station import Station
from reelray.workers.engine.step_record import StepRecord

Step: TypeAlias = WindowStep | DecodeStep | Delivery | Amend


class Desk:
    """What lies before a rank. One request's failure never touches another's.

    Args:
        device: Of the rank.
        station: What it does; another one may be taken.
        on_progress: Called whenever work has moved.
    """

    def __init__(self, device: torch.device, station: Station, on_progress: Callable[[], None]) -> None:
        self.held: dict[RequestId, HeldRequest] = {}
        self.station = station
        self.wait: Callable[[], None] = partial(synchronize, device)
        self._device = device
        self.on_progress = on_progress

    def try_on(
        self,
        record: StepRecord,
        step: Step,
        stage: Stage,
        action: Callable[[HeldRequest], int | None],
        *,
        silent: bool = False,
        spent_s: float = 0.0,
        waits: bool = True,
    ) -> None:
        """Do what a step says to its request, unless that failed earlier in this very plan; see `attempt`.

        Args:
            record: Takes down what comes of it.
            step: The step.
            stage: What for.
            action: Does it; returns the transformer evaluations it took.
            silent: Tell nothing of its cost.
            spent_s: Seconds that were spent on it before.
            waits: Whether the device is waited for.
        """
        held, role = self.held.get(step.request_id), self.station.role
        tells = role.tells_decode if stage is Stage.DECODE else role.tells_denoise
        if held is not None and step.request_id not in record.waiting:
            told, act = tells and held.here and not silent, partial(action, held)
            self.attempt(record, held.request, stage, act, told=told, spent_s=spent_s, waits=waits)

    def attempt(
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
        """Do something for a request; if that fails, it is forgotten, and its failure taken down.

        Args:
            record: Takes down what comes of it.
            request: For whom.
            stage: What for.
            action: Does it; returns the transformer evaluations it took.
            told: Whether its cost is told.
            spent_s: Seconds that were spent on it before.
            waits: Whether the device is waited for.
        """
        started = time.perf_counter() - spent_s
        try:
            forwards = action() or 0
            # Else a stage takes no time, and an error is blamed on whoever comes next.
            if waits:
                self.wait()
        except Exception as error:  # noqa: BLE001  the request boundary
            record.add_failure(request.request_id, as_reelray_error(error, request))
        else:
            self.on_progress()
            if told:
                record.add_cost(request.request_id, stage, time.perf_counter() - started, forwards)
            return
        # Only here: up there the traceback still holds the tensors of the frames that failed.
        self.forget(request.request_id)

    def drop(self, request_id: RequestId) -> None:
        """Let go of a request, if it is here."""
        if request_id in self.held:
            self.held.pop(request_id).release()

    def forget(self, request_id: RequestId) -> None:
        """Let go of a request that has failed, and of memory that nobody uses."""
        self.drop(request_id)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
