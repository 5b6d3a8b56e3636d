"""Convolutions to very few channels: products first, at every pixel for every tap in space, then sums over neighbours.

A tensor core makes sixteen outputs at least, and an implicit GEMM for three of them reads every input once per tap.
With the taps in space as outputs of their own, 3 x 9 = 27 of them, the input is read once per tap in time; what is left
is to add nine numbers from nine neighbours.

Shapes: B videos, T frames, H/W height/width, N products of a pixel: every output for every tap in space, taps
outermost, and what pads them.
"""

# Kernels take bare pointers by position.
# ruff: noqa: ANN001, ANN202, PLR0917
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor

PIXELS = 128
"""Pixels of a program, all of one row."""


@triton.jit
def _gather_kernel(
    products_ptr,
    y_ptr,
    bias_ptr,
    residual_ptr,
    H,
    W,
    N: tl.constexpr,
    OUT: tl.constexpr,
    OP: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    P: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    RELU: tl.constexpr,
):
    blocks = tl.cdiv(W, P)
    line = (tl.program_id(0) // blocks).to(tl.int64)
    row = line % H
    column = (tl.program_id(0) % blocks) * P + tl.arange(0, P)
    o = tl.arange(0, OP)
    is_output = (o < OUT)[None, :]
    acc = tl.zeros((P, OP), tl.float32) + tl.load(bias_ptr + o, mask=o < OUT, other=0.0).to(tl.float32)[None, :]
    for kh in tl.static_range(KH):
        for kw in tl.static_range(KW):
            above = row + kh - KH // 2
            beside = column + kw - KW // 2
            inside = (above >= 0) & (above < H) & (beside >= 0) & (beside < W)
            pixel = (line + kh - KH // 2) * W + beside
            tap = (kh * KW + kw) * OUT
            products = products_ptr + pixel[:, None] * N + tap + o[None, :]
            acc += tl.load(products, mask=inside[:, None] & is_output, other=0.0).to(tl.float32)
    offset = (line * W + column)[:, None] * OUT + o[None, :]
    mask = (column < W)[:, None] & is_output
    if HAS_RESIDUAL:
        acc += tl.load(residual_ptr + offset, mask=mask, other=0.0).to(tl.float32)
    if RELU:
        acc = tl.maximum(acc, 0.0)
    tl.store(y_ptr + offset, acc.to(y_ptr.dtype.element_ty), mask=mask)


def gather_taps(
    products_BTHWN: Tensor,
    bias: Tensor,
    taps: tuple[int, int],
    dtype: torch.dtype,
    *,
    residual: Tensor | None,
    relu: bool,
) -> Tensor:
    """Add up the products of a pixel's neighbours, those outside the picture as zeros.

    Args:
        products_BTHWN: Contiguous, float32.
        bias: (C_out,).
        taps: kh and kw.
        dtype: Of the result.
        residual: As in `causal_conv3d`.
        relu: As in `causal_conv3d`.

    Returns:
        (B, T, H, W, C_out).
    """
    batch, frames, height, width, count = products_BTHWN.shape
    out = bias.numel()
    y = torch.empty(batch, frames, height, width, out, device=products_BTHWN.device, dtype=dtype)
    _gather_kernel[(batch * frames * height * triton.cdiv(width, PIXELS),)](
        products_BTHWN,
        y,
        bias,
        y if residual is None else residual,
        height,
        width,
        N=count,
        OUT=out,
        OP=triton.next_power_of_2(out),
        KH=taps[0],
        KW=taps[1],
        P=PIXELS,
        HAS_RESIDUAL=residual is not None,
        RELU=relu,
        num_warps=4,
    )
    return y
