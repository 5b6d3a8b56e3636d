"""Attention over few keys, as a Triton kernel: all of them fit one tile, so nothing is accumulated over tiles.

softmax(q k^T / sqrt(D) + bias) v with products in the dtype of q and everything between in float32. One program holds
128 queries of one head. Reference: `reference.attend_reference`; tolerance one rounding step of the result, and of the
softmax where the dtype is a half. Shape suffixes: B batch, S query tokens, K key tokens, N heads, D head width.
"""

# Kernels take bare pointers by position.
# ruff: noqa: ANN001, ANN202, PLR0917
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

QUERIES = 128


@triton.jit
def _few_keys_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    bias_ptr,
    out_ptr,
    queries,
    keys,
    heads,
    scale,
    q_batch,
    q_token,
    q_head,
    k_batch,
    k_token,
    k_head,
    v_batch,
    v_token,
    v_head,
    HAS_BIAS: tl.constexpr,
    WIDTH: tl.constexpr,
    QUERY_TILE: tl.constexpr,
    KEY_TILE: tl.constexpr,
):
    batch = (tl.program_id(1) // heads).to(tl.int64)
    head = (tl.program_id(1) % heads).to(tl.int64)
    query = (tl.program_id(0) * QUERY_TILE + tl.arange(0, QUERY_TILE)).to(tl.int64)
    key = tl.arange(0, KEY_TILE)
    column = tl.arange(0, WIDTH)
    here, there = query[:, None] < queries, key[:, None] < keys
    q = tl.load(
        q_ptr + batch * q_batch + head * q_head + query[:, None] * q_token + column[None, :], mask=here, other=0.0
    )
    k = tl.load(
        k_ptr + batch * k_batch + head * k_head + key[:, None] * k_token + column[None, :], mask=there, other=0.0
    )
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    if HAS_BIAS:
        scores += tl.load(bias_ptr + batch * keys + key, mask=key < keys, other=0.0).to(tl.float32)[None, :]
    scores = tl.where(key[None, :] < keys, scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    total = tl.sum(weights, 1)
    v = tl.load(
        v_ptr + batch * v_batch + head * v_head + key[:, None] * v_token + column[None, :], mask=there, other=0.0
    )
    mixed = tl.dot(weights.to(v.dtype), v, input_precision="ieee") / total[:, None]
    out = ((batch * queries + query[:, None]) * heads + head) * WIDTH + column[None, :]
    tl.store(out_ptr + out, mixed.to(out_ptr.dtype.element_ty), mask=here)


@triton_op("reelray::attend_few_keys", mutates_args={})
def attend_few_keys(q_BSND: Tensor, k_BKND: Tensor, v_BKND: Tensor, bias_BK: Tensor | None) -> Tensor:
    """Compute softmax(q k^T / sqrt(D) + bias) v; D is a power of two, and every query has a key that is not hidden."""
    batch, queries, heads, width = q_BSND.shape
    keys = k_BKND.shape[1]
    if any(part.stride(3) != 1 for part in (q_BSND, k_BKND, v_BKND)):
        raise ValueError("the last dim of queries, keys and values must be contiguous")
    out_BSND = torch.empty((batch, queries, heads, width), dtype=q_BSND.dtype, device=q_BSND.device)
    kernel = wrap_triton(_few_keys_kernel) if isinstance(_few_keys_kernel, triton.JITFunction) else _few_keys_kernel
    kernel[(triton.cdiv(queries, QUERIES), batch * heads)](
        q_BSND,
        k_BKND,
        v_BKND,
        q_BSND if bias_BK is None else bias_BK.contiguous(),
        out_BSND,
        queries,
        keys,
        heads,
        width**-0.5,
        *q_BSND.stride()[:3],
        *k_BKND.stride()[:3],
        *v_BKND.stride()[:3],
        HAS_BIAS=bias_BK is not None,
        WIDTH=width,
        QUERY_TILE=QUERIES,
        KEY_TILE=max(16, triton.next_power_of_2(keys)),
        num_warps=8,
    )
    return out_BSND
