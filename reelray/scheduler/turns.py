"""Which chunks share a forward, and what each does in it: every chunk is some denoise steps ahead of the next.

A round is a run of chunks of which none begins before those of the round before are clean; mostly all chunks are one
round. In turn t of a round, its chunk i takes denoise step t - i * stagger, if it has such a step. With five steps and
a stagger of one that is Rolling Forcing: window j holds the chunks max(0, j - 4) to min(N - 1, j), the oldest at its
last step and the newest at its first.

Sources: Rolling Forcing, arXiv 2509.25161; Block Cascading, arXiv 2511.20426; SkyReels-V2, arXiv 2504.13074.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reelray.proto.chunking import Chunking
from reelray.proto.step_plan import Part, Slot
from reelray.scheduler.chunks import Span, cut_rounds


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One forward over chunks that share it.

    Args:
        span: Latent frames of the window.
        slots: Its chunks, in the order of time.
        begin: First own chunk of its round.
    """

    span: Span
    slots: tuple[Slot, ...]
    begin: int

    @property
    def moving(self) -> tuple[Slot, ...]:
        """Chunks that take a step."""
        return tuple(slot for slot in self.slots if slot.part is Part.MOVES)


def list_turns(chunking: Chunking, steps: int, chunks: Sequence[Span]) -> Iterator[Turn]:
    """All turns of a video, in order.

    Args:
        chunking: How far chunks are apart, and the rounds.
        steps: Denoise steps of each chunk.
        chunks: Of the video, as `cut_chunks` cuts them.
    """
    stagger, shows_round = chunking.stagger, chunking.round_latent_frames is not None
    assert stagger is not None
    for given, own in cut_rounds(chunking, chunks):
        for turn in range(steps + (len(own) - 1) * stagger):
            slots = [Slot(chunk=n, latent_frames=chunks[n].length, part=Part.GIVEN, step=turn) for n in given]
            for number, chunk in enumerate(own):
                slot = _place(chunk, chunks[chunk].length, turn - number * stagger, steps)
                if slot.part is Part.MOVES or shows_round:
                    slots.append(slot)
            first = chunks[slots[0].chunk].first
            span = Span(first=first, length=chunks[slots[-1].chunk].end - first)
            yield Turn(span=span, slots=tuple(slots), begin=own[0])


def _place(chunk: int, latent_frames: int, step: int, steps: int) -> Slot:
    """What a chunk does when it is due for a step that it may not have."""
    if 0 <= step < steps:
        return Slot(chunk=chunk, latent_frames=latent_frames, step=step, last=step == steps - 1)
    return Slot(chunk=chunk, latent_frames=latent_frames, part=Part.WAITS if step < 0 else Part.RESTS)
