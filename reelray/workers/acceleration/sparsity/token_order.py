"""The order in which tokens of a window are laid, and the blocks that it is cut into.

Shape suffixes: B batch, S tokens of the window, P places (tokens and padding), G blocks, 3 frame, row and column.
"""

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

Grid = tuple[int, int, int]
"""Frames, rows and columns of tokens, or the first, second and third of anything along them."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Blocks:
    """A sequence cut into blocks of the same number of places; equal to itself alone.

    Args:
        rows: Places of a block; the last may be short.
        length_G: Tokens of each block, which stand before its padding, int32.
        low_G3: First frame, row and column that a token of the block has; 0 where it has none.
        high_G3: One more than the last; 0 where it has none.
        is_padded: Whether there is padding anywhere but behind the end of the sequence.
    """

    rows: int
    length_G: Tensor
    low_G3: Tensor
    high_G3: Tensor
    is_padded: bool

    @property
    def count(self) -> int:
        """G."""
        return self.length_G.shape[0]

    @property
    def list_lengths(self) -> Tensor | None:
        """What `BlockLists.length_G` takes: None where all blocks are full but the last."""
        return self.length_G if self.is_padded else None

    @property
    def is_empty(self) -> Tensor:
        """Which blocks are padding only."""
        return self.length_G == 0

    @property
    def holds_first(self) -> Tensor:
        """Which blocks hold a token of the first frame."""
        return (self.low_G3[:, 0] == 0) & ~self.is_empty

    @property
    def centres(self) -> Tensor:
        """Middles of the ranges, float32."""
        return (self.low_G3 + self.high_G3 - 1).float() / 2

    def overlaps_frames(self, other: Self, reach: int = 0) -> Tensor:
        """Bool [own blocks, other blocks]: which have frames at most `reach` apart."""
        low, high = self.low_G3[:, None, 0], self.high_G3[:, None, 0]
        near = (other.low_G3[None, :, 0] < high + reach) & (low < other.high_G3[None, :, 0] + reach)
        return near & ~self.is_empty[:, None] & ~other.is_empty[None]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TokenOrder:
    """A permutation of the tokens of a window, with padding behind tiles that are not full; equal to itself alone.

    Tokens are permuted once, when patches are embedded, rotary tables with them, and the prediction is put back at the
    end. What is attended does not depend on the order: only which tokens share a block does.

    Args:
        grid: Frames, rows and columns of the window.
        rows: Places of a block.
        token_P: Frame-major number of the token at each place, int64; padding repeats a token of its block.
        place_S: The place of each token.
        length_T: Tokens of each tile of `rows` places, int32, where tiles are padded; None otherwise.
        tile: Frames, rows and columns of a tile, whose tokens are in one block; None where blocks are no tiles.
    """

    grid: Grid
    rows: int
    token_P: Tensor
    place_S: Tensor
    length_T: Tensor | None = None
    tile: Grid | None = None

    @classmethod
    def of_tokens(cls, grid: Grid, rows: int, token_S: Tensor, tile: Grid | None = None) -> Self:
        """An order without padding."""
        place_S = torch.empty_like(token_S)
        place_S[token_S] = torch.arange(len(token_S), device=token_S.device)
        return cls(grid=grid, rows=rows, token_P=token_S, place_S=place_S, tile=tile)

    @property
    def tokens(self) -> int:
        """S."""
        return math.prod(self.grid)

    @property
    def places(self) -> int:
        """P."""
        return self.token_P.shape[0]

    def waste(self, rows: int | None = None) -> float:
        """Places that a kernel computes and no token has, over tokens: along one axis of the scores.

        Args:
            rows: Rows of the kernel's own blocks; as many as a block has by default.
        """
        per_block = math.ceil(self.rows / rows) * rows if rows else self.rows
        return math.ceil(self.places / self.rows) * per_block / self.tokens - 1

    def take(self, tokens_BS: Tensor, dim: int = 1) -> Tensor:
        """Lay tokens in this order.

        Args:
            tokens_BS: Frame-major along `dim`.
            dim: Which dim the tokens are.

        Raises:
            ValueError: There are not as many tokens as in the grid.
        """
        self._check(tokens_BS, dim, self.tokens)
        return tokens_BS.index_select(dim, self.token_P)

    def join(self, laid_BP: Tensor, dim: int = 1) -> Tensor:
        """Put tokens back into frame-major order; the reverse of `take`.

        Raises:
            ValueError: There are not as many places as in this order.
        """
        self._check(laid_BP, dim, self.places)
        return laid_BP.index_select(dim, self.place_S)

    def to(self, device: torch.device | str) -> Self:
        """The same order on a device."""
        length_T = None if self.length_T is None else self.length_T.to(device)
        return replace(self, token_P=self.token_P.to(device), place_S=self.place_S.to(device), length_T=length_T)

    def cut(self, rows: int | None = None) -> Blocks:
        """Cut the sequence into blocks.

        Args:
            rows: Places of a block; those of the order by default. They must divide a padded tile.

        Raises:
            ValueError: They do not.
        """
        rows = rows or self.rows
        if self.length_T is not None and self.rows % rows:
            raise ValueError(f"blocks of {rows} rows do not divide tiles of {self.rows}, which are padded")
        length_G = self._lengths(rows)
        block_P = torch.arange(self.places, device=self.token_P.device) // rows
        is_token_P = torch.arange(self.places, device=block_P.device) - block_P * rows < length_G[block_P]
        at_S3 = self._coordinates()[is_token_P]
        block_S3 = block_P[is_token_P][:, None].expand(-1, 3)
        nothing = torch.zeros((len(length_G), 3), dtype=torch.int64, device=block_P.device)
        low_G3 = nothing.scatter_reduce(0, block_S3, at_S3, "amin", include_self=False)
        high_G3 = nothing.scatter_reduce(0, block_S3, at_S3 + 1, "amax", include_self=False)
        is_padded = self.length_T is not None
        return Blocks(rows=rows, length_G=length_G, low_G3=low_G3, high_G3=high_G3, is_padded=is_padded)

    def _lengths(self, rows: int) -> Tensor:
        device = self.token_P.device
        if self.length_T is None:
            begins_G = torch.arange(0, self.places, rows, device=device)
            return (self.places - begins_G).clamp(max=rows).int()
        begins_A = torch.arange(0, self.rows, rows, device=device)
        return (self.length_T[:, None] - begins_A).clamp(0, rows).flatten().int()

    def _coordinates(self) -> Tensor:
        _, rows, columns = self.grid
        token_P = self.token_P
        return torch.stack([token_P // (rows * columns), token_P // columns % rows, token_P % columns], dim=1)

    @staticmethod
    def _check(part: Tensor, dim: int, wanted: int) -> None:
        if part.shape[dim] != wanted:
            raise ValueError(f"dim {dim} has {part.shape[dim]} tokens; this order takes {wanted}")
