"""Cutting frames into overlapping tiles and blending what comes back.

Shapes: B batch, C channels, T frames, H/W height/width.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from reelray.workers.models.wan.vae.state import Tiling

Span = tuple[int, int]


def cut_spans(length: int, tiling: Tiling | None) -> tuple[Span, ...]:
    """Half-open ranges that cover `length` latents; neighbours share at least `tiling.overlap`, all are one tile long.

    The last tile is moved back to end at the border, so that every tile has the same shape.
    """
    if tiling is None or length <= tiling.tile:
        return ((0, length),)
    stride = tiling.tile - tiling.overlap
    starts = [*range(0, length - tiling.tile, stride), length - tiling.tile]
    return tuple((start, start + tiling.tile) for start in starts)


def cut_tiles(x_BCTHW: Tensor, rows: Sequence[Span], columns: Sequence[Span], scale: int) -> list[Tensor]:
    """Tiles in row order; `scale` is the number of this tensor's positions per latent."""
    return [
        x_BCTHW[..., top * scale : bottom * scale, left * scale : right * scale]
        for top, bottom in rows
        for left, right in columns
    ]


def join_tiles(tiles: Sequence[Tensor], rows: Sequence[Span], columns: Sequence[Span], scale: int) -> Tensor:
    """Put tiles of `cut_tiles` together; where two overlap, weights go linearly from one to the other."""
    width = len(columns)
    bands = [_join(tiles[row * width : (row + 1) * width], columns, scale, dim=-1) for row in range(len(rows))]
    return _join(bands, rows, scale, dim=-2)


def _join(parts: Sequence[Tensor], spans: Sequence[Span], scale: int, dim: int) -> Tensor:
    """Blend neighbours along `dim`; a tile may overlap two others, so each is blended into what is there already."""
    out = parts[0]
    for part, (before, after) in zip(parts[1:], pairwise(spans), strict=True):
        shared = (before[1] - after[0]) * scale
        kept = out.shape[dim] - shared
        mixed = _blend(out.narrow(dim, kept, shared), part.narrow(dim, 0, shared), dim)
        out = torch.cat([out.narrow(dim, 0, kept), mixed, part.narrow(dim, shared, part.shape[dim] - shared)], dim)
    return out


def _blend(old: Tensor, new: Tensor, dim: int) -> Tensor:
    length = old.shape[dim]
    shape = [1] * old.dim()
    shape[dim] = length
    weight = ((torch.arange(length, device=old.device, dtype=torch.float32) + 0.5) / max(length, 1)).view(shape)
    return torch.lerp(old.float(), new.float(), weight).to(old.dtype)
