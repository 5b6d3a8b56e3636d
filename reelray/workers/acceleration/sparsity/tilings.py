"""Orders that lay the grid of a window tile by tile: each block is a box of frames, rows and columns.

Exact tiles divide the grid and waste nothing. Other tiles are cut at the edges and their blocks filled with padding.
Sources: Sliding Tile Attention (arXiv 2502.04507) and VSA (arXiv 2505.13389) for tiles, DraftAttention (arXiv
2505.14708) for patches of a frame.
"""

import itertools
import math

import torch

from reelray.workers.acceleration.sparsity.token_order import Grid, TokenOrder

CUBE: Grid = (4, 4, 4)
PATCH: Grid = (1, 8, 16)


def frame_major(grid: Grid, rows: int) -> TokenOrder:
    """Tokens as the model has them.

    Args:
        grid: Frames, rows and columns.
        rows: Tokens of a block.
    """
    return TokenOrder.of_tokens(grid, rows, torch.arange(math.prod(grid)))


def tiled(grid: Grid, tile: Grid) -> TokenOrder:
    """Tile by tile, frame-major inside and among them.

    Args:
        grid: Frames, rows and columns.
        tile: Of a tile; where it does not divide the grid, tiles at the edges are smaller and padded.

    Raises:
        ValueError: A number is below 1.
    """
    if min(*grid, *tile) < 1:
        raise ValueError(f"the grid is {grid} and the tile {tile}; all must be at least 1")
    tiles = [math.ceil(size / side) for size, side in zip(grid, tile, strict=True)]
    rows = math.prod(tile)
    numbers = torch.full([count * side for count, side in zip(tiles, tile, strict=True)], -1)
    frames, height, width = grid
    numbers[:frames, :height, :width] = torch.arange(math.prod(grid)).view(grid)
    split = numbers.view(tiles[0], tile[0], tiles[1], tile[1], tiles[2], tile[2])
    laid_TA = split.permute(0, 2, 4, 1, 3, 5).reshape(-1, rows)
    if math.prod(tiles) * rows == math.prod(grid):
        return TokenOrder.of_tokens(grid, rows, laid_TA.flatten(), tile)
    is_token_TA = laid_TA >= 0
    # Tokens first, padding behind them; padding repeats the first token of its tile.
    laid_TA = laid_TA.gather(1, (~is_token_TA).int().argsort(dim=1, stable=True))
    token_P = torch.where(laid_TA >= 0, laid_TA, laid_TA[:, :1]).flatten()
    place_S = torch.empty(math.prod(grid), dtype=torch.int64)
    is_laid_P = laid_TA.flatten() >= 0
    place_S[token_P[is_laid_P]] = is_laid_P.nonzero().flatten()
    length_T = is_token_TA.sum(1, dtype=torch.int32)
    return TokenOrder(grid=grid, rows=rows, token_P=token_P, place_S=place_S, length_T=length_T, tile=tile)


def exact_tile(grid: Grid, rows: int, slack: float = 0.0) -> Grid:
    """The tile that divides the grid and fills a block best.

    Of tiles with as many tokens the one with the least surface is taken: its tokens lie nearest together.

    Args:
        grid: Frames, rows and columns.
        rows: Most tokens of a tile.
        slack: Share of the largest tile's tokens that a tile with less surface may have fewer.
    """
    divisors = [[side for side in range(1, size + 1) if size % side == 0] for size in grid]
    fitting = [tile for tile in itertools.product(*divisors) if math.prod(tile) <= rows]
    largest = max(math.prod(tile) for tile in fitting)
    large = [tile for tile in fitting if math.prod(tile) >= (1 - slack) * largest]
    frames, height, width = min(large, key=lambda tile: (_surface(tile) / math.prod(tile), -math.prod(tile), tile))
    return frames, height, width


def _surface(tile: tuple[int, ...]) -> int:
    frames, height, width = tile
    return frames * height + frames * width + height * width
