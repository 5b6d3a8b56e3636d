"""Blocks of which every rank keeps a share: those that hold the same layers put each together before it computes."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from reelray.proto.errors import EngineError, InputError
from reelray.proto.residency import WeightShare
from reelray.workers.residency.flat_block import FlatBlock, round_up
from reelray.workers.residency.passing_blocks import Arrival, Feed, PassingBlocks, check_alike
from reelray.workers.residency.source import Block, BlockSource


class Gather(Protocol):
    """Puts the shares of all ranks together; every one of them must call it in the same order."""

    def __call__(self, whole: Tensor, share: Tensor) -> Arrival:
        """Begin, after all work that the current stream has now.

        Args:
            whole: Filled with the shares of all ranks in their order, uint8.
            share: This rank's.
        """
        ...


class SharedBlocks(Feed[Block]):
    """Implements `Feed` from shares on the device: equal slices of the bytes of each block.

    Args:
        blocks: The blocks, on the meta device, where they stay.
        layers: Layers to hold shares of.
        share: This rank's.
        device: Where it lies.

    Attributes:
        gather: Puts shares together; see `use_gather`.

    Raises:
        InputError: There is no other rank to share with.
    """

    def __init__(self, blocks: nn.ModuleList, layers: range, share: WeightShare, device: torch.device) -> None:
        if share.ranks == 1:
            raise InputError("weights cannot be sharded: this rank has its layers to itself; offload them instead")
        self._blocks = blocks
        self._flat: FlatBlock = check_alike(blocks, layers)
        self._share = share
        self._part_bytes = round_up(-(-self._flat.nbytes // share.ranks))
        self.slot_bytes = self._part_bytes * share.ranks
        self.gather: Gather | None = None
        self._held = {layer: torch.empty(self._part_bytes, dtype=torch.uint8, device=device) for layer in layers}

    @property
    def held_bytes(self) -> int:
        """Bytes of this rank's shares."""
        return sum(held.nbytes for held in self._held.values())

    def fetch(self, layer: int, slot: Tensor) -> Arrival:
        """See `Feed`; every rank must call it with the same layers in the same order.

        Raises:
            EngineError: Nobody has said who the other ranks are.
        """
        if self.gather is None:
            raise EngineError("the weights are sharded and this rank does not know the others; call use_weight_gather")
        return self.gather(slot, self._held[layer])

    def write(self, layer: int) -> Iterator[Block]:
        """See `Feed`: a whole block in host memory, of which a share is kept."""
        whole = torch.zeros(self.slot_bytes, dtype=torch.uint8)
        block: Block = self._blocks[layer]  # type: ignore[assignment]
        self._flat.bind(block, whole)
        yield block
        self._flat.unbind(block)
        first = self._share.index * self._part_bytes
        self._held[layer].copy_(whole[first : first + self._part_bytes])

    def keep(self, layers: range) -> None:
        """See `Feed`."""
        self._held = {layer: held for layer, held in self._held.items() if layer in layers}


def drop_gather(source: BlockSource[Any]) -> None:
    """Forget the other ranks of sharded blocks, and what was on its way from them; other blocks stay as they are."""
    if isinstance(source, PassingBlocks) and isinstance(source.feed, SharedBlocks):
        source.abandon()
        source.feed.gather = None


def use_gather(source: BlockSource[Any], gather: Gather) -> None:
    """Let sharded blocks be put together by `gather`, on every rank that shares them.

    Raises:
        TypeError: The blocks are not sharded.
    """
    if not isinstance(source, PassingBlocks) or not isinstance(source.feed, SharedBlocks):
        raise TypeError("these blocks are not sharded")
    source.feed.gather = gather
