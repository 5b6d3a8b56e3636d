"""RMSNorm and rotation in plain torch, float32 inside.

Shape suffixes: B batch, S tokens, N heads, D head width, P rotated pairs of a head (D / 2), C channels (N * D).
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def rms_norm(x_BSC: Tensor, weight_C: Tensor, *, eps: float) -> Tensor:
    """Compute x / sqrt(mean(x^2) + eps) * weight over the last dim.

    Args:
        x_BSC: Any float dtype; the mean is taken in float32.
        weight_C: Gain of each channel.
        eps: Added to the mean square.

    Returns:
        Shape and dtype of `x_BSC`.
    """
    return F.rms_norm(x_BSC.float(), weight_C.shape, weight_C.float(), eps).to(x_BSC.dtype)


def rotate(x_BSND: Tensor, cos_BSP: Tensor, sin_BSP: Tensor) -> Tensor:
    """Rotate neighbouring channels (2i, 2i+1) of each head by the token's i-th angle.

    Args:
        x_BSND: Queries or keys.
        cos_BSP: Cosine of each angle, float32; a batch of 1 serves every row.
        sin_BSP: Sine of each angle.

    Returns:
        Shape and dtype of `x_BSND`.
    """
    pairs_BSNP2 = torch.unflatten(x_BSND.float(), -1, (-1, 2))
    if x_BSND.device.type == "cpu" and not torch.compiler.is_compiling():
        return _rotate_complex(pairs_BSNP2, cos_BSP, sin_BSP).to(x_BSND.dtype)
    even_BSNP, odd_BSNP = pairs_BSNP2.unbind(-1)
    cos_BSNP, sin_BSNP = cos_BSP[:, :, None], sin_BSP[:, :, None]
    turned_BSNP2 = torch.stack(
        (even_BSNP * cos_BSNP - odd_BSNP * sin_BSNP, even_BSNP * sin_BSNP + odd_BSNP * cos_BSNP), dim=-1
    )
    return turned_BSNP2.flatten(-2).to(x_BSND.dtype)


def _rotate_complex(pairs_BSNP2: Tensor, cos_BSP: Tensor, sin_BSP: Tensor) -> Tensor:
    # Eager CPU runs one complex product about twelve times faster than the four strided ones.
    turns_BSNP = torch.complex(cos_BSP, sin_BSP)[:, :, None]
    turned_BSNP = torch.view_as_complex(pairs_BSNP2.contiguous()) * turns_BSNP
    return torch.view_as_real(turned_BSNP).flatten(-2)


def norm_heads(
    x_BSC: Tensor,
    weight_C: Tensor,
    heads: int,
    *,
    eps: float,
    cos_BSP: Tensor | None = None,
    sin_BSP: Tensor | None = None,
) -> Tensor:
    """RMS-norm over the full width, cut into heads, rotate when angles are given.

    Args:
        x_BSC: Projected queries or keys; rows may be strided.
        weight_C: Gain of each channel.
        heads: Number of heads.
        eps: Added to the mean square.
        cos_BSP: Cosine of each angle, float32; a batch of 1 serves every row. None leaves heads un-rotated.
        sin_BSP: Sine of each angle.

    Returns:
        Shape [B, S, N, D], dtype of `x_BSC`.
    """
    heads_BSND = torch.unflatten(rms_norm(x_BSC, weight_C, eps=eps), -1, (heads, -1))
    if cos_BSP is None or sin_BSP is None:
        return heads_BSND
    return rotate(heads_BSND, cos_BSP, sin_BSP)
