"""The engine steps of a video, counted over all its chunks: denoise steps, and the passes that are only remembered."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from reelray.proto.recipe import Commit, Recipe
from reelray.scheduler.chunks import Span


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkStep:
    """One step of one chunk.

    Args:
        chunk: Index of the chunk.
        step: Index in its step list; the clean pass comes after the last one.
        last: Whether the chunk is clean afterwards.
        commits: Whether its forward is remembered.
    """

    chunk: int
    step: int
    last: bool
    commits: bool


class ChunkSteps:
    """All steps of a video, in order.

    Nothing comes after the last chunk that could attend it, so it is not remembered.

    Args:
        recipe: Its schedule and memory.
        chunks: Of the video.
    """

    def __init__(self, recipe: Recipe, chunks: Sequence[Span]) -> None:
        self._commit = None if recipe.memory is None else recipe.memory.commit
        self._denoises = [recipe.schedule.of_chunk(number).length for number in range(len(chunks))]
        passes = [int(self._commit is Commit.CLEAN and number < len(chunks) - 1) for number in range(len(chunks))]
        self._begins = [0, *accumulate(a + b for a, b in zip(self._denoises, passes, strict=True))]

    def __len__(self) -> int:
        return self._begins[-1]

    def find(self, done: int) -> ChunkStep | None:
        """The step that follows `done` steps; None at the end."""
        if done >= len(self):
            return None
        chunk = bisect_right(self._begins, done) - 1
        step, denoises = done - self._begins[chunk], self._denoises[chunk]
        more = chunk < len(self._denoises) - 1
        last = step == denoises - 1
        commits = step == denoises or (last and more and self._commit is Commit.LAST_STEP)
        return ChunkStep(chunk=chunk, step=step, last=last, commits=commits)

    def clean_chunks(self, done: int) -> int:
        """Chunks that are clean after `done` steps."""
        chunk = bisect_right(self._begins, done) - 1
        if chunk == len(self._denoises):
            return chunk
        return chunk + (done - self._begins[chunk] >= self._denoises[chunk])
