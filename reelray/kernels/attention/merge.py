"""The merge of attention over disjoint sets of keys, as a Triton kernel.

sum over p of exp(lse_p - log sum exp lse) mixed_p, in float32. One program merges one token, some heads at a time.
Reference: `reference.merge_parts_reference`; tolerance one rounding step of the result.
Shape suffixes: P parts, S query tokens, N heads, D head width.
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
def _merge_parts_kernel(
    mixed_ptr,
    lse_ptr,
    out_ptr,
    mixed_part,
    mixed_token,
    mixed_head,
    lse_part,
    lse_token,
    lse_head,
    PARTS: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)[None, :]
    for group in tl.static_range(HEADS // GROUP):
        head = group * GROUP + tl.arange(0, GROUP)
        lse_here = lse_ptr + token * lse_token + head * lse_head
        most = tl.load(lse_here)
        for part in tl.static_range(1, PARTS):
            most = tl.maximum(most, tl.load(lse_here + part * lse_part))
        mixed_here = mixed_ptr + token * mixed_token + head[:, None] * mixed_head + column
        total = tl.zeros((GROUP,), tl.float32)
        merged = tl.zeros((GROUP, BLOCK), tl.float32)
        for part in tl.static_range(PARTS):
            weight = tl.exp(tl.load(lse_here + part * lse_part) - most)
            mixed = tl.load(mixed_here + part * mixed_part, mask=column < WIDTH, other=0.0).to(tl.float32)
            total += weight
            merged += weight[:, None] * mixed
        out = out_ptr + (token * HEADS + head[:, None]) * WIDTH + column
        tl.store(out, (merged / total[:, None]).to(out_ptr.dtype.element_ty), mask=column < WIDTH)


@triton_op("reelray::merge_parts", mutates_args={})
def merge_parts(mixed_PSND: Tensor, lse_PSN: Tensor) -> Tensor:
    """Compute what `reference.merge_parts_reference` computes; the last dim of `mixed_PSND` is contiguous."""
    parts, tokens, heads, width = mixed_PSND.shape
    if mixed_PSND.stride(3) != 1:
        raise ValueError("the last dim of the mixed values must be contiguous")
    out_1SND = torch.empty((1, tokens, heads, width), dtype=mixed_PSND.dtype, device=mixed_PSND.device)
    kernel = (
        wrap_triton(_merge_parts_kernel) if isinstance(_merge_parts_kernel, triton.JITFunction) else _merge_parts_kernel
    )
    kernel[(tokens,)](
        mixed_PSND,
        lse_PSN,
        out_1SND,
        *mixed_PSND.stride()[:3],
        *lse_PSN.stride(),
        PARTS=parts,
        HEADS=heads,
        WIDTH=width,
        GROUP=math.gcd(heads, GROUPED),
        BLOCK=triton.next_power_of_2(width),
        num_warps=4,
    )
    return out_1SND
