"""Which ways of holding the weights a plan may choose."""

from reelray.proto.layout import Layout
from reelray.proto.residency import Blocks, Encoder, Residency

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
