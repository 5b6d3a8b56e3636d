"""Means, sums and self-similarity of blocks of tokens, as a Triton kernel: one read of the tokens.

A program holds one block of one head: its parts side by side, summed up in float32. Reference: `reference.pool_blocks`,
`sum_blocks` and `pool_similarity`; tolerance 1e-6 of the largest token (means), times the rows of a block (sums).
Shape suffixes: B batch, S tokens, N heads, D head width, G blocks, P parts of a block.
"""

# Kernels take bare pointers by position.
# ruff: noqa: ANN001, ANN202, PLR0917
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

ELEMENTS_PER_WARP = 2048
"""Tokens of a half precision that a warp holds at once: sixteen loads of sixteen bytes a thread."""


@triton.jit
def _pool_kernel(
    x_ptr,
    length_ptr,
    pooled_ptr,
    similarity_ptr,
    tokens,
    heads,
    x_batch,
    x_token,
    x_head,
    HAS_LENGTH: tl.constexpr,
    IS_SUM: tl.constexpr,
    HAS_SIMILARITY: tl.constexpr,
    PARTS: tl.constexpr,
    ROOM: tl.constexpr,
    WIDTH: tl.constexpr,
    PART_TILE: tl.constexpr,
    ROOM_TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # Heads of a block follow each other, so that neighbouring programs read neighbouring bytes.
    head = (tl.program_id(0) % heads).to(tl.int64)
    block = (tl.program_id(0) // heads).to(tl.int64)
    batch = tl.program_id(1).to(tl.int64)
    blocks = tl.num_programs(0) // heads
    length = tl.minimum(tokens - block * (PARTS * ROOM), PARTS * ROOM)
    if HAS_LENGTH:
        length = tl.maximum(tl.minimum(length, tl.load(length_ptr + block)), 0)
    part = tl.arange(0, PART_TILE)[:, None, None]
    within = tl.arange(0, ROOM_TILE)[None, :, None]
    column = tl.arange(0, BLOCK)[None, None, :]
    row = part * ROOM + within
    inside = (within < ROOM) & (part < PARTS) & (row < length) & (column < WIDTH)
    here = x_ptr + batch * x_batch + head * x_head + (block * (PARTS * ROOM) + row) * x_token + column
    x = tl.load(here, mask=inside, other=0.0).to(tl.float32)
    pooled = tl.sum(x, 1)
    part = tl.arange(0, PART_TILE)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    if not IS_SUM:
        count = tl.minimum(tl.maximum(length - part * ROOM, 1), ROOM)
        pooled = pooled / count.to(tl.float32)
    out = ((batch * heads + head) * blocks + block) * PARTS
    tl.store(pooled_ptr + (out + part) * WIDTH + column, pooled, mask=(part < PARTS) & (column < WIDTH))
    if HAS_SIMILARITY:
        size = tl.sqrt(tl.sum(x * x, 2))[:, :, None]
        unit = tl.sum(tl.sum(x / tl.where(size > 0, size, 1.0), 1), 0)
        share = tl.sum(unit * unit, 0) / (tl.maximum(length, 1) * tl.maximum(length, 1)).to(tl.float32)
        tl.store(similarity_ptr + (batch * heads + head) * blocks + block, tl.where(length > 0, share, 1.0))


@triton_op("reelray::pool_blocks", mutates_args={})
def pool(
    x_BSND: Tensor, length_G: Tensor | None, rows: int, parts: int, is_sum: bool, has_similarity: bool
) -> tuple[Tensor, Tensor]:
    """Compute what `reference.pool_blocks` or `sum_blocks`, and `pool_similarity` compute; else it is empty.

    Sums are [B, N, G, 1, D].
    """
    batch, tokens, heads, width = x_BSND.shape
    if x_BSND.stride(3) != 1:
        raise ValueError("the last dim of tokens must be contiguous")
    blocks, room = triton.cdiv(tokens, rows), rows // parts
    pooled_BNGPD = torch.empty((batch, heads, blocks, parts, width), dtype=torch.float32, device=x_BSND.device)
    shape = (batch, heads, blocks) if has_similarity else (0,)
    similarity_BNG = torch.empty(shape, dtype=torch.float32, device=x_BSND.device)
    tiles = [triton.next_power_of_2(size) for size in (parts, room, width)]
    kernel = wrap_triton(_pool_kernel) if isinstance(_pool_kernel, triton.JITFunction) else _pool_kernel
    kernel[(blocks * heads, batch)](
        x_BSND,
        x_BSND if length_G is None else length_G,
        pooled_BNGPD,
        similarity_BNG if has_similarity else x_BSND,
        tokens,
        heads,
        *x_BSND.stride()[:3],
        HAS_LENGTH=length_G is not None,
        IS_SUM=is_sum,
        HAS_SIMILARITY=has_similarity,
        PARTS=parts,
        ROOM=room,
        WIDTH=width,
        PART_TILE=tiles[0],
        ROOM_TILE=tiles[1],
        BLOCK=tiles[2],
        num_warps=max(1, min(8, tiles[0] * tiles[1] * tiles[2] // ELEMENTS_PER_WARP)),
    )
    return pooled_BNGPD, similarity_BNG
