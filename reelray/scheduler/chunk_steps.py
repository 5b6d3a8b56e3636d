"""The engine steps of a video, counted over all its chunks: denoise steps, and the passes that are only remembered."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from reelray.proto.memory_rule import Commit, MemoryRule, PromptSwitch
from reelray.proto.recipe import Recipe
from reelray.proto.request import PromptChange
from reelray.proto.step_plan import Slot
from reelray.scheduler.chunks import Span


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkStep:
    """One step of one chunk.

    Args:
        chunk: Index of the chunk.
        step: Index in its step list; the clean pass comes after the last one, what goes before the first is -1.
        span: Latent frames of its window.
        last: Whether the chunk is clean afterwards.
        commits: Whether its forward is remembered.
        prompt: Which prompt it goes by.
        recaches: Whether frames before the chunk are remembered anew.
        level: Which memory is its own, where each noise level has one.
        slots: Chunks of its window, where several share it; `chunk` and `step` are then of the first that moves.
        mix: See `WindowStep`.
        cuts: Whether another scene begins with its chunk.
    """

    chunk: int
    step: int
    span: Span
    last: bool
    commits: bool
    prompt: int = 0
    recaches: bool = False
    level: int | None = None
    slots: tuple[Slot, ...] = ()
    mix: tuple[float, ...] = ()
    cuts: bool = False


class ChunkSteps:
    """All steps of a video whose chunks follow each other, in order; implements `Steps`.

    Nothing comes after the last chunk that could attend it, so it is not remembered.

    Args:
        recipe: Its schedule and memory.
        chunks: Of the video.
        changes: Of its prompt.
        grows: Whether chunks may yet follow the last one: where that takes no forward, it is remembered too.
    """

    def __init__(
        self, recipe: Recipe, chunks: Sequence[Span], changes: Sequence[PromptChange] = (), *, grows: bool = False
    ) -> None:
        self._rule, self._chunks, self._size = recipe.memory, chunks, recipe.chunking.latent_frames
        times = [change.latent_frame for change in changes]
        self._prompts = [bisect_right(times, chunk.first) for chunk in chunks]
        self._mixes = mix_prompts(self._prompts, _chunks_of_lerp(self._rule))
        self._cuts = [n > 0 and self._changes(n) and changes[prompt - 1].cut for n, prompt in enumerate(self._prompts)]
        self._denoises = [recipe.schedule.of_chunk(number).length for number in range(len(chunks))]
        self._forgotten = None if grows else len(chunks) - 1
        self._commit = None if self._rule is None else self._rule.commit
        clean = [int(self._commit is Commit.CLEAN and self._is_attended(number)) for number in range(len(chunks))]
        self._before = [int(self._recaches(number)) for number in range(len(chunks))]
        counts = zip(self._before, self._denoises, clean, strict=True)
        self._begins = [0, *accumulate(sum(parts) for parts in counts)]

    def __len__(self) -> int:
        return self._begins[-1]

    def find(self, done: int) -> ChunkStep | None:
        """The step that follows `done` steps; None at the end."""
        if done >= len(self):
            return None
        chunk = bisect_right(self._begins, done) - 1
        step, denoises = done - self._begins[chunk] - self._before[chunk], self._denoises[chunk]
        last, each = step == denoises - 1, self._commit is Commit.EVERY_STEP
        remembers = (last and self._commit is Commit.LAST_STEP) or (each and (last or chunk > 0))
        remembered = remembers and self._is_attended(chunk)
        return ChunkStep(
            chunk=chunk,
            step=step,
            span=self._chunks[chunk] if step >= 0 else self._recached(chunk),
            last=last,
            commits=step in {-1, denoises} or remembered,
            prompt=self._prompts[chunk],
            recaches=step < 0,
            level=step if each else None,
            mix=self._mixes[chunk],
            cuts=self._cuts[chunk],
        )

    def clean_chunks(self, done: int) -> int:
        """Chunks that are clean after `done` steps."""
        chunk = bisect_right(self._begins, done) - 1
        if chunk == len(self._denoises):
            return chunk
        return chunk + (done - self._begins[chunk] >= self._before[chunk] + self._denoises[chunk])

    def is_amid_chunk(self, done: int) -> bool:
        """Whether `done` steps end within a chunk: it was begun, and steps of it are left.

        It has not begun when only what it attends was remembered anew: that is another's turn, and running streams wait
        no longer for it than for one forward.
        """
        chunk = bisect_right(self._begins, done) - 1
        return done < len(self) and done > self._begins[chunk] + self._before[chunk]

    def _changes(self, chunk: int) -> bool:
        """Whether it goes by another prompt than the one before it."""
        return chunk > 0 and self._prompts[chunk] != self._prompts[chunk - 1]

    def _is_attended(self, chunk: int) -> bool:
        """Whether the next chunk attends what this one leaves."""
        if chunk == len(self._chunks) - 1:
            return self._forgotten is None and self._commit in {Commit.LAST_STEP, Commit.EVERY_STEP}
        return self._rule is None or not self._rule.begins_anew(self._chunks[chunk + 1].first)

    def _recaches(self, chunk: int) -> bool:
        rule = self._rule
        if rule is None:
            return False
        recaches = rule.switch is PromptSwitch.RECACHE and self._changes(chunk)
        return recaches or rule.begins_anew(self._chunks[chunk].first)

    def _recached(self, chunk: int) -> Span:
        """All frames so far, or the latest ones; the sink of a longer video stays as it was."""
        rule, end = self._rule, self._chunks[chunk].first
        assert rule is not None
        if rule.begins_anew(end):
            assert self._size is not None
            length = len(rule.frames_anew(end, self._size))
            return Span(first=end - length, length=length)
        first = end - rule.switch_frames
        begin = 0 if first <= 0 else first + rule.sink
        return Span(first=begin, length=end - begin)


def mix_prompts(prompts: Sequence[int], chunks: int) -> list[tuple[float, ...]]:
    """Weights of prompts in the text of each chunk; none where it is one prompt alone.

    From what it was, the text moves to another prompt in equal steps, of which the last arrives.

    Args:
        prompts: Number of each chunk's prompt; they never fall.
        chunks: Chunks that it takes.
    """
    mixes: list[tuple[float, ...]] = []
    begin = now = [1.0]
    since, known = 0, 0
    for chunk, prompt in enumerate(prompts):
        if prompt != known:
            begin, since, known = [*now, *[0.0] * (prompt + 1 - len(now))], chunk, prompt
        part = 1.0 if prompt == 0 else min(1.0, (chunk - since + 1) / chunks) if chunks else 1.0
        now = [(1 - part) * weight for weight in begin]
        now[prompt] += part
        mixes.append(() if part == 1 else tuple(now))
    return mixes


def _chunks_of_lerp(rule: MemoryRule | None) -> int:
    return rule.switch_chunks if rule is not None and rule.switch is PromptSwitch.LERP else 0
