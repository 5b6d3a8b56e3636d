"""The seam of self-attention: what a transformer calls once per layer.

Memory, sparsity and meshes are other implementations of the same call. Shape suffixes: B batch, S tokens,
N heads, D head width, P rotated pairs of a head.
"""

from typing import Protocol

from torch import Tensor

from reelray.kernels.attention.api import attend


class AttentionOp(Protocol):
    """Self-attention of one layer.

    Attributes:
        rotates: False when queries and keys arrive rotated; True when they arrive un-rotated (a memory stores keys
            so) and the op applies `cos_BSP` and `sin_BSP` itself.
    """

    rotates: bool

    def __call__(
        self, q_BSND: Tensor, k_BSND: Tensor, v_BSND: Tensor, *, layer: int, cos_BSP: Tensor, sin_BSP: Tensor
    ) -> Tensor:
        """Attend.

        Args:
            q_BSND: Queries of the window, RMS-normed.
            k_BSND: Keys of the window, RMS-normed.
            v_BSND: Values of the window; may be a strided view.
            layer: Index of the block, 0 first.
            cos_BSP: Cosines of the window's positions, batch 1 or B, float32.
            sin_BSP: Sines of the window's positions.

        Returns:
            Mixed values, shape of `q_BSND`.
        """
        ...


class DenseAttention:
    """Every token of the window attends every other."""

    rotates = False

    def __call__(
        self, q_BSND: Tensor, k_BSND: Tensor, v_BSND: Tensor, *, layer: int, cos_BSP: Tensor, sin_BSP: Tensor
    ) -> Tensor:
        """Attend densely; see `AttentionOp`."""
        del layer, cos_BSP, sin_BSP
        return attend(q_BSND, k_BSND, v_BSND)
