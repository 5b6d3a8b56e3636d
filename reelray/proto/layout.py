"""How the ranks of one gang share their videos: the degree of every mesh axis."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from reelray.proto.errors import InputError, UnsupportedError

AXES = ("replica", "cfg", "pipe", "ring", "ulysses")


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Degrees of the mesh axes, slowest first; ranks are numbered row by row.

    Args:
        replica: Lanes that run different requests at the same time.
        cfg: Guidance branches evaluated side by side, 1 or 2.
        pipe: Ranks that split the layers.
        ring: Ranks that pass keys and values around.
        ulysses: Ranks that exchange tokens for heads.

    Raises:
        InputError: A degree is below 1, or `cfg` is above 2.
    """

    replica: int = 1
    cfg: int = 1
    pipe: int = 1
    ring: int = 1
    ulysses: int = 1

    def __post_init__(self) -> None:
        for axis in AXES:
            if getattr(self, axis) < 1:
                raise InputError(f"{axis}={getattr(self, axis)} is no degree; it must be at least 1")
        if self.cfg > 2:
            raise InputError(f"cfg={self.cfg} is too many; guidance has two branches, so cfg is 1 or 2")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` writes, such as ``cfg=2,ulysses=2``; axes left out have degree 1.

        Raises:
            InputError: The text is no layout.
        """
        degrees: dict[str, int] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            axis, _, degree = part.partition("=")
            if axis not in AXES:
                raise InputError(f"layout axis {axis!r} is unknown; allowed are {', '.join(AXES)}")
            if axis in degrees:
                raise InputError(f"layout names {axis} twice")
            if not degree.isdecimal():
                raise InputError(f"layout part {part!r} is wrong; write AXIS=DEGREE, as ulysses=2")
            degrees[axis] = int(degree)
        return cls(**degrees)

    @property
    def ranks(self) -> int:
        """Ranks in the mesh."""
        return self.replica * self.lane

    @property
    def lane(self) -> int:
        """Ranks that work on one video."""
        return self.cfg * self.pipe * self.sequence

    @property
    def sequence(self) -> int:
        """Ranks that share the tokens of one forward."""
        return self.ring * self.ulysses

    def __str__(self) -> str:
        parts = [f"{axis}={getattr(self, axis)}" for axis in AXES if getattr(self, axis) > 1]
        return ",".join(parts) or "ulysses=1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A lane of a layout: where a request lies.

    Args:
        layout: The layout.
        lane: Index on its replica axis.

    Raises:
        ValueError: The layout has no such lane.
    """

    layout: Layout
    lane: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.lane < self.layout.replica:
            raise ValueError(f"lane is {self.lane}; layout {self.layout} has lanes 0 to {self.layout.replica - 1}")

    @property
    def ranks(self) -> range:
        """Ranks of the gang that work here; they are numbered lane by lane."""
        return range(self.lane * self.layout.lane, (self.lane + 1) * self.layout.lane)

    def __str__(self) -> str:
        return f"lane {self.lane} of {self.layout}"


def check_regroup(layouts: Sequence[Layout]) -> None:
    """Refuse layouts between which one gang cannot be switched.

    Raises:
        InputError: One is given twice, or they have different numbers of ranks.
        UnsupportedError: One splits the layers.
    """
    first, *others = layouts
    if len(set(layouts)) < len(layouts):
        raise InputError(f"layouts {'; '.join(map(str, layouts))} name one twice")
    for layout in others:
        if layout.ranks != first.ranks:
            raise InputError(
                f"layout {layout} has {layout.ranks} ranks, {first} has {first.ranks}; use idle ones as replicas"
            )
    for layout in layouts if others else ():
        if layout.pipe > 1:
            raise UnsupportedError(
                f"layout {layout} splits the layers, and a rank drops those that are not its own; "
                "a gang that is regrouped needs pipe=1 in every layout"
            )


def check_remembering_layout(layout: Layout) -> None:
    """Refuse a layout that is not for chunks which attend others, remembered or in flight.

    Raises:
        UnsupportedError: It splits the layers: what is remembered lies whole with those who attend it.
    """
    if layout.pipe > 1:
        raise UnsupportedError(
            f"layout {layout} splits the layers, and with them what chunks attend of others; for a recipe with memory, "
            "or with chunks in flight, take cfg, ulysses and ring, such as ulysses=2"
        )
