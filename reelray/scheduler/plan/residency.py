"""Where the weights are while they are not used."""

from dataclasses import dataclass
from enum import StrEnum

from reelray.proto.layout import Layout


class Blocks(StrEnum):
    """The transformer's blocks."""

    RESIDENT = "resident"  # every rank holds the blocks it runs
    SHARDED = "sharded"  # every rank holds a share of each block; the next is gathered while one computes
    OFFLOADED = "offloaded"  # host memory holds them; the next is copied while one computes


class Encoder(StrEnum):
    """The encoders of text and image."""

    RESIDENT = "resident"
    RELEASED = "released"  # copied in for a prompt, gone before the first step


@dataclass(frozen=True, kw_only=True, slots=True)
class Residency:
    """One way to hold the weights."""

    blocks: Blocks = Blocks.RESIDENT
    encoder: Encoder = Encoder.RESIDENT

    def __str__(self) -> str:
        return str(self.blocks) if self.encoder is Encoder.RESIDENT else f"{self.blocks}, encoder released"


RESIDENCIES = tuple(Residency(blocks=blocks, encoder=encoder) for blocks in Blocks for encoder in Encoder)
"""Fewest moving parts first."""
BLOCKS_IN_FLIGHT = 2
"""The one that computes and the one that arrives."""


def sharing_ranks(layout: Layout) -> int:
    """Ranks that hold the same blocks and could share them."""
    return layout.lane // layout.pipe


def residencies_for(layout: Layout) -> tuple[Residency, ...]:
    """Ways to hold the weights under a layout."""
    alone = sharing_ranks(layout) == 1
    return tuple(residency for residency in RESIDENCIES if not (alone and residency.blocks is Blocks.SHARDED))
