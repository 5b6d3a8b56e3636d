"""The merge of attention over two disjoint sets of keys, as a Triton kernel.

(exp(lse) mixed + exp(other) other) / (exp(lse) + exp(other)) and the log of that sum, in float32. A program merges one
token, some heads at a time. Reference: `reference.merge_reference`; tolerance one rounding step of the result.
Shape suffixes: B batch, S query tokens, N heads, D head width.
"""

# Kernels take bare pointers by position.
# ruff: noqa: ANN001, ANN202, PLR0917
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

GROUPED = 8
"""Most heads of a token at once, a power of two."""


@triton.jit
def _merge_kernel(
    mixed_ptr,
    lse_ptr,
    other_ptr,
    other_lse_ptr,
    out_ptr,
    out_lse_ptr,
    tokens,
    mixed_row,
    mixed_token,
    mixed_head,
    lse_row,
    lse_token,
    lse_head,
    other_row,
    other_token,
    other_head,
    other_lse_row,
    other_lse_token,
    other_lse_head,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    number = tl.program_id(0).to(tl.int64)
    row, token = number // tokens, number % tokens
    column = tl.arange(0, BLOCK)[None, :]
    inside = column < WIDTH
    for group in tl.static_range(HEADS // GROUP):
        head = group * GROUP + tl.arange(0, GROUP)
        one = tl.load(lse_ptr + row * lse_row + token * lse_token + head * lse_head)
        two = tl.load(other_lse_ptr + row * other_lse_row + token * other_lse_token + head * other_lse_head)
        most = tl.maximum(one, two)
        one_weight, two_weight = tl.exp(one - most), tl.exp(two - most)
        total = one_weight + two_weight
        tl.store(out_lse_ptr + number * HEADS + head, most + tl.log(total))
        mixed_here = mixed_ptr + row * mixed_row + token * mixed_token + head[:, None] * mixed_head + column
        other_here = other_ptr + row * other_row + token * other_token + head[:, None] * other_head + column
        mixed = tl.load(mixed_here, mask=inside, other=0.0).to(tl.float32)
        other = tl.load(other_here, mask=inside, other=0.0).to(tl.float32)
        merged = (one_weight[:, None] * mixed + two_weight[:, None] * other) / total[:, None]
        out = out_ptr + (number * HEADS + head[:, None]) * WIDTH + column
        tl.store(out, merged.to(out_ptr.dtype.element_ty), mask=inside)


@triton_op("reelray::merge_attention", mutates_args={})
def merge(
    mixed_BSND: Tensor, lse_BSN: Tensor, other_BSND: Tensor, other_BSN: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Compute what `reference.merge_reference` computes; the last dim of the mixed values is contiguous."""
    rows, tokens, heads, width = mixed_BSND.shape
    if mixed_BSND.stride(3) != 1 or other_BSND.stride(3) != 1:
        raise ValueError("the last dim of the mixed values must be contiguous")
    out_BSND = torch.empty((rows, tokens, heads, width), dtype=dtype, device=mixed_BSND.device)
    out_BSN = torch.empty((rows, tokens, heads), dtype=torch.float32, device=mixed_BSND.device)
    kernel = wrap_triton(_merge_kernel) if isinstance(_merge_kernel, triton.JITFunction) else _merge_kernel
    kernel[(rows * tokens,)](
        mixed_BSND,
        lse_BSN,
        other_BSND,
        other_BSN,
        out_BSND,
        out_BSN,
        tokens,
        *mixed_BSND.stride()[:3],
        *lse_BSN.stride(),
        *other_BSND.stride()[:3],
        *other_BSN.stride(),
        HEADS=heads,
        WIDTH=width,
        GROUP=math.gcd(heads, GROUPED),
        BLOCK=triton.next_power_of_2(width),
        num_warps=4,
    )
    return out_BSND, out_BSN
