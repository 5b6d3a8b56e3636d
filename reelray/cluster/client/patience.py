"""How long a client goes on trying where the server is away."""

import time
from collections.abc import Callable

from reelray.cluster.client.notices import Notices
from reelray.proto.errors import ArtifactError, CoordinatorError, EngineError, ReelrayError, StoreError

AWAY = (EngineError, CoordinatorError, StoreError, ArtifactError)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 3.0


class Patience:
    """Waits between tries, and gives up when nothing was heard for a while.

    Args:
        limit_s: How long.
        clock: Monotonic seconds.
        sleep: Waits for seconds.
        notices: Hears that it is tried again, and that it went on.
    """

    def __init__(
        self,
        limit_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        notices: Notices | None = None,
    ) -> None:
        self._limit_s, self._clock, self._sleep = limit_s, clock, sleep
        self._notices = notices or Notices()
        self.begin()

    def heard(self) -> None:
        """The server answered: time and pauses begin anew."""
        self._notices.mended()
        self.begin()

    def begin(self) -> None:
        """Time and pauses begin anew."""
        self._until_s, self._pause_s = self._clock() + self._limit_s, FIRST_PAUSE_S

    def wait(self, error: ReelrayError) -> None:
        """Pause before the next try; raises as `pause_s` does."""
        self._sleep(self.pause_s(error))

    def pause_s(self, error: ReelrayError) -> float:
        """Seconds before the next try.

        Raises:
            ReelrayError: The error itself, where trying again cannot help or the time is up.
        """
        if not (isinstance(error, AWAY) and error.retryable) or self._clock() + self._pause_s > self._until_s:
            raise error
        self._notices.broke(error, self._limit_s)
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, LONGEST_PAUSE_S)
        return pause_s
