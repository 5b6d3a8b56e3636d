"""Drawing scenes by signed distance in plain torch: any frames, any crop, any size, whole batches at once.

B scenes, T frames, H/W pixels of the picture or crop.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from examples.train_sprites.motion import Pose, place_sprites
from examples.train_sprites.scenes import SLOTS, SceneBatch
from reelray.quality.sprites.shapes import signed_distance
from reelray.quality.sprites.vocabulary import (
    BACKGROUNDS,
    CANVAS_HEIGHT,
    CANVAS_WIDTH,
    COLORS,
    FRAMES_PER_SECOND,
    SHAPES,
)

SOFTNESS = 1.2
HALO_REACH, HALO_DEPTH = 5.0, 0.22
SHADING = 16.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Crop:
    """The same-sized part of every picture that is to be drawn, in pixels of the picture.

    Args:
        top_B: First row of each scene's crop.
        left_B: First column of each scene's crop.
        height: Rows.
        width: Columns.
    """

    top_B: Tensor
    left_B: Tensor
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"the crop is {self.height} x {self.width}; both sides must be positive")


def frame_windows(start_B: Tensor, count: int) -> Tensor:
    """Indices [B, count] of `count` consecutive frames from each start."""
    return start_B[:, None] + torch.arange(count, device=start_B.device)


def draw_batch(
    scenes: SceneBatch,
    frames: Tensor | range,
    *,
    device: torch.device | str = "cpu",
    crop: Crop | None = None,
    size: tuple[int, int] = (CANVAS_HEIGHT, CANVAS_WIDTH),
) -> Tensor:
    """Draw frames of scenes. Scenes sampled on the CPU are drawn on a GPU without waiting for it.

    Args:
        scenes: B scenes, kept on the CPU.
        frames: Frame numbers at 16 a second, for all scenes [T] or for each [B, T]; fractions are allowed.
        device: Where the pixels are made.
        crop: Draw only this part of each picture.
        size: Height and width of the whole picture, of the canvas' proportions.

    Returns:
        Float32 [B, 3, T, H, W] in -1..1.
    """
    frame_BT = torch.as_tensor(list(frames) if isinstance(frames, range) else frames, dtype=torch.float32)
    frame_BT = frame_BT.to("cpu").expand(len(scenes), -1) if frame_BT.dim() == 1 else frame_BT.to("cpu")
    x_BW, y_BH = (axis.to(device) for axis in _pixel_centers(len(scenes), crop, size))
    video = _paint_background(scenes, x_BW, y_BH).unsqueeze(2).repeat(1, 1, frame_BT.shape[1], 1, 1)
    for slot in range(SLOTS):
        pose = place_sprites(scenes, slot, frame_BT / FRAMES_PER_SECOND)
        _paint_slot(video, scenes, slot, pose, (x_BW, y_BH))
    return video.clamp_(0, 255).mul_(2 / 255).sub_(1)


def to_uint8(video: Tensor) -> Tensor:
    """Turn a video in -1..1 [B, 3, T, H, W] into frames [B, T, H, W, 3] uint8."""
    return ((video + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 4, 1).contiguous()


def _pixel_centers(batch: int, crop: Crop | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Canvas coordinates of the pixel columns [B, W] and rows [B, H]."""
    crop = crop or Crop(top_B=torch.zeros(batch), left_B=torch.zeros(batch), height=size[0], width=size[1])
    x = (crop.left_B.cpu()[:, None] + torch.arange(crop.width) + 0.5) * (CANVAS_WIDTH / size[1])
    y = (crop.top_B.cpu()[:, None] + torch.arange(crop.height) + 0.5) * (CANVAS_HEIGHT / size[0])
    return x, y


def _paint_background(scenes: SceneBatch, x_BW: Tensor, y_BH: Tensor) -> Tensor:
    """Gradients [B, 3, H, W] in 0..255, tilted a little, at their ends in the corners."""
    colors = torch.tensor([(b.top, b.bottom) for b in BACKGROUNDS.values()], dtype=torch.float32)
    top, bottom = colors[scenes.background_B].to(x_BW.device)[..., None, None].unbind(1)
    tilt = scenes.tilt_B.to(x_BW.device)[:, None, None]
    across = (x_BW / CANVAS_WIDTH - 0.5)[:, None, :] * torch.sin(tilt)
    down = (y_BH / CANVAS_HEIGHT - 0.5)[:, :, None] * torch.cos(tilt)
    blend = 0.5 + (across + down) / (torch.sin(tilt).abs() + torch.cos(tilt))
    blend = blend[:, None]
    return top + (bottom - top) * blend


def _paint_slot(video: Tensor, scenes: SceneBatch, slot: int, pose: Pose, pixels: tuple[Tensor, Tensor]) -> None:
    """Paint one sprite of each scene over the video, shape by shape; indices are known on the CPU, so no GPU sync."""
    x_BW, y_BH = pixels
    placed = torch.stack([pose.x_BT, pose.y_BT, pose.radius_BT, pose.angle_BT]).to(video.device)
    colors = torch.tensor(list(COLORS.values()), dtype=torch.float32)[scenes.color_BK[:, slot]].to(video.device)
    for number, shape in enumerate(SHAPES):
        chosen = scenes.present_BK[:, slot] & (scenes.shape_BK[:, slot] == number)
        index = chosen.nonzero()[:, 0].to(video.device)
        if not chosen.any():
            continue
        x, y, radius, angle = placed[:, index, :, None, None]
        right = _wrap(x_BW[index][:, None, None, :] - x, CANVAS_WIDTH) / radius
        below = _wrap(y_BH[index][:, None, :, None] - y, CANVAS_HEIGHT) / radius
        cos, sin = torch.cos(angle), torch.sin(angle)
        distance = signed_distance(shape, right * cos + below * sin, below * cos - right * sin) * radius
        video[index] = _blend(video[index], distance, below, colors[index])


def _wrap(offset: Tensor, period: int) -> Tensor:
    return offset - period * torch.round(offset / period)


def _blend(under: Tensor, distance: Tensor, below: Tensor, colors: Tensor) -> Tensor:
    """Lay a sprite, lit from above and with a soft dark halo, over the pixels [n, 3, T, H, W]."""
    halo = 1 - HALO_DEPTH * torch.exp(-distance.clamp(min=0) / HALO_REACH)
    ramp = (0.5 - distance / (2 * SOFTNESS)).clamp(0, 1)
    cover = (ramp * ramp * (3 - 2 * ramp)).unsqueeze(1)
    shade = (-SHADING * below).unsqueeze(1)
    return (under * halo.unsqueeze(1)).lerp((colors[..., None, None, None] + shade).clamp(0, 255), cover)
