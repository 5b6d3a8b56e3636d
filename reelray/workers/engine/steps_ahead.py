"""Steps that are reported while the device still works on them, so that it need not wait for the next plan.

Between two steps the report goes to the leader and the next plan comes back, 1 to 2 ms in which the device of a rank
that waits for it has nothing to do: a tenth of a denoise step over three latent frames on four GPUs.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol, Self

import torch

from reelray.proto.events import Stage
from reelray.proto.request import RequestId
from reelray.proto.step_plan import StepPlan
from reelray.workers.engine.step_record import StepRecord

AHEAD_S = 0.06
"""Longest denoise step that is left open: whoever cancels a request waits for two of them at most."""


class End(Enum):
    """How a piece of work ends."""

    WAITS = auto()  # when the device is done
    OPEN = auto()  # see `StepsAhead`
    GOES_ON = auto()  # beside what follows; nobody asks how long it takes


class Mark(Protocol):
    """A place in the work of a device."""

    def wait(self) -> None:
        """Wait until the device has come here."""
        ...

    def seconds_to(self, later: Self) -> float:
        """Seconds of the device from here to a later one; it has passed both."""
        ...


class CudaMark:
    """A place in the current stream of a GPU."""

    def __init__(self) -> None:
        self._event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._event.record()

    def wait(self) -> None:
        """See `Mark`."""
        self._event.synchronize()

    def seconds_to(self, later: Self) -> float:
        """See `Mark`."""
        return float(self._event.elapsed_time(later._event)) / 1e3


@dataclass(frozen=True, kw_only=True, slots=True)
class Begun:
    """When work began.

    Args:
        at_s: On the host's clock.
        mark: On the device, where it may be busy with what came before; None where it is not.
    """

    at_s: float
    mark: Mark | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Open:
    """A denoise step that the device may not be done with.

    Args:
        request_id: Whose.
        forwards: Transformer evaluations.
        told: Whether this rank tells what it costs.
        begun: On the device.
        ended: On the device.
    """

    request_id: RequestId
    forwards: int
    told: bool
    begun: Mark
    ended: Mark


class StepsAhead:
    """The open steps of one rank: one when a step is reported, and two while the next one is begun.

    What an open step costs is reported with a later one.

    Args:
        mark: Marks where the device's work stands; None where it does everything at once.
    """

    def __init__(self, mark: Callable[[], Mark] | None) -> None:
        self._mark = mark
        self._open: deque[_Open] = deque()
        self._latest_s = float("inf")

    def takes(self, plan: StepPlan) -> bool:
        """Whether the window of a plan may be left open."""
        return plan.ahead and self._mark is not None and self._latest_s <= AHEAD_S

    def begin(self, *, leaves_open: bool = False) -> Begun:
        """Note that work begins."""
        marks = self._mark is not None and (leaves_open or bool(self._open))
        return Begun(at_s=time.perf_counter(), mark=self._mark() if marks and self._mark is not None else None)

    def leave(self, begun: Begun, request_id: RequestId, forwards: int, *, told: bool, record: StepRecord) -> None:
        """Leave a denoise step open, and wait for the one before it."""
        assert self._mark is not None
        assert begun.mark is not None
        ended = self._mark()
        self._open.append(_Open(request_id=request_id, forwards=forwards, told=told, begun=begun.mark, ended=ended))
        self.settle(record, keep=1)

    def close(self, begun: Begun, record: StepRecord) -> float:
        """Settle what was open, now that the device is done with everything; returns the seconds that work took."""
        if begun.mark is None or self._mark is None:
            spent_s = time.perf_counter() - begun.at_s
        else:
            ended = self._mark()
            ended.wait()
            spent_s = begun.mark.seconds_to(ended)
        self.settle(record)
        return spent_s

    def note(self, stage: Stage, spent_s: float) -> None:
        """Expect of the next denoise step what the latest one took."""
        if stage is Stage.DENOISE:
            self._latest_s = spent_s

    def settle(self, record: StepRecord, *, keep: int = 0) -> None:
        """Wait for open steps but the latest few, and report what they cost."""
        while len(self._open) > keep:
            step = self._open.popleft()
            step.ended.wait()
            spent_s = step.begun.seconds_to(step.ended)
            self.note(Stage.DENOISE, spent_s)
            if step.told:
                record.add_cost(step.request_id, Stage.DENOISE, spent_s, step.forwards)


def steps_ahead(device: torch.device) -> StepsAhead:
    """Of a device that works beside its host, or of one that does not."""
    return StepsAhead(CudaMark if device.type == "cuda" else None)
