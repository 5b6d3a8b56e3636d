"""Windows of several requests that follow each other through the layers of a lane's ranks in one engine step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from reelray.proto.errors import EngineError, ReelrayError
from reelray.proto.request import RenderRequest
from reelray.proto.step_plan import WindowStep
from reelray.workers.engine.failure import as_reelray_error
from reelray.workers.engine.held_request import HeldRequest
from reelray.workers.parallel.layer_pipeline import LayerPipeline, OpenStep

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    window: WindowStep
    held: HeldRequest
    step: OpenStep


class WindowLine:
    """Windows on their way; all ranks of the lane make the same calls.

    Args:
        pipeline: Through which they go.
    """

    def __init__(self, pipeline: LayerPipeline) -> None:
        self._pipeline = pipeline
        self._entries: list[_Entry] = []
        self._predicted: list[list[Tensor]] = []

    @property
    def windows(self) -> Mapping[WindowStep, Callable[[], int]]:
        """Windows that came through, and what ends the step of each; see `HeldRequest.close`."""
        return {
            entry.window: partial(entry.held.close, entry.window, entry.step, predicted)
            for entry, predicted in zip(self._entries, self._predicted, strict=False)
        }

    def add(self, window: WindowStep, held: HeldRequest) -> int:
        """Begin to move a window; returns that nothing was evaluated yet."""
        self._entries.append(_Entry(window=window, held=held, step=held.open(window)))
        return 0

    def run(self, settle: Callable[[], None]) -> list[tuple[RenderRequest, ReelrayError]]:
        """Evaluate all forwards.

        Args:
            settle: Waits for the device.

        Returns:
            Nothing where all came through. Else every request, the one that failed first: the peers of this rank wait
            for what it cannot send now, so the gang has to be formed anew, and the others go on from their last commit.
        """
        try:
            self._predicted = self._pipeline.run_steps([entry.step for entry in self._entries])
            settle()
        except Exception as error:  # noqa: BLE001  the request boundary
            blamed = self._blame(error)
        else:
            return []
        self._entries.clear()
        self._predicted.clear()
        return blamed

    def _blame(self, error: Exception) -> list[tuple[RenderRequest, ReelrayError]]:
        at_work = self._pipeline.line.at_work
        guilty = next((e for e in self._entries if any(f is at_work for f in e.step.forwards)), self._entries[0])
        request = guilty.held.request
        others = [entry.held.request for entry in self._entries if entry is not guilty]
        words = f"the ranks of this request broke off when request {request.request_id} failed on one of them"
        return [
            (request, as_reelray_error(error, request)),
            *((other, EngineError(words, ids={"request": str(other.request_id)})) for other in others),
        ]
