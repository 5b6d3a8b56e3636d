"""The merge of attention over two or more disjoint sets of keys, as Triton kernels.

(exp(lse) mixed + exp(other) other) / (exp(lse) + exp(other)) and the log of that sum, in float32. A program merges one
token, some heads at a time. A set without keys has minus infinity for a log, and then its values are not read; where no
set has any, the result is 0 and minus infinity. Reference: `reference.merge_reference` and `merge_all_reference`;
tolerance one rounding step of the result.
Shape suffixes: P sets of keys, B batch, S query tokens, N heads, D head width.
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
        has_one, has_two = one != float("-inf"), two != float("-inf")
        most = tl.maximum(one, two)
        shift = tl.where(has_one | has_two, most, 0.0)
        one_weight, two_weight = tl.exp(one - shift), tl.exp(two - shift)
        total = tl.where(has_one | has_two, one_weight + two_weight, 1.0)
        tl.store(out_lse_ptr + number * HEADS + head, most + tl.log(total))
        mixed_here = mixed_ptr + row * mixed_row + token * mixed_token + head[:, None] * mixed_head + column
        other_here = other_ptr + row * other_row + token * other_token + head[:, None] * other_head + column
        mixed = tl.load(mixed_here, mask=inside & has_one[:, None], other=0.0).to(tl.float32)
        other = tl.load(other_here, mask=inside & has_two[:, None], other=0.0).to(tl.float32)
        merged = (one_weight[:, None] * mixed + two_weight[:, None] * other) / total[:, None]
        out = out_ptr + (number * HEADS + head[:, None]) * WIDTH + column
        tl.store(out, merged.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _merge_all_kernel(
    mixed_ptr,
    lse_ptr,
    out_ptr,
    out_lse_ptr,
    mixed_set,
    lse_set,
    SETS: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)[None, :]
    inside = column < WIDTH
    for group in tl.static_range(HEADS // GROUP):
        place = token * HEADS + group * GROUP + tl.arange(0, GROUP)
        most = tl.load(lse_ptr + place)
        for part in tl.static_range(1, SETS):
            most = tl.maximum(most, tl.load(lse_ptr + part * lse_set + place))
        shift = tl.where(most == float("-inf"), 0.0, most)
        total = tl.zeros((GROUP,), tl.float32)
        merged = tl.zeros((GROUP, BLOCK), tl.float32)
        for part in tl.static_range(SETS):
            lse = tl.load(lse_ptr + part * lse_set + place)
            weight = tl.exp(lse - shift)
            here = mixed_ptr + part * mixed_set + place[:, None] * WIDTH + column
            there = inside & (lse != float("-inf"))[:, None]
            merged += weight[:, None] * tl.load(here, mask=there, other=0.0).to(tl.float32)
            total += weight
        total = tl.where(total == 0.0, 1.0, total)
        tl.store(out_lse_ptr + place, most + tl.log(total))
        merged /= total[:, None]
        tl.store(out_ptr + place[:, None] * WIDTH + column, merged.to(out_ptr.dtype.element_ty), mask=inside)


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


@triton_op("reelray::merge_attentions", mutates_args={})
def merge_all(mixed_PBSND: Tensor, lse_PBSN: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Compute what `reference.merge_all_reference` computes."""
    mixed_PBSND, lse_PBSN = mixed_PBSND.contiguous(), lse_PBSN.contiguous()
    sets, rows, tokens, heads, width = mixed_PBSND.shape
    out_BSND = torch.empty((rows, tokens, heads, width), dtype=dtype, device=mixed_PBSND.device)
    out_BSN = torch.empty((rows, tokens, heads), dtype=torch.float32, device=mixed_PBSND.device)
    kernel = wrap_triton(_merge_all_kernel) if isinstance(_merge_all_kernel, triton.JITFunction) else _merge_all_kernel
    kernel[(rows * tokens,)](
        mixed_PBSND,
        lse_PBSN,
        out_BSND,
        out_BSN,
        mixed_PBSND.stride(0),
        lse_PBSN.stride(0),
        SETS=sets,
        HEADS=heads,
        WIDTH=width,
        GROUP=math.gcd(heads, GROUPED),
        BLOCK=triton.next_power_of_2(width),
        num_warps=4,
    )
    return out_BSND, out_BSN
