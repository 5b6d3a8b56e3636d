"""RMSNorm over the full width and rotation of pairs in one pass over a token, as a Triton kernel.

n = x / sqrt(mean(x^2) + eps) * weight, rounded to the dtype of x; pairs of n turn by the token's angles in float32.
One program holds one token. Reference: reference.py; tolerance 1e-5 in float32, one rounding step in half precision.
Shape suffixes: B batch, S tokens, N heads, D head width, P pairs of a head, C channels (N * D).
"""

# Kernels take bare pointers by position.
# ruff: noqa: ANN001, ANN202, PLR0917
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton


@triton.jit
def _norm_heads_kernel(
    x_ptr,
    weight_ptr,
    cos_ptr,
    sin_ptr,
    out_ptr,
    tokens,
    channels,
    pairs,
    x_batch,
    x_token,
    angle_batch,
    eps,
    ROTATES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    batch = row // tokens
    token = row % tokens
    column = tl.arange(0, BLOCK)
    inside = column < channels
    x = tl.load(x_ptr + batch * x_batch + token * x_token + column, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    normed = x / tl.sqrt(tl.sum(x * x, 0) / channels + eps) * weight
    normed = normed.to(out_ptr.dtype.element_ty).to(tl.float32)
    if ROTATES:
        even, odd = tl.split(tl.reshape(normed, (BLOCK // 2, 2)))
        pair = tl.arange(0, BLOCK // 2)
        angle = batch * angle_batch + token * pairs + pair % pairs
        cos = tl.load(cos_ptr + angle, mask=pair < channels // 2, other=0.0)
        sin = tl.load(sin_ptr + angle, mask=pair < channels // 2, other=0.0)
        normed = tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), (BLOCK,))
    tl.store(out_ptr + row * channels + column, normed.to(out_ptr.dtype.element_ty), mask=inside)


@triton_op("reelray::norm_heads", mutates_args={})
def norm_heads(
    x_BSC: Tensor, weight_C: Tensor, heads: int, eps: float, cos_BSP: Tensor | None, sin_BSP: Tensor | None
) -> Tensor:
    """Compute what `reference.norm_heads` computes."""
    batch, tokens, channels = x_BSC.shape
    if x_BSC.stride(2) != 1:
        raise ValueError("the channels of x must be contiguous")
    out_BSND = torch.empty((batch, tokens, heads, channels // heads), dtype=x_BSC.dtype, device=x_BSC.device)
    rotates = cos_BSP is not None and sin_BSP is not None
    cos_BSP, sin_BSP = (weight_C if part is None else part.contiguous() for part in (cos_BSP, sin_BSP))
    kernel = (
        wrap_triton(_norm_heads_kernel) if isinstance(_norm_heads_kernel, triton.JITFunction) else _norm_heads_kernel
    )
    kernel[(batch * tokens,)](
        x_BSC,
        weight_C,
        cos_BSP,
        sin_BSP,
        out_BSND,
        tokens,
        channels,
        channels // heads // 2,
        x_BSC.stride(0),
        x_BSC.stride(1),
        cos_BSP.stride(0) if rotates and cos_BSP.shape[0] > 1 else 0,
        eps,
        ROTATES=rotates,
        BLOCK=triton.next_power_of_2(channels),
        num_warps=8 if channels > 2048 else 4,
    )
    return out_BSND
