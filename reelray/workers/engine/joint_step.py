"""Windows of several requests that share forwards on one rank."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from reelray.proto.errors import ReelrayError
from reelray.proto.request import RenderRequest
from reelray.proto.step_plan import WindowStep
from reelray.workers.engine.failure import as_reelray_error
from reelray.workers.engine.held_request import HeldRequest
from reelray.workers.engine.open_rows import OpenRows
from reelray.workers.models.api import VideoModel

if TYPE_CHECKING:
    from torch import Tensor

_LOG = logging.getLogger(__name__)


class JointStep:
    """Windows that are evaluated together, each begun and ended by itself.

    Args:
        model: Evaluates them.
        in_step: See `VideoModel.denoise_rows`.
    """

    def __init__(self, model: VideoModel, *, in_step: bool) -> None:
        self._model, self._in_step = model, in_step
        self._opened: list[OpenRows] = []
        self._predicted: dict[WindowStep, list[Tensor]] = {}

    @property
    def windows(self) -> Mapping[WindowStep, Callable[[], int]]:
        """Windows that came through, and what ends the step of each; see `OpenRows.close`."""
        return {
            opened.window: partial(opened.close, self._predicted[opened.window])
            for opened in self._opened
            if opened.window in self._predicted
        }

    def add(self, window: WindowStep, held: HeldRequest) -> int:
        """Begin to move a window; returns that nothing was evaluated yet."""
        self._opened.append(OpenRows(held, window))
        return 0

    def run(self, settle: Callable[[], None]) -> list[tuple[RenderRequest, ReelrayError]]:
        """Evaluate all of them; where that fails, each by itself, so that only those that fail alone are to blame.

        Args:
            settle: Waits for the device.

        Returns:
            Requests that fail alone.
        """
        try:
            self._evaluate(self._opened, settle)
        except Exception as error:  # noqa: BLE001  who is to blame is found out below, when its tensors are free
            _LOG.warning("a forward of %d requests failed (%s); each goes alone", len(self._opened), error)
        else:
            return []
        blamed = []
        for opened in self._opened:
            try:
                self._evaluate([opened], settle)
            except Exception as error:  # noqa: BLE001  the request boundary
                request = opened.held.request
                blamed.append((request, as_reelray_error(error, request)))
        return blamed

    def _evaluate(self, together: Sequence[OpenRows], settle: Callable[[], None]) -> None:
        rows = [row for opened in together for row in opened.rows.values()]
        if rows:
            found = iter(self._model.denoise_rows(rows, in_step=self._in_step))
            settle()
            self._predicted |= {opened.window: [next(found) for _ in opened.rows] for opened in together}
