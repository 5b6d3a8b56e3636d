"""Naming the motion of a sprite from its track.

Every rule asks for steady motion: what rests, jumps or turns back for more than a small part of the clip has no name.
T frames; lengths in canvas pixels, speeds in canvas pixels a second.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reelray.quality.sprites.outline import turn_phases
from reelray.quality.sprites.track import Doubles, Track
from reelray.quality.sprites.vocabulary import FRAMES_PER_SECOND

STEP = 4
STEADY, MOSTLY_STEADY = 0.9, 0.8
LARGEST_JUMP = 16.0
SLOWEST_DRIFT = 9.0
STILL_RANGE = 6.5
LARGEST_RESIZE = 0.3
SLOWEST_RESIZE = 0.05
SLOWEST_TURN = 0.8
LEAST_HEIGHT, TURNS_A_SECOND = 9.0, 0.7
LEAST_ORBIT, LEAST_SWEEP_A_SECOND, ROUNDEST = 6.0, 1.0, 0.22


@dataclass(frozen=True, kw_only=True, slots=True)
class _Path:
    x_T: Doubles
    y_T: Doubles
    log_radius_T: Doubles
    seconds: float

    @property
    def is_of_one_size(self) -> bool:
        return _spread(self.log_radius_T) < LARGEST_RESIZE

    @property
    def is_still(self) -> bool:
        return max(_spread(self.x_T), _spread(self.y_T)) < STILL_RANGE


def name_motion(track: Track, shape: str | None) -> str | None:
    """Motion of a sprite.

    Args:
        track: Where it went.
        shape: Its shape, which tells how its turning is to be seen.

    Returns:
        A key of `MOTIONS`; None for what rests, jumps, or does nothing of them steadily.
    """
    frames = len(track.x_T)
    if frames <= 2 * STEP:
        return None
    steps = np.hypot(np.diff(track.x_T), np.diff(track.y_T))
    if (steps > LARGEST_JUMP).any():
        return None
    path = _Path(
        x_T=track.x_T,
        y_T=track.y_T,
        log_radius_T=0.5 * np.log(track.area_T),
        seconds=(frames - 1) / FRAMES_PER_SECOND,
    )
    if path.is_still:
        return _name_in_place(path, track, shape)
    return _name_travel(path) if path.is_of_one_size else None


def _name_in_place(path: _Path, track: Track, shape: str | None) -> str | None:
    growth = _rates(path.log_radius_T)
    for name, sign in (("grow", 1), ("shrink", -1)):
        if np.median(sign * growth) > SLOWEST_RESIZE and (sign * growth > 0.3 * SLOWEST_RESIZE).mean() > MOSTLY_STEADY:
            return name
    if not path.is_of_one_size or shape is None:
        return None
    turning = _rates(turn_phases(track, shape))
    return "spin" if _is_steady(turning, SLOWEST_TURN) or _is_steady(-turning, SLOWEST_TURN) else None


def _name_travel(path: _Path) -> str | None:
    speed_x, speed_y = _rates(path.x_T), _rates(path.y_T)
    width, height = _spread(path.x_T), _spread(path.y_T)
    if height < max(STILL_RANGE, 0.2 * width):
        for name, sign in (("left", -1), ("right", 1)):
            if _is_steady(sign * speed_x, SLOWEST_DRIFT):
                return name
    if width < max(STILL_RANGE, 0.2 * height):
        for name, sign in (("up", -1), ("down", 1)):
            if _is_steady(sign * speed_y, SLOWEST_DRIFT):
                return name
        return "bounce" if _bounces(path, speed_y) else None
    return "circle" if _circles(path) else None


def _rates(value_T: Doubles) -> Doubles:
    """Change a second over a few frames."""
    return np.asarray((value_T[STEP:] - value_T[:-STEP]) * (FRAMES_PER_SECOND / STEP))


def _is_steady(rate: Doubles, slowest: float) -> bool:
    """Whether the rate is high enough on the whole and hardly ever far below its usual."""
    usual = float(np.median(rate))
    return usual > slowest and float((rate > 0.3 * usual).mean()) >= STEADY


def _spread(value_T: Doubles) -> float:
    low, high = np.percentile(value_T, [4, 96])
    return float(high - low)


def _bounces(path: _Path, speed_y: Doubles) -> bool:
    """Whether it goes up and down again and again, all through the clip."""
    height = _spread(path.y_T)
    turns = _find_turns(path.y_T, 0.35 * height)
    longest_rest = float(np.diff(np.r_[0, turns, len(path.y_T) - 1]).max()) / FRAMES_PER_SECOND
    moves = float((np.abs(speed_y) > 0.3 * np.median(np.abs(speed_y))).mean())
    often = len(turns) >= max(2.0, TURNS_A_SECOND * path.seconds)
    return height > LEAST_HEIGHT and often and longest_rest < 2 / TURNS_A_SECOND and moves > 0.7


def _find_turns(value_T: Doubles, least: float) -> NDArray[np.intp]:
    """Frames where the value turns back by at least `least`."""
    turns: list[int] = []
    extreme, direction = 0, 0
    for t in range(1, len(value_T)):
        ahead = (value_T[t] - value_T[extreme]) * (direction or 1)
        if direction == 0:
            if abs(ahead) > least:
                extreme, direction = t, int(np.sign(ahead))
        elif ahead >= 0:
            extreme = t
        elif -ahead > least:
            turns.append(extreme)
            extreme, direction = t, -direction
    return np.array(turns, np.intp)


def _circles(path: _Path) -> bool:
    """Whether it stays on a circle and goes around it steadily."""
    basis = np.stack([path.x_T, path.y_T, np.ones_like(path.x_T)], 1)
    solution = np.linalg.lstsq(basis, path.x_T**2 + path.y_T**2, rcond=None)[0]
    right, below = path.x_T - solution[0] / 2, path.y_T - solution[1] / 2
    radius = np.hypot(right, below)
    sweep = np.unwrap(np.arctan2(below, right))
    is_round = float(radius.std()) < ROUNDEST * float(radius.mean()) and float(radius.mean()) > LEAST_ORBIT
    around = _rates(sweep) * np.sign(sweep[-1] - sweep[0])
    return is_round and abs(sweep[-1] - sweep[0]) > LEAST_SWEEP_A_SECOND * path.seconds and _is_steady(around, 0.8)
