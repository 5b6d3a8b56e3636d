"""Implicit-GEMM causal convolution for Hopper and later, operands loaded by tensor-memory descriptors.

Out-of-bounds descriptor loads are zero, which is exactly the "same" padding in space.
"""

# Kernels take bare pointers by position.
# ruff: noqa: ANN001, ANN202, PLR0917
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """Launch shape.

    Args:
        rows: Output rows per program.
        columns: Output columns per program.
        channels: Output channels per program, a power of two or the sum of two: 96 are 64 and 32 side by side, so no
            product is wasted on channels that are not there.
        depth: Input channels per step of the inner loop; divides the input channels.
        warps: Warps per program.
        stages: Loads in flight.
    """

    rows: int
    columns: int
    channels: int
    depth: int
    warps: int
    stages: int

    @property
    def wide(self) -> int:
        """Channels of the wider part."""
        return int(triton.next_power_of_2(self.channels + 1)) // 2

    @property
    def narrow(self) -> int:
        """Channels of the other part; 0 if there is one part."""
        return self.channels - self.wide


@triton.jit
def _settle(acc):
    """Nothing, of which the compiler believes that it reads the sum, so that it waits for all products of a step.

    `a` lies in registers. Triton 3.6 would leave products of one step running while the next step's `a` is loaded into
    the same registers; now and then a warp then multiplies the wrong rows.
    """
    return tl.inline_asm_elementwise("", "=r,0", [acc], dtype=tl.float32, is_pure=True, pack=1)


