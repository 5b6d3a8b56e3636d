"""The order in which the chunks of a video are denoised and remembered, whatever its recipe says of it."""

from collections.abc import Sequence
from typing import Protocol

from reelray.proto.recipe import Recipe
from reelray.proto.request import PromptChange
from reelray.scheduler.chunk_steps import ChunkStep, ChunkSteps
from reelray.scheduler.chunks import Span
from reelray.scheduler.joint_steps import JointSteps


class Steps(Protocol):
    """The engine steps of one video: everything that counts steps counts these."""

    def __len__(self) -> int:
        """All of them."""
        ...

    def find(self, done: int) -> ChunkStep | None:
        """The step that follows `done` steps; None at the end."""
        ...

    def clean_chunks(self, done: int) -> int:
        """Chunks that are clean after `done` steps."""
        ...

    def is_amid_chunk(self, done: int) -> bool:
        """Whether memory that was laid out for the step before serves the next one too."""
        ...


def plan_steps(
    recipe: Recipe, chunks: Sequence[Span], changes: Sequence[PromptChange] = (), *, grows: bool = False
) -> Steps:
    """The steps of a video.

    Args:
        recipe: Its schedule, chunking and memory.
        chunks: Of the video.
        changes: Of its prompt.
        grows: Whether chunks may yet follow the last one.
    """
    if recipe.chunking.stagger is not None:
        return JointSteps(recipe, chunks, changes)
    return ChunkSteps(recipe, chunks, changes, grows=grows)
