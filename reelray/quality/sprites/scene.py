"""What a clip shows, in words: the common tongue of captions, drawings and detections."""

from collections.abc import Collection
from dataclasses import dataclass

from reelray.quality.sprites.vocabulary import BACKGROUNDS, COLORS, MOTIONS, SHAPES


@dataclass(frozen=True, kw_only=True, slots=True)
class Sprite:
    """One moving object.

    Args:
        color: Key of `COLORS`.
        shape: One of `SHAPES`.
        motion: Key of `MOTIONS`.
    """

    color: str
    shape: str
    motion: str

    def __post_init__(self) -> None:
        _require("color", self.color, COLORS)
        _require("shape", self.shape, SHAPES)
        _require("motion", self.motion, MOTIONS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """One or two sprites in front of a background.

    Args:
        background: Key of `BACKGROUNDS`.
        sprites: One or two of them; two differ in colour and in shape.
    """

    background: str
    sprites: tuple[Sprite, ...]

    def __post_init__(self) -> None:
        _require("background", self.background, BACKGROUNDS)
        if len(self.sprites) not in {1, 2}:
            raise ValueError(f"the scene holds {len(self.sprites)} sprites; it must hold 1 or 2")


def _require(what: str, value: str, allowed: Collection[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{what} is {value!r}; it must be one of {', '.join(allowed)}")
