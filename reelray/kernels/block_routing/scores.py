"""Scores of pairs of blocks, as a Triton kernel: products of the means of their parts, combined as they come.

log sum exp(scale * q . k) over the pairs of parts of a pair of blocks that have tokens, in float32. A program holds a
tile of query parts and walks tiles of key parts. The tensor cores multiply halves only, so each mean is split into two
of them (`SPLIT`): its bfloat16 and the bfloat16 of what is left. Of the four products the three that matter are added
up in float32, which leaves a relative error of 2^-16 for each product. Scores are not rounded to a half anywhere:
that makes ties, and ties favour the first blocks. Reference: `reference.score_blocks`; tolerance 1e-4 on unit-normal
means with 128 channels, 1e-5 with `ieee`, 3e-3 with `half`.
Shape suffixes: B batch, N heads, D head width, Q blocks of queries, G blocks of keys, P parts of a block, R parts of a
block of keys.
"""

# Kernels take bare pointers by position.
# ruff: noqa: ANN001, ANN202, PLR0917
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

QUERY_CELLS = 128
"""Parts of queries that a program holds."""
KEY_CELLS = 64
"""Parts of keys at a time."""
WARPS, STAGES = 8, 2
PROGRAMS = 528
"""Aim: four for each of 132 processors."""
SPLIT = "split"
"""Precision: two halves for each mean, three products.

`half` is one product of float16, a third of the work. Others are those of `tl.dot`: ieee, tf32x3, tf32.
"""
FLOAT16_MOST = tl.constexpr(65504.0)


@triton.jit
def _split(x, IS_BFLOAT: tl.constexpr):
    """The half of a float and the half of what is left."""
    if IS_BFLOAT:
        high = x.to(tl.bfloat16)
        low = (x - high.to(tl.float32)).to(tl.bfloat16)
    else:
        high = x.to(tl.float16)
        low = (x - high.to(tl.float32)).to(tl.float16)
    return high, low


@triton.jit
def _halve(x):
    """The nearest float16 that is finite; not a number stays one."""
    return tl.where(x > FLOAT16_MOST, FLOAT16_MOST, tl.where(x < -FLOAT16_MOST, -FLOAT16_MOST, x)).to(tl.float16)


@triton.jit
def _score_kernel(
    q_ptr,
    k_ptr,
    q_count_ptr,
    k_count_ptr,
    out_ptr,
    queries,
    keys,
    scale,
    tiles_each,
    HAS_Q_COUNT: tl.constexpr,
    HAS_K_COUNT: tl.constexpr,
    PARTS: tl.constexpr,
    KEY_PARTS: tl.constexpr,
    PART_TILE: tl.constexpr,
    KEY_PART_TILE: tl.constexpr,
    QUERY_TILE: tl.constexpr,
    KEY_TILE: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
    IS_BFLOAT: tl.constexpr,
):
    head = tl.program_id(2).to(tl.int64)
    column = tl.arange(0, BLOCK)
    cell = tl.arange(0, QUERY_TILE * PART_TILE)
    query = tl.program_id(0) * QUERY_TILE + cell // PART_TILE
    part = cell % PART_TILE
    is_query = (query < queries) & (part < PARTS)
    q_here = ((head * queries + query) * PARTS + part)[:, None] * WIDTH + column[None, :]
    q = tl.load(q_ptr + q_here, mask=is_query[:, None] & (column[None, :] < WIDTH), other=0.0)
    if HAS_Q_COUNT:
        is_query &= tl.load(q_count_ptr + query * PARTS + part, mask=is_query, other=0) > 0
    if PRECISION == "split":
        q_high, q_low = _split(q, IS_BFLOAT)
    if PRECISION == "half":
        q_high = _halve(q)
    key_cell = tl.arange(0, KEY_TILE * KEY_PART_TILE)
    out_query = tl.program_id(0) * QUERY_TILE + tl.arange(0, QUERY_TILE)
    first = tl.program_id(1) * tiles_each
    last = tl.minimum(first + tiles_each, tl.cdiv(keys, KEY_TILE))
    for tile in range(first, last):
        key = tile * KEY_TILE + key_cell // KEY_PART_TILE
        key_part = key_cell % KEY_PART_TILE
        is_key = (key < keys) & (key_part < KEY_PARTS)
        k_here = ((head * keys + key) * KEY_PARTS + key_part)[:, None] * WIDTH + column[None, :]
        k = tl.load(k_ptr + k_here, mask=is_key[:, None] & (column[None, :] < WIDTH), other=0.0)
        if HAS_K_COUNT:
            is_key &= tl.load(k_count_ptr + key * KEY_PARTS + key_part, mask=is_key, other=0) > 0
        if PRECISION == "split":
            k_high, k_low = _split(k, IS_BFLOAT)
            # The small products first.
            scores = tl.dot(q_low, tl.trans(k_high))
            scores = tl.dot(q_high, tl.trans(k_low), scores)
            scores = tl.dot(q_high, tl.trans(k_high), scores)
        elif PRECISION == "half":
            scores = tl.dot(q_high, tl.trans(_halve(k)))
        else:
            scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        scores = tl.where(is_query[:, None] & is_key[None, :], scores * scale, float("-inf"))
        if PART_TILE * KEY_PART_TILE > 1:
            cells = tl.reshape(scores, (QUERY_TILE, PART_TILE, KEY_TILE, KEY_PART_TILE))
            most = tl.max(tl.max(cells, 3), 1)
            base = tl.where(most == float("-inf"), 0.0, most)
            weights = tl.exp(cells - base[:, None, :, None])
            # Not a number stays one: the sum carries it, whatever the maximum makes of it.
            scores = base + tl.log(tl.sum(tl.sum(weights, 3), 1))
        else:
            scores = tl.reshape(scores, (QUERY_TILE, KEY_TILE))
        out_key = tile * KEY_TILE + tl.arange(0, KEY_TILE)
        out_here = (head * queries + out_query)[:, None] * keys + out_key[None, :]
        tl.store(out_ptr + out_here, scores, mask=(out_query[:, None] < queries) & (out_key[None, :] < keys))


