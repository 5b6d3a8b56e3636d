"""The engine steps of a video whose chunks share forwards: each is some denoise steps ahead of the next.

A round is a run of chunks of which none begins before those of the round before are clean; mostly all chunks are one
round. In turn t of a round, its chunk i takes denoise step t - i * stagger, if it has such a step. With five steps and
a stagger of one that is Rolling Forcing: window j holds the chunks max(0, j - 4) to min(N - 1, j), the oldest at its
last step and the newest at its first.

Sources: Rolling Forcing, arXiv 2509.25161; Block Cascading, arXiv 2511.20426; SkyReels-V2, arXiv 2504.13074.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from reelray.proto.recipe import Recipe
from reelray.proto.request import PromptChange
from reelray.proto.step_plan import Part, Slot
from reelray.scheduler.chunk_steps import ChunkStep
from reelray.scheduler.chunks import Span, cut_rounds


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
        assert recipe.chunking.stagger is not None
        self._stagger, self._denoises = recipe.chunking.stagger, recipe.schedule.length
        self._chunks, self._remembers = chunks, recipe.memory is not None
        self._shows_round = recipe.chunking.round_latent_frames is not None
        times = [change.latent_frame for change in changes]
        self._prompts = [bisect_right(times, chunk.first) for chunk in chunks]
        self._steps = [step for given, own in cut_rounds(recipe.chunking, chunks) for step in self._plan(given, own)]
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
        return self._clean[done]

    def is_amid_chunk(self, done: int) -> bool:
        """Whether the next step attends what the last one did: the same chunks again, and no clean pass between."""
        if not 0 < done < len(self):
            return False
        before, after = self._steps[done - 1 : done + 1]
        return before.span == after.span and not before.commits and not after.commits

    def _plan(self, given: range, own: range) -> Iterator[ChunkStep]:
        """The steps of a round."""
        for turn in range(self._denoises + (len(own) - 1) * self._stagger):
            slots = [slot for number, chunk in enumerate(own) if (slot := self._slot(chunk, number, turn)) is not None]
            moving = [slot for slot in slots if slot.part is Part.MOVES]
            past = [
                Slot(chunk=chunk, latent_frames=self._chunks[chunk].length, part=Part.GIVEN, step=turn)
                for chunk in given
            ]
            prompt = self._prompts[own[0] if self._shows_round else moving[-1].chunk]
            yield ChunkStep(
                chunk=moving[0].chunk,
                step=moving[0].step,
                span=self._span([*past, *slots]),
                last=any(slot.last for slot in moving),
                commits=False,
                prompt=prompt,
                slots=(*past, *slots),
            )
            for slot in moving:
                if slot.last and self._remembers and slot.chunk < len(self._chunks) - 1:
                    span = self._chunks[slot.chunk]
                    yield ChunkStep(
                        chunk=slot.chunk, step=self._denoises, span=span, last=False, commits=True, prompt=prompt
                    )

    def _slot(self, chunk: int, number: int, turn: int) -> Slot | None:
        """What a chunk does in a turn of its round; None where it is not in the window."""
        step, length = turn - number * self._stagger, self._chunks[chunk].length
        if 0 <= step < self._denoises:
            return Slot(chunk=chunk, latent_frames=length, step=step, last=step == self._denoises - 1)
        if not self._shows_round:
            return None
        return Slot(chunk=chunk, latent_frames=length, part=Part.WAITS if step < 0 else Part.RESTS)

    def _span(self, slots: Sequence[Slot]) -> Span:
        first = self._chunks[slots[0].chunk].first
        return Span(first=first, length=self._chunks[slots[-1].chunk].end - first)
