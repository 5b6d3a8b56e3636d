"""Patterns that the grid of a window fixes: made once per window, whatever queries and keys are.

Shape suffixes: N heads, Q blocks of queries, G blocks of keys, 3 frame, row and column.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from reelray.kernels.block_attention.lists import BlockLists
from reelray.workers.acceleration.sparsity.router import Blocking, Scene
from reelray.workers.acceleration.sparsity.token_order import Blocks, Grid, TokenOrder

WINDOWS_KEPT = 4


class Pattern(Protocol):
    """Says which blocks are attended."""

    def mask(self, blocking: Blocking, heads: range) -> Tensor:
        """Bool [N, Q, G], or N = 1 where all heads have the same.

        Args:
            blocking: How the window is cut.
            heads: Which heads of the model are asked for.
        """
        ...


class FixedRouter:
    """Implements `Router` with a pattern.

    Lists are made when a window is first seen, by its `Blocking` object, so that another grid never gets them.

    Args:
        pattern: What is attended besides what the scene keeps.
    """

    def __init__(self, pattern: Pattern) -> None:
        self._pattern = pattern
        self._made: dict[tuple[Blocking, range], BlockLists] = {}

    def route(
        self, q_BSND: Tensor, k_BKND: Tensor, v_BKND: Tensor, scene: Scene, *, layer: int, heads: range
    ) -> BlockLists:
        """See `Router`; waits for the device when a window is new."""
        del q_BSND, k_BKND, v_BKND, layer
        key = (scene.blocking, heads)
        if key not in self._made:
            while len(self._made) >= WINDOWS_KEPT:
                del self._made[next(iter(self._made))]
            self._made[key] = self._lists(scene.blocking, heads)
        return self._made[key]

    def _lists(self, blocking: Blocking, heads: range) -> BlockLists:
        queries, keys = blocking.queries, blocking.keys
        mask_NQG = (self._pattern.mask(blocking, heads) | blocking.keep_QG) & ~keys.is_empty
        return BlockLists.of_mask(
            mask_NQG[None], query_rows=queries.rows, key_rows=keys.rows, length_G=keys.list_lengths
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SlidingTile:
    """A box of tiles around the query's own, moved inwards at the edges of the grid so that it is always whole.

    Every query of a tile sees the same keys, and every key of a tile is seen or not: no block is partly masked. Source:
    Sliding Tile Attention (arXiv 2502.04507).

    Args:
        windows: Tiles of the box in frames, rows and columns: of each head of the model, or one for all.
    """

    windows: tuple[Grid, ...]

    def __post_init__(self) -> None:
        if not self.windows or any(min(window) < 1 for window in self.windows):
            raise ValueError(f"windows is {self.windows}; it needs boxes of at least one tile")

    def mask(self, blocking: Blocking, heads: range) -> Tensor:
        """See `Pattern`.

        Raises:
            ValueError: The order has no tiles, or there are fewer windows than heads.
        """
        order = blocking.order
        if order.tile is None:
            raise ValueError("sliding tiles take an order of tiles; this one has none")
        if 1 < len(self.windows) < heads.stop:
            raise ValueError(f"there are {len(self.windows)} windows, and heads {heads.start} to {heads.stop - 1}")
        windows = self.windows if len(self.windows) == 1 else self.windows[heads.start : heads.stop]
        tiles = [math.ceil(size / side) for size, side in zip(order.grid, order.tile, strict=True)]
        query_Q3 = _tile_places(order, blocking.queries, tiles)
        key_G3 = _tile_places(order, blocking.keys, tiles)
        return torch.stack([_boxes(query_Q3, key_G3, tiles, window) for window in windows])


def _tile_places(order: TokenOrder, blocks: Blocks, tiles: list[int]) -> Tensor:
    """Where the tile of each block stands among tiles.

    Raises:
        ValueError: Blocks reach over tiles.
    """
    if order.rows % blocks.rows:
        raise ValueError(f"blocks of {blocks.rows} rows do not divide tiles of {order.rows}")
    number = torch.arange(blocks.count, device=order.token_P.device) * blocks.rows // order.rows
    _, rows, columns = tiles
    return torch.stack([number // (rows * columns), number // columns % rows, number % columns], dim=1)


def _boxes(query_Q3: Tensor, key_G3: Tensor, tiles: list[int], window: Grid) -> Tensor:
    mask_QG = torch.ones((len(query_Q3), len(key_G3)), dtype=torch.bool, device=query_Q3.device)
    for axis, (count, width) in enumerate(zip(tiles, window, strict=True)):
        begin_Q = (query_Q3[:, axis] - width // 2).clamp(min=0, max=max(count - width, 0))[:, None]
        mask_QG &= (key_G3[:, axis] >= begin_Q) & (key_G3[:, axis] < begin_Q + width)
    return mask_QG


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameDiagonal:
    """The frames of the query itself, and some frames that all look at: the cost grows linearly with frames.

    Source: Efficient-vDiT (arXiv 2502.06155), whose layers each have their own number of reference frames.

    Args:
        reach: Frames before and after the query's own.
        references: Frames that all look at, evenly spread, the first frame first.
    """

    reach: int = 0
    references: int = 2

    def mask(self, blocking: Blocking, heads: range) -> Tensor:
        """See `Pattern`."""
        del heads
        frames, keys = blocking.order.grid[0], blocking.keys
        mask_QG = blocking.queries.overlaps_frames(keys, self.reach)
        for number in range(min(self.references, frames)):
            frame = number * frames // min(self.references, frames)
            mask_QG |= (keys.low_G3[:, 0] <= frame) & (frame < keys.high_G3[:, 0])
        return mask_QG[None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stripes:
    """The query's neighbours, and every so many-th block of keys, another one in each head.

    Heads look at different stripes, so that together they see all keys. Vertical stripes beside a diagonal are the
    shapes that Sparse-vDiT (arXiv 2506.03065) and MInference (arXiv 2407.02490) find in heads.

    Args:
        reach: Blocks beside the query's own.
        every: Blocks from one stripe to the next.
    """

    reach: int = 1
    every: int = 8

    def mask(self, blocking: Blocking, heads: range) -> Tensor:
        """See `Pattern`."""
        queries, keys = blocking.queries, blocking.keys
        device = keys.length_G.device
        first_Q = torch.arange(queries.count, device=device)[:, None] * queries.rows
        number_G = torch.arange(keys.count, device=device)
        is_near_QG = (number_G >= first_Q // keys.rows - self.reach) & (
            number_G <= (first_Q + queries.rows - 1) // keys.rows + self.reach
        )
        phase_N = torch.tensor([head % self.every for head in heads], device=device)
        return is_near_QG | (number_G % self.every == phase_N[:, None])[:, None]


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockDiagonal:
    """Groups of blocks that follow each other, each of which attends itself alone.

    Args:
        blocks: Blocks of queries of a group.
    """

    blocks: int = 8

    def mask(self, blocking: Blocking, heads: range) -> Tensor:
        """See `Pattern`."""
        del heads
        queries, keys = blocking.queries, blocking.keys
        places, device = self.blocks * queries.rows, keys.length_G.device
        first_Q = torch.arange(queries.count, device=device)[:, None] * queries.rows
        first_G = torch.arange(keys.count, device=device) * keys.rows
        begin_Q = first_Q // places * places
        return ((first_G < begin_Q + places) & (begin_Q < first_G + keys.rows))[None]
