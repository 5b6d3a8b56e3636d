"""Clips made worse on purpose: distortions that a detector must see through, and faults that it must not forgive.

B scenes, T frames; video is float [B, 3, T, H, W] in -1..1.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from examples.train_sprites.draw import draw_batch
from examples.train_sprites.scenes import SceneBatch
from reelray.quality.sprites.vocabulary import BACKGROUNDS, COLORS, SHAPES

LEVEL = 2 / 255
Distortion = Callable[[Tensor, torch.Generator], Tensor]
Fault = Callable[[Tensor, SceneBatch], Tensor]


def add_noise(video: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian noise with a deviation of 8 levels."""
    return video + torch.randn(video.shape, generator=generator) * 8 * LEVEL


def blur(video: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG001  all distortions take the generator
    """Gaussian blur with a deviation of 1.5 pixels."""
    axis = torch.arange(-5, 6, dtype=torch.float32)
    kernel = torch.exp(-(axis**2) / (2 * 1.5**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    frames = F.pad(video.transpose(1, 2).flatten(0, 1), (5, 5, 5, 5), mode="replicate")
    frames = F.conv2d(F.conv2d(frames, kernel, groups=3), kernel.transpose(2, 3), groups=3)
    return _join_frames(frames, video)


def cast_color(video: Tensor, generator: torch.Generator) -> Tensor:
    """Every clip brighter or darker by up to 6 % and each channel off by up to 8 levels."""
    gain = 1 + (torch.rand(len(video), 1, 1, 1, 1, generator=generator) - 0.5) * 0.12
    offset = (torch.rand(len(video), 3, 1, 1, 1, generator=generator) - 0.5) * 16 * LEVEL
    return (video + 1) * gain - 1 + offset


def coarsen(video: Tensor, generator: torch.Generator) -> Tensor:
    """What a weak autoencoder does: half the detail, blotches of 8 pixels and 4 levels, some noise."""
    frames = video.transpose(1, 2).flatten(0, 1)
    size = frames.shape[-2:]
    coarse = F.interpolate(F.avg_pool2d(frames, 2), size=size, mode="bilinear")
    blotches = torch.randn(len(frames), 3, size[0] // 8, size[1] // 8, generator=generator) * 4 * LEVEL
    coarse = coarse + F.interpolate(blotches, size=size, mode="bilinear")
    coarse = coarse + torch.randn(frames.shape, generator=generator) * 3 * LEVEL
    return _join_frames(coarse, video)


def freeze(video: Tensor, scenes: SceneBatch) -> Tensor:  # noqa: ARG001  all faults take the scenes
    """Nothing moves in the last third."""
    kept = _count_kept(video)
    return torch.cat([video[:, :, :kept], video[:, :, kept : kept + 1].expand_as(video[:, :, kept:])], 2)


def vanish(video: Tensor, scenes: SceneBatch) -> Tensor:
    """All sprites are gone in the last third."""
    empty = draw_batch(replace(scenes, present_BK=torch.zeros_like(scenes.present_BK)), range(1))
    kept = _count_kept(video)
    return torch.cat([video[:, :, :kept], empty.expand_as(video[:, :, kept:])], 2)


def reverse(video: Tensor, scenes: SceneBatch) -> Tensor:  # noqa: ARG001  all faults take the scenes
    """Time runs backwards."""
    return video.flip(2)


def recolor(video: Tensor, scenes: SceneBatch) -> Tensor:
    """Every sprite takes another colour in the last third."""
    return _redraw_end(video, replace(scenes, color_BK=(scenes.color_BK + 1) % len(COLORS)))


def reshape(video: Tensor, scenes: SceneBatch) -> Tensor:
    """Every sprite takes another shape in the last third."""
    return _redraw_end(video, replace(scenes, shape_BK=(scenes.shape_BK + 1) % len(SHAPES)))


def change_background(video: Tensor, scenes: SceneBatch) -> Tensor:
    """The background changes in the last third."""
    return _redraw_end(video, replace(scenes, background_B=(scenes.background_B + 1) % len(BACKGROUNDS)))


def _redraw_end(video: Tensor, scenes: SceneBatch) -> Tensor:
    kept = _count_kept(video)
    return torch.cat([video[:, :, :kept], draw_batch(scenes, range(kept, video.shape[2]))], 2)


def _count_kept(video: Tensor) -> int:
    return video.shape[2] * 2 // 3


def _join_frames(frames: Tensor, like: Tensor) -> Tensor:
    """Frames [B T, 3, H, W] as a video of the form of `like`."""
    batch, channels, count, height, width = like.shape
    return frames.reshape(batch, count, channels, height, width).transpose(1, 2)


DISTORTIONS: dict[str, Distortion] = {"noise": add_noise, "blur": blur, "color_cast": cast_color, "coarse": coarsen}

# The attribute that each fault must turn wrong.
FAULTS: dict[str, tuple[Fault, str]] = {
    "freeze": (freeze, "motion"),
    "vanish": (vanish, "count"),
    "reverse": (reverse, "motion"),
    "recolor": (recolor, "color"),
    "reshape": (reshape, "shape"),
    "change_background": (change_background, "background"),
}
