"""The seam of self-attention: what a transformer calls once per layer.

Memory, sparsity and meshes are other implementations of the same call. Shape suffixes: B batch, S tokens,
N heads, D head width, P rotated pairs of a head.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from reelray.kernels.attention.api import attend
from reelray.kernels.norm_rope.api import rotate


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
            Mixed values, shape of `q_BSND`; valid until the next call on the same ranks, for whichever window.
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


class Recorder(Protocol):
    """Takes down what a forward leaves behind."""

    def write(self, k_BSND: Tensor, v_BSND: Tensor, *, layer: int, heads: range) -> None:
        """Keep keys and values of all tokens of the window.

        Args:
            k_BSND: Keys, RMS-normed and not rotated.
            v_BSND: Their values.
            layer: Index of the block.
            heads: Which heads of the model these are.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class View:
    """What a window has to do with memory; equal to itself alone.

    Args:
        past: Is attended besides the window; None where nothing is remembered.
        recorder: Takes down the window's own keys and values; None where they are not committed.
        made: What others have made of it and want to find again, by their key.
    """

    past: Past | None = None
    recorder: Recorder | None = None
    made: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def extend(self, k_BSND: Tensor, v_BSND: Tensor, *, layer: int, heads: range) -> tuple[Tensor, Tensor]:
        """See `Past`."""
        if self.past is None:
            return k_BSND, v_BSND
        return self.past.extend(k_BSND, v_BSND, layer=layer, heads=heads)


class DenseAttention:
    """Every token of the window attends every other, and what is remembered.

    Args:
        view: Of the memory.
    """

    def __init__(self, view: View | None = None) -> None:
        self._view = view or View()
        self.rotates = self._view.recorder is not None

    def __call__(
        self, q_BSND: Tensor, k_BSND: Tensor, v_BSND: Tensor, *, layer: int, cos_BSP: Tensor, sin_BSP: Tensor
    ) -> Tensor:
        """Attend densely; see `AttentionOp`."""
        heads = range(k_BSND.shape[2])
        if self._view.recorder is not None:
            self._view.recorder.write(k_BSND, v_BSND, layer=layer, heads=heads)
            q_BSND, k_BSND = (rotate(part_BSND, cos_BSP, sin_BSP) for part_BSND in (q_BSND, k_BSND))
        return attend(q_BSND, *self._view.extend(k_BSND, v_BSND, layer=layer, heads=heads))
