"""Which ranks of a gang denoise, and which decode."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from reelray.proto.errors import UnsupportedError
from reelray.proto.layout import Layout


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Ranks of one engine: those of the layout denoise, those behind them do nothing but decode.

    Args:
        layout: How the ranks that denoise share a video.
        decode_ranks: Ranks behind them that decode; 0 lets those that denoise decode.

    Raises:
        ValueError: The number of decode ranks is negative.
    """

    layout: Layout = field(default_factory=Layout)
    decode_ranks: int = 0

    def __post_init__(self) -> None:
        if self.decode_ranks < 0:
            raise ValueError(f"decode_ranks is {self.decode_ranks}; it must be at least 0")

    @property
    def ranks(self) -> int:
        """All of them."""
        return self.layout.ranks + self.decode_ranks

    def __str__(self) -> str:
        return f"{self.layout} + {self.decode_ranks} decode" if self.decode_ranks else str(self.layout)


def check_placement(layouts: Sequence[Layout], decode_ranks: int) -> None:
    """Refuse layouts that cannot stand beside ranks which only decode.

    Args:
        layouts: Of the ranks that denoise, the one of the start first.
        decode_ranks: Ranks behind them.

    Raises:
        ValueError: The number is negative.
        UnsupportedError: There are lanes, or layouts between which the ranks that denoise would be regrouped.
    """
    if decode_ranks < 0:
        raise ValueError(f"decode_ranks is {decode_ranks}; it must be at least 0")
    if decode_ranks and (len(layouts) > 1 or layouts[0].replica > 1):
        raise UnsupportedError(
            "decode ranks take the latents of one lane; with replica, or with several layouts, let the ranks that "
            "denoise decode"
        )
