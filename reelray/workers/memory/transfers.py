"""Copies between pages and host memory, beside the work of the device.

Order on a GPU: all copies go through one stream, so one that reuses a place follows the one before. It begins after
the work that the current stream has at that moment; `wait` makes later work of the current stream follow it. Nobody
waits on the host. On a CPU a copy is over when it was asked for.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Transfer:
    """Copies on their way.

    Args:
        event: Happens when they are done; None when they are.
        device: Where it happens.
    """

    event: torch.cuda.Event | None = None
    device: torch.device | None = None

    @property
    def is_done(self) -> bool:
        """Whether they are."""
        return self.event is None or bool(self.event.query())  # type: ignore[no-untyped-call]

    def finish(self) -> None:
        """Wait until they are done."""
        if self.event is not None:
            self.event.synchronize()

    def wait(self) -> None:
        """Let later work of the current stream find what was copied."""
        if self.event is not None:
            torch.cuda.current_stream(self.device).wait_event(self.event)


class Transfers:
    """Begins copies.

    Args:
        device: Where the pages lie.

    Attributes:
        last: What was asked for last; all before it is over when it is.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self.last = Transfer()

    def begin(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> Transfer:
        """Copy, for each pair, the second to the first; one of them lies in host memory that is never given back."""
        if self._stream is None:
            for target, source in pairs:
                target.copy_(source)
            return Transfer()
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for target, source in pairs:
                target.copy_(source, non_blocking=True)
                # Whoever lets the arena go while a copy runs must not give its bytes to others.
                (target if target.is_cuda else source).record_stream(self._stream)
            self.last = Transfer(event=self._stream.record_event(), device=self._device)
        return self.last
