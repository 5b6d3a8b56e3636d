"""Which ranks of a gang denoise, which decode, and when those that decode help the others."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from reelray.proto.errors import InputError, UnsupportedError
from reelray.proto.layout import Layout


@dataclass(frozen=True, kw_only=True, slots=True)
class Lending:
    """Ranks that only decode join those that denoise while nothing is to be decoded, if that is faster.

    Args:
        layout: How all of them share a forward then.
        apart_step_s: Predicted seconds of a denoise step on the ranks that denoise.
        lent_step_s: Predicted seconds of it on all of them.
        switch_s: Predicted seconds to join in the middle of a chunk, whose latents go to the others; to join at its
            beginning and to leave takes nothing.
    """

    layout: Layout
    apart_step_s: float
    lent_step_s: float
    switch_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Ranks of one engine: those of the layout denoise, those behind them do nothing but decode.

    Args:
        layout: How the ranks that denoise share a video.
        decode_ranks: Ranks behind them that decode; 0 lets those that denoise decode.
        lending: When those help to denoise; None means never.

    Raises:
        ValueError: The number of decode ranks is negative.
        InputError: The layout of all ranks has another number of them.
        UnsupportedError: See `check_placement`.
    """

    layout: Layout = field(default_factory=Layout)
    decode_ranks: int = 0
    lending: Lending | None = None

    def __post_init__(self) -> None:
        check_placement((self.layout,) if self.decode_ranks else (), self.decode_ranks, self.lending)

    @property
    def ranks(self) -> int:
        """All of them."""
        return self.layout.ranks + self.decode_ranks

    def __str__(self) -> str:
        return f"{self.layout} + {self.decode_ranks} decode" if self.decode_ranks else str(self.layout)


def check_placement(layouts: Sequence[Layout], decode_ranks: int, lending: Lending | None = None) -> None:
    """Refuse layouts that cannot stand beside ranks which only decode.

    Args:
        layouts: Of the ranks that denoise, the one of the start first.
        decode_ranks: Ranks behind them.
        lending: When those help to denoise.

    Raises:
        ValueError: The number is negative.
        InputError: There is nobody to lend, or the layout of all ranks has another number of them.
        UnsupportedError: There are lanes, or layouts between which the ranks that denoise would be regrouped, or ranks
            are lent where the layers are split.
    """
    if decode_ranks < 0:
        raise ValueError(f"decode_ranks is {decode_ranks}; it must be at least 0")
    if decode_ranks and (len(layouts) > 1 or layouts[0].replica > 1):
        raise UnsupportedError(
            "decode ranks take the latents of one lane; with replica, or with several layouts, let the ranks that "
            "denoise decode"
        )
    if lending is None:
        return
    if not decode_ranks:
        raise InputError("there are no decode ranks to lend")
    ranks = layouts[0].ranks + decode_ranks
    if lending.layout.ranks != ranks or lending.layout.replica > 1:
        raise InputError(f"layout {lending.layout} of lent ranks needs one lane of all {ranks}")
    if layouts[0].pipe > 1 or lending.layout.pipe > 1:
        raise UnsupportedError("ranks that split the layers hold no others; decode ranks are lent where pipe is 1")