@triton.jit
def _finish(acc, y_ptr, residual_ptr, bias_ptr, pixel, inside, n, COUT, HAS_RESIDUAL: tl.constexpr, RELU: tl.constexpr):
    """Bias, residual and ReLU of one part, and its way to memory."""
    in_n = n < COUT
    acc += tl.load(bias_ptr + n, mask=in_n, other=0.0)[None, :].to(tl.float32)
    mask = inside[:, None] & in_n[None, :]
    offset = pixel[:, None] * COUT + n[None, :]
    if HAS_RESIDUAL:
        acc += tl.load(residual_ptr + offset, mask=mask, other=0.0).to(tl.float32)
    if RELU:
        acc = tl.maximum(acc, 0.0)
    tl.store(y_ptr + offset, acc.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _conv_kernel(
    x_desc,
    w_desc,
    narrow_desc,
    y_ptr,
    bias_ptr,
    residual_ptr,
    T,
    H,
    W,
    OH,
    OW,
    COUT,
    CIN: tl.constexpr,
    KT: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    BH: tl.constexpr,
    BW: tl.constexpr,
    BN: tl.constexpr,
    NARROW: tl.constexpr,
    BK: tl.constexpr,
    N_TILES: tl.constexpr,
    PARITIES: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    RELU: tl.constexpr,
    SETTLES: tl.constexpr,
):
    pid = tl.program_id(0)
    n0 = (pid % N_TILES) * (BN + NARROW)
    p = pid // N_TILES
    parity = p % PARITIES
    p = p // PARITIES
    tiles_w = tl.cdiv(W, BW)
    tiles_h = tl.cdiv(H, BH)
    x0 = (p % tiles_w) * BW
    p = p // tiles_w
    y0 = (p % tiles_h) * BH
    p = p // tiles_h
    t = p % T
    b = p // T
    py = parity // 2
    px = parity % 2
    row_shift = py - 1 if PARITIES == 4 else -(KH // 2)
    column_shift = px - 1 if PARITIES == 4 else -(KW // 2)
    depth_steps: tl.constexpr = CIN // BK
    taps: tl.constexpr = KT * KH * KW
    acc = tl.zeros((BH * BW, BN), tl.float32)
    if NARROW > 0:
        beside = tl.zeros((BH * BW, NARROW), tl.float32)
    for i in range(taps * depth_steps):
        tap = i // depth_steps
        k = (i % depth_steps) * BK
        kt = tap // (KH * KW)
        kh = (tap % (KH * KW)) // KW
        kw = tap % KW
        a = x_desc.load([b, t + kt, y0 + kh + row_shift, x0 + kw + column_shift, k]).reshape(BH * BW, BK)
        depth = parity * taps * CIN + i * BK
        acc = tl.dot(a, w_desc.load([depth, n0]), acc)
        if NARROW > 0:
            beside = tl.dot(a, narrow_desc.load([depth, n0 + BN]), beside)
            beside = _settle(beside) if SETTLES else beside
        elif SETTLES:
            acc = _settle(acc)
    m = tl.arange(0, BH * BW)
    row = y0 + m // BW
    column = x0 + m % BW
    inside = (row < H) & (column < W)
    if PARITIES == 4:
        row = row * 2 + py
        column = column * 2 + px
    pixel = ((b * T + t).to(tl.int64) * OH + row) * OW + column
    n = n0 + tl.arange(0, BN)
    _finish(acc, y_ptr, residual_ptr, bias_ptr, pixel, inside, n, COUT, HAS_RESIDUAL, RELU)
    if NARROW > 0:
        n = n0 + BN + tl.arange(0, NARROW)
        _finish(beside, y_ptr, residual_ptr, bias_ptr, pixel, inside, n, COUT, HAS_RESIDUAL, RELU)


def pack_weight(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Lay (P, C_out, C_in, kt, kh, kw) out as the kernel reads it: (P·kt·kh·kw·C_in, C_out padded to 8)."""
    parities, out, inner, *taps = weight.shape
    packed = weight.permute(0, 3, 4, 5, 2, 1).reshape(parities * taps[0] * taps[1] * taps[2] * inner, out)
    padded = torch.nn.functional.pad(packed, (0, -out % 8))
    return padded.to(dtype).contiguous()


def causal_conv3d_triton(
    x_BTHWC: Tensor,
    packed: Tensor,
    bias: Tensor,
    kernel: tuple[int, int, int],
    tile: Tile,
    *,
    residual: Tensor | None,
    upsample: bool,
    relu: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Launch the kernel; arguments as in `causal_conv3d_reference`, the weight as `pack_weight` gives it.

    `dtype` is that of the result, the input's if None.
    """
    batch, frames, height, width, inner = x_BTHWC.shape
    frames -= kernel[0] - 1
    out = bias.numel()
    scale, parities = (2, 4) if upsample else (1, 1)
    taps = (kernel[0], 2, 2) if upsample else kernel
    n_tiles = triton.cdiv(out, tile.channels)
    y = torch.empty(
        batch, frames, height * scale, width * scale, out, device=x_BTHWC.device, dtype=dtype or x_BTHWC.dtype
    )
    block = [1, 1, tile.rows, tile.columns, tile.depth]
    x_desc = TensorDescriptor(x_BTHWC, list(x_BTHWC.shape), list(x_BTHWC.stride()), block)
    w_desc, narrow_desc = (
        TensorDescriptor(packed, list(packed.shape), list(packed.stride()), [tile.depth, part])
        for part in (tile.wide, tile.narrow or tile.wide)
    )
    spatial = triton.cdiv(width, tile.columns) * triton.cdiv(height, tile.rows)
    _conv_kernel[(n_tiles * parities * spatial * frames * batch,)](
        x_desc,
        w_desc,
        narrow_desc,
        y,
        bias,
        y if residual is None else residual,
        frames,
        height,
        width,
        height * scale,
        width * scale,
        out,
        CIN=inner,
        KT=taps[0],
        KH=taps[1],
        KW=taps[2],
        BH=tile.rows,
        BW=tile.columns,
        BN=tile.wide,
        NARROW=tile.narrow,
        BK=tile.depth,
        N_TILES=n_tiles,
        PARITIES=parities,
        HAS_RESIDUAL=residual is not None,
        RELU=relu,
        SETTLES=x_BTHWC.is_cuda,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return y
