"""What of a clip is background, and what stands in front of it, pixel by pixel.

T frames, H/W pixels, C = 3 colour channels; colours in 0..255.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from reelray.quality.sprites.vocabulary import BACKGROUNDS, COLORS

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

STRIDE = 4
FIT_ROUNDS, FIT_SCALE = 5, 15.0
DARKEST_HALO = 0.72
STANDS_OUT = 36.0
BACKGROUND_REACH, COLOR_REACH = 48.0, 62.0
AGREEING_FRAMES = 0.9
FOREIGN_RESIDUAL = 70.0
CORE_PIXELS, CORE_FRAMES = 24, 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """All that has one colour.

    Args:
        mask_THW: Pixels that the colour covers by more than half.
        cover_T: Pixels covered in each frame, partly covered ones in part: an area finer than the grid.
    """

    mask_THW: Bools
    cover_T: NDArray[np.float64]


def fit_backgrounds(frames_THWC: NDArray[np.uint8]) -> Floats:
    """Fit a plane to each channel of each frame that sprites do not pull away.

    Returns:
        Coefficients [T, 3, C] of 1, x and y, where x and y run from -0.5 to 0.5.
    """
    sparse = frames_THWC[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE].astype(np.float32)
    frames, height, width = sparse.shape[:3]
    x, y = _centred_axis(width, frames_THWC.shape[2]), _centred_axis(height, frames_THWC.shape[1])
    basis = np.stack(np.broadcast_arrays(np.float32(1), x[None, :], y[:, None]), -1).reshape(-1, 3)
    pixels = sparse.reshape(frames, -1, 3)
    weight = np.ones(pixels.shape[:2], np.float32)
    for _ in range(FIT_ROUNDS):
        weighted = weight[:, :, None] * basis
        planes = np.linalg.solve(np.einsum("tpi,pj->tij", weighted, basis), weighted.transpose(0, 2, 1) @ pixels)
        off = np.square(pixels - basis @ planes).sum(-1)
        weight = 1 / np.square(1 + off / FIT_SCALE**2)
    return planes.astype(np.float32)


def name_background(planes: Floats) -> str | None:
    """Name of the background that nine frames in ten show; None if there is no such one."""
    ends = np.stack([planes[:, 0] - planes[:, 2] / 2, planes[:, 0] + planes[:, 2] / 2], 1)
    known = np.array([(b.top, b.bottom) for b in BACKGROUNDS.values()], np.float32)
    distance = np.linalg.norm(ends[:, None] - known, axis=-1).mean(-1)
    nearest = np.where(distance.min(1) < BACKGROUND_REACH, distance.argmin(1), len(known))
    counts = np.bincount(nearest, minlength=len(known) + 1)[:-1]
    return list(BACKGROUNDS)[int(counts.argmax())] if counts.max() >= AGREEING_FRAMES * len(planes) else None


def segment_colors(frames_THWC: NDArray[np.uint8], planes: Floats) -> dict[str | None, Layer]:
    """Split what stands out from the background by the colours that occur in it.

    Args:
        frames_THWC: The clip.
        planes: From `fit_backgrounds`.

    Returns:
        A layer for each colour found, and under None what has none of the known colours.
    """
    height, width = frames_THWC.shape[1:3]
    x, y = _centred_axis(width, width), _centred_axis(height, height)
    standing = _find_foreground(frames_THWC, planes, x, y)
    t, row, column = np.nonzero(standing)
    pixel = frames_THWC[t, row, column].astype(np.float32)
    under = planes[t, 0] + planes[t, 1] * x[column, None] + planes[t, 2] * y[row, None]
    names = _find_colors(frames_THWC, standing)
    cover, residual = _unmix(pixel, under, np.array([COLORS[name] for name in names], np.float32).reshape(-1, 3))
    best = residual.argmin(0)
    is_foreign = residual.min(0) > FOREIGN_RESIDUAL
    covered = np.take_along_axis(cover, best[None], 0)[0]
    layers: dict[str | None, Layer] = {}
    for number, name in [*enumerate(names), (-1, None)]:
        part = is_foreign.astype(np.float32) if name is None else covered * ((best == number) & ~is_foreign)
        chosen = part > 0.5
        mask = np.zeros_like(standing)
        mask[t[chosen], row[chosen], column[chosen]] = True
        cover_T = np.bincount(t, part, minlength=len(standing)).astype(np.float64)
        layers[name] = Layer(mask_THW=mask, cover_T=cover_T)
    return layers


def name_color(rgb: Floats) -> str | None:
    """Nearest known colour of an RGB triple; None if all are far."""
    distance = np.linalg.norm(np.array(list(COLORS.values()), np.float32) - rgb, axis=-1)
    return list(COLORS)[int(distance.argmin())] if distance.min() < COLOR_REACH else None


def erode(mask: Bools) -> Bools:
    """Take one pixel off every edge of the masks [T, H, W]; the picture's border is no edge."""
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    rows = padded[:, :-2] & padded[:, 1:-1] & padded[:, 2:]
    return np.asarray(rows[:, :, :-2] & rows[:, :, 1:-1] & rows[:, :, 2:])


