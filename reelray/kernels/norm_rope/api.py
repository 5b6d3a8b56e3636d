"""RMSNorm and rotation of heads through Triton on CUDA, through the reference elsewhere. For inference: no gradient.

Shape suffixes: B batch, S tokens, N heads, D head width, P pairs of a head, C channels.
"""

from torch import Tensor

from reelray.kernels.norm_rope import reference


def norm_heads(
    x_BSC: Tensor,
    weight_C: Tensor,
    heads: int,
    *,
    eps: float,
    cos_BSP: Tensor | None = None,
    sin_BSP: Tensor | None = None,
) -> Tensor:
    """RMS-norm over the full width, cut into heads, rotate when angles are given; see `reference.norm_heads`."""
    if x_BSC.device.type != "cuda":
        return reference.norm_heads(x_BSC, weight_C, heads, eps=eps, cos_BSP=cos_BSP, sin_BSP=sin_BSP)
    from reelray.kernels.norm_rope import triton as kernels  # noqa: PLC0415  (triton exists on GPU machines only)

    heads_BSND: Tensor = kernels.norm_heads(x_BSC, weight_C, heads, eps, cos_BSP, sin_BSP)
    return heads_BSND


def rotate(x_BSND: Tensor, cos_BSP: Tensor, sin_BSP: Tensor) -> Tensor:
    """Rotate neighbouring channels of each head by the token's angles; see `reference.rotate`."""
    if x_BSND.device.type != "cuda" or not x_BSND.numel():
        return reference.rotate(x_BSND, cos_BSP, sin_BSP)
    from reelray.kernels.norm_rope import triton as kernels  # noqa: PLC0415  (triton exists on GPU machines only)

    turned_BSND: Tensor = kernels.rotate(x_BSND, cos_BSP, sin_BSP)
    return turned_BSND
