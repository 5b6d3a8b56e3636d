"""One sprite through time: where it is, how large, and which of its pixels are set.

T frames, P pixels; places and areas in canvas pixels, whatever the size of the clip; single pixels in its own.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reelray.quality.sprites.components import Pieces
from reelray.quality.sprites.vocabulary import CANVAS_HEIGHT, CANVAS_WIDTH

Doubles = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Track:
    """The largest piece of one colour in each frame.

    Args:
        rgb: Mean colour of its inner pixels, 0-255.
        is_present_T: Whether the frame shows it.
        x_T: Centre, followed across the canvas' edges; interpolated where absent.
        y_T: The same, downwards.
        area_T: Canvas pixels and parts of them, of all that has its colour; interpolated where absent.
        frame_P: Frame of each of its pixels, ascending.
        dx_P: Pixel minus centre, to the right, in pixels of the clip.
        dy_P: Pixel minus centre, downwards.
    """

    rgb: NDArray[np.float32]
    is_present_T: NDArray[np.bool_]
    x_T: Doubles
    y_T: Doubles
    area_T: Doubles
    frame_P: NDArray[np.intp]
    dx_P: Doubles
    dy_P: Doubles


def follow_largest(
    frames_THWC: NDArray[np.uint8], pieces: Pieces, is_counted_N: NDArray[np.bool_], cover_T: Doubles
) -> Track | None:
    """Follow the largest counted piece of every frame.

    Args:
        frames_THWC: The clip.
        pieces: Of one colour.
        is_counted_N: Which pieces are large enough.
        cover_T: Area of the colour in each frame, pixels of the clip and parts of them.

    Returns:
        The track; None if no frame has such a piece.
    """
    frames, height, width = frames_THWC.shape[:3]
    largest_T = np.full(frames, -1)
    order = np.argsort(pieces.area_N, kind="stable")
    order = order[is_counted_N[order]]
    largest_T[pieces.frame_N[order]] = order
    is_present_T = largest_T >= 0
    if not is_present_T.any():
        return None
    chosen = pieces.piece_P == largest_T[pieces.frame_P]
    t, row, column = pieces.frame_P[chosen], pieces.row_P[chosen], pieces.column_P[chosen]
    scale = CANVAS_WIDTH / width
    count_T = np.maximum(np.bincount(t, minlength=frames), 1)
    x_T, dx_P = _center(column + 0.5, t, count_T, width)
    y_T, dy_P = _center(row + 0.5, t, count_T, height)
    inner = np.hypot(dx_P, dy_P) < 0.5 * np.sqrt(count_T / math.pi)[t]
    inner = inner if inner.any() else np.ones_like(inner)
    return Track(
        rgb=frames_THWC[t[inner], row[inner], column[inner]].mean(0, dtype=np.float64).astype(np.float32),
        is_present_T=is_present_T,
        x_T=_follow(x_T * scale, is_present_T, CANVAS_WIDTH),
        y_T=_follow(y_T * scale, is_present_T, CANVAS_HEIGHT),
        area_T=_fill(cover_T * scale**2, is_present_T),
        frame_P=t,
        dx_P=dx_P,
        dy_P=dy_P,
    )


def _center(place_P: Doubles, t: NDArray[np.intp], count_T: NDArray[np.intp], period: int) -> tuple[Doubles, Doubles]:
    """Centre of the pixels of each frame on a ring, and the pixels' offsets from it."""
    turn = 2 * math.pi / period
    frames = len(count_T)
    sine, cosine = (np.bincount(t, part(place_P * turn), minlength=frames) for part in (np.sin, np.cos))
    around_T = np.arctan2(sine, cosine) / turn
    offset_P = _wrap(place_P - around_T[t], period)
    shift_T = np.bincount(t, offset_P, minlength=frames) / count_T
    return around_T + shift_T, offset_P - shift_T[t]


def _wrap(offset: Doubles, period: int) -> Doubles:
    return np.asarray(offset - period * np.round(offset / period))


def _follow(place_T: Doubles, is_present_T: NDArray[np.bool_], period: int) -> Doubles:
    seen = place_T[is_present_T]
    path = np.r_[seen[0] % period, seen[0] % period + np.cumsum(_wrap(np.diff(seen), period))]
    full = np.zeros_like(place_T)
    full[is_present_T] = path
    return _fill(full, is_present_T)


def _fill(value_T: Doubles, is_present_T: NDArray[np.bool_]) -> Doubles:
    known = np.flatnonzero(is_present_T)
    return np.interp(np.arange(len(value_T)), known, value_T[known])
