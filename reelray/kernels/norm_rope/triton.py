"""RMSNorm over the full width and rotation of pairs in one pass over a token, and rotation alone, as Triton kernels.

n = x / sqrt(mean(x^2) + eps) * weight, rounded to the dtype of x; pairs of n turn by the token's angles in float32.
One program goes over one token twice, some heads at a time. Reference: reference.py; tolerance 1e-5 in float32, one
rounding step in half precision.
Shape suffixes: B batch, S tokens, N heads, D head width, P pairs of a head, C channels (N * D).
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
ELEMENTS_PER_WARP = 256
"""Eight of a half precision, 16 bytes, in a thread."""


@triton.jit
def _norm_heads_kernel(
    x_ptr,
    weight_ptr,
    cos_ptr,
    sin_ptr,
    out_ptr,
    tokens,
    x_batch,
    x_token,
    angle_batch,
    eps,
    ROTATES: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    batch = row // tokens
    token = row % tokens
    head = tl.arange(0, GROUP)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (column < WIDTH) & (head < GROUP)
    here = head * WIDTH + column
    x_here = x_ptr + batch * x_batch + token * x_token + here
    squares = tl.zeros((GROUP, BLOCK), tl.float32)
    for group in tl.static_range(HEADS // GROUP):
        x = tl.load(x_here + group * GROUP * WIDTH, mask=inside, other=0.0).to(tl.float32)
        squares += x * x
    root = tl.sqrt(tl.sum(tl.sum(squares, 1), 0) / (HEADS * WIDTH) + eps)
    if ROTATES:
        # One load serves all heads.
        pair = tl.arange(0, BLOCK // 2)[None, :]
        angle = batch * angle_batch + token * (WIDTH // 2) + pair
        cos = tl.load(cos_ptr + angle, mask=pair < WIDTH // 2, other=0.0)
        sin = tl.load(sin_ptr + angle, mask=pair < WIDTH // 2, other=0.0)
    out_here = out_ptr + row * (HEADS * WIDTH) + here
    for group in tl.static_range(HEADS // GROUP):
        # Read again: it lies in the nearest cache, and registers are better spent on more programs.
        x = tl.load(x_here + group * GROUP * WIDTH, mask=inside, other=0.0).to(tl.float32)
        weight = tl.load(weight_ptr + group * GROUP * WIDTH + here, mask=inside, other=0.0).to(tl.float32)
        normed = x / root * weight
        normed = normed.to(out_ptr.dtype.element_ty).to(tl.float32)
        if ROTATES:
            even, odd = tl.split(tl.reshape(normed, (GROUP, BLOCK // 2, 2)))
            normed = tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), (GROUP, BLOCK))
        tl.store(out_here + group * GROUP * WIDTH, normed.to(out_ptr.dtype.element_ty), mask=inside)


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
    width = channels // heads
    group, block = math.gcd(heads, GROUPED), triton.next_power_of_2(width)
    kernel[(batch * tokens,)](
        x_BSC,
        weight_C,
        cos_BSP,
        sin_BSP,
        out_BSND,
        tokens,
        x_BSC.stride(0),
        x_BSC.stride(1),
        cos_BSP.stride(0) if rotates and cos_BSP.shape[0] > 1 else 0,
        eps,
        ROTATES=rotates,
        HEADS=heads,
        WIDTH=width,
        GROUP=group,
        BLOCK=block,
        num_warps=max(1, min(8, group * block // ELEMENTS_PER_WARP)),
    )
    return out_BSND


@triton.jit
def _rotate_kernel(
    x_ptr,
    cos_ptr,
    sin_ptr,
    out_ptr,
    tokens,
    x_batch,
    x_token,
    x_head,
    angle_batch,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    batch = row // tokens
    token = row % tokens
    head = tl.arange(0, GROUP)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (column < WIDTH) & (head < GROUP)
    pair = tl.arange(0, BLOCK // 2)[None, :]
    angle = batch * angle_batch + token * (WIDTH // 2) + pair
    cos = tl.load(cos_ptr + angle, mask=pair < WIDTH // 2, other=0.0)
    sin = tl.load(sin_ptr + angle, mask=pair < WIDTH // 2, other=0.0)
    x_here = x_ptr + batch * x_batch + token * x_token + head * x_head + column
    out_here = out_ptr + row * (HEADS * WIDTH) + head * WIDTH + column
    for group in tl.static_range(HEADS // GROUP):
        x = tl.load(x_here + group * GROUP * x_head, mask=inside, other=0.0).to(tl.float32)
        even, odd = tl.split(tl.reshape(x, (GROUP, BLOCK // 2, 2)))
        turned = tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), (GROUP, BLOCK))
        tl.store(out_here + group * GROUP * WIDTH, turned.to(out_ptr.dtype.element_ty), mask=inside)


@triton_op("reelray::rotate", mutates_args={})
def rotate(x_BSND: Tensor, cos_BSP: Tensor, sin_BSP: Tensor) -> Tensor:
    """Compute what `reference.rotate` computes."""
    batch, tokens, heads, width = x_BSND.shape
    if x_BSND.stride(3) != 1:
        raise ValueError("the channels of x must be contiguous")
    out_BSND = torch.empty((batch, tokens, heads, width), dtype=x_BSND.dtype, device=x_BSND.device)
    kernel = wrap_triton(_rotate_kernel) if isinstance(_rotate_kernel, triton.JITFunction) else _rotate_kernel
    group, block = math.gcd(heads, GROUPED), triton.next_power_of_2(width)
    kernel[(batch * tokens,)](
        x_BSND,
        cos_BSP.contiguous(),
        sin_BSP.contiguous(),
        out_BSND,
        tokens,
        *x_BSND.stride()[:3],
        cos_BSP.shape[1] * cos_BSP.shape[2] if cos_BSP.shape[0] > 1 else 0,
        HEADS=heads,
        WIDTH=width,
        GROUP=group,
        BLOCK=block,
        num_warps=max(1, min(8, group * block // ELEMENTS_PER_WARP)),
    )
    return out_BSND