@triton_op("reelray::score_blocks", mutates_args={})
def score(
    q_means_BNQPD: Tensor,
    k_means_BNGRD: Tensor,
    scale: float,
    q_counts_QP: Tensor | None,
    k_counts_GR: Tensor | None,
    precision: str = SPLIT,
) -> Tensor:
    """Compute what `reference.score_blocks` computes, of float32 means."""
    batch, heads, queries, parts, width = q_means_BNQPD.shape
    keys, key_parts = k_means_BNGRD.shape[2:4]
    scores_BNQG = torch.empty((batch, heads, queries, keys), dtype=torch.float32, device=q_means_BNQPD.device)
    part_tile, key_part_tile = triton.next_power_of_2(parts), triton.next_power_of_2(key_parts)
    query_tile, key_tile = max(1, QUERY_CELLS // part_tile), max(1, KEY_CELLS // key_part_tile)
    query_tiles, key_tiles = triton.cdiv(queries, query_tile), triton.cdiv(keys, key_tile)
    tiles_each = max(1, min(key_tiles, query_tiles * key_tiles * batch * heads // PROGRAMS))
    kernel = wrap_triton(_score_kernel) if isinstance(_score_kernel, triton.JITFunction) else _score_kernel
    kernel[(query_tiles, triton.cdiv(key_tiles, tiles_each), batch * heads)](
        q_means_BNQPD.contiguous(),
        k_means_BNGRD.contiguous(),
        q_means_BNQPD if q_counts_QP is None else q_counts_QP.contiguous(),
        k_means_BNGRD if k_counts_GR is None else k_counts_GR.contiguous(),
        scores_BNQG,
        queries,
        keys,
        scale,
        tiles_each,
        HAS_Q_COUNT=q_counts_QP is not None,
        HAS_K_COUNT=k_counts_GR is not None,
        PARTS=parts,
        KEY_PARTS=key_parts,
        PART_TILE=part_tile,
        KEY_PART_TILE=key_part_tile,
        QUERY_TILE=query_tile,
        KEY_TILE=key_tile,
        WIDTH=width,
        BLOCK=max(16, triton.next_power_of_2(width)),
        PRECISION=precision,
        IS_BFLOAT=q_means_BNQPD.is_cuda,  # the interpreter multiplies bfloat16 as integers
        num_warps=WARPS,
        num_stages=STAGES,
    )
    return scores_BNQG
