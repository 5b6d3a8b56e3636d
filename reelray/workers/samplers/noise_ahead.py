"""Noise that is there when a device asks for it.

A draw for three latent frames of 832 x 480 takes a CPU two milliseconds, and to put its frames together as much as
twelve while the threads of a machine with many cores wake up. A device that is given a denoise step every 18 ms would
wait for it each time. Shape suffixes: C channels, T latent frames, H/W latent height/width.
"""

from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from reelray.workers.samplers.noise import draw_noise, fill_noise

AHEAD = 32
"""Draws that may wait for somebody to ask; those expected longest ago go first, whose requests have ended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """Which noise; see `draw_noise`.

    Args:
        seed: Seed of the request.
        chunk: Index of the chunk.
        step: Denoise step, or `INITIAL_STEP`.
        shape_CTHW: Of the chunk's latents.
    """

    seed: int
    chunk: int
    step: int
    shape_CTHW: tuple[int, int, int, int]


class NoiseSource:
    """Draws noise when it is asked for.

    Args:
        device: Where the noise is wanted.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def take(self, draw: Draw) -> Tensor:
        """The noise [1, C, T, H, W], float32, on the device."""
        channels, latent_frames, height, width = draw.shape_CTHW
        noise_1CTHW = draw_noise(
            seed=draw.seed, chunk=draw.chunk, step=draw.step,
            channels=channels, latent_frames=latent_frames, height=height, width=width,
        )  # fmt: skip
        return noise_1CTHW.to(self._device)

    def expect(self, draw: Draw) -> None:
        """Be told what will probably be asked for next."""


class NoiseAhead(NoiseSource):
    """Draws what is expected in a thread of its own, into page-locked memory; the numbers are the same.

    Args:
        device: A GPU.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="reelray-noise")
        self._drawn: OrderedDict[Draw, Future[Tensor]] = OrderedDict()

    def take(self, draw: Draw) -> Tensor:
        """See `NoiseSource.take`; waits for nothing if it was expected early enough."""
        drawn = self._drawn.pop(draw, None)
        if drawn is None:
            return super().take(draw)
        frames_TCHW = drawn.result().to(self._device, non_blocking=True)
        return frames_TCHW.transpose(0, 1).unsqueeze(0).contiguous()

    def expect(self, draw: Draw) -> None:
        """See `NoiseSource.expect`."""
        if draw in self._drawn:
            return
        self._drawn[draw] = self._worker.submit(_draw, draw, locks=self._device.type == "cuda")
        if len(self._drawn) > AHEAD:
            self._drawn.popitem(last=False)[1].cancel()


def open_noise(device: torch.device) -> NoiseSource:
    """Ahead of a GPU; a CPU has no time to draw while it computes."""
    return NoiseAhead(device) if device.type == "cuda" else NoiseSource(device)


def _draw(draw: Draw, *, locks: bool) -> Tensor:
    channels, latent_frames, height, width = draw.shape_CTHW
    frames_TCHW = torch.empty(latent_frames, channels, height, width, pin_memory=locks)
    fill_noise(frames_TCHW, seed=draw.seed, chunk=draw.chunk, step=draw.step)
    return frames_TCHW
