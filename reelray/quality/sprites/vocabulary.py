"""The words of the drawn world and what they look like: shared by the drawing and by the detector.

The canvas is 128 x 192 pixels (height x width) at 16 frames a second; lengths and speeds are in canvas pixels.
"""

from dataclasses import dataclass

CANVAS_HEIGHT = 128
CANVAS_WIDTH = 192
FRAMES_PER_SECOND = 16
CLIP_FRAMES = 81

Rgb = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Backdrop:
    """A background: a soft gradient between two colours.

    Args:
        top: RGB at the upper edge, 0-255.
        bottom: RGB at the lower edge, 0-255.
        phrases: What captions call it; the first is its plainest name.
    """

    top: Rgb
    bottom: Rgb
    phrases: tuple[str, ...]


COLORS: dict[str, Rgb] = {
    "red": (220, 30, 50),
    "orange": (246, 126, 20),
    "yellow": (255, 222, 64),
    "green": (52, 190, 84),
    "blue": (40, 92, 232),
    "purple": (150, 64, 220),
    "pink": (255, 138, 190),
    "white": (246, 246, 248),
}

BACKGROUNDS: dict[str, Backdrop] = {
    "blue": Backdrop(top=(58, 110, 170), bottom=(112, 166, 212), phrases=("blue",)),
    "purple": Backdrop(top=(44, 24, 76), bottom=(84, 54, 126), phrases=("purple", "dark purple")),
    "green": Backdrop(top=(18, 66, 56), bottom=(44, 110, 88), phrases=("green", "dark green")),
    "gray": Backdrop(top=(104, 108, 118), bottom=(156, 160, 168), phrases=("gray",)),
    "black": Backdrop(top=(8, 8, 12), bottom=(38, 38, 46), phrases=("black",)),
    "beige": Backdrop(top=(240, 226, 198), bottom=(212, 192, 156), phrases=("beige",)),
}

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")

# Phrases of a motion: finite verb, then participle.
MOTIONS: dict[str, tuple[tuple[str, str], ...]] = {
    "left": (
        ("moves left", "moving left"),
        ("drifts left", "drifting left"),
        ("slides to the left", "sliding to the left"),
    ),
    "right": (
        ("moves right", "moving right"),
        ("drifts right", "drifting right"),
        ("slides to the right", "sliding to the right"),
    ),
    "up": (("moves up", "moving up"), ("drifts up", "drifting up"), ("rises", "rising")),
    "down": (("moves down", "moving down"), ("drifts down", "drifting down"), ("sinks", "sinking")),
    "circle": (
        ("moves in a circle", "moving in a circle"),
        ("circles around", "circling around"),
        ("orbits", "orbiting"),
    ),
    "bounce": (("bounces", "bouncing"), ("bounces up and down", "bouncing up and down"), ("hops", "hopping")),
    "grow": (("grows", "growing"), ("gets bigger", "getting bigger"), ("expands", "expanding")),
    "shrink": (("shrinks", "shrinking"), ("gets smaller", "getting smaller"), ("contracts", "contracting")),
    "spin": (("spins", "spinning"), ("rotates", "rotating"), ("turns in place", "turning in place")),
}

PLACES = ("on {a} background", "in front of {a} background", "against {a} background")

CLASH_DISTANCE = 110.0


def color_distance(a: Rgb, b: Rgb) -> float:
    """Euclidean distance of two RGB triples, 0-441."""
    return float(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5)


def clashes(color: str, background: str) -> bool:
    """Whether an object of this colour would be hard to see, or to name, somewhere on this background.

    Args:
        color: Key of `COLORS`.
        background: Key of `BACKGROUNDS`.
    """
    backdrop = BACKGROUNDS[background]
    steps = [k / 8 for k in range(9)]
    blends = [[a + (b - a) * s for a, b in zip(backdrop.top, backdrop.bottom, strict=True)] for s in steps]
    nearest = min(color_distance(COLORS[color], (round(r), round(g), round(b))) for r, g, b in blends)
    return color == background or nearest < CLASH_DISTANCE


def is_visible(shape: str, motion: str) -> bool:
    """Whether this shape can be seen doing this motion: a circle cannot be seen spinning."""
    return not (shape == "circle" and motion == "spin")
