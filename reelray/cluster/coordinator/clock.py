"""The time of a coordinator, and calls that come later; tests have a clock of their own."""

import asyncio
from collections.abc import Callable
from typing import Protocol


class Alarm(Protocol):
    """A call that comes later."""

    def cancel(self) -> None:
        """Let it not come."""


class Clock(Protocol):
    """Monotonic seconds."""

    def now(self) -> float:
        """The time."""
        ...

    def call_at(self, at_s: float, action: Callable[[], None]) -> Alarm:
        """Call something at a time, in the thread of whoever asks for it."""
        ...


class LoopClock:
    """The clock of the running event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def now(self) -> float:
        """The time."""
        return self._loop.time()

    def call_at(self, at_s: float, action: Callable[[], None]) -> Alarm:
        """Call something at a time."""
        return self._loop.call_at(at_s, action)
