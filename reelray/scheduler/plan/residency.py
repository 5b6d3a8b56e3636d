"""Which ways of holding the weights a plan may choose."""

from dataclasses import dataclass

from reelray.proto.layout import Layout
from reelray.proto.residency import Blocks, Encoder, Residency

RESIDENCIES = tuple(Residency(blocks=blocks, encoder=encoder) for blocks in Blocks for encoder in Encoder)
"""Fewest moving parts first."""
BLOCKS_IN_FLIGHT = 2
"""The one that computes and the one that arrives."""


def sharing_ranks(layout: Layout) -> int:
    """Ranks that hold the same blocks and could share them."""
    return layout.lane // layout.pipe


@dataclass(frozen=True, kw_only=True, slots=True)
class ResidencyWish:
    """What somebody asks of a residency; None leaves it to the plan."""

    blocks: Blocks | None = None
    encoder: Encoder | None = None

    def allows(self, residency: Residency) -> bool:
        """Whether a residency is as asked."""
        return self.blocks in {None, residency.blocks} and self.encoder in {None, residency.encoder}

    def closed(self) -> "ResidencyWish":
        """The same with everything resident of which nothing was said."""
        return ResidencyWish(blocks=self.blocks or Blocks.RESIDENT, encoder=self.encoder or Encoder.RESIDENT)


ANY = ResidencyWish()


def residencies_for(layout: Layout, wish: ResidencyWish = ANY) -> tuple[Residency, ...]:
    """Ways to hold the weights under a layout; none where blocks are to be sharded and nobody holds the same."""
    alone = sharing_ranks(layout) == 1
    return tuple(
        residency
        for residency in RESIDENCIES
        if wish.allows(residency) and not (alone and residency.blocks is Blocks.SHARDED)
    )
