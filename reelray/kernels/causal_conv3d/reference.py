"""The convolution in plain torch: the oracle of the Triton form, and the form for CPUs and odd shapes.

Shape suffixes: B batch, T frames, H/W height/width, C channels. Channels are innermost in memory.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def causal_conv3d_reference(
    x_BTHWC: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    residual: Tensor | None = None,
    upsample: bool = False,
    relu: bool = False,
) -> Tensor:
    """Convolve without padding in time and with "same" zero padding in space.

    Args:
        x_BTHWC: Input; its first kt - 1 frames are the past.
        weight: (C_out, C_in, kt, kh, kw).
        bias: (C_out,).
        residual: Added to the result, shape of the result.
        upsample: Repeat every pixel 2x2 before the convolution.
        relu: Replace what is negative by zero at last.

    Returns:
        (B, T - kt + 1, H, W, C_out), sides doubled if `upsample`.
    """
    x_BCTHW = x_BTHWC.permute(0, 4, 1, 2, 3)
    if upsample:
        x_BCTHW = x_BCTHW.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
    padding = (0, weight.shape[3] // 2, weight.shape[4] // 2)
    y_BTHWC = F.conv3d(x_BCTHW, weight, bias, padding=padding).permute(0, 2, 3, 4, 1)
    y_BTHWC = y_BTHWC.contiguous() if residual is None else y_BTHWC + residual
    return y_BTHWC.relu_() if relu else y_BTHWC


def fold_upsampling(weight: Tensor) -> Tensor:
    """Fold nearest-2x upsampling into a 3x3 kernel: four 2x2 kernels, one per output parity.

    A 3x3 window over repeated pixels sees two source rows and two source columns; taps that fall on the same source
    pixel add up. Output row 2y + p reads source rows y + p - 1 and y + p.

    Args:
        weight: (C_out, C_in, kt, 3, 3).

    Returns:
        (4, C_out, C_in, kt, 2, 2) float32, index 2 * row parity + column parity.
    """
    even = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]], device=weight.device)
    odd = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], device=weight.device)
    folded = [
        torch.einsum("ah,bw,oithw->oitab", rows, columns, weight.float())
        for rows in (even, odd)
        for columns in (even, odd)
    ]
    return torch.stack(folded)


def spread_taps(weight: Tensor, count: int) -> Tensor:
    """Make every tap in space an output of its own; sums over neighbours then give the convolution.

    Args:
        weight: (C_out, C_in, kt, kh, kw).
        count: Outputs to make of it, the last ones with zero weights.

    Returns:
        (count, C_in, kt, 1, 1), taps in space outermost.
    """
    spread = weight.permute(3, 4, 0, 1, 2).flatten(0, 2)
    return F.pad(spread, (0, 0, 0, 0, 0, count - len(spread)))[..., None, None]
