"""When a render is put down: often enough that little is lost, seldom enough that it costs little."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class CommitRule:
    """What makes a commit due; the first that holds counts.

    Args:
        every_s: Seconds of work since the last one, the next step's as predicted from those before counted in.
        chunks: Chunks whose frames are there.
        steps: Denoise steps; None does not count them.
        share: Most of the time that commits may take; the next one waits until they are below it. None lets them.
    """

    every_s: float = 30.0
    chunks: int = 1
    steps: int | None = None
    share: float | None = 0.1

    def __post_init__(self) -> None:
        for name in ("every_s", "chunks", "steps", "share"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}; it must be greater than 0")


class CommitPace:
    """The commits of one attempt.

    Args:
        rule: When they are due.
        chunk_ends: Pixel frames at which chunks end.
        clock: Monotonic seconds.
        frames: Pixel frames that were there when the attempt began.
        steps: Denoise steps that were done then.
    """

    def __init__(
        self, rule: CommitRule, chunk_ends: Sequence[int], clock: Callable[[], float], *, frames: int, steps: int
    ) -> None:
        self._rule, self._ends, self._clock = rule, chunk_ends, clock
        self._frames, self._steps = frames, steps
        self._at_s, self._cost_s = clock(), 0.0

    def is_due(self, *, frames: int, steps: int) -> bool:
        """Whether to commit now.

        Args:
            frames: Pixel frames that are there.
            steps: Denoise steps done.
        """
        rule, worked_s, moved = self._rule, self._clock() - self._at_s, steps - self._steps
        if frames >= self._ends[-1] or (moved <= 0 and frames <= self._frames):
            return False
        if rule.share is not None and worked_s * rule.share < self._cost_s:
            return False
        next_s = worked_s / moved if moved > 0 else 0.0
        chunks = bisect_right(self._ends, frames) - bisect_right(self._ends, self._frames)
        in_steps = rule.steps is not None and moved >= rule.steps
        return worked_s + next_s > rule.every_s or chunks >= rule.chunks or in_steps

    def committed(self, *, frames: int, steps: int, began_s: float) -> None:
        """Note a commit that ends now.

        Args:
            frames: Pixel frames that it has.
            steps: Denoise steps that it has.
            began_s: When it began, by the clock.
        """
        self._frames, self._steps, self._at_s = frames, steps, self._clock()
        self._cost_s = self._at_s - began_s
