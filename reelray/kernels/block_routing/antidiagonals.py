"""Scores by antidiagonals, as two Triton kernels: products of groups of tokens, then the softmax over them.

The first is a matrix product of groups, `stride` tokens side by side and those of queries in reverse, which are read
where they lie; it leaves log sum exp over the groups of a block of keys. The second normalises the rows of a block of
queries and averages them. Products are in the dtype of q, everything between in float32. Reference:
`reference.score_antidiagonals`; tolerance 1e-4 on unit-normal inputs. A share below e^-87 is that.
Shape suffixes: B batch, S query tokens, K key tokens, N heads, D head width, U groups of query tokens, Q blocks of
queries, G blocks of keys.
"""

# Kernels take bare pointers by position.
# ruff: noqa: ANN001, ANN202, PLR0917
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

GROUPS = 128
"""Groups of queries, and of keys, that a program multiplies."""
WARPS, STAGES = 8, 3
LEAST_SHARE = tl.constexpr(1e-38)


@triton.jit
def _multiply_kernel(
    q_ptr,
    k_ptr,
    out_ptr,
    tokens,
    keys,
    heads,
    groups,
    blocks,
    scale,
    q_batch,
    q_token,
    q_head,
    k_batch,
    k_token,
    k_head,
    STRIDE: tl.constexpr,
    PER_BLOCK: tl.constexpr,
    PER_TILE: tl.constexpr,
    BLOCK_TILE: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    batch = (tl.program_id(2) // heads).to(tl.int64)
    head = (tl.program_id(2) % heads).to(tl.int64)
    column = tl.arange(0, BLOCK)[None, :]
    group = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cell = tl.arange(0, BLOCK_TILE * PER_TILE)
    block = tl.program_id(1) * BLOCK_TILE + cell // PER_TILE
    within = cell % PER_TILE
    first_q, first_k = group.to(tl.int64) * STRIDE, (block * PER_BLOCK + within).to(tl.int64) * STRIDE
    q_here = q_ptr + batch * q_batch + head * q_head + first_q[:, None] * q_token + column
    k_here = k_ptr + batch * k_batch + head * k_head + first_k[:, None] * k_token + column
    is_key = (within < PER_BLOCK) & (first_k < keys)
    logits = tl.zeros((ROWS, BLOCK_TILE * PER_TILE), tl.float32)
    for place in range(STRIDE):
        back = STRIDE - 1 - place
        is_q = (first_q + back < tokens)[:, None] & (column < WIDTH)
        is_k = (is_key & (first_k + place < keys))[:, None] & (column < WIDTH)
        q = tl.load(q_here + back * q_token, mask=is_q, other=0.0)
        k = tl.load(k_here + place * k_token, mask=is_k, other=0.0)
        logits = tl.dot(q, tl.trans(k), logits, input_precision="ieee")
    logits = tl.where(is_key[None, :], logits * scale, float("-inf"))
    cells = tl.reshape(logits, (ROWS, BLOCK_TILE, PER_TILE))
    most = tl.max(cells, 2)
    base = tl.where(most == float("-inf"), 0.0, most)
    lse = base + tl.log(tl.sum(tl.exp(cells - base[:, :, None]), 2))
    out_block = tl.program_id(1) * BLOCK_TILE + tl.arange(0, BLOCK_TILE)
    out = ((batch * heads + head) * groups + group)[:, None] * blocks + out_block[None, :]
    tl.store(out_ptr + out, lse, mask=(group[:, None] < groups) & (out_block[None, :] < blocks))


@triton.jit
def _average_kernel(lse_ptr, out_ptr, groups, blocks, queries, PER_BLOCK: tl.constexpr, BLOCK: tl.constexpr):
    query = tl.program_id(0)
    head = tl.program_id(1).to(tl.int64)
    block = tl.arange(0, BLOCK)
    first = query * PER_BLOCK
    count = tl.minimum(groups - first, PER_BLOCK)
    shares = tl.zeros((BLOCK,), tl.float32)
    for row in range(count):
        here = lse_ptr + (head * groups + first + row) * blocks + block
        lse = tl.load(here, mask=block < blocks, other=float("-inf"))
        weights = tl.exp(lse - tl.max(lse, 0))
        shares += weights / tl.sum(weights, 0)
    shares = shares / count.to(tl.float32)
    # Not a number stays one.
    shares = tl.where(shares < LEAST_SHARE, LEAST_SHARE, shares)
    tl.store(out_ptr + (head * queries + query) * blocks + block, tl.log(shares), mask=block < blocks)


@triton_op("reelray::score_antidiagonals", mutates_args={})
def score(q_BSND: Tensor, k_BKND: Tensor, rows_q: int, rows_k: int, stride: int, scale: float) -> Tensor:
    """Compute what `reference.score_antidiagonals` computes."""
    batch, tokens, heads, width = q_BSND.shape
    keys = k_BKND.shape[1]
    if q_BSND.stride(3) != 1 or k_BKND.stride(3) != 1:
        raise ValueError("the last dim of queries and keys must be contiguous")
    groups, queries, blocks = (triton.cdiv(*pair) for pair in ((tokens, stride), (tokens, rows_q), (keys, rows_k)))
    per_tile = triton.next_power_of_2(rows_k // stride)
    block_tile = max(1, GROUPS // per_tile)
    lse_BNUG = torch.empty((batch, heads, groups, blocks), dtype=torch.float32, device=q_BSND.device)
    scores_BNQG = torch.empty((batch, heads, queries, blocks), dtype=torch.float32, device=q_BSND.device)
    multiply, average = (
        wrap_triton(part) if isinstance(part, triton.JITFunction) else part
        for part in (_multiply_kernel, _average_kernel)
    )
    multiply[(triton.cdiv(groups, GROUPS), triton.cdiv(blocks, block_tile), batch * heads)](
        q_BSND,
        k_BKND,
        lse_BNUG,
        tokens,
        keys,
        heads,
        groups,
        blocks,
        scale / stride,
        *q_BSND.stride()[:3],
        *k_BKND.stride()[:3],
        STRIDE=stride,
        PER_BLOCK=rows_k // stride,
        PER_TILE=per_tile,
        BLOCK_TILE=block_tile,
        WIDTH=width,
        BLOCK=max(16, triton.next_power_of_2(width)),
        ROWS=GROUPS,
        num_warps=WARPS,
        num_stages=STAGES,
    )
    average[(queries, batch * heads)](
        lse_BNUG,
        scores_BNQG,
        groups,
        blocks,
        queries,
        PER_BLOCK=rows_q // stride,
        BLOCK=triton.next_power_of_2(blocks),
        num_warps=4,
    )
    return scores_BNQG
