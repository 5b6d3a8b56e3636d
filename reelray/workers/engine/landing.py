"""Latents that are kept on the host, brought there without waiting for the device."""

from collections.abc import MutableSequence
from dataclasses import replace

import torch
from torch import Tensor

from reelray.workers.engine.run_ahead import Event, find_events
from reelray.workers.engine.stream_memory import Committed


class Landing:
    """Brings the input of a forward home while the device goes on; the next one finds it in ordinary memory.

    Page-locked memory is what a device can write to by itself. What a long video keeps need not lie there for ever.
    """

    def __init__(self) -> None:
        self._last: Tensor | None = None  # as it was brought; it may still be on its way
        self._there: Event | None = None

    def bring(self, latents_1CTHW: Tensor, history: MutableSequence[Committed]) -> Tensor:
        """A copy on the CPU, complete once the device has done what it was told so far.

        Args:
            latents_1CTHW: What is kept.
            history: What was kept before; its last entry is moved to ordinary memory.
        """
        new_event = find_events(latents_1CTHW.device)
        if new_event is None:
            return latents_1CTHW.cpu()
        if self._last is not None and self._there is not None and history:
            self._there.synchronize()
            if history[-1].latents_1CTHW is self._last:
                history[-1] = replace(history[-1], latents_1CTHW=self._last.clone())
        self._last = torch.empty(latents_1CTHW.shape, dtype=latents_1CTHW.dtype, pin_memory=True)
        self._last.copy_(latents_1CTHW, non_blocking=True)
        self._there = new_event()
        self._there.record()
        return self._last
