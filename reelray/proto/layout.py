"""How the ranks of one gang share one video: the degree of every mesh axis."""

from dataclasses import dataclass
from typing import Self

from reelray.proto.errors import InputError

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
