"""Windows of several requests that follow each other through the layers of a lane's ranks in one engine step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reelray.proto.errors import EngineError, ReelrayError
from reelray.proto.request import RenderRequest
from reelray.proto.step_plan import WindowStep
from reelray.workers.engine.failure import as_reelray_error
from reelray.workers.engine.held_request import HeldRequest
from reelray.workers.engine.open_window import OpenWindow
from reelray.workers.parallel.layer_pipeline import LayerPipeline, OpenStep

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    opened: OpenWindow
    step: OpenStep


class WindowLine:
    """Windows on their way; all ranks of the lane make the same calls.

    Args:
        pipeline: Through which they go.
    """

    def __init__(self, pipeline: LayerPipeline) -> None:
        self._pipeline = pipeline
        self._entries: dict[WindowStep, _Entry] = {}
        self._predicted: dict[WindowStep, list[Tensor]] = {}

    @property
    def windows(self) -> Sequence[WindowStep]:
        """Windows that came through; `close` ends the step of each."""
        return [*self._predicted]

    def add(self, window: WindowStep, held: HeldRequest) -> int:
        """Begin to move a window; returns that nothing was evaluated yet."""
        opened = held.open(window)
        self._entries[window] = _Entry(opened=opened, step=opened.line())
        return 0

    def close(self, window: WindowStep, _: HeldRequest) -> int:
        """See `OpenWindow.close_line`."""
        return self._entries[window].opened.close_line(self._entries[window].step, self._predicted[window])

    def run(self, settle: Callable[[], None]) -> list[tuple[RenderRequest, ReelrayError]]:
        """Evaluate all forwards.

        Args:
            settle: Waits for the device.

        Returns:
            Nothing where all came through. Else every request, the one that failed first: the peers of this rank wait
            for what it cannot send now, so the gang has to be formed anew, and the others go on from their last commit.
        """
        try:
            predicted = self._pipeline.run_steps([entry.step for entry in self._entries.values()])
            self._predicted = dict(zip(self._entries, predicted, strict=True))
            settle()
        except Exception as error:  # noqa: BLE001  the request boundary
            blamed = self._blame(error)
        else:
            return []
        self._entries.clear()
        self._predicted.clear()
        return blamed

    def _blame(self, error: Exception) -> list[tuple[RenderRequest, ReelrayError]]:
        at_work, entries = self._pipeline.line.at_work, [*self._entries.values()]
        guilty = next((e for e in entries if any(f is at_work for f in e.step.forwards)), entries[0])
        request = guilty.opened.held.request
        others = [entry.opened.held.request for entry in entries if entry is not guilty]
        words = f"the ranks of this request broke off when request {request.request_id} failed on one of them"
        return [
            (request, as_reelray_error(error, request)),
            *((other, EngineError(words, ids={"request": str(other.request_id)})) for other in others),
        ]
