"""One public function that picks a form by device, dtype and shape; the choice comes from a measured table."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from reelray.kernels.causal_conv3d.reference import causal_conv3d_reference, fold_upsampling, spread_taps

FEW_PRODUCTS = 32
"""Outputs times taps in space up to which products are made for every tap and summed up afterwards."""
DEEP = 384
SMALL_PIXELS = 60_000
"""With `DEEP` or more input channels, fewer pixels than this go to cuDNN."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedConv:
    """A convolution's weights in the layouts that its forms read.

    Args:
        weight: (C_out, C_in, kt, kh, kw), channels-last.
        bias: (C_out,).
        kernel: Taps in time, height, width.
        upsample: Whether nearest-2x upsampling is folded in.
        packed: Weights of the Triton form; None where that form is not used.
        tile: Launch shape of the Triton form.
        products: For very few outputs: the convolution that makes products for every tap in space, see `gather.py`.
    """

    weight: Tensor
    bias: Tensor
    kernel: tuple[int, int, int]
    upsample: bool
    packed: Tensor | None
    tile: Any
    products: "PackedConv | None" = None


def pack_conv(weight: Tensor, bias: Tensor, *, upsample: bool = False) -> PackedConv:
    """Prepare a convolution once.

    Args:
        weight: (C_out, C_in, kt, kh, kw) on its final device in its final dtype.
        bias: (C_out,).
        upsample: Fold nearest-2x upsampling into the kernel (3x3 in space only).

    Raises:
        ValueError: `upsample` with a kernel that is not 3x3 in space.
    """
    kernel = (weight.shape[2], weight.shape[3], weight.shape[4])
    if upsample and kernel[1:] != (3, 3):
        raise ValueError(f"upsampling folds into 3x3 kernels only, this one is {kernel[1]}x{kernel[2]}")
    tile = choose_tile(weight)
    packed, products = None, None
    if tile is not None:
        from reelray.kernels.causal_conv3d.triton import pack_weight  # noqa: PLC0415  Triton is a GPU-only dependency

        packed = pack_weight(fold_upsampling(weight) if upsample else weight[None], weight.dtype)
        if kernel[1:] != (1, 1) and not upsample and len(weight) * kernel[1] * kernel[2] <= FEW_PRODUCTS:
            spread = spread_taps(weight, FEW_PRODUCTS)
            products = pack_conv(spread, spread.new_zeros(FEW_PRODUCTS))
    layout = torch.channels_last_3d
    return PackedConv(
        weight=weight.contiguous(memory_format=layout),
        bias=bias.contiguous(),
        kernel=kernel,
        upsample=upsample,
        packed=packed,
        tile=tile,
        products=products,
    )


def choose_tile(weight: Tensor) -> Any:
    """Launch shape for a kernel, or None where cuDNN or the CPU runs it.

    Measured on one H200 in bf16 (benchmarks/conv3d): four warps and two programs a processor beat eight warps and one
    wherever 96 or 192 outputs fit a tile exactly.
    """
    out, inner, *_ = weight.shape
    if not weight.is_cuda or weight.dtype != torch.bfloat16 or torch.cuda.get_device_capability()[0] < 9 or inner % 32:
        return None
    from reelray.kernels.causal_conv3d.triton import Tile  # noqa: PLC0415

    depth, stages = (64, 3) if inner % 64 == 0 else (32, 4)
    if out <= FEW_PRODUCTS:
        return Tile(rows=8, columns=16, channels=32, depth=depth, warps=4, stages=4)
    if out <= 64:
        return Tile(rows=16, columns=16, channels=64, depth=depth, warps=8, stages=stages)
    exact = [width for width in (192, 96) if out % width == 0 and (width == 96 or depth == 64)]
    return Tile(rows=8, columns=16, channels=exact[0] if exact else 128, depth=depth, warps=4, stages=stages)


def causal_conv3d(x_BTHWC: Tensor, conv: PackedConv, *, residual: Tensor | None = None, relu: bool = False) -> Tensor:
    """Convolve without padding in time and with "same" zero padding in space.

    Formula: y[t, h, w] = bias + sum over taps of W[:, :, i, j, k] x[t + i, h + j - kh//2, w + k - kw//2].
    Reference: `causal_conv3d_reference`; tolerance of the Triton form 2 bf16 ulps of the result's largest magnitude.

    Args:
        x_BTHWC: Contiguous, or a cut of its rows from what is; its first kt - 1 frames are the past.
        conv: From `pack_conv`, same device and dtype.
        residual: Added to the result, contiguous.
        relu: Replace what is negative by zero at last.

    Returns:
        (B, T - kt + 1, H, W, C_out), sides doubled when upsampling is folded in.
    """
    if conv.packed is not None and not _is_for_cudnn(x_BTHWC, conv):
        if conv.products is not None:
            return _gather(x_BTHWC, conv, conv.products, residual=residual, relu=relu)
        from reelray.kernels.causal_conv3d.triton import causal_conv3d_triton  # noqa: PLC0415

        return causal_conv3d_triton(
            x_BTHWC,
            conv.packed,
            conv.bias,
            conv.kernel,
            conv.tile,
            residual=residual,
            upsample=conv.upsample,
            relu=relu,
        )
    if conv.kernel == (1, 1, 1) and not conv.upsample:
        y_BTHWC = F.linear(x_BTHWC, conv.weight.flatten(1), conv.bias)
        y_BTHWC = y_BTHWC if residual is None else y_BTHWC.add_(residual)
        return y_BTHWC.relu_() if relu else y_BTHWC
    return causal_conv3d_reference(
        x_BTHWC, conv.weight, conv.bias, residual=residual, upsample=conv.upsample, relu=relu
    )


def _is_for_cudnn(x_BTHWC: Tensor, conv: PackedConv) -> bool:
    """Whether sums are deep and the picture so small that processors idle: cuDNN splits such sums."""
    deep = conv.weight.shape[1] >= DEEP and not conv.upsample
    return deep and x_BTHWC.shape[0] * x_BTHWC.shape[1:4].numel() < SMALL_PIXELS


def _gather(x_BTHWC: Tensor, conv: PackedConv, products: PackedConv, *, residual: Tensor | None, relu: bool) -> Tensor:
    from reelray.kernels.causal_conv3d.gather import gather_taps  # noqa: PLC0415  Triton is a GPU-only dependency
    from reelray.kernels.causal_conv3d.triton import causal_conv3d_triton  # noqa: PLC0415

    assert products.packed is not None
    made_BTHWN = causal_conv3d_triton(
        x_BTHWC,
        products.packed,
        products.bias,
        products.kernel,
        products.tile,
        residual=None,
        upsample=False,
        dtype=torch.float32,
    )
    return gather_taps(made_BTHWN, conv.bias, conv.kernel[1:], x_BTHWC.dtype, residual=residual, relu=relu)
