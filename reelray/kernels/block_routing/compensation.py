"""Attention to the means of blocks that lists do not name, as Triton kernels.

With w = exp(scale * q . mean k + log size) over those blocks: sum(w * mean v) / sum(w) and log sum(w), as flash
attention does it: a program holds some queries of a block, walks tiles of means, and keeps a running maximum and sum.
Lists become one byte for each block first. Products are in the dtype of q, everything between in float32. Reference:
`reference.compensate`; tolerance 1e-5 in float32, 2e-2 in bfloat16 and 2e-3 in float16 on unit-normal inputs, for the
logs a tenth of that.
Shape suffixes: B batch, S query tokens, N heads, D head width, Q blocks of queries, G blocks of keys, C capacity.
"""

# Kernels take bare pointers by position.
# ruff: noqa: ANN001, ANN202, PLR0917
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

QUERY_TILE = 128
"""Most queries that a program holds."""
KEY_TILE = 64
"""Means at a time."""
STAGES = 3
LISTED = 256
"""Entries of a list at a time."""


@triton.jit
def _mark_kernel(
    index_ptr,
    count_ptr,
    mark_ptr,
    heads,
    queries,
    blocks,
    mark_row,
    index_batch,
    index_head,
    index_query,
    count_batch,
    count_head,
    count_query,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    query, head, batch = row % queries, row // queries % heads, row // queries // heads
    count = tl.load(count_ptr + batch * count_batch + head * count_head + query * count_query)
    index = index_ptr + batch * index_batch + head * index_head + query * index_query
    for first in range(0, count, BLOCK):
        place = first + tl.arange(0, BLOCK)
        block = tl.load(index + place, mask=place < count, other=-1)
        is_block = (block >= 0) & (block < blocks)
        tl.store(mark_ptr + row * mark_row + block, tl.full((BLOCK,), 1, tl.uint8), mask=is_block)


@triton.jit
def _compensate_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    bias_ptr,
    mark_ptr,
    mixed_ptr,
    lse_ptr,
    tokens,
    heads,
    blocks,
    scale,
    q_batch,
    q_token,
    q_head,
    mark_batch,
    mark_head,
    mark_row,
    QUERY_ROWS: tl.constexpr,
    TILES: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
):
    query = (tl.program_id(0) // TILES).to(tl.int64)
    batch = (tl.program_id(1) // heads).to(tl.int64)
    head = (tl.program_id(1) % heads).to(tl.int64)
    within = (tl.program_id(0) % TILES) * ROWS + tl.arange(0, ROWS)
    token = query * QUERY_ROWS + within
    is_token = (within < QUERY_ROWS) & (token < tokens)
    column = tl.arange(0, BLOCK)
    is_column = column < WIDTH
    q_here = q_ptr + batch * q_batch + head * q_head + token[:, None] * q_token + column[None, :]
    q = tl.load(q_here, mask=is_token[:, None] & is_column[None, :], other=0.0)
    marks = mark_ptr + batch * mark_batch + head * mark_head + query * mark_row
    means = (batch * heads + head) * blocks * WIDTH
    most = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    mixed = tl.zeros((ROWS, BLOCK), tl.float32)
    # Marks are read a tile ahead: too narrow to be copied as keys are, they would be waited for.
    next_mark = tl.load(marks + tl.arange(0, KEYS))
    for first in range(0, blocks, KEYS):
        mark = next_mark
        next_mark = tl.load(marks + first + KEYS + tl.arange(0, KEYS))
        block = first + tl.arange(0, KEYS)
        is_block = block < blocks
        here = means + block[:, None] * WIDTH + column[None, :]
        inside = is_block[:, None] & is_column[None, :]
        k = tl.load(k_ptr + here, mask=inside, other=0.0)
        bias = tl.load(bias_ptr + block, mask=is_block, other=float("-inf"))
        bias = tl.where(mark != 0, float("-inf"), bias)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        # A hidden block is hidden whatever its score.
        scores = tl.where(bias[None, :] == float("-inf"), float("-inf"), scores + bias[None, :])
        higher = tl.maximum(most, tl.max(scores, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp(scores - base[:, None])
        fade = tl.exp(most - base)
        total = total * fade + tl.sum(weights, 1)
        v = tl.load(v_ptr + here, mask=inside, other=0.0)
        mixed = mixed * fade[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        most = higher
    # Not a number stays one.
    divisor = tl.where(total == 0, 1.0, total)
    mixed = mixed / divisor[:, None]
    lse = tl.where(total == 0, float("-inf"), most + tl.log(divisor))
    out = (batch * tokens + token) * heads + head
    tl.store(mixed_ptr + out[:, None] * WIDTH + column[None, :], mixed, mask=is_token[:, None] & is_column[None, :])
    tl.store(lse_ptr + out, lse, mask=is_token)


@triton_op("reelray::compensate_blocks", mutates_args={})
def compensate(
    q_BSND: Tensor,
    k_means_BNGD: Tensor,
    v_means_BNGD: Tensor,
    bias_G: Tensor,
    index_BNQC: Tensor,
    count_BNQ: Tensor,
    query_rows: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Compute what `reference.compensate` computes; means have the dtype of q, `bias_G` is the log of the sizes."""
    batch, tokens, heads, width = q_BSND.shape
    if q_BSND.stride(3) != 1:
        raise ValueError("the last dim of queries must be contiguous")
    queries, blocks, device = count_BNQ.shape[2], k_means_BNGD.shape[2], q_BSND.device
    room = (triton.cdiv(blocks, KEY_TILE) + 1) * KEY_TILE
    marks_BNQG = torch.zeros((*count_BNQ.shape, room), dtype=torch.uint8, device=device)
    mark, kernel = (
        wrap_triton(part) if isinstance(part, triton.JITFunction) else part
        for part in (_mark_kernel, _compensate_kernel)
    )
    mark[(count_BNQ.numel(),)](
        index_BNQC,
        count_BNQ,
        marks_BNQG,
        count_BNQ.shape[1],
        queries,
        blocks,
        marks_BNQG.stride(2),
        *index_BNQC.stride()[:3],
        *count_BNQ.stride(),
        BLOCK=LISTED,
        num_warps=2,
    )
    mixed_BSND = torch.empty((batch, tokens, heads, width), dtype=torch.float32, device=device)
    lse_BSN = torch.empty((batch, tokens, heads), dtype=torch.float32, device=device)
    rows = max(16, min(QUERY_TILE, triton.next_power_of_2(query_rows)))
    tiles = triton.cdiv(query_rows, rows)
    kernel[(queries * tiles, batch * heads)](
        q_BSND,
        k_means_BNGD.contiguous(),
        v_means_BNGD.contiguous(),
        bias_G,
        marks_BNQG,
        mixed_BSND,
        lse_BSN,
        tokens,
        heads,
        blocks,
        scale,
        *q_BSND.stride()[:3],
        *(stride if size > 1 else 0 for stride, size in zip(marks_BNQG.stride()[:2], count_BNQ.shape[:2], strict=True)),
        marks_BNQG.stride(2),
        QUERY_ROWS=query_rows,
        TILES=tiles,
        WIDTH=width,
        BLOCK=max(16, triton.next_power_of_2(width)),
        ROWS=rows,
        KEYS=KEY_TILE,
        num_warps=8 if rows >= 128 else 4,
        num_stages=STAGES,
    )
    return mixed_BSND, lse_BSN
