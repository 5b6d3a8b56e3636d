"""Steps that a GPU is told of before it is done with those before them.

Between two denoise steps the plan goes to the ranks and Python tells the device what to do: two milliseconds, in which
a device that was waited for has nothing to do. So steps that leave nothing for the host are not waited for, but for
the one before the last; what they cost is known, and told, with a later report.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch

from reelray.proto.events import Stage
from reelray.proto.request import RequestId
from reelray.proto.step_plan import StepPlan
from reelray.workers.engine.step_record import StepRecord

AHEAD = 1
"""Steps that may be under way on the device while the next one is told."""


class Event(Protocol):
    """A point in what a device is told; `torch.cuda.Event`."""

    def record(self) -> object:
        """Be the end of all that the current stream was told."""
        ...

    def query(self) -> bool:
        """Whether the device has come so far."""
        ...

    def synchronize(self) -> object:
        """Wait until it has."""
        ...

    def elapsed_time(self, end_event: Any, /) -> float:
        """Milliseconds from here to there, which it has passed both."""
        ...


NewEvent: TypeAlias = Callable[[], Event]


def find_events(device: torch.device) -> NewEvent | None:
    """What makes events of a device; None where it is done with whatever it was told."""
    return _new_cuda_event if device.type == "cuda" else None


def _new_cuda_event() -> Event:
    event: Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    return event


@dataclass(frozen=True, kw_only=True, slots=True)
class _Told:
    """A step of which the device was told.

    Args:
        request_id: Whose.
        stage: For what.
        forwards: Transformer evaluations.
        begin: Before it.
        end: After it.
        counts: Whether this rank tells what it cost.
    """

    request_id: RequestId
    stage: Stage
    forwards: int
    begin: Event
    end: Event
    counts: bool

    def add_to(self, record: StepRecord) -> None:
        """Wait for the step and tell what it cost."""
        self.end.synchronize()
        if self.counts:
            record.add_cost(self.request_id, self.stage, 1e-3 * self.begin.elapsed_time(self.end), self.forwards)


class RunAhead:
    """The steps that are under way on a device.

    Args:
        new_event: Makes events of the device; None means that every step is waited for.
        on_progress: Called for every step that is done.
    """

    def __init__(self, new_event: NewEvent | None, on_progress: Callable[[], None]) -> None:
        self._new_event, self._on_progress = new_event, on_progress
        self._told: deque[_Told] = deque()

    def may_follow(self, plan: StepPlan) -> bool:
        """Whether a plan does nothing but move one window, and decode beside it."""
        others = (
            plan.releases, plan.parks, plan.fetches, plan.moves, plan.admits, plan.amends, plan.joins, plan.deliveries,
            plan.commits, plan.snapshots, plan.forks,
        )  # fmt: skip
        moves_one = len(plan.windows) == 1 and not plan.windows[0].recaches
        return self._new_event is not None and moves_one and not any(others)

    @property
    def is_idle(self) -> bool:
        """Whether the device is done with all that it was told here."""
        return all(told.end.query() for told in self._told)

    def mark(self) -> Event:
        """This point of the device's work."""
        assert self._new_event is not None
        event = self._new_event()
        event.record()
        return event

    def tell(self, request_id: RequestId, stage: Stage, begin: Event, *, forwards: int, counts: bool) -> None:
        """Note that the device was told of a step, from `begin` up to here; for the rest see `_Told`."""
        told = _Told(
            request_id=request_id, stage=stage, forwards=forwards, begin=begin, end=self.mark(), counts=counts
        )  # fmt: skip
        self._told.append(told)

    def settle(self, record: StepRecord, *, leave: int = 0) -> None:
        """Wait for all steps but the last `leave` ones."""
        while len(self._told) > leave:
            self._told.popleft().add_to(record)
            self._on_progress()  # each may take as long as a gang may stand still
