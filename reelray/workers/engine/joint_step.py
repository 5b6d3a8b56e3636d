"""Windows of several requests that share forwards on one rank."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from reelray.proto.errors import ReelrayError
from reelray.proto.request import RenderRequest
from reelray.proto.step_plan import WindowStep
from reelray.workers.engine.failure import as_reelray_error
from reelray.workers.engine.held_request import HeldRequest
from reelray.workers.models.api import VideoModel

if TYPE_CHECKING:
    from torch import Tensor

    from reelray.workers.engine.open_window import OpenWindow
    from reelray.workers.models.joint_rows import Row
    from reelray.workers.samplers.guidance import Branch

_LOG = logging.getLogger(__name__)


class JointStep:
    """Windows that are evaluated together, each begun and ended by itself.

    Args:
        model: Evaluates them.
        in_step: See `VideoModel.denoise_rows`.
    """

    def __init__(self, model: VideoModel, *, in_step: bool) -> None:
        self._model, self._in_step = model, in_step
        self._opened: dict[WindowStep, OpenWindow] = {}
        self._rows: dict[WindowStep, Mapping[Branch, Row]] = {}
        self._predicted: dict[WindowStep, dict[Branch, Tensor]] = {}

    @property
    def windows(self) -> Sequence[WindowStep]:
        """Windows that came through; `close` ends the step of each."""
        return [*self._predicted]

    def add(self, window: WindowStep, held: HeldRequest) -> int:
        """Begin to move a window; returns that nothing was evaluated yet."""
        opened = held.open(window)
        self._opened[window], self._rows[window] = opened, opened.rows()
        return 0

    def close(self, window: WindowStep, _: HeldRequest) -> int:
        """See `OpenWindow.close`."""
        return self._opened[window].close(self._predicted[window])

    def run(self, settle: Callable[[], None]) -> list[tuple[RenderRequest, ReelrayError]]:
        """Evaluate all of them; where that fails, each by itself, so that only those that fail alone are to blame.

        Args:
            settle: Waits for the device.

        Returns:
            Requests that fail alone.
        """
        try:
            self._evaluate([*self._rows], settle)
        except Exception as error:  # noqa: BLE001  who is to blame is found out below, when its tensors are free
            _LOG.warning("a forward of %d requests failed (%s); each goes alone", len(self._rows), error)
        else:
            return []
        blamed = []
        for window in self._rows:
            try:
                self._evaluate([window], settle)
            except Exception as error:  # noqa: BLE001  the request boundary
                request = self._opened[window].held.request
                blamed.append((request, as_reelray_error(error, request)))
        return blamed

    def _evaluate(self, together: Sequence[WindowStep], settle: Callable[[], None]) -> None:
        rows = [row for window in together for row in self._rows[window].values()]
        if rows:
            found = iter(self._model.denoise_rows(rows, in_step=self._in_step))
            settle()
            self._predicted |= {window: {branch: next(found) for branch in self._rows[window]} for window in together}
