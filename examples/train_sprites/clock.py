"""How far a run is, in seconds of training or in steps, the same on every rank."""

import time

from examples.train_sprites.ranks import Ranks


class Clock:
    """Counts training time over several sessions.

    Args:
        ranks: The processes that train together; rank 0's time counts.
        budget_s: Seconds of training in all.
        steps: Steps in all; given, seconds do not matter.
    """

    def __init__(self, ranks: Ranks, *, budget_s: float, steps: int | None = None) -> None:
        if budget_s <= 0:
            raise ValueError(f"budget_s is {budget_s}; it must be greater than 0")
        if steps is not None and steps < 1:
            raise ValueError(f"steps is {steps}; it must be at least 1")
        self.ranks, self.budget_s, self.steps = ranks, budget_s, steps
        self.trained_s = self.progress = 0.0
        self._since: float | None = None

    def run(self) -> None:
        """Count from here."""
        self._since = time.monotonic()

    def pause(self) -> None:
        """Do not count from here: the graph is being compiled, or samples are drawn."""
        if self._since is not None:
            self.trained_s += time.monotonic() - self._since
            self._since = None

    def tick(self, step: int) -> None:
        """Note that `step` steps are done; a budget in steps needs no agreement."""
        if self.steps is not None:
            self.progress = min(1.0, step / self.steps)

    def synchronise(self, *, over: bool) -> bool:
        """Agree on `progress` and on the end of the session; every rank must call it.

        Args:
            over: Whether this process should end; that of rank 0 decides.
        """
        if self._since is not None:
            self.pause()
            self.run()
        own = self.progress if self.steps is not None else self.trained_s / self.budget_s
        self.progress, ends = self.ranks.share(min(1.0, own), float(over))
        return bool(ends)
