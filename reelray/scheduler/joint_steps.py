"""The engine steps of a video whose chunks share forwards; `turns` says which."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from reelray.proto.recipe import Recipe
from reelray.proto.request import PromptChange
from reelray.scheduler.chunk_steps import ChunkStep
from reelray.scheduler.chunks import Span
from reelray.scheduler.turns import Turn, list_turns


class JointSteps:
    """All steps of a video, in order; implements `Steps`.

    A window goes by the prompt of the newest chunk in it, and so does the clean pass after it; where chunks are made in
    rounds, a round goes by that of its first. A clean pass follows the window that a chunk leaves; nothing comes after
    the last chunk that could attend it.

    Args:
        recipe: Its chunking says how far chunks are apart.
        chunks: Of the video.
        changes: Of its prompt.
    """

    def __init__(self, recipe: Recipe, chunks: Sequence[Span], changes: Sequence[PromptChange] = ()) -> None:
        self._denoises, self._chunks = recipe.schedule.length, chunks
        self._remembers = recipe.memory is not None
        self._has_rounds = recipe.chunking.round_latent_frames is not None
        times = [change.latent_frame for change in changes]
        self._prompts = [bisect_right(times, chunk.first) for chunk in chunks]
        turns = list_turns(recipe.chunking, self._denoises, chunks)
        self._steps = [step for turn in turns for step in self._plan(turn)]
        self._clean = [0]
        for step in self._steps:
            self._clean.append(self._clean[-1] + sum(slot.last for slot in step.slots))

    def __len__(self) -> int:
        return len(self._steps)

    def find(self, done: int) -> ChunkStep | None:
        """The step that follows `done` steps; None at the end."""
        return self._steps[done] if done < len(self._steps) else None

    def clean_chunks(self, done: int) -> int:
        """Chunks that are clean after `done` steps."""
        return self._clean[min(done, len(self))]  # a clean pass may be done that a shorter video has not

    def is_amid_chunk(self, done: int) -> bool:
        """Whether the next step attends what the last one did: the same chunks again, and no clean pass between."""
        if not 0 < done < len(self):
            return False
        before, after = self._steps[done - 1 : done + 1]
        return before.span == after.span and not before.commits and not after.commits

    def _plan(self, turn: Turn) -> Iterator[ChunkStep]:
        """The step of a turn, and the clean pass of the chunk that leaves."""
        moving = turn.moving
        prompt = self._prompts[turn.begin if self._has_rounds else moving[-1].chunk]
        yield ChunkStep(
            chunk=moving[0].chunk,
            step=moving[0].step,
            span=turn.span,
            last=any(slot.last for slot in moving),
            commits=False,
            prompt=prompt,
            slots=turn.slots,
        )
        for slot in moving:
            if slot.last and self._remembers and slot.chunk < len(self._chunks) - 1:
                span = self._chunks[slot.chunk]
                yield ChunkStep(
                    chunk=slot.chunk, step=self._denoises, span=span, last=False, commits=True, prompt=prompt
                )
