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


class Past(Protocol):
    """Keys and values of latent frames before the window, of every layer."""

    def extend(self, k_BSND: Tensor, v_BSND: Tensor, *, layer: int, heads: range) -> tuple[Tensor, Tensor]:
        """Put the window's keys and values behind those that are remembered.

        Args:
            k_BSND: Keys of all tokens of the window.
            v_BSND: Their values.
            layer: Index of the block.
            heads: Which heads of the model these are.

        Returns:
            Keys and values of both, valid until the next call for this layer.
        """
        ...


class DenseAttention:
    """Every token of the window attends every other, and what is remembered.

    Args:
        past: Is attended too.
    """

    rotates = False

    def __init__(self, past: Past | None = None) -> None:
        self._past = past

    def __call__(
        self, q_BSND: Tensor, k_BSND: Tensor, v_BSND: Tensor, *, layer: int, cos_BSP: Tensor, sin_BSP: Tensor
    ) -> Tensor:
        """Attend densely; see `AttentionOp`."""
        del cos_BSP, sin_BSP
        if self._past is not None:
            k_BSND, v_BSND = self._past.extend(k_BSND, v_BSND, layer=layer, heads=range(k_BSND.shape[2]))
        return attend(q_BSND, k_BSND, v_BSND)
