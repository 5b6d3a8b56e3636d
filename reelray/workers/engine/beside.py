"""Decoding beside windows that move, on a stream of a GPU of its own.

Where ranks share a picture and a window, each of its kernels is too small for a GPU: two at a time fill it better. On
one GPU alone a decode fills what is left between windows. A piece may take longer than the window beside it: where
nobody has to wait for it, its frames come late, with the report of a later plan.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from reelray.proto.events import Frames
from reelray.proto.step_plan import DecodeStep
from reelray.workers.engine.held_request import HeldRequest
from reelray.workers.engine.run_ahead import Event, NewEvent


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """What is being decoded.

    Args:
        step: The step that says so.
        frames: Where its pixels will be.
        began: The beginning of it; None where it is over.
        done: The end of it; None where it is over.
        spent_s: Seconds it took, where it is over.
        reads: What the decoder reads. It belongs to another stream: nobody else may get its memory before.
    """

    step: DecodeStep
    frames: Frames
    began: Event | None
    done: Event | None
    spent_s: float
    reads: list[Tensor]

    @property
    def cost_s(self) -> float:
        """Seconds that it took, once it is over."""
        if self.began is None or self.done is None:
            return self.spent_s
        return 1e-3 * self.began.elapsed_time(self.done)


class Beside:
    """Pieces that are decoded while windows move.

    Windows go first wherever both want the device: the steps that follow wait for them.

    Args:
        device: Of this rank; on a CPU one comes after the other.
        new_event: Makes events of the device.
    """

    def __init__(self, device: torch.device, new_event: NewEvent | None) -> None:
        self._decodes: torch.cuda.Stream | None = None
        self._main: torch.cuda.Stream | None = None
        self._new_event = new_event
        if device.type == "cuda":
            self._decodes = torch.cuda.Stream(device, priority=0)  # type: ignore[no-untyped-call]
            self._main = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]
            torch.cuda.synchronize(device)  # weights may still be on their way to it on the stream of the past
        self._pieces: list[Piece] = []

    def main(self) -> AbstractContextManager[object]:
        """Within, the device does in order what it is told, before whatever decodes beside."""
        return _on(self._main)

    def begin(self, step: DecodeStep, held: HeldRequest) -> int:
        """Begin to decode; returns that nothing was evaluated."""
        began_at = time.perf_counter()
        held.wake()
        reads, began, done = held.decoder_inputs, self._mark(), self._mark()
        if self._decodes is not None:
            self._decodes.wait_stream(torch.cuda.current_stream())
        with _on(self._decodes):
            if began is not None:
                began.record()
            frames = held.decode(step, waits=False)
            if done is not None:
                done.record()
        spent_s = time.perf_counter() - began_at
        self._pieces.append(Piece(step=step, frames=frames, began=began, done=done, spent_s=spent_s, reads=reads))
        return 0

    def take(self, *, waits: bool) -> Iterator[Piece]:
        """The pieces that are decoded, in order; `waits` for all of them."""
        while self._pieces:
            done = self._pieces[0].done
            if done is not None and waits:
                done.synchronize()
            elif done is not None and not done.query():
                return
            yield self._pieces.pop(0)

    def _mark(self) -> Event | None:
        return None if self._new_event is None else self._new_event()

    def wait(self) -> None:
        """Wait for the windows alone."""
        if self._main is not None:
            self._main.synchronize()


def _on(stream: torch.cuda.Stream | None) -> AbstractContextManager[object]:
    return nullcontext() if stream is None else torch.cuda.stream(stream)