def _centred_axis(count: int, pixels: int) -> Floats:
    step = pixels // count
    return ((np.arange(count, dtype=np.float32) * step + (step // 2 if step > 1 else 0) + 0.5) / pixels - 0.5).astype(
        np.float32
    )


def _find_foreground(frames_THWC: NDArray[np.uint8], planes: Floats, x: Floats, y: Floats) -> Bools:
    """Pixels that are neither the background nor the background in a sprite's soft shadow."""
    standing = np.empty(frames_THWC.shape[:3], np.bool_)
    for t, (frame, (offset, slope_x, slope_y)) in enumerate(zip(frames_THWC, planes, strict=True)):
        under = offset[:, None, None] + slope_x[:, None, None] * x[None, :] + slope_y[:, None, None] * y[:, None]
        pixel = frame.transpose(2, 0, 1).astype(np.float32)
        shade = (pixel * under).sum(0) / np.maximum((under * under).sum(0), 1)
        off = pixel - np.clip(shade, DARKEST_HALO, 1) * under
        standing[t] = (off * off).sum(0) > STANDS_OUT**2
    return standing


def _find_colors(frames_THWC: NDArray[np.uint8], standing: Bools) -> list[str]:
    """Colours that fill the inside of something in a fair share of the frames."""
    t, row, column = np.nonzero(erode(erode(standing)))
    r, g, b = (frames_THWC[t, row, column] >> 3).T
    number = _color_table()[r, g, b]
    counts = np.bincount(t * (len(COLORS) + 1) + number, minlength=len(standing) * (len(COLORS) + 1))
    share = (counts.reshape(len(standing), -1)[:, :-1] >= CORE_PIXELS).mean(0)
    return [name for name, frames in zip(COLORS, share, strict=True) if frames >= CORE_FRAMES]


def _unmix(pixel: Floats, under: Floats, colors: Floats) -> tuple[Floats, Floats]:
    """How much of each colour [K] covers each pixel [P], and how far the pixel is from such a mixture."""
    if not len(colors):
        return np.zeros((1, len(pixel)), np.float32), np.full((1, len(pixel)), np.inf, np.float32)
    toward = colors[:, None] - under
    cover = ((pixel - under) * toward).sum(-1) / np.maximum(np.square(toward).sum(-1), 1)
    cover = np.clip(cover, 0, 1)
    return cover, np.linalg.norm(pixel - under - cover[..., None] * toward, axis=-1)


@cache
def _color_table() -> NDArray[np.intp]:
    """Number of the nearest colour for RGB in steps of eight levels; one past the last where all are far."""
    level = np.arange(32, dtype=np.float32) * 8 + 4
    grid = np.stack(np.meshgrid(level, level, level, indexing="ij"), -1)
    distance = np.linalg.norm(grid[..., None, :] - np.array(list(COLORS.values()), np.float32), axis=-1)
    return np.where(distance.min(-1) < COLOR_REACH, distance.argmin(-1), len(COLORS))
