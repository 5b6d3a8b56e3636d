"""The decoder's network in plain torch: one 2-D convolution after the other, frames as a batch.

Time enters in two places. A memory block sees its own input of the frame before beside that of the frame; where a video
begins it sees zeros. A stage may make several frames of one, by a convolution with as many times the channels.

Shapes: B videos, T frames, F = B·T, C channels, H/W height/width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reelray.workers.models.wan.taehv.config import BLOCKS, COLOURS, RATES, TaehvConfig

LIMIT = 3.0
"""Latents are bent towards this magnitude before anything else."""


class Memory:
    """The last inputs of all memory blocks, in the order in which they are evaluated.

    Args:
        batch: Videos.
        slots: As the call before left them (B, C, 1, H, W); None when the videos begin.
    """

    def __init__(self, batch: int, slots: Sequence[Tensor] | None) -> None:
        self.batch = batch
        self.kept: list[Tensor] = []
        self._slots = slots

    def before(self, x_FCHW: Tensor) -> Tensor:
        """The frame before each frame; keeps the last ones for the next call."""
        x_BTCHW = x_FCHW.view(self.batch, -1, *x_FCHW.shape[1:])
        past_BTCHW = torch.zeros_like(x_BTCHW[:, :1]) if self._slots is None else self._take().transpose(1, 2)
        self.kept.append(x_BTCHW[:, -1:].transpose(1, 2).clone())
        return torch.cat([past_BTCHW, x_BTCHW[:, :-1]], dim=1).flatten(0, 1)

    def _take(self) -> Tensor:
        assert self._slots is not None
        return self._slots[len(self.kept)]


class MemoryBlock(nn.Module):
    """Three 3x3 convolutions of a frame and the one before, added to the frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv(2 * channels, channels)
        self.second = _conv(channels, channels)
        self.third = _conv(channels, channels)

    def forward(self, x_FCHW: Tensor, memory: Memory) -> Tensor:
        """Apply; shape unchanged."""
        inner = F.relu(self.first(torch.cat([x_FCHW, memory.before(x_FCHW)], dim=1)))
        inner = F.relu(self.second(inner))
        return F.relu(self.third(inner) + x_FCHW)


class Stage(nn.Module):
    """Memory blocks, then `rate` frames of one, each twice as high and wide."""

    def __init__(self, channels: int, channels_out: int, rate: int) -> None:
        super().__init__()
        self.rate = rate
        self.blocks = nn.ModuleList([MemoryBlock(channels) for _ in range(BLOCKS)])
        self.grow = nn.Conv2d(channels, rate * channels, 1, bias=False)
        self.narrow = _conv(channels, channels_out, bias=False)

    def forward(self, x_FCHW: Tensor, memory: Memory) -> Tensor:
        """(F, C, H, W) to (F·rate, C_out, 2H, 2W)."""
        for block in self.blocks:
            x_FCHW = block(x_FCHW, memory)
        # A 1x1 convolution may as well come before its pixels are repeated: a quarter of the work, the same numbers.
        frames = self.grow(x_FCHW).unflatten(1, (self.rate, -1)).flatten(0, 1)
        narrowed: Tensor = self.narrow(F.interpolate(frames, scale_factor=2.0, mode="nearest"))
        return narrowed


class Network(nn.Module):
    """Latents to pixels; see `TaehvConfig`."""

    def __init__(self, config: TaehvConfig) -> None:
        super().__init__()
        widths = config.widths
        self.entry = _conv(config.latent_channels, widths[0])
        self.stages = nn.ModuleList(
            [Stage(one, other, rate) for one, other, rate in zip(widths, widths[1:], RATES, strict=False)]
        )
        self.exit = _conv(widths[-1], COLOURS)

    def forward(self, latents_BCTHW: Tensor, slots: Sequence[Tensor] | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Decode; returns pixels around [0, 1] (B, 3, 4T, 8H, 8W), none of them left out, and the new slots."""
        memory = Memory(latents_BCTHW.shape[0], slots)
        x_FCHW = F.relu(self.entry(bend(latents_BCTHW.transpose(1, 2).flatten(0, 1))))
        for stage in self.stages:
            x_FCHW = stage(x_FCHW, memory)
        pixels_FCHW: Tensor = self.exit(F.relu(x_FCHW))
        return pixels_FCHW.view(memory.batch, -1, *pixels_FCHW.shape[1:]).transpose(1, 2), tuple(memory.kept)


def bend(latents: Tensor) -> Tensor:
    """Keep what is beyond `LIMIT` from mattering."""
    return torch.tanh(latents / LIMIT) * LIMIT


def _conv(channels: int, channels_out: int, *, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(channels, channels_out, 3, padding=1, bias=bias)
