"""A coordinator in the process of the only house that it serves."""

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from reelray.cluster.coordinator.clock import LoopClock
from reelray.cluster.coordinator.coordinator import Coordinator
from reelray.cluster.coordinator.costs import CostTable
from reelray.cluster.coordinator.desk import Desk, name_house
from reelray.cluster.coordinator.messages import Joined, Report, Word
from reelray.cluster.gateway.served_models import ServedModels

if TYPE_CHECKING:
    from collections.abc import Callable


def coordinate_alone(models: ServedModels) -> Desk:
    """The desk of a house that shares its engines with nobody and keeps no renders."""
    desk = Desk(name_house(), models)
    LocalLine(Coordinator(CostTable(), LoopClock()), desk)
    return desk


class LocalLine:
    """What either says reaches the other in the next turn of their event loop, never inside of a word of its own.

    Args:
        coordinator: One end.
        desk: The other.
    """

    def __init__(self, coordinator: Coordinator, desk: Desk) -> None:
        self._coordinator, self._desk = coordinator, desk
        self._loop = asyncio.get_running_loop()
        self._say: Callable[[Report], None] = self._pass_on
        desk.connect(coordinator.fence, self._say)

    def close(self) -> None:
        """Hang up."""
        self._desk.disconnect(self._say)
        self._coordinator.leave(self._desk.house)

    def _pass_on(self, report: Report) -> None:
        if isinstance(report, Joined):
            action = partial(self._coordinator.join, report, self._hear)
        else:
            action = partial(self._coordinator.take, self._desk.house, report)
        self._loop.call_soon(action)

    def _hear(self, word: Word) -> None:
        self._loop.call_soon(self._desk.hear, word)
