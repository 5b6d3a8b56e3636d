"""Puts the blocks of a network where a residency wants them."""

import copy
from typing import Any

import torch
from torch import nn

from reelray.proto.residency import Blocks, WeightShare
from reelray.workers.residency.host_blocks import HostBlocks
from reelray.workers.residency.passing_blocks import PassingBlocks
from reelray.workers.residency.shared_blocks import SharedBlocks
from reelray.workers.residency.source import BlockSource


def place_blocks(
    blocks: nn.ModuleList,
    layers: range,
    way: Blocks,
    device: torch.device,
    share: WeightShare | None = None,
) -> BlockSource[Any]:
    """Give memory to blocks that shall not all be on the device.

    Args:
        blocks: Blocks of one kind, on the meta device.
        layers: Which of them are wanted.
        way: ``offloaded`` or ``sharded``.
        device: Where they compute.
        share: What this rank keeps of sharded blocks.

    Raises:
        InputError: They are to be sharded, and no other rank has them.
        ResourceError: There is too little host memory.
    """
    if way is Blocks.RESIDENT:
        raise ValueError("resident blocks stay where their network has them")
    device = torch.empty(0, device=device).device  # with its number: other threads may have another current one
    pattern = copy.deepcopy(blocks[layers.start])  # before it is given memory
    feed: Any
    if way is Blocks.SHARDED:
        feed = SharedBlocks(blocks, layers, share or WeightShare(), device)
    else:
        feed = HostBlocks(blocks, layers, device)
    return PassingBlocks(pattern, feed, layers, device)
