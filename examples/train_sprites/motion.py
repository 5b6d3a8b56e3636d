"""Where every sprite is at a time: closed forms, so that any window of an endless clip can be drawn on its own."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from examples.train_sprites.scenes import SceneBatch
from reelray.quality.sprites.vocabulary import MOTIONS

GROW_SHARE = 0.9
SMALLEST = 0.42


@dataclass(frozen=True, kw_only=True, slots=True)
class Pose:
    """Placement of one sprite slot; B scenes, T frames; all float [B, T].

    Args:
        x_BT: Centre, canvas pixels from the left edge; the canvas wraps around.
        y_BT: Centre, canvas pixels from the upper edge; the canvas wraps around.
        radius_BT: Canvas pixels.
        angle_BT: Radians, clockwise.
    """

    x_BT: Tensor
    y_BT: Tensor
    radius_BT: Tensor
    angle_BT: Tensor


def place_sprites(scenes: SceneBatch, slot: int, time_s_BT: Tensor) -> Pose:
    """Pose of the sprites in one slot.

    Args:
        scenes: B scenes.
        slot: 0 or 1.
        time_s_BT: Seconds since the start of the endless clip.

    Returns:
        Centre, radius and angle at every time.
    """
    motion_B1 = scenes.motion_BK[:, slot, None]
    names = list(MOTIONS)

    def doing(*motions: str) -> Tensor:
        return sum((motion_B1 == names.index(motion) for motion in motions), torch.zeros_like(motion_B1)).float()

    reach_B1, phase_B1 = scenes.reach_BK[:, slot, None], scenes.phase_BK[:, slot, None]
    travel_BT = scenes.speed_BK[:, slot, None] * time_s_BT
    turn_BT = scenes.rate_BK[:, slot, None] * time_s_BT + phase_B1
    orbit_BT = 2 * math.pi * turn_BT
    hop_BT = turn_BT % 1
    x_BT = scenes.x_BK[:, slot, None] + travel_BT * (doing("right") - doing("left"))
    y_BT = scenes.y_BK[:, slot, None] + travel_BT * (doing("down") - doing("up"))
    x_BT = x_BT + doing("circle") * reach_B1 * torch.cos(orbit_BT)
    y_BT = y_BT + doing("circle") * reach_B1 * torch.sin(orbit_BT)
    y_BT = y_BT - doing("bounce") * reach_B1 * 4 * hop_BT * (1 - hop_BT)
    size_BT = _swell(hop_BT)
    scale_BT = 1 + doing("grow") * (size_BT - 1) + doing("shrink") * (SMALLEST - size_BT)
    return Pose(
        x_BT=x_BT,
        y_BT=y_BT,
        radius_BT=scenes.radius_BK[:, slot, None] * scale_BT,
        angle_BT=doing("spin") * orbit_BT,
    )


def _swell(phase: Tensor) -> Tensor:
    """Steady growth from `SMALLEST` to 1 for most of the period, then a quick smooth return."""
    rising = phase / GROW_SHARE
    falling = 0.5 + 0.5 * torch.cos(math.pi * (phase - GROW_SHARE) / (1 - GROW_SHARE))
    return SMALLEST + (1 - SMALLEST) * torch.where(phase < GROW_SHARE, rising, falling)
