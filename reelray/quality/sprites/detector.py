"""Seeing what a clip shows, from its pixels alone, and judging it against what was asked.

T frames, H/W pixels, C = 3 colour channels.
"""

from dataclasses import asdict, dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from reelray.quality.sprites.components import find_pieces
from reelray.quality.sprites.foreground import Layer, fit_backgrounds, name_background, name_color, segment_colors
from reelray.quality.sprites.movement import name_motion
from reelray.quality.sprites.outline import name_shape
from reelray.quality.sprites.scene import Scene, Sprite
from reelray.quality.sprites.track import Track, follow_largest
from reelray.quality.sprites.vocabulary import CANVAS_HEIGHT, CANVAS_WIDTH

SMALLEST_PIECE, SMALLEST_PART = 50.0, 0.12
STEADY_FRAMES, PRESENT_FRAMES = 0.95, 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class SeenSprite:
    """One sprite as detected; None is what could not be named.

    Args:
        color: Key of `COLORS`.
        shape: One of `SHAPES`.
        motion: Key of `MOTIONS`.
    """

    color: str | None
    shape: str | None
    motion: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """A clip as detected.

    Args:
        background: Key of `BACKGROUNDS`; None where none is shown throughout.
        count: Sprites seen in nearly every frame; None where the number of any colour changes.
        sprites: Those seen in at least half the frames, the largest of each colour.
    """

    background: str | None
    count: int | None
    sprites: tuple[SeenSprite, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Which parts of a scene a clip shows rightly; with a wrong count no sprite is right.

    Args:
        background: It is the asked one, throughout.
        count: So many sprites were asked for, and they are there throughout.
        color: Every sprite has its colour.
        shape: Every sprite has its shape.
        motion: Every sprite has its motion.
    """

    background: bool
    count: bool
    color: bool
    shape: bool
    motion: bool

    @property
    def is_all_right(self) -> bool:
        """Whether nothing is wrong."""
        return all(self.to_dict().values())

    def to_dict(self) -> dict[str, bool]:
        """The verdicts by attribute."""
        return asdict(self)


def detect(frames_THWC: NDArray[np.uint8]) -> Sight:
    """Say what a clip shows.

    Args:
        frames_THWC: RGB frames [T, H, W, 3] at 16 a second, of the canvas' proportions; motions need about 3 s.

    Returns:
        Background, number of sprites, and colour, shape and motion of each.

    Raises:
        ValueError: The frames are not such an array.
    """
    _check_frames(frames_THWC)
    planes = fit_backgrounds(frames_THWC)
    layers = segment_colors(frames_THWC, planes)
    count, is_steady = 0, True
    sprites = []
    for layer in layers.values():
        track, number_T = _track_layer(frames_THWC, layer)
        usual = int(np.bincount(number_T).argmax())
        count += usual
        is_steady &= bool((number_T == usual).mean() >= STEADY_FRAMES)
        if track is not None and track.is_present_T.mean() >= PRESENT_FRAMES:
            sprites.append(_name_sprite(track))
    return Sight(background=name_background(planes), count=count if is_steady else None, sprites=tuple(sprites))


def score(frames_THWC: NDArray[np.uint8], expected: Scene) -> Verdict:
    """Judge a clip against the scene its caption asks for.

    Args:
        frames_THWC: As for `detect`.
        expected: Such as `parse_caption` gives.

    Returns:
        What is right. Two sprites are paired so that most is right.
    """
    return judge(detect(frames_THWC), expected)


def judge(sight: Sight, expected: Scene) -> Verdict:
    """Compare what was seen with what was asked."""
    wanted = expected.sprites
    is_background = sight.background == expected.background
    if sight.count != len(wanted) or len(sight.sprites) != len(wanted):
        return Verdict(background=is_background, count=False, color=False, shape=False, motion=False)
    pairings = [_compare(order, wanted) for order in permutations(sight.sprites)]
    color, shape, motion = max(pairings, key=lambda right: (sum(right), right))
    return Verdict(background=is_background, count=True, color=color, shape=shape, motion=motion)


def _compare(seen: tuple[SeenSprite, ...], wanted: tuple[Sprite, ...]) -> tuple[bool, bool, bool]:
    pairs = list(zip(seen, wanted, strict=True))
    return (
        all(a.color == b.color for a, b in pairs),
        all(a.shape == b.shape for a, b in pairs),
        all(a.motion == b.motion for a, b in pairs),
    )


def _track_layer(frames_THWC: NDArray[np.uint8], layer: Layer) -> tuple[Track | None, NDArray[np.intp]]:
    """Track of the largest piece, and the number of pieces worth counting in each frame."""
    pieces = find_pieces(layer.mask_THW)
    frames, height, width = layer.mask_THW.shape
    largest_T = np.zeros(frames, np.intp)
    np.maximum.at(largest_T, pieces.frame_N, pieces.area_N)
    least = SMALLEST_PIECE * (height * width) / (CANVAS_HEIGHT * CANVAS_WIDTH)
    is_counted_N = pieces.area_N >= np.maximum(least, SMALLEST_PART * largest_T[pieces.frame_N])
    number_T = np.bincount(pieces.frame_N[is_counted_N], minlength=frames)
    return follow_largest(frames_THWC, pieces, is_counted_N, layer.cover_T), number_T


def _name_sprite(track: Track) -> SeenSprite:
    shape = name_shape(track)
    return SeenSprite(color=name_color(track.rgb), shape=shape, motion=name_motion(track, shape))


def _check_frames(frames_THWC: NDArray[np.uint8]) -> None:
    shape = frames_THWC.shape
    if frames_THWC.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or not shape[0]:
        raise ValueError(
            f"frames are {frames_THWC.dtype} {shape}; they must be uint8 [T, H, W, 3] with at least one frame"
        )
    if shape[1] * CANVAS_WIDTH != shape[2] * CANVAS_HEIGHT:
        raise ValueError(f"frames are {shape[1]} x {shape[2]}; height must be two thirds of width")
