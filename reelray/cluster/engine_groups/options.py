"""What is wanted of the engines of one model."""

from dataclasses import dataclass, field

from reelray.cluster.render_plan import Place


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupOptions:
    """Engines of one model that are alike.

    Args:
        model: Name or folder.
        place: Where each of them runs; its own model is not looked at.
        count: How many there are.
        preload: Whether they stay loaded from the start; else they are loaded when they are asked for anything.
        idle_s: How long an engine that is not preloaded stays when nobody asks for anything.
    """

    model: str
    place: Place = field(default_factory=Place)
    count: int = 1
    preload: bool = True
    idle_s: float = 600.0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count is {self.count}; it must be at least 1")
        if self.idle_s <= 0:
            raise ValueError(f"idle_s is {self.idle_s}; it must be greater than 0")
