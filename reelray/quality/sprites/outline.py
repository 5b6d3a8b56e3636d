"""Telling shapes apart: the sprite's pixels against each outline, turned and sized as the pixels ask for."""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from reelray.quality.sprites.shapes import signed_distance
from reelray.quality.sprites.track import Doubles, Track
from reelray.quality.sprites.vocabulary import SHAPES

# Order of the moment whose phase tells how far a shape is turned; the circle has none.
SYMMETRY = {"square": 4, "triangle": 3, "star": 5, "cross": 4, "heart": 3}
# A heart looks the same only after a full turn, but its third moment is by far the clearest: three angles remain.
ANGLES_LEFT = {"heart": 3}
JUDGED_FRAMES, CLEAR_AREA = 14, 220.0
LEAST_OVERLAP, AGREEING_FRAMES = 0.72, 0.75


@dataclass(frozen=True, kw_only=True, slots=True)
class _Template:
    area: float
    center_y: float
    phase: float


def name_shape(track: Track) -> str | None:
    """Shape of a sprite: the outline that overlaps most in most frames.

    Returns:
        One of `SHAPES`; None where no outline fits well, or where the shape changes.
    """
    sizes = np.where(track.is_present_T, track.area_T, 0)
    clear = np.flatnonzero(sizes >= min(CLEAR_AREA, float(np.median(sizes[track.is_present_T]))))
    judged = clear[np.unique(np.linspace(0, len(clear) - 1, JUDGED_FRAMES).round().astype(int))]
    overlaps = np.array([_overlaps(track, int(t)) for t in judged])
    best = int(np.median(overlaps, axis=0).argmax())
    agreeing = (overlaps.argmax(1) == best).mean()
    fits = float(np.median(overlaps[:, best])) >= LEAST_OVERLAP
    return SHAPES[best] if fits and agreeing >= AGREEING_FRAMES else None


def turn_phases(track: Track, shape: str) -> Doubles:
    """Angle of the sprite in every frame [T], radians clockwise, followed through full turns; zeros for a circle."""
    frames = len(track.x_T)
    if shape not in SYMMETRY:
        return np.zeros(frames)
    moment = (track.dx_P + 1j * track.dy_P) ** SYMMETRY[shape]
    real, imaginary = (np.bincount(track.frame_P, part, minlength=frames) for part in (moment.real, moment.imag))
    phase = np.arctan2(imaginary, real)
    known = np.flatnonzero(track.is_present_T)
    return np.asarray(np.interp(np.arange(frames), known, np.unwrap(phase[known])) / SYMMETRY[shape])


def _overlaps(track: Track, frame: int) -> list[float]:
    """Intersection over union of the sprite in one frame with each shape."""
    first, last = np.searchsorted(track.frame_P, [frame, frame + 1])
    dx, dy = track.dx_P[first:last], track.dy_P[first:last]
    reach = int(np.ceil(max(np.abs(dx).max(), np.abs(dy).max()) + 2))
    # Back to the grid of whole pixels around the pixel nearest the centre.
    column, row = np.round(dx - dx[0]).astype(int), np.round(dy - dy[0]).astype(int)
    base_x, base_y = int(np.round(dx[0])), int(np.round(dy[0]))
    offset_x, offset_y = dx[0] - base_x, dy[0] - base_y
    window = np.zeros((2 * reach + 1, 2 * reach + 1), np.bool_)
    window[np.clip(row + base_y + reach, 0, 2 * reach), np.clip(column + base_x + reach, 0, 2 * reach)] = True
    axis = torch.arange(-reach, reach + 1, dtype=torch.float32)
    x, y = (axis + offset_x)[None, :], (axis + offset_y)[:, None]
    return [_overlap(window, x, y, dx + 1j * dy, shape) for shape in SHAPES]


def _overlap(
    window: NDArray[np.bool_], x: torch.Tensor, y: torch.Tensor, z: NDArray[np.complex128], shape: str
) -> float:
    """Intersection over union with one shape, at the best of the angles that its moment leaves."""
    template = _template(shape)
    radius = math.sqrt(len(z) / template.area)
    angle = 0.0
    if shape in SYMMETRY:
        angle = (float(np.angle((z ** SYMMETRY[shape]).sum())) - template.phase) / SYMMETRY[shape]
    angles = [angle + 2 * math.pi * turn / SYMMETRY.get(shape, 1) for turn in range(ANGLES_LEFT.get(shape, 1))]
    best = 0.0
    for turned in angles:
        cos, sin = math.cos(turned), math.sin(turned)
        across, down = (x * cos + y * sin) / radius, (y * cos - x * sin) / radius + template.center_y
        drawn = (signed_distance(shape, across, down) < 0).numpy()
        best = max(best, float((drawn & window).sum() / (drawn | window).sum()))
    return best


@cache
def _template(shape: str) -> _Template:
    """Area, centroid and phase of the upright outline of radius 1."""
    axis = torch.linspace(-1.5, 1.5, 301)
    inside = (signed_distance(shape, axis[None, :], axis[:, None]) < 0).numpy()
    row, column = np.nonzero(inside)
    x, y = axis.numpy()[column].astype(float), axis.numpy()[row].astype(float)
    phase = 0.0
    if shape in SYMMETRY:
        phase = float(np.angle((((x - x.mean()) + 1j * (y - y.mean())) ** SYMMETRY[shape]).sum()))
    return _Template(area=float(inside.sum()) * 0.01**2, center_y=float(y.mean()), phase=phase)
